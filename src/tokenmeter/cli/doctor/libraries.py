"""Which clients of model providers are installed, and whether their calls are seen.

What goes through an HTTP library that is patched is; what goes another way is not, and that is said plainly.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tokenmeter.cli.doctor.check import Check, ok, warn

Installed = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Known:
    """A distribution. ``oldest``: the version from which on it is supported, if there is one."""

    name: str
    how: str
    oldest: tuple[int, ...] = ()


_EITHER = "metered: meter.wrap(client) or meter.instrument()"
_BY_HTTPX = "metered by meter.instrument(), through httpx"
METERED = (
    Known("httpx", _EITHER, (0, 27)),
    Known("httpx2", _EITHER, (2, 0)),
    Known("aiohttp", _EITHER, (3, 10)),
    Known("requests", _EITHER, (2, 31)),
    Known("boto3", _EITHER, (1, 34)),
    Known("aiobotocore", "metered by meter.instrument(), through aiohttp"),
    Known("websockets", "metered by meter.instrument(): the Responses API, not the live ones", (13,)),
    Known("openai", _EITHER, (2,)),
    Known("anthropic", _EITHER, (1,)),
    Known("groq", _EITHER),
    Known("together", _EITHER),
    Known("cerebras-cloud-sdk", _EITHER),
    Known("fireworks-ai", _EITHER),
    Known("perplexityai", _EITHER),
    Known("sambanova", _EITHER),
    Known("writer-sdk", _EITHER),
    Known("gradient", _EITHER),
    Known("llama-api-client", _EITHER),
    Known("llama-stack-client", _EITHER),
    Known("portkey-ai", _BY_HTTPX),
    Known("google-genai", "metered by meter.instrument(), through httpx or aiohttp"),
    Known("mistralai", _BY_HTTPX),
    Known("cohere", _BY_HTTPX),
    Known("ollama", f"{_BY_HTTPX}; Ollama on this machine or port 11434"),
    Known("litellm", _BY_HTTPX),
    Known("dspy", "metered by meter.instrument()"),
    Known("lm15", "metered by meter.instrument()"),
)
UNSEEN = {
    "grpcio": "calls over gRPC (Vertex, xAI's SDK) are neither counted nor stopped; use their HTTP side",
}
_SAY_ONLY_IF_USED = {"grpcio": ("google-cloud-aiplatform", "xai-sdk")}


def version_of(name: str) -> str | None:
    """The version of a distribution that is installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def checks(version: Installed = version_of) -> Iterator[Check]:
    """What is installed. ``version`` gives that of a distribution, or None."""
    found = {known.name: version(known.name) for known in METERED}
    if all(found[name] is None for name in ("httpx", "httpx2", "aiohttp", "requests", "boto3")):
        yield warn(
            "clients",
            "no HTTP library that can be metered is installed: there is nothing to meter here",
            "pip install 'tokenmeter-sdk[httpx]', or run this with the program's own Python",
        )
    for known in METERED:
        if (number := found[known.name]) is not None:
            yield _metered(known, number)
    for name, remedy in UNSEEN.items():
        users = _SAY_ONLY_IF_USED.get(name)
        if (number := version(name)) is not None and (users is None or any(map(version, users))):
            yield warn(name, f"{number}: NOT METERED", remedy)
    absent = [name for name, number in found.items() if number is None]
    if absent:
        yield ok("not installed", ", ".join(absent))


def _metered(known: Known, number: str) -> Check:
    if known.oldest and _numbers(number) < known.oldest:
        oldest = ".".join(map(str, known.oldest))
        return warn(known.name, f"{number} is older than what is supported", f"update it to {oldest} or later")
    return ok(known.name, f"{number}, {known.how}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
