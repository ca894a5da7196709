"""What a dialect is, and what several of them share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tokenmeter.testing.script import Answer

Ask = Mapping[str, Any]
Kind = Literal["start", "chunk", "end"]


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream: what leads up to the text, a chunk of the output, or what comes after it."""

    kind: Kind
    data: bytes


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one protocol says an answer: as a body, as a stream, as an error, as an error within a stream."""

    body: Callable[[Answer, Ask], Any]
    events: Callable[[Answer, Ask], Iterator[Event]] | None
    error: Callable[[int, str, str | None], Any]
    stream_error: Callable[[str, int], bytes]  # of a message, after so many events


def openai_error(status: int, message: str, param: str | None = None) -> Any:
    """An error as OpenAI says it."""
    kind = "rate_limit_exceeded" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


def data(value: Any) -> bytes:
    """A server-sent event without a name."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def named(name: str, value: Any) -> bytes:
    """A server-sent event with a name."""
    return f"event: {name}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def tool_id(answer: Answer, index: int) -> str:
    """The id of one tool call."""
    return f"call_{answer.number:06}_{index}"
