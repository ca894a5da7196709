"""Where the demonstration's spans go: kept for a summary, and exported where the environment says so."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenmeter.cli.demo.clients import installed, missing_extra

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TIMEOUT_S = 3


@dataclass(frozen=True, slots=True)
class SpanReport:
    """What became of the spans. ``endpoint`` None: they were not exported."""

    spans: int
    refusals: int
    endpoint: str | None
    exported: bool
    example: Mapping[str, Any]
    example_name: str


class Pipeline:
    """An OpenTelemetry pipeline of the demonstration's own. Raises `Trouble`."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        if not installed("opentelemetry.sdk"):
            raise missing_extra("opentelemetry-sdk", "demo", "the spans need it")
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.endpoint = next((environ[name] for name in ENDPOINTS if environ.get(name)), None)
        resource = Resource.create({"service.name": environ.get("OTEL_SERVICE_NAME", "tokenmeter-demo")})
        self._kept = InMemorySpanExporter()
        self.tracer_provider: TracerProvider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._kept))
        readers: list[Any] = []
        self._exporter: Any = None
        if self.endpoint is not None:
            self._exporter, readers = _otlp()
        self.meter_provider: MeterProvider = MeterProvider(readers, resource=resource, shutdown_on_exit=False)

    def finish(self) -> SpanReport:
        """Export what is there, and say what came of it."""
        from tokenmeter.telemetry import names as n

        spans = self._kept.get_finished_spans()
        exported = False
        if self._exporter is not None:
            exported = self._export(spans)
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()
        refused = [span for span in spans if n.REFUSAL_REASON in (span.attributes or {})]
        example = next((span for span in spans if span not in refused), None)
        return SpanReport(
            spans=len(spans),
            refusals=len(refused),
            endpoint=self.endpoint,
            exported=exported,
            example=dict(example.attributes or {}) if example is not None else {},
            example_name=example.name if example is not None else "",
        )

    def _export(self, spans: Sequence[Any]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        quiet = logging.getLogger("opentelemetry")
        level, quiet.level = quiet.level, logging.CRITICAL  # the outcome is told in one line, not in tracebacks
        try:
            sent = self._exporter.export(spans) is SpanExportResult.SUCCESS
            return sent and self.meter_provider.force_flush(TIMEOUT_S * 1000)
        except Exception:  # noqa: BLE001 - whatever it is, the spans did not arrive
            return False
        finally:
            self._exporter.shutdown()
            quiet.level = level


def _otlp() -> tuple[Any, list[Any]]:
    if not installed("opentelemetry.exporter.otlp.proto.http"):
        raise missing_extra(
            "opentelemetry-exporter-otlp-proto-http", "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT asks for an export"
        )
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    metrics = PeriodicExportingMetricReader(OTLPMetricExporter(timeout=TIMEOUT_S), export_interval_millis=60_000)
    return OTLPSpanExporter(timeout=TIMEOUT_S), [metrics]
