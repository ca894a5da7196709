"""Messages of a websocket, and the same API's stream over HTTP, come to the same reading."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.shared import CORPUS
from tests.wire.exchanges import recorded
from tokenmeter import wire
from tokenmeter.wire import sockets
from tokenmeter.wire.sockets import Heard, Sent


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ({"type": "response.create", "model": "m"}, Sent(None)),
        ({"type": "response.create", "stream_id": "a"}, Sent("a")),
        ({"type": "response.create", "stream_id": 7}, Sent(None)),
        ({"type": "response.steer", "previous_response_id": "r", "input": "x"}, Sent(None, "r")),
        ({"type": "response.steer"}, Sent(None, "")),
        ({"type": "response.cancel"}, None),
        ({"type": "session.update", "session": {"x": "response.create"}}, None),
        ({"input": '"response.create"'}, None),
        ({}, None),
    ],
)
def test_what_is_sent(message: dict[str, Any], sent: Sent | None) -> None:
    assert sockets.read_sent(json.dumps(message).encode()) == sent


@pytest.mark.parametrize("message", [b"", b'"response.create"', b'["response.create"]', b'{"type":"response.', b"\xff"])
def test_what_is_sent_and_no_request(message: bytes) -> None:
    assert sockets.read_sent(message) is None


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        ({"type": "response.created", "response": {"id": "r"}}, Heard(None, "r", begins=True)),
        ({"type": "response.completed", "response": {"id": "r"}, "stream_id": "a"}, Heard("a", "r", ends=True)),
        ({"type": "response.incomplete", "response": None}, Heard(None, ends=True)),
        ({"type": "error", "error": {"code": "x"}}, Heard(None, rejects=True)),
        ({"type": "response.error"}, Heard(None, rejects=True)),
        ({"type": "response.output_text.delta", "delta": "x"}, Heard(None)),
        ({"type": "response.steer.failed", "steer": {"previous_response_id": "r"}}, Heard(None, sets_aside="r")),
        ({"type": "response.steer.accepted", "steer": {"previous_response_id": "r"}}, Heard(None)),
        ({"type": None}, None),
        ({"id": "r"}, None),
    ],
)
def test_what_is_heard(message: dict[str, Any], heard: Heard | None) -> None:
    assert sockets.read_heard(json.dumps(message).encode()) == heard


def test_steering_inherits_all_but_what_it_says() -> None:
    create = {"type": "response.create", "model": "m", "input": "long", "max_output_tokens": 9, "store": False}
    steer = {"type": "response.steer", "previous_response_id": "r", "input": "short"}
    found = sockets.successor(json.dumps(create).encode(), json.dumps(steer).encode())
    assert json.loads(found) == {**create, **steer}


@pytest.mark.parametrize(
    ("host", "path", "live"),
    [
        ("api.openai.com", "/v1/realtime", True),
        ("api.openai.com", "/v1/live/", True),
        ("x.openai.azure.com", "/openai/v1/realtime", True),
        ("127.0.0.1", "/openai/realtime", True),
        ("generativelanguage.googleapis.com", "/ws/google.ai.GenerativeService.BidiGenerateContent", True),
        ("api.openai.com", "/v1/responses", False),
        ("prices.example", "/stocks/live", False),
        ("chat.example", "/realtime", False),
        ("chat.example", "", False),
    ],
)
def test_what_carries_sound(host: str, path: str, live: bool) -> None:
    assert sockets.is_live(host, path) is live


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=4), st.sampled_from([None, 1]))
def test_any_document_is_one_event(documents: list[dict[str, Any]], indent: int | None) -> None:
    route = wire.recognise("POST", "api.openai.com", "/v1/responses")
    assert route is not None
    reader = wire.reader(route, "text/event-stream", stream=True)
    end = {"type": "response.completed", "response": {"usage": {"input_tokens": 5, "output_tokens": 7}}}
    for document in [*documents, end]:
        event = sockets.as_event(json.dumps(document, indent=indent, ensure_ascii=False).encode("utf-8", "replace"))
        assert event.count(b"\n") == 2
        assert json.loads(event[6:]) == json.loads(json.dumps(document).encode())
        reader.feed(event)
    reading = reader.finish()[1]
    assert reading.complete
    assert reading.usage is not None
    assert reading.usage.counts["output_tokens"] == 7


def test_recorded_streams_read_alike() -> None:
    """The events of each recorded stream, as messages."""
    if not CORPUS.exists():
        pytest.skip(f"no recorded traffic at {CORPUS}")
    compared = 0
    for exchange in recorded():
        route = wire.recognise(exchange.method, exchange.host, exchange.path)
        if route is None or route.protocol != "openai.responses" or not exchange.response.startswith(b"event:"):
            continue
        over_http = wire.reader(route, "text/event-stream", stream=True)
        over_http.feed(exchange.response)
        messages = [line[6:] for line in exchange.response.splitlines() if line.startswith(b"data: {")]
        over_socket = wire.reader(route, "text/event-stream", stream=True)
        for message in messages:
            over_socket.feed(sockets.as_event(message))
        one, other = over_http.finish()[1], over_socket.finish()[1]
        assert (one.usage, one.model, one.finish_reasons) == (other.usage, other.model, other.finish_reasons)
        assert sum(heard.ends for heard in map(sockets.read_heard, messages) if heard is not None) == 1
        compared += 1
    assert compared
