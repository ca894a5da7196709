"""Fifty calls at once over eight processes, and money or calls for ten: ten arrive, and the books balance."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from tests.fleet.conftest import MakeUrl
from tests.fleet.fleet import FULL, Fleet, size
from tests.fleet.ledgers import look
from tokenmeter.budgets.assembly import assemble
from tokenmeter.testing import Reply, ScriptedProvider

PROCESSES, CALLERS, ADMITTED = 8, 50, 10
BEFORE = size(8, 24)  # calls of each process in a warm run
# What each of the eight has, as threads and tasks and streams in threads and in tasks: fifty in all.
CROWDS = [(3, 2, 1), (2, 3, 1), *[(2, 2, 1)] * 6]
INPUT, OUTPUT = "0.123457", "1.700003"  # odd figures: a rounding would show
ANSWER = Reply("Hello from the provider.", input_tokens=9, output_tokens=4, delay_s=0.01)
COST_NANOS = 9 * Decimal("123.457") + 4 * Decimal("1700.003")

RUNS = size(1, 20)


def _budgets(limit: str, wait_s: float | None, calls: int) -> tuple[list[list[Any]], dict[str, Any]]:
    options: dict[str, Any] = {"scope": "agent", "name": limit}
    if wait_s is not None:
        options["wait_s"] = wait_s
    if limit == "calls":
        return [[f"{calls} calls", options], ["$1", {**options, "name": "money"}]], {"price": [INPUT, OUTPUT]}
    if limit == "money":
        return [[f"${COST_NANOS * calls / 10**9:.9f}", options]], {"price": [INPUT, OUTPUT]}
    # A call costs what it holds: of such money, too, there is enough for ten and no more.
    return [[f"${calls * Decimal('0.000123457'):.9f}", options]], {"price": ["0", "0"], "per_request": "0.000123457"}


def _run(fleet: Fleet, store: str, limit: str, wait_s: float | None, before: int) -> Counter[str]:
    calls = PROCESSES * before + ADMITTED
    budgets, price = _budgets(limit, wait_s, calls)
    meter = {"store": store, "budgets": budgets, **price}
    found: Counter[str] = Counter()
    with ScriptedProvider(ANSWER) as provider:
        workers = [
            fleet.start(
                "crowd",
                url=provider.openai_url,
                meter=meter,
                name=str(number),
                threads=threads,
                tasks=tasks,
                streams=streams,
                before=before,
            )
            for number, (threads, tasks, streams) in enumerate(CROWDS)
        ]
        for worker in workers:
            assert worker.link.receive() == "ready"
        warm = provider.received
        assert limit == "money" or warm == PROCESSES * before
        for worker in workers:
            worker.link.send("go")
        for worker in workers:
            told = worker.link.receive()
            found.update(told["found"])
        arrived = provider.received - warm
        billed = provider.wait_idle()
        fleet.dismiss()
    assert found.total() == CALLERS
    assert found["ok"] == arrived
    assert set(found) <= {"ok", "BudgetExceeded"}
    books = assemble(store)
    ledger = look(books)
    books.close()
    ledger.must_balance()
    ledger.must_hold_nothing()
    assert len(ledger.charged) == billed.calls == warm + arrived
    assert not any(row.estimated for row in ledger.rows)
    refused = sum(1 for row in ledger.rows if row.told["status"] == "refused")
    assert refused == found["BudgetExceeded"] + PROCESSES * before - warm
    for book in ledger.books.values():
        assert book.state.posted <= book.state.limit, book
    if limit != "each":
        exact = billed.input_tokens * Decimal("123.457") + billed.output_tokens * Decimal("1700.003")
        assert abs(ledger.spent_on("money") - exact) <= Decimal("0.5") * billed.calls  # each call is rounded once
    return found


ALL = [
    (limit, wait_s, before) for limit in ("calls", "each", "money") for wait_s in (None, 0) for before in (0, BEFORE)
]
SOME = [("calls", None, BEFORE), ("calls", 0, 0), ("money", None, 0)]


def _name(case: tuple[str, float | None, int]) -> str:
    return f"{case[0]}, {'waiting' if case[1] is None else 'not waiting'}, {'warm' if case[2] else 'cold'}"


@pytest.mark.parametrize("case", ALL if FULL else SOME, ids=_name)
def test_ten_of_fifty(fleet: Fleet, fresh: MakeUrl, case: tuple[str, float | None, int]) -> None:
    limit, wait_s, before = case
    assert sum(sum(crowd) + crowd[2] for crowd in CROWDS) == CALLERS
    told: Counter[int] = Counter()
    for _ in range(RUNS):
        found = _run(fleet, fresh(), limit, wait_s, before)
        if limit == "money":  # less than it holds is what a call costs, so that not all of the money can be used
            assert 1 <= found["ok"] <= ADMITTED
        told[found["ok"]] += 1
    print("\n### arrivals:", dict(told), "of", CALLERS)
    if limit != "money":
        assert told == {ADMITTED: RUNS}
    assert fleet.complaints == ""
