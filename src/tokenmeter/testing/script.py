"""What a scripted provider is asked, what it shall do, and what it counts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

_WORDS = re.compile(r"\s*\S+(?:\s+$)?")
_CAPS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_PROMPTS = ("system", "instructions", "messages", "input", "prompt")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it arrived. Header names are in lower case; ``at_s`` is in seconds since the epoch."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at_s: float

    @cached_property
    def json(self) -> Any:
        """The body as JSON; ``None`` if it is empty or isn't JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def model(self) -> str | None:
        """The model that was asked for."""
        return self.json.get("model") if isinstance(self.json, dict) else None

    @property
    def stream(self) -> bool:
        """Whether a stream was asked for."""
        return isinstance(self.json, dict) and self.json.get("stream") is True


@dataclass(frozen=True, slots=True)
class Reply:
    """What the provider does with one request.

    Counts that aren't given are computed: input tokens are a quarter of the UTF-8 bytes of the messages,
    output tokens the number of words; the request's own output cap is kept. ``input_tokens`` is the whole
    input, cached tokens included, and ``output_tokens`` the whole output, reasoning included, whatever the
    protocol reports. A stream has one chunk a word, or as many as ``chunks`` says.
    """

    text: str = "Hello from the scripted provider."
    input_tokens: int | None = field(default=None, kw_only=True)
    output_tokens: int | None = field(default=None, kw_only=True)
    cache_read_tokens: int = field(default=0, kw_only=True)
    cache_write_tokens: int = field(default=0, kw_only=True)
    reasoning_tokens: int = field(default=0, kw_only=True)
    model: str | None = field(default=None, kw_only=True)
    """The model that the answer names; else the one that was asked for."""
    tool_calls: Sequence[Mapping[str, Any]] = field(default=(), kw_only=True)
    """Tools that the model calls: ``{"name": "search", "arguments": {"query": "tea"}}``."""
    report_usage: bool = field(default=True, kw_only=True)
    """False: the tokens are billed, but no usage is reported."""

    delay_s: float = field(default=0.0, kw_only=True)
    chunks: int | None = field(default=None, kw_only=True)
    chunk_delay_s: float = field(default=0.0, kw_only=True)
    piece_bytes: int | None = field(default=None, kw_only=True)
    """A stream is delivered in pieces of this many bytes, wherever they fall."""
    gzip: bool = field(default=False, kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    status: int = field(default=200, kw_only=True)
    """From 400 on the answer is an error in the protocol's form, with ``text`` as its message; not billed."""
    body: bytes | None = field(default=None, kw_only=True)
    """Sent as it is, in place of the protocol's body or stream; billed like the answer it stands for."""
    reject_stream_options: bool = field(default=False, kw_only=True)
    """A request that has ``stream_options`` gets a 400 that names it."""
    hang_up: bool = field(default=False, kw_only=True)
    """The connection is closed without an answer; not billed."""
    cut_after_chunks: int | None = field(default=None, kw_only=True)
    """The connection breaks after so many chunks; an answer that isn't streamed breaks half way."""
    truncate_after_chunks: int | None = field(default=None, kw_only=True)
    """The stream ends cleanly after so many chunks, without end marker or usage."""
    stall_after_chunks: int | None = field(default=None, kw_only=True)
    """Nothing more comes after so many chunks, nor does the end; without a stream nothing comes at all."""
    fail_after_chunks: int | None = field(default=None, kw_only=True)
    """The stream reports an error after so many chunks, within its HTTP 200, and ends."""

    def __post_init__(self) -> None:
        for name in (
            "input_tokens",
            "output_tokens",
            "cache_read_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
        ):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}: a count can't be negative")


Script = str | Reply | Sequence[str | Reply] | Callable[[Request], str | Reply]
"""A text, a reply, several in order (the last one repeats), or a function of the request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply worked out for one request: what is said, and what it costs."""

    number: int
    model: str
    created_s: int
    pieces: tuple[str, ...]  # the text of one choice, as it is streamed
    tool_calls: tuple[tuple[str, str], ...]  # name and arguments as JSON
    choices: int
    capped: bool  # the cap of the request ended the output
    input_tokens: int
    output_tokens: int  # of all choices
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    report_usage: bool

    @property
    def text(self) -> str:
        """The whole text of one choice."""
        return "".join(self.pieces)


def work_out(reply: Reply, ask: Mapping[str, Any], *, number: int, created_s: int, generates: bool) -> Answer:
    """Count what a request and its answer are worth; an embedding generates nothing."""
    cap = next((ask[name] for name in _CAPS if isinstance(ask.get(name), int)), None)
    words = _WORDS.findall(reply.text)
    tools = tuple((str(call["name"]), json.dumps(call.get("arguments", {}))) for call in reply.tool_calls)
    tool_words = sum(1 + len(arguments.split()) for _, arguments in tools)
    wanted = reply.output_tokens
    if wanted is None:
        wanted = len(words) + tool_words + reply.reasoning_tokens
    output = wanted if cap is None else min(wanted, cap)
    cached = reply.cache_read_tokens + reply.cache_write_tokens
    choices = _count_of(ask.get("n")) if generates else 0
    prompts = ask.get("prompt")
    if isinstance(prompts, list) and not isinstance(next(iter(prompts), 0), int):
        choices *= len(prompts)
    if output < wanted:
        words, tools = words[:output], ()
    return Answer(
        number=number,
        model=reply.model or str(ask.get("model", "scripted")),
        created_s=created_s,
        pieces=tuple(words if reply.chunks is None else _cut("".join(words), reply.chunks)),
        tool_calls=tools,
        choices=choices,
        capped=output < wanted,
        input_tokens=max(cached, count_input(ask)) if reply.input_tokens is None else reply.input_tokens,
        output_tokens=output * choices,
        cache_read_tokens=reply.cache_read_tokens,
        cache_write_tokens=reply.cache_write_tokens,
        reasoning_tokens=min(reply.reasoning_tokens, output) * choices,
        report_usage=reply.report_usage,
    )


def count_input(ask: Mapping[str, Any]) -> int:
    """A quarter of the UTF-8 bytes of all message contents, rounded up."""
    return math.ceil(sum(_text_bytes(ask.get(name)) for name in _PROMPTS) / 4)


def _text_bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list):
        return sum(_text_bytes(item) for item in value)
    if isinstance(value, dict):
        return sum(_text_bytes(value.get(name)) for name in ("content", "text", "output", "arguments"))
    return 4 if isinstance(value, int) else 0  # a prompt may be given as token ids


def _count_of(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 1


def _cut(text: str, n: int) -> list[str]:
    return [text[len(text) * i // n : len(text) * (i + 1) // n] for i in range(n)]
