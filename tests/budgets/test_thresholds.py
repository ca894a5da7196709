"""A threshold is told by the settle that crosses it, once, whatever the number of processes."""

from __future__ import annotations

import logging
import threading
import timeit
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmeter import Meter
from tokenmeter.budgets import Budget, Claim, MemoryStore, Settled, State
from tokenmeter.budgets.limit import Unit
from tokenmeter.budgets.thresholds import Crossing, Thresholds
from tokenmeter.testing import ScriptedProvider


def claim(
    percents: Sequence[int | float] = (50, 80, 100),
    limit: int = 1_000,
    key: str = "book",
    resets_at: float | None = None,
    unit: Unit = "calls",
    call: bool = False,
) -> Claim:
    text = f"${limit}" if unit == "usd" else f"{limit} {unit}"
    budget = Budget(text, name="b", thresholds=percents, per="call" if call else "day")
    return Claim(budget, key, "agent=triage", 1, budget.limit_amount, resets_at, True)


def settle(
    told: Thresholds, claim: Claim, before: int, after: int, limit: int = 1_000, now_s: float = 0.0
) -> list[float]:
    settled = Settled((State(after, 0, limit),), (after - before,))
    return [crossing.percent for crossing in told.crossed((claim,), settled, now_s)]


def test_a_line_is_crossed_when_it_is_reached() -> None:
    told = Thresholds()
    assert settle(told, claim(), 0, 499) == []
    assert settle(told, claim(), 499, 500) == [50]
    assert settle(told, claim(), 500, 799) == []
    assert settle(told, claim(), 799, 1_200) == [80, 100]
    assert settle(told, claim(), 1_200, 1_300) == []


def test_who_did_not_cross_the_line_says_nothing() -> None:
    assert settle(Thresholds(), claim(), 500, 600) == []
    assert settle(Thresholds(), claim(), 700, 400) == []
    assert settle(Thresholds(), claim(), 700, 700) == []
    assert settle(Thresholds(), claim(()), 0, 1_000) == []
    assert settle(Thresholds(), claim(), 0, 5, limit=0) == []


def test_a_budget_per_call_has_no_book_to_fill() -> None:
    assert settle(Thresholds(), claim(call=True), 0, 1_000) == []


def test_what_goes_down_and_up_again_is_told_once() -> None:
    told = Thresholds()
    assert settle(told, claim(), 0, 600) == [50]
    assert settle(told, claim(), 600, 400) == []
    assert settle(told, claim(), 400, 900) == [80]
    assert settle(told, claim(key="other"), 0, 600) == [50]


def test_a_grant_raises_the_lines_and_what_crosses_those_is_news() -> None:
    told = Thresholds()
    assert settle(told, claim(), 0, 1_000) == [50, 80, 100]
    assert settle(told, claim(), 1_000, 1_500, limit=2_000) == []
    assert settle(told, claim(), 1_500, 1_600, limit=2_000) == [80]
    assert settle(told, claim(), 1_600, 2_000, limit=2_000) == [100]


def test_parts_of_a_percent_are_exact() -> None:
    told = Thresholds()
    assert settle(told, claim((0.1, 99.9, 150)), 0, 0) == []
    assert settle(told, claim((0.1, 99.9, 150)), 0, 1) == [0.1]
    assert settle(told, claim((0.1, 99.9, 150)), 1, 998) == []
    assert settle(told, claim((0.1, 99.9, 150)), 998, 999) == [99.9]
    assert settle(told, claim((0.1, 99.9, 150)), 999, 1_500) == [150]
    assert settle(told, claim((50,), limit=3, key="third"), 0, 1, limit=3) == []
    assert settle(told, claim((50,), limit=3, key="third"), 1, 2, limit=3) == [50]


def test_a_crossing_says_all_about_it() -> None:
    told = Thresholds()
    mine = claim((80,), limit=5, unit="usd", resets_at=86_400.0)
    settled = Settled((State(4_000_000_001, 7, 5_000_000_000),), (4_000_000_001,))
    (crossing,) = told.crossed((mine,), settled, 0.0)
    assert crossing == Crossing(
        budget="b",
        scope="agent=triage",
        percent=80,
        spent=Decimal("4.000000001"),
        limit=Decimal(5),
        unit="usd",
        resets_at=86_400.0,
        message="budget 'b' (agent=triage) has reached 80 % of its limit $5: spent $4.000000001; "
        "resets at 1970-01-02T00:00:00+00:00",
    )
    with pytest.raises(AttributeError):
        crossing.percent = 5  # type: ignore[misc]
    (crossing,) = told.crossed((claim((99.5,)),), Settled((State(995, 0, 1_000),), (995,)), 0.0)
    assert crossing.message == "budget 'b' (agent=triage) has reached 99.5 % of its limit 1k calls: spent 995 calls"
    assert (crossing.spent, crossing.limit, crossing.unit, crossing.resets_at) == (995, 1_000, "calls", None)


