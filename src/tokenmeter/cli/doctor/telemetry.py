"""Where spans and metrics go."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from tokenmeter.cli.doctor.check import Check, ok, warn
from tokenmeter.cli.doctor.libraries import Installed, version_of

VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
_SDK = "opentelemetry-sdk"
_EXPORTERS = ("opentelemetry-exporter-otlp-proto-http", "opentelemetry-exporter-otlp-proto-grpc")
_EXTRA = "pip install 'tokenmeter-sdk[otlp]'"


def checks(environment: Mapping[str, str] = os.environ, version: Installed = version_of) -> Iterator[Check]:
    """The SDK, an exporter, and the endpoint that the environment names."""
    sdk = version(_SDK)
    exporters = [f"{name} {number}" for name in _EXPORTERS if (number := version(name))]
    endpoint = environment.get(VARIABLE)
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield warn("opentelemetry", "OTEL_SDK_DISABLED is true: no spans and no metrics", "unset it to have them")
    elif sdk is None:
        yield warn("opentelemetry", "only its API is installed: spans and metrics go nowhere", _EXTRA)
    else:
        yield ok("opentelemetry", ", ".join([f"{_SDK} {sdk}", *exporters]))
    if not endpoint:
        yield ok("otlp", f"{VARIABLE} is not set: spans go where the program's own providers send them")
    elif not exporters:
        yield warn("otlp", f"{VARIABLE} is {_shown(endpoint)}, and no exporter is installed", _EXTRA)
    else:
        yield ok("otlp", f"{VARIABLE} is {_shown(endpoint)}")


def _shown(endpoint: str) -> str:
    """The endpoint without a login or a query, which may hold a secret."""
    try:
        parts = urlsplit(endpoint)
        host = f"{parts.hostname or '…'}:{parts.port}" if parts.port else (parts.hostname or "…")
    except ValueError:
        return "no address"
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else "…"
