"""Floors: the least code that does a part of what metering is, in one function, for one request and one model.

They know no other protocol, no loops, no faults, no threads that die, no cancelled task; they are here to be measured.
Each is laid over the ``send`` of one bare client.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import SpanKind, TracerProvider

Lay = Callable[[Any], None]

_INPUT_NANOS, _OUTPUT_NANOS = 250, 2_000
_LIMIT_NANOS = 10**15


class _Message(msgspec.Struct):
    role: str
    content: Any = None


class _Asked(msgspec.Struct):
    model: str
    messages: list[_Message]
    max_completion_tokens: int = 1_000


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Answered(msgspec.Struct):
    id: str
    model: str
    usage: _Usage


_asked = msgspec.json.Decoder(_Asked).decode
_answered = msgspec.json.Decoder(_Answered).decode


def of_a_call(tracer_provider: TracerProvider, meter_provider: MeterProvider) -> Mapping[str, Lay]:
    """Parse, hold on two budgets, send, parse, settle; with one span of 15 attributes; and with three figures."""
    tracer, meter = tracer_provider.get_tracer("floor"), meter_provider.get_meter("floor")
    tokens = meter.create_histogram("floor.tokens", unit="{token}")
    duration = meter.create_histogram("floor.duration", unit="s")

    def lay(client: Any, *, span: bool = False, figures: bool = False) -> None:
        send = client._client.send
        lock, books = threading.Lock(), ([0, 0], [0, 0])

        def metered(request: Any, **kwargs: Any) -> Any:
            asked = _asked(request.content)
            worst = len(request.content) * _INPUT_NANOS + asked.max_completion_tokens * _OUTPUT_NANOS
            with lock:
                for book in books:
                    if sum(book) + worst > _LIMIT_NANOS:
                        raise RuntimeError("refused")
                for book in books:
                    book[1] += worst
            names = {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",
                "gen_ai.request.model": asked.model,
            }
            opened = None
            if span:
                opened = tracer.start_span("chat " + asked.model, kind=SpanKind.CLIENT, attributes=names)
            start_s = time.perf_counter()
            response = send(request, **kwargs)
            took_s = time.perf_counter() - start_s
            answered = _answered(response.read())
            usage = answered.usage
            cost = usage.prompt_tokens * _INPUT_NANOS + usage.completion_tokens * _OUTPUT_NANOS
            with lock:
                for book in books:
                    book[1] -= worst
                    book[0] += cost
            if opened is not None:
                rest = {f"gen_ai.more.{number}": number for number in range(8)}
                opened.set_attributes(
                    {
                        "gen_ai.response.id": answered.id,
                        "gen_ai.response.model": answered.model,
                        "gen_ai.usage.input_tokens": usage.prompt_tokens,
                        "gen_ai.usage.output_tokens": usage.completion_tokens,
                        **rest,
                    }
                )
                opened.end()
            if figures:
                tokens.record(usage.prompt_tokens, {**names, "gen_ai.token.type": "input"})
                tokens.record(usage.completion_tokens, {**names, "gen_ai.token.type": "output"})
                duration.record(took_s, names)
            return response

        client._client.send = metered

    return {
        "floor: hold and settle": lay,
        "floor: and a span": lambda client: lay(client, span=True),
        "floor: and three figures": lambda client: lay(client, span=True, figures=True),
    }


class _Loop:
    """A stream within a stream, of which nothing is read."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._inner:  # noqa: UP028 - the loop is what is measured
            yield chunk

    def close(self) -> None:
        self._inner.close()


def _ask_for_usage(client: Any) -> None:
    """What the caller of a stream gets when usage is asked for; nothing reads it, and nothing takes it out."""
    create = client.chat.completions.create

    def asking(**kwargs: Any) -> Any:
        return create(**kwargs, stream_options={"include_usage": True})

    client.chat.completions.create = asking


def _loop(client: Any) -> None:
    send = client._client.send

    def looped(request: Any, **kwargs: Any) -> Any:
        response = send(request, **kwargs)
        kind = type("Loop", (_Loop, type(response.stream).__mro__[1]), {})
        response.stream = kind(response.stream)
        return response

    client._client.send = looped


OF_A_CHUNK: Mapping[str, Lay] = {"floor: usage asked, unread": _ask_for_usage, "floor: one loop more": _loop}
