"""Faults of our own are logged once at their place, and never reach the caller."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.clients.faces import ASK, URL, Face, Origin, chat_body, chat_events, come, on_a_loop
from tokenmeter import BudgetExceeded, Meter, call, faults, wire
from tokenmeter.budgets import Budget
from tokenmeter.faults import swallow
from tokenmeter.ledger import MemoryLedger
from tokenmeter.record import CallRecord
from tokenmeter.telemetry import Metrics, Spans

STREAMED = ASK | {"stream": True}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_known", set())


def fail_here(number: int) -> None:
    raise RuntimeError(f"number {number}")


def fail_there() -> None:
    raise RuntimeError("there")


def test_logged_once_at_each_place(caplog: pytest.LogCaptureFixture) -> None:
    for number in range(5):
        try:
            fail_here(number)
        except RuntimeError as fault:
            swallow(fault, "testing")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "while testing" in caplog.text
    assert "number 0" in caplog.text  # with its traceback
    assert "fail_here" in caplog.text
    try:
        fail_there()
    except RuntimeError as fault:
        swallow(fault, "testing")
    assert len(caplog.records) == 2


def test_what_is_known_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3 * faults.MAX_KNOWN):
        kind = type(f"Fault{number}", (Exception,), {})
        swallow(kind(), "testing")
    assert len(faults._known) <= faults.MAX_KNOWN
    assert len(caplog.records) == 3 * faults.MAX_KNOWN


def test_a_fault_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    swallow(RuntimeError("bare"), "testing")
    assert "bare" in caplog.text


def explode(*args: Any, **kwargs: Any) -> Any:
    raise ZeroDivisionError("ours")


BREAKS = {
    "opening a span": (Spans, "open"),
    "ending a span": (Spans, "close"),
    "metrics": (Metrics, "record"),
    "the ledger": (MemoryLedger, "record"),
    "reading a request": (wire, "read_request"),
    "reading a body": (wire, "read_body"),
    "making a reader": (wire, "reader"),
    "asking for usage": (wire, "with_usage_asked"),
}


@pytest.mark.parametrize("broken", BREAKS)
@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
@on_a_loop
async def test_the_host_program_comes_first(
    face: Face,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
    ask: dict[str, Any],
    stream: bool,
) -> None:
    owner, name = BREAKS[broken]
    monkeypatch.setattr(owner, name, explode)
    with Meter([Budget("100 calls")]) as meter:
        client = meter.wrap(origin.client())
        for _ in range(2):
            response = await come(client.send(client.build_request("POST", URL, json=ask), stream=stream))
            shown = await face.read(response)
            if ask is ASK:
                assert shown == chat_body()
            elif broken != "making a reader":
                assert shown == b"".join(chat_events(usage=False))
            else:  # nothing is left that could hide the chunk
                assert shown.startswith(chat_events(usage=False)[0][:20])
            assert len(origin.requests) == _ + 1  # sent once, whatever broke
        [left] = meter.remaining()
        assert left.held == 0
    assert len([record for record in caplog.records if record.name == "tokenmeter"]) <= 1


@on_a_loop
async def test_a_recorder_that_fails(face: Face, origin: Origin, caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        def record(self, row: CallRecord) -> None:
            raise ValueError("theirs")

    with Meter(recorders=[Failing()]) as meter:
        client = meter.wrap(origin.client())
        for _ in range(3):
            response = await come(client.post(URL, json=ASK))
            assert response.content == chat_body()
        assert meter.spend().calls == 3
    assert caplog.text.count("calling a recorder") == 1


@on_a_loop
async def test_a_refused_call_stays_refused_whatever_becomes_of_its_row(
    face: Face, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row_of(*_: Any) -> CallRecord:
        raise RuntimeError("a fault of our own")

    with Meter([Budget("1 calls", wait_s=0)]) as meter:
        client = meter.wrap(origin.client())
        await come(client.post(URL, json=ASK))
        monkeypatch.setattr(call, "row_of", row_of)
        with pytest.raises(BudgetExceeded):
            await come(client.post(URL, json=ASK))
    assert len(origin.requests) == 1
