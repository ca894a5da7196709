"""A server on loopback that speaks OpenAI's Responses API over websockets, from a script."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("websockets.sync.server", reason="websockets is not installed")

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

MODEL = "gpt-5-mini"
INPUT, CACHED, OUTPUT = 110, 30, 27
WORDS = ("Hello", " from the", " other side.")
TEXT = "".join(WORDS)

Event = dict[str, Any]
Answer = Callable[[Event, str], Iterator[Event | None]]


def created(asked: Event, response_id: str, **more: Any) -> Event:
    return {"type": "response.created", "sequence_number": 0, "response": _response(asked, response_id, **more)}


def delta(text: str) -> Event:
    return {
        "type": "response.output_text.delta",
        "item_id": "msg_1",
        "output_index": 0,
        "content_index": 0,
        "sequence_number": 1,
        "delta": text,
        "logprobs": [],
    }


def ended(
    asked: Event, response_id: str, *, tokens: tuple[int, int] = (INPUT, OUTPUT), kind: str = "completed", **more: Any
) -> Event:
    usage = {
        "input_tokens": tokens[0],
        "input_tokens_details": {"cached_tokens": min(CACHED, tokens[0])},
        "output_tokens": tokens[1],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": sum(tokens),
    }
    response = _response(asked, response_id, status=kind, usage=usage, **more)
    return {"type": f"response.{kind}", "sequence_number": 9, "response": response}


def _response(asked: Event, response_id: str, status: str = "in_progress", **more: Any) -> Event:
    return {
        "id": response_id,
        "object": "response",
        "created_at": 1_790_000_000,
        "model": asked.get("model", MODEL),
        "status": status,
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        **more,
    }


def whole(asked: Event, response_id: str) -> Iterator[Event | None]:
    """A response from its beginning to its end."""
    yield created(asked, response_id)
    for word in WORDS:
        yield delta(word)
    yield ended(asked, response_id)


def spoken(asked: Event, response_id: str) -> Iterator[Event | None]:
    """A response whose last event has all of its output, which is what agents go on with."""
    text = {"type": "output_text", "text": TEXT, "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    yield created(asked, response_id)
    yield ended(asked, response_id, output=[message])


def cut(asked: Event, response_id: str) -> Iterator[Event | None]:
    """The connection ends in the midst of a response. An event that is None closes it."""
    yield created(asked, response_id)
    yield delta(WORDS[0])
    yield None


def rejected(asked: Event, response_id: str) -> Iterator[Event | None]:
    yield {"type": "error", "status": 400, "error": {"code": "previous_response_not_found", "message": "gone"}}


class Responder:
    """Answers each message that arrives, one after another on each connection."""

    def __init__(self, answer: Answer = whole) -> None:
        self.answer = answer
        self.arrived: list[Event] = []
        self.raw: list[str | bytes] = []
        self._lock = threading.Lock()
        self._server = serve(self._serve, "127.0.0.1", 0)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.port = self._server.socket.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/responses"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(10)

    def _serve(self, connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            for message in connection:
                asked = json.loads(message)
                with self._lock:
                    self.raw.append(message)
                    self.arrived.append(asked)
                    response_id = f"resp_{len(self.arrived)}"
                for event in self.answer(asked, response_id):
                    if event is None:
                        connection.close()
                        return
                    lane = {"stream_id": asked["stream_id"]} if "stream_id" in asked else {}
                    connection.send(json.dumps({**event, **lane}))
