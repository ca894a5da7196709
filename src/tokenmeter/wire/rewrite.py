"""Bodies that are sent on a little changed: a lower output cap, or the wish for usage in a stream.

Only what is named changes; every other field keeps its very bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tokenmeter.wire.tally import UNREADABLE
from tokenmeter.wire.types import Route

_as_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode

# where the output cap stands in what Bedrock passes on to a model, by the beginning of the model's name
_INVOKE_FIELDS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("anthropic.claude-v2", ("max_tokens",)),
    ("anthropic.claude-instant", ("max_tokens_to_sample",)),
    ("anthropic.", ("max_tokens",)),
    ("amazon.nova", ("inferenceConfig", "maxTokens")),
    ("amazon.titan-text", ("textGenerationConfig", "maxTokenCount")),
    ("meta.llama", ("max_gen_len",)),
    ("mistral.", ("max_tokens",)),
    ("cohere.command", ("max_tokens",)),
    ("ai21.jamba", ("max_tokens",)),
    ("ai21.j2", ("maxTokens",)),
    ("deepseek.", ("max_tokens",)),
    ("openai.", ("max_completion_tokens",)),
    ("qwen.", ("max_tokens",)),
)
_INVOKE_PRESENT: Final[tuple[tuple[str, ...], ...]] = (
    ("max_completion_tokens",),
    ("max_tokens",),
    ("max_gen_len",),
    ("maxTokens",),
    ("max_tokens_to_sample",),
    ("textGenerationConfig", "maxTokenCount"),
    ("inferenceConfig", "max_new_tokens"),
    ("inferenceConfig", "maxTokens"),
)


def cap_path(route: Route, fields: Mapping[str, msgspec.Raw]) -> tuple[str, ...] | None:
    """The keys under which this body has, or takes, its output cap; None where no cap can be written."""
    protocol = route.protocol
    if protocol == "openai.chat":
        if "max_completion_tokens" in fields:
            return ("max_completion_tokens",)
        if "max_tokens" in fields or route.provider not in {"openai", "azure.ai.openai"} or _is_other(route):
            return ("max_tokens",)
        return ("max_completion_tokens",)
    if protocol == "openai.responses":
        return ("max_output_tokens",) if "input" in fields or "max_output_tokens" in fields else None
    if protocol == "gemini.generate":
        config = "generation_config" if "generation_config" in fields else "generationConfig"
        name = "max_output_tokens" if _has(fields, config, "max_output_tokens") else "maxOutputTokens"
        return (config, name)
    if protocol == "bedrock.invoke":
        return _invoke_path(route, fields)
    return _PATHS.get(protocol)


_PATHS: Final[Mapping[str, tuple[str, ...]]] = {
    "openai.completions": ("max_tokens",),
    "anthropic.messages": ("max_tokens",),
    "bedrock.converse": ("inferenceConfig", "maxTokens"),
    "cohere.chat": ("max_tokens",),
    "ollama.chat": ("options", "num_predict"),
    "ollama.generate": ("options", "num_predict"),
}


def _is_other(route: Route) -> bool:
    """A server that speaks OpenAI's protocol under a name that nobody knows: the older field is safer there."""
    return route.provider == "openai" and route.price_provider is None


def _invoke_path(route: Route, fields: Mapping[str, msgspec.Raw]) -> tuple[str, ...] | None:
    if route.operation == "embeddings":
        return None
    for path in _INVOKE_PRESENT:
        if _has(fields, *path):
            return path
    if "anthropic_version" in fields:
        return ("max_tokens",)
    model = route.model or ""
    name = model.partition(".")[2] if model.partition(".")[0] in _REGIONS else model
    for beginning, path in _INVOKE_FIELDS:
        if name.startswith(beginning):
            return path
    return None


_REGIONS: Final = frozenset({"us", "eu", "apac", "global", "jp", "au", "ca", "us-gov", "sa"})


def _has(fields: Mapping[str, msgspec.Raw], *path: str) -> bool:
    if path[0] not in fields:
        return False
    if len(path) == 1:
        return True
    try:
        return path[1] in _as_fields(fields[path[0]])
    except UNREADABLE:
        return False


def with_output_cap(route: Route, body: bytes, cap: int) -> bytes:
    """``body`` with its output cap set to ``cap`` tokens; ``body`` itself where no cap can be written.

    The field is the one that the caller used, else the one that the host is known to take.
    """
    try:
        fields: dict[str, Any] = dict(_as_fields(body))
    except UNREADABLE:
        return body
    path = cap_path(route, fields)
    if path is None:
        return body
    if route.protocol == "openai.chat" and "max_tokens" in fields and path != ("max_tokens",):
        fields["max_tokens"] = cap  # the caller gave both: neither may stay higher
    return _with(fields, path, cap) or body


def with_usage_asked(route: Route, body: bytes) -> bytes:
    """``body`` with ``stream_options.include_usage``; the caller's other stream options stay."""
    if route.protocol not in {"openai.chat", "openai.completions"}:
        return body
    try:
        fields: dict[str, Any] = dict(_as_fields(body))
    except UNREADABLE:
        return body
    return _with(fields, ("stream_options", "include_usage"), value=True) or body


def _with(fields: dict[str, Any], path: tuple[str, ...], value: Any) -> bytes | None:
    if len(path) == 1:
        fields[path[0]] = value
    else:
        inner: dict[str, Any] = {}
        if path[0] in fields and bytes(fields[path[0]]) != b"null":
            try:
                inner = dict(_as_fields(fields[path[0]]))
            except UNREADABLE:
                return None
        inner[path[1]] = value
        fields[path[0]] = inner
    return _encode(fields)
