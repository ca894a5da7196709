"""How one answer is sent, and how its sending goes wrong as the reply says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tokenmeter.testing.connection import Connection, Gone, to_json
from tokenmeter.testing.dialects.base import Dialect, Event
from tokenmeter.testing.script import Answer, Reply

_EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


class Bill(Protocol):
    """Takes what was just generated, before it is sent."""

    def __call__(self, *, output_tokens: int, reasoning_tokens: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """One answer on its way."""

    connection: Connection
    dialect: Dialect
    reply: Reply
    answer: Answer
    ask: Mapping[str, Any]
    headers: Mapping[str, str]
    bill: Bill

    def whole(self) -> None:
        """Send it in one body."""
        if self.reply.stall_after_chunks is not None:
            self.connection.wait(None)
        self._bill_all()
        body = to_json(self.dialect.body(self.answer, self.ask)) if self.reply.body is None else self.reply.body
        cut = self.reply.cut_after_chunks is not None
        headers = {"content-type": "application/json", **self.headers}
        self.connection.answer(self.reply.status, body, headers, gzip=self.reply.gzip, half=cut)
        if cut:
            raise Gone

    def stream(self) -> None:
        """Send it event by event."""
        self.connection.start({**_EVENTS, **self.headers}, gzip=self.reply.gzip)
        pieces = _Pieces(self.connection, self.reply.piece_bytes)
        if self.reply.body is not None:
            self._bill_all()
            pieces.send(self.reply.body)
        elif self.dialect.events is not None:
            self._send_events(list(self.dialect.events(self.answer, self.ask)), pieces)
        pieces.flush()
        self.connection.end()

    def _send_events(self, events: list[Event], pieces: _Pieces) -> None:
        reply, answer, sent = self.reply, self.answer, 0
        chunks = sum(event.kind == "chunk" for event in events)
        if not chunks:
            self._bill_all()
        for number, event in enumerate(events):
            if event.kind != "start":
                if sent == reply.cut_after_chunks:
                    pieces.flush()
                    self.connection.flush()
                    raise Gone
                if sent == reply.stall_after_chunks:
                    pieces.flush()
                    self.connection.wait(None)
                if sent == reply.truncate_after_chunks:
                    return
                if sent == reply.fail_after_chunks:
                    pieces.send(self.dialect.stream_error("The scripted provider failed.", number))
                    return
            if event.kind == "chunk":
                if sent and reply.chunk_delay_s:
                    self.connection.wait(reply.chunk_delay_s)
                self.bill(
                    output_tokens=_share(answer.output_tokens, sent, chunks),
                    reasoning_tokens=_share(answer.reasoning_tokens, sent, chunks),
                )
                sent += 1
            pieces.send(event.data)

    def _bill_all(self) -> None:
        self.bill(output_tokens=self.answer.output_tokens, reasoning_tokens=self.answer.reasoning_tokens)


class _Pieces:
    """Sends bytes as they come, or cut to one size."""

    def __init__(self, connection: Connection, size: int | None) -> None:
        self._connection = connection
        self._size = size
        self._rest = b""

    def send(self, data: bytes) -> None:
        if self._size is None:
            self._connection.chunk(data)
            return
        data = self._rest + data
        whole = len(data) - len(data) % self._size
        for start in range(0, whole, self._size):
            self._connection.chunk(data[start : start + self._size])
        self._rest = data[whole:]

    def flush(self) -> None:
        if self._rest:
            self._connection.chunk(self._rest)
        self._rest = b""


def _share(total: int, index: int, n: int) -> int:
    return total * (index + 1) // n - total * index // n
