"""What the headers of a response say of usage."""

from __future__ import annotations

from collections.abc import Mapping

from tokenmeter.usage import Usage
from tokenmeter.wire.types import Route


def read_headers(route: Route, headers: Mapping[str, str]) -> Usage | None:
    """The counters that Bedrock puts into the headers of an invoke response; None where there are none.

    They are the only ones that some models have: embeddings of Cohere, text of Mistral.
    """
    if not route.protocol.startswith("bedrock."):
        return None
    found: dict[str, int] = {}
    for key, value in headers.items():
        name = _HEADERS.get(key.lower())
        if name is not None and value.isascii() and value.isdigit() and len(value) < 16:
            found[name] = int(value)
    for cached in ("cache_read_tokens", "cache_write_tokens"):
        if cached in found and "input_tokens" in found:
            found["input_tokens"] += found[cached]
    return Usage(found) if found else None


_HEADERS = {
    "x-amzn-bedrock-input-token-count": "input_tokens",
    "x-amzn-bedrock-output-token-count": "output_tokens",
    "x-amzn-bedrock-cache-read-input-token-count": "cache_read_tokens",
    "x-amzn-bedrock-cache-write-input-token-count": "cache_write_tokens",
}
