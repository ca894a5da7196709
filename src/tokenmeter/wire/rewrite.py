"""Bodies that are sent on a little changed: a lower output cap, another model, or the wish for usage in a stream.

Only what is named changes; every other field keeps its very bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from tokenmeter.wire.tally import UNREADABLE
from tokenmeter.wire.types import Route

_as_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_as_text = msgspec.json.Decoder(str).decode
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
    if protocol in _ONLY_WITH_MODEL and "model" not in fields:
        return None  # an agent's or a conversation's own settings hold
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
    "anthropic.complete": ("max_tokens_to_sample",),
    "gemini.interactions": ("generation_config", "max_output_tokens"),
    "mistral.conversations": ("completion_args", "max_tokens"),
    "watsonx.generation": ("parameters", "max_new_tokens"),
    "llamacpp.completion": ("n_predict",),
    "tgi.generate": ("parameters", "max_new_tokens"),
}
_ONLY_WITH_MODEL: Final = frozenset({"gemini.interactions", "mistral.conversations"})


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


_MODEL_IN_BODY: Final = frozenset({"openai", "anthropic", "cohere", "ollama", "gemini", "mistral"})
_MODEL_NAMES: Final = frozenset({"model", "model_id"})  # the latter is watsonx's


def with_model(route: Route, body: bytes, model: str) -> bytes | None:
    """``body`` with another model, every other byte as it was; None where its model can't be changed.

    That is where the path names the model (Azure's deployments, Bedrock, Gemini, Vertex), where the body names none,
    and where the body can't be read. A body that names it twice is changed twice: servers differ in which they take.
    """
    if route.model is not None or route.protocol.partition(".")[0] not in _MODEL_IN_BODY:
        return None
    try:
        if _MODEL_NAMES.isdisjoint(_as_fields(body)):
            return None
        new = _encode(model)
        parts: list[bytes] = []
        done = 0
        for start, end in _values_of(_MODEL_NAMES, body):
            parts += (body[done:start], new)
            done = end
    except UNREADABLE:
        return None
    return b"".join((*parts, body[done:]))


_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[-+.0-9A-Za-z]++")
_NEXT = re.compile(rb'[^"{}\[\]]*+(["{}\[\]])')
_BEGIN = re.compile(rb"\s*+\{\s*+")
_AFTER = re.compile(rb"[\s:,]*+")
_QUOTE, _OPEN = b'"', (b"{", b"[")


def _values_of(names: frozenset[str], body: bytes) -> Iterator[tuple[int, int]]:
    """Where the values of such keys stand in a JSON object that is known to be valid; not those of objects inside."""
    at = _skip(_BEGIN, body, 0)
    while body[at : at + 1] == _QUOTE:
        start = _skip(_STRING, body, at)
        key, start = body[at:start], _skip(_AFTER, body, start)
        end = _end_of_value(body, start)
        if _as_text(key) in names:
            yield start, end
        at = _skip(_AFTER, body, end)


def _end_of_value(body: bytes, start: int) -> int:
    first = body[start : start + 1]
    if first == _QUOTE:
        return _skip(_STRING, body, start)
    if first not in _OPEN:
        return _skip(_SCALAR, body, start)
    at, depth = start + 1, 1
    while depth:
        at = _skip(_NEXT, body, at)
        sign = body[at - 1 : at]
        if sign == _QUOTE:
            at = _skip(_STRING, body, at - 1)
        else:
            depth += 1 if sign in _OPEN else -1
    return at


def _skip(pattern: re.Pattern[bytes], body: bytes, at: int) -> int:
    found = pattern.match(body, at)
    if found is None:
        raise ValueError(f"no {pattern.pattern!r} at byte {at}")
    return found.end()


def with_usage_asked(route: Route, body: bytes) -> bytes:
    """``body`` with ``stream_options.include_usage``; the caller's other stream options stay."""
    if route.protocol not in {"openai.chat", "openai.completions"}:
        return body
    try:
        fields: dict[str, Any] = dict(_as_fields(body))
    except UNREADABLE:
        return body
    return _with(fields, ("stream_options", "include_usage"), value=True) or body


def rejects_usage_asked(body: bytes, error: str) -> bool:
    """Whether the error of a server blames the wish for usage in a stream, and not another field of the request."""
    if _BLAMES_THE_OPTION.search(error) is not None:
        return True
    if _BLAMES_SOMETHING.search(error) is None:
        return False
    try:
        fields = _as_fields(body)
    except UNREADABLE:
        return True
    named = {name for quoted in _QUOTED.findall(error) for name in quoted.split(".")[:1]}
    return named.isdisjoint(fields.keys() - _MAY_BE_NAMED)


_BLAMES_THE_OPTION: Final = re.compile("stream_options|include_usage")
_BLAMES_SOMETHING: Final = re.compile(
    r"extra (fields?|inputs?)|unexpected|unknown|unrecognized|unsupported|not (permitted|allowed|supported)"
    r"|additional propert",
    re.IGNORECASE,
)
_QUOTED: Final = re.compile("['\"`]([a-z_.]{1,64})['\"`]")
_MAY_BE_NAMED: Final = frozenset({"model", "messages", "stream"})  # in an error that means the option


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
