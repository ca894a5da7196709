"""Processes are killed as they go, again and again: what was billed is charged, and no money stays held.

Four processes call without end. A budget of money binds for each agent in turn, so that the limit is met all the time.
The provider keeps a bill of its own, by the name that each call has in its field ``user``.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from decimal import Decimal
from typing import Any

from tests.fleet.conftest import MakeUrl
from tests.fleet.fleet import Fleet, Gone, Worker, size, until
from tests.fleet.ledgers import Ledger, look
from tokenmeter.budgets.assembly import assemble
from tokenmeter.testing import Reply, Request, ScriptedProvider

KILLS = size(6, 500)
PROCESSES = 4
INPUT, OUTPUT = Decimal("123.457"), Decimal("1700.003")  # nanodollars a token
LIMIT = "0.004"  # some hundred calls
AGENTS = [f"agent{n}" for n in range(1000)]


class Bill:
    """What the provider served, call by call. Its answers take more or less time."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self.arrived: Counter[str] = Counter()

    def reply(self, request: Request) -> Reply:
        with self._lock:
            self.arrived[request.json["user"]] += 1
            delay_s, output = self._chance.choice((0, 0, 0.002, 0.02)), self._chance.randrange(1, 16)
        return Reply("word " * output, delay_s=delay_s)


def _start(fleet: Fleet, provider: ScriptedProvider, store: str, number: int) -> Worker:
    budgets: list[list[Any]] = [
        [f"${LIMIT}", {"scope": "agent", "wait_s": 0.5}],
        ["$1000", {"name": "all"}],
        ["1000000 calls", {"scope": "agent"}],
    ]
    return fleet.start(
        "load",
        url=provider.openai_url,
        meter={"store": store, "budgets": budgets, "price": ["0.123457", "1.700003"]},
        name=f"p{number}",
        threads=2,
        tasks=2,
        agents=AGENTS,
        seed=number,
    )


def test_killed_at_random_moments(fleet: Fleet, fresh: MakeUrl, kind: str) -> None:
    store = fresh(lease_s=3, timeout_s=0.6) if kind.startswith("redis") else fresh()
    chance = random.Random(f"{kind} {KILLS}")
    bill = Bill(7)
    with ScriptedProvider(bill.reply) as provider:
        for number in range(PROCESSES):
            _start(fleet, provider, store, number)
        for killed in range(KILLS):
            victim = fleet.workers[chance.randrange(PROCESSES)]
            before = provider.received
            calls = chance.randrange(60)
            until(lambda before=before, calls=calls: provider.received > before + calls, pause_s=0.001)
            time.sleep(chance.random() * 0.05)
            fleet.forget(victim)
            _start(fleet, provider, store, PROCESSES + killed)
        for worker in list(fleet.workers):  # at the end the others, all at once
            with contextlib.suppress(Gone):
                fleet.forget(worker)
        billed = provider.wait_idle(60)

    ledger = _recovered(store, 3.0 if kind.startswith("redis") else 0.0)
    exact = billed.input_tokens * INPUT + billed.output_tokens * OUTPUT
    recorded = ledger.spent_on("all")
    estimated = sum(1 for row in ledger.charged if row.estimated)
    print(
        f"\n### {kind}: {KILLS} kills, {sum(bill.arrived.values())} calls served; billed ${exact / 10**9:.6f}, "
        f"recorded ${recorded / 10**9:.6f}, {estimated} of {len(ledger.charged)} rows by estimate"
    )
    _check(ledger, bill)
    assert recorded >= exact - Decimal("0.5") * billed.calls
    binding = [book for book in ledger.books.values() if book.unit == "usd" and book.scope.startswith("agent=")]
    assert any(book.state.posted > book.state.limit * 0.9 for book in binding)  # the limit was met


def _recovered(store: str, lease_s: float) -> Ledger:
    """The books as whoever comes later finds them."""
    books = assemble(store)
    time.sleep(lease_s * 1.2)
    books.recover()
    until(lambda: books.flush(5.0), 30)  # type: ignore[attr-defined]
    ledger = look(books)
    books.close()
    return ledger


def _check(ledger: Ledger, bill: Bill) -> None:
    ledger.must_balance()
    ledger.must_hold_nothing()
    assert set(bill.arrived.values()) == {1}
    charged = [row.told["user"] for row in ledger.charged if row.told]
    assert len(charged) == len(set(charged))
    assert set(bill.arrived) <= set(charged)
    marked: Counter[str] = Counter()
    for row in ledger.charged:
        assert row.told or not any(row.charges.values()), f"a charge that says nothing: {row}"
        if row.estimated:
            marked.update(row.charges)
    for key, book in ledger.books.items():
        if " loops " not in key:  # the counter of a run's spend holds nothing, and learns its limit from the next call
            assert book.state.posted <= book.state.limit + marked[key], (book, marked[key])
