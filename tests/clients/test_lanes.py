"""Whatever the order in which lanes are answered, each response is read by the call that asked for it, and once."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmeter.clients import lanes
from tokenmeter.clients.lanes import Asked, Lanes
from tokenmeter.wire.sockets import Sent


class Passage:
    """Notes what it is given."""

    def __init__(self) -> None:
        self.pieces: list[dict[str, Any]] = []
        self.ends: list[BaseException | None] = []

    def passes(self, piece: bytes) -> bytes:
        assert not self.ends
        self.pieces.append(json.loads(piece.removeprefix(b"data: ")))
        return piece

    def end(self, failure: BaseException | None = None) -> bytes:
        self.ends.append(failure)
        return b""

    @property
    def kinds(self) -> list[str]:
        return [piece["type"].rpartition(".")[2] for piece in self.pieces]


def ask(found: Lanes, lane: str | None = None, steers: str | None = None, *, late: bool = False) -> tuple[Asked, Any]:
    sent = Sent(lane, steers)
    asked, passage = found.expect(sent, object(), b'{"model":"m"}'), Passage()
    if not late:
        found.attach(asked, passage)
    return asked, passage


def hear(found: Lanes, kind: str, lane: str | None = None, **more: Any) -> None:
    event: dict[str, Any] = {"type": kind, **more}
    if lane is not None:
        event["stream_id"] = lane
    found.hear(json.dumps(event))


def respond(found: Lanes, response_id: str, lane: str | None = None) -> None:
    for kind in ("created", "output_text.delta", "completed"):
        named = {} if kind.endswith("delta") else {"response": {"id": response_id}}
        hear(found, f"response.{kind}", lane, **named)


@settings(max_examples=200)
@given(st.data())
def test_any_order_of_any_lanes(data: st.DataObject) -> None:
    found = Lanes()
    names: list[str | None] = [None, "a", "b", "c"]
    script: dict[str | None, list[tuple[str, int]]] = {
        lane: [
            (kind, turn)
            for turn in range(data.draw(st.integers(0, 3)))
            for kind in ("ask", "created", "output_text.delta", "in_progress", "completed")
        ]
        for lane in names
    }
    passages: dict[tuple[str | None, int], Passage] = {}
    late: dict[str | None, tuple[Asked, Passage]] = {}
    while any(script.values()):
        lane = data.draw(st.sampled_from([lane for lane in names if script[lane]]))
        kind, turn = script[lane].pop(0)
        if kind == "ask":
            waits = data.draw(st.booleans())
            asked, passage = ask(found, lane, late=waits)
            passages[lane, turn] = passage
            if waits:
                late[lane] = asked, passage
        else:
            named = {} if kind.endswith("delta") else {"response": {"id": f"{lane}-{turn}"}}
            hear(found, f"response.{kind}", lane, turn=turn, **named)
        if lane in late and (kind == "completed" or data.draw(st.booleans())):
            found.attach(*late.pop(lane))
    for (lane, turn), passage in passages.items():
        assert passage.kinds == ["created", "delta", "in_progress", "completed"]
        assert all(piece["turn"] == turn and piece.get("stream_id") == lane for piece in passage.pieces)
        assert passage.ends == [None]
    found.over()
    assert all(len(passage.ends) == 1 for passage in passages.values())


def test_an_error_is_of_the_request_that_has_not_begun() -> None:
    found = Lanes()
    _, first = ask(found)
    hear(found, "response.created", response={"id": "1"})
    _, second = ask(found)
    hear(found, "error", code="response_already_in_flight")
    assert (first.ends, second.ends, second.kinds) == ([], [None], ["error"])
    hear(found, "error", code="server_error")
    assert (first.ends, first.kinds) == ([None], ["created", "error"])


def test_an_error_of_no_lane_is_of_the_request_that_has_not_begun() -> None:
    found = Lanes()
    _, passage = ask(found, "a")
    hear(found, "error", code="websocket_connection_limit_reached")
    assert passage.ends == [None]


@pytest.mark.parametrize("kind", ["failed", "pending"])
def test_steering_that_is_not_followed(kind: str) -> None:
    found = Lanes()
    _, first = ask(found, "a")
    hear(found, "response.created", "a", response={"id": "1"})
    sent, body = found.request(Sent(None, "1"), b'{"type":"response.steer","input":"x"}') or (None, b"")
    assert sent == Sent("a", "1")
    assert json.loads(body) == {"model": "m", "type": "response.steer", "input": "x"}
    _, steered = ask(found, "a", "1")
    hear(found, f"response.steer.{kind}", "a", steer={"id": "s", "previous_response_id": "1"})
    assert (first.ends, steered.ends, steered.kinds) == ([], [None], ["error"])
    respond(found, "1", "a")
    assert first.ends == [None]


def test_steering_is_over_with_the_next_request_or_the_connection() -> None:
    found = Lanes()
    ask(found)
    respond(found, "1")
    _, stale = ask(found, None, "1")
    _, following = ask(found)
    assert (stale.ends, stale.kinds) == ([None], ["error"])
    _, last = ask(found, None, "2")
    failure = ConnectionError()
    found.over(failure)
    assert (following.ends, last.kinds) == ([failure], ["error"])
    assert last.ends[0] is None


def test_steering_in_a_lane_that_nobody_knows() -> None:
    assert Lanes().request(Sent(None, "1"), b"{}") is None


def test_settings_of_lanes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_LANES", 3)
    found = Lanes()
    for number in range(10):
        ask(found, f"lane-{number}")
    assert list(found._settings) == ["lane-7", "lane-8", "lane-9"]


def test_what_did_not_go_out_hears_nothing() -> None:
    found = Lanes()
    asked, _ = ask(found, late=True)
    found.withdraw(asked)
    found.withdraw(asked)
    _, passage = ask(found)
    respond(found, "1")
    assert passage.kinds == ["created", "delta", "completed"]


def test_lanes_that_are_dropped_end_their_calls() -> None:
    found = Lanes()
    _, passage = ask(found)
    del found
    gc.collect()
    assert (passage.ends, passage.kinds) == ([None], ["queued"])


@pytest.mark.parametrize(
    "message", ["", "{", "[]", "null", '{"type":7}', '{"type":"x","response":[]}', b"\xff\xfe", "7"]
)
def test_garbage_is_nobodys(message: str | bytes) -> None:
    found = Lanes()
    _, passage = ask(found)
    found.hear(message)
    assert not passage.pieces
    respond(found, "1")
    assert passage.ends == [None]


def test_an_interrupt_in_the_midst_leaves_no_call_open() -> None:
    class Interrupted(Passage):
        tried = False

        def end(self, failure: BaseException | None = None) -> bytes:
            if not self.tried:
                self.tried = True
                raise KeyboardInterrupt
            return super().end(failure)

    found, passages = Lanes(), [Interrupted(), Interrupted()]
    for lane, passage in zip("ab", passages, strict=True):
        found.attach(found.expect(Sent(lane), object(), b"{}"), passage)
    hear(found, "response.created", "a", response={"id": "1"})
    with pytest.raises(KeyboardInterrupt):
        hear(found, "response.completed", "a", response={"id": "1"})
    assert passages[0].ends == [None]
    with pytest.raises(KeyboardInterrupt):
        found.over()
    assert passages[1].ends == [None]


def test_what_is_said_of_a_response_after_its_end_is_of_no_other() -> None:
    found = Lanes()
    _, first = ask(found)
    hear(found, "response.created", response={"id": "1"})
    hear(found, "error", code="server_error")
    _, second = ask(found)
    hear(found, "response.failed", response={"id": "1"})
    assert (first.ends, second.ends, second.kinds) == ([None], [], [])
    for passage in (second, ask(found)[1]):
        respond(found, "same")
        assert passage.kinds == ["created", "delta", "completed"]


def test_steering_is_followed_before_the_request_that_waits_in_its_lane() -> None:
    found = Lanes()
    _, first = ask(found)
    hear(found, "response.created", response={"id": "1"})
    _, steered = ask(found, None, "1")
    _, waiting = ask(found)
    hear(found, "response.incomplete", response={"id": "1"})
    respond(found, "2")
    assert (first.ends, steered.ends, waiting.ends) == ([None], [None], [])
    respond(found, "3")
    assert waiting.kinds == ["created", "delta", "completed"]
