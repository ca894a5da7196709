"""Exact token counts for OpenAI's own models, where the optional package bpe-openai is installed.

It carries its vocabulary in the wheel: no network. The count replaces the UTF-8 bytes in the bound of a
request, which are several times too many for English; it is still an upper bound, because everything in the
body that can be part of the prompt is counted, names of fields in tool definitions and schemas too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from tokenmeter.forks import renew_in_child
from tokenmeter.turn import Turn, in_turn
from tokenmeter.wire.types import Ask, Route

MOST_BYTES = 256 * 1024
"""Larger texts are bounded by their bytes: counting them would take longer than the call should wait."""

_PER_MESSAGE = 8  # the template round one message or item: 4 tokens are usual
_PER_REQUEST = 48  # what is added once: 3 tokens are usual, 28 were recorded for gpt-4o in Responses
_TOOLS = 96  # with the allowance for tools in bounds.py: 160 were recorded beyond their JSON
_PROVIDERS = frozenset({"openai", "azure"})  # by host: elsewhere a name says nothing about the tokenizer
_PROTOCOLS = ("openai.chat", "openai.responses", "openai.completions", "openai.embeddings")

_O200K = re.compile(r"^(?:ft:)?(?:gpt-4o|gpt-4\.1|gpt-4\.5|gpt-5|chatgpt-4o|o[134])(?![0-9])")
_CL100K = re.compile(r"^(?:ft:)?(?:gpt-4(?![0-9.o])|gpt-3\.5|gpt-35|text-embedding-3-|text-embedding-ada-002)")
_NOT_TEXT = re.compile(r"audio|realtime|image|transcribe|tts|search|computer")

# What of a body never becomes part of the prompt.
_ASIDE = frozenset(
    {
        "model", "user", "metadata", "stream", "stream_options", "store", "service_tier", "safety_identifier",
        "prompt_cache_key", "prompt_cache_retention", "include", "truncation", "previous_response_id",
        "conversation", "encoding_format", "logit_bias", "reasoning_effort", "verbosity", "modalities",
    }
)  # fmt: skip
_AS_JSON = frozenset({"tools", "functions", "response_format", "text", "tool_choice", "function_call"})
_ENCODINGS: Final = ("o200k_base", "cl100k_base")
_Count = Callable[[str], int]


class TokenCounter:
    """Counts the text of a request with the model's own tokenizer. Thread-safe once loaded."""

    def __init__(self) -> None:
        self._turn = Turn()
        renew_in_child(self, "_turn", Turn)
        self._counts: dict[str, _Count] | None = None

    @in_turn
    def preload(self) -> None:
        """Load the tokenizers if the package is there: a second, and 100 MB. Does nothing the second time."""
        if self._counts is not None:
            return
        counts: dict[str, _Count]
        try:
            from bpe_openai import _bindings  # type: ignore[import-untyped,import-not-found,unused-ignore]

            counts = {name: _bindings.tokenizer_for_encoding(name).count for name in _ENCODINGS}
        except Exception:  # noqa: BLE001 - an optional package that is absent or broken: bytes will do
            counts = {}
        self._counts = counts

    def count(self, ask: Ask, route: Route) -> int | None:
        """The most tokens of this request's text; ``None`` where no tokenizer at hand is the model's own."""
        counts = self._counts
        if not counts or ask.text is None or len(ask.text) > MOST_BYTES:
            return None
        if route.price_provider not in _PROVIDERS or not route.protocol.startswith(_PROTOCOLS):
            return None
        encoding = encoding_of(ask.model or route.model)
        count = counts.get(encoding) if encoding else None
        if count is None:
            return None
        try:
            body = msgspec.json.decode(ask.text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(body, dict):
            return None
        total = _PER_REQUEST + (_TOOLS if ask.tools else 0)
        for key, value in body.items():
            if key in _ASIDE:
                continue
            if key in _AS_JSON:
                total += _PER_MESSAGE + count(msgspec.json.encode(value).decode())
            else:
                total += _tokens(value, count)
        return total


def encoding_of(model: str | None) -> str | None:
    """The encoding of an OpenAI model, by its name; ``None`` where it isn't surely known."""
    if not model or _NOT_TEXT.search(model):
        return None
    if _O200K.match(model):
        return "o200k_base"
    return "cl100k_base" if _CL100K.match(model) else None


def _tokens(value: Any, count: _Count) -> int:
    """Tokens of all text in ``value``; a message, an item or a part gets the template's share on top."""
    if isinstance(value, str):
        return count(value)
    if isinstance(value, dict):
        return _PER_MESSAGE + sum(_tokens(item, count) for item in value.values())
    if isinstance(value, list):
        return sum(_tokens(item, count) for item in value)
    return 1  # a number: one token of a prompt given as tokens
