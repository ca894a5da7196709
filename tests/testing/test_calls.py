from __future__ import annotations

import threading

import pytest

from tokenmeter.record import CallRecord
from tokenmeter.testing import CapturedCalls


def row(agent: str, cost_nanos: int | None = 0) -> CallRecord:
    return CallRecord(
        id=agent,
        at_s=0.0,
        duration_s=0.0,
        agent=agent,
        user=None,
        team=None,
        run=None,
        path=(agent,),
        tags={},
        provider="openai",
        operation="chat",
        model="gpt-5-mini",
        response_model=None,
        response_id=None,
        stream=False,
        status="ok",
        error_type=None,
        http_status=200,
        finish_reasons=(),
        usage=None,
        cost_nanos=cost_nanos,
        price_source=None,
        estimated=False,
        output_cap=None,
        warned=(),
        host="127.0.0.1",
        port=1,
    )


def test_it_is_a_list_of_what_was_recorded(calls: CapturedCalls) -> None:
    rows = [row("a", 5), row("b", None), row("a", 7)]
    for each in rows:
        calls.record(each)
    assert list(calls) == rows
    assert calls[0] is rows[0]
    assert calls[1:] == rows[1:]
    assert len(calls) == 3
    assert calls.where(agent="a") == [rows[0], rows[2]]
    assert calls.where(agent="a", cost_nanos=7) == [rows[2]]
    assert calls.cost_nanos == 12
    with pytest.raises(AttributeError):
        calls.where(agnet="a")


def test_it_is_bounded_and_counts_what_it_dropped() -> None:
    calls = CapturedCalls(max_calls=2)
    for name in "abc":
        calls.record(row(name))
    assert [call.agent for call in calls] == ["b", "c"]
    assert calls.dropped == 1
    assert len(calls.wait_for(3, 0)) == 2
    calls.clear()
    assert (len(calls), calls.dropped) == (0, 0)


def test_wait_for_sees_what_other_threads_record(calls: CapturedCalls) -> None:
    threads = [threading.Thread(target=calls.record, args=(row(str(i)),)) for i in range(20)]
    for thread in threads:
        thread.start()
    assert len(calls.wait_for(20)) == 20
    for thread in threads:
        thread.join()
    with pytest.raises(TimeoutError, match="20 of 21 calls"):
        calls.wait_for(21, 0.01)