def test_the_claims_of_a_call_are_told_in_their_order() -> None:
    claims = (claim(key="a"), claim(key="b"), claim(key="c"))
    settled = Settled((State(900, 0, 1_000), State(10, 0, 1_000), State(500, 0, 1_000)), (900, 10, 1))
    assert [found.percent for found in Thresholds().crossed(claims, settled, 0.0)] == [50, 80, 50]


def test_memory_is_bounded_and_ended_windows_are_forgotten() -> None:
    told = Thresholds(max_told=10)
    for number in range(100):
        assert settle(told, claim((50,), key=f"run {number}"), 0, 500) == [50]
        assert len(told._told) <= 10
    told = Thresholds()
    for number in range(50):
        assert settle(told, claim((50,), key=f"a{number}", resets_at=100.0), 0, 500, now_s=50.0) == [50]
        assert settle(told, claim((50,), key=f"b{number}", resets_at=200.0), 0, 500, now_s=50.0) == [50]
    assert settle(told, claim((50,), key="c"), 0, 500, now_s=150.0) == [50]
    assert len(told._told) == 51
    assert settle(told, claim((50,), key="d"), 0, 500, now_s=250.0) == [50]
    assert sorted(key for key, *_ in told._told) == ["c", "d"]


@given(
    percents=st.lists(st.integers(1, 1_000) | st.floats(0.1, 1_000), max_size=5, unique=True)
    .map(sorted)
    .filter(lambda percents: not percents or percents[-1] > 1),  # else they are taken for parts of one
    limit=st.integers(1, 10**6),
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**6)), max_size=20),
)
def test_over_all_processes_each_line_that_is_reached_is_told_once(
    percents: list[int | float], limit: int, steps: list[tuple[int, int]]
) -> None:
    processes = [Thresholds() for _ in range(4)]
    mine = claim(percents, limit)
    posted = 0
    found: list[int | float] = []
    for process, amount in steps:
        posted += amount
        found += settle(processes[process], mine, posted - amount, posted, limit)
    assert found == [percent for percent in percents if posted * 100 >= Fraction(str(percent)) * limit]


def test_of_many_threads_on_one_store_one_tells_each_line() -> None:
    store, told = MemoryStore(), Thresholds()
    percents = tuple(range(1, 101))
    mine = claim(percents, 400)
    found: Counter[float] = Counter()

    def work(name: int) -> None:
        for number in range(50):
            settled = store.post(f"{name}.{number}", (mine,), (1,))
            assert settled is not None
            found.update(crossing.percent for crossing in told.crossed((mine,), settled, 0.0))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(percents, 1)


@pytest.mark.bench
def test_nothing_crossed_costs_next_to_nothing() -> None:
    told, claims = Thresholds(), (claim(), claim(key="b"))
    settled = Settled((State(700, 0, 1_000), State(300, 0, 1_000)), (10, 10))
    each_s = min(timeit.repeat(lambda: told.crossed(claims, settled, 0.0), number=10_000, repeat=5)) / 10_000
    print(f"thresholds of two budgets, none crossed: {each_s * 1e6:.2f} µs")


@pytest.mark.parametrize("leases", ["on", "off"])
def test_meters_that_share_a_store_tell_each_line_once(
    leases: str, tmp_path: Path, provider: ScriptedProvider, caplog: pytest.LogCaptureFixture
) -> None:
    percents = tuple(range(10, 91, 10))
    told: list[tuple[float, int]] = []

    def hear(crossing: Crossing) -> None:
        told.append((crossing.percent, int(crossing.spent)))

    def calls(number: int) -> None:
        budget = Budget("120 calls", per="day", name="daily", thresholds=percents)
        url = f"sqlite:///{tmp_path}/books.db?timeout_s=10&lease_s=60&leases={leases}"
        with (
            Meter([budget], store=url, on_threshold=hear) as meter,
            meter.wrap(httpx.Client(base_url=provider.openai_url)) as client,
        ):
            for _ in range(38):
                client.post("/chat/completions", json={"model": "gpt-5-mini", "messages": []}).raise_for_status()

    caplog.set_level(logging.INFO, "tokenmeter")
    threads = [threading.Thread(target=calls, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(percent for percent, _ in told) == list(percents)
    assert all(spent * 100 >= percent * 120 for percent, spent in told)
    assert len([record for record in caplog.records if "has reached" in record.message]) == len(percents)
