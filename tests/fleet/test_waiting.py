"""Who waits for a budget that another process holds: admitted when it settles, in order, and gone without a trace."""

from __future__ import annotations

import time
from typing import Any

from tests.fleet.conftest import MakeUrl
from tests.fleet.fleet import Fleet, Worker, size, until
from tests.fleet.ledgers import look
from tokenmeter.budgets.assembly import assemble
from tokenmeter.testing import Reply, ScriptedProvider

# What a call costs is far less than what it holds, which is more than half of the budget.
LIMIT, PRICE = "$0.06", ["0", "40"]
TURNS = size(1, 10)
ANSWER = Reply("One.", input_tokens=1, output_tokens=1)


def _caller(fleet: Fleet, provider: ScriptedProvider, store: str, wait_s: float = 60.0) -> Worker:
    budgets: list[list[Any]] = [[LIMIT, {"scope": "agent", "wait_s": wait_s}], ["1000 calls", {"name": "calls"}]]
    return fleet.start("caller", url=provider.openai_url, meter={"store": store, "budgets": budgets, "price": PRICE})


def _begin(worker: Worker, *names: str, how: str = "task", in_line: bool = False) -> None:
    order = {"do": "begin", "names": names, "how": how, "agent": "a", "in_line": in_line}
    assert worker.ask(order) == "done"


def _asked(provider: ScriptedProvider) -> list[str]:
    return [request.json["messages"][0]["content"] for request in provider.requests]


def _must_be_clean(store: str, calls: int) -> None:
    books = assemble(store)
    ledger = look(books)
    books.close()
    ledger.must_balance()
    ledger.must_hold_nothing()
    assert len(ledger.charged) == calls
    assert not any(row.estimated for row in ledger.charged)


def test_one_process_waits_for_another(fleet: Fleet, fresh: MakeUrl) -> None:
    store = fresh()
    with ScriptedProvider(ANSWER) as provider:
        here, there = _caller(fleet, provider, store), _caller(fleet, provider, store)
        longest_s = 0.0
        for turn in range(TURNS):
            for how in ("task", "thread"):
                provider.hold()
                before = provider.received
                _begin(here, f"first {turn} {how}", how="thread")
                provider.wait_for(before + 1)
                _begin(there, f"second {turn} {how}", how=how, in_line=True)
                time.sleep(0.2)
                assert provider.received == before + 1  # it waits
                began_s = time.monotonic()
                provider.release()
                assert here.ask({"do": "ended", "names": [f"first {turn} {how}"]}) == ["ok"]
                assert there.ask({"do": "ended", "names": [f"second {turn} {how}"]}) == ["ok"]
                longest_s = max(longest_s, time.monotonic() - began_s)
        print(f"\n### waiting: from the answer of the first to the end of the second at most {longest_s:.3f} s")
        fleet.dismiss()
    _must_be_clean(store, 4 * TURNS)


def test_cancelled_tasks_leave_nothing(fleet: Fleet, fresh: MakeUrl) -> None:
    store = fresh()
    with ScriptedProvider(ANSWER) as provider:
        here, there = _caller(fleet, provider, store), _caller(fleet, provider, store)
        provider.hold()
        _begin(here, "first")
        provider.wait_for(1)
        names = [f"waiting {n}" for n in range(20)]
        for name in names:
            _begin(there, name, in_line=True)
        assert there.ask({"do": "cancel", "names": names[::2]}) == "done"
        assert there.ask({"do": "ended", "names": names[::2]}) == ["CancelledError"] * 10
        provider.release()
        assert here.ask({"do": "ended", "names": ["first"]}) == ["ok"]
        assert there.ask({"do": "ended", "names": names[1::2]}) == ["ok"] * 10
        # Cancelled while the books are being asked, too: at once, and in the midst of the crowd's settles.
        names = [f"fleeting {n}" for n in range(40)]
        for name in names:
            _begin(there, name)
            assert there.ask({"do": "cancel", "names": [name]}) == "done"
        ended = there.ask({"do": "ended", "names": names})
        assert set(ended) <= {"ok", "CancelledError"}
        _begin(here, "last")
        assert here.ask({"do": "ended", "names": ["last"]}) == ["ok"]
        provider.wait_idle()
        books = assemble(store)
        until(lambda: all(not book.state.held for book in books.books()), 20)  # while both processes are alive
        books.close()
        fleet.dismiss()
        arrived = provider.received
    books = assemble(store)
    ledger = look(books)
    books.close()
    ledger.must_balance()
    ledger.must_hold_nothing()
    # A call that is cancelled on its way out is charged: nobody knows that it didn't arrive.
    assert arrived <= len(ledger.charged) <= arrived + ended.count("CancelledError")


def test_first_come_first_served_in_one_process(fleet: Fleet, fresh: MakeUrl) -> None:
    store = fresh()
    with ScriptedProvider(ANSWER) as provider:
        here, there = _caller(fleet, provider, store), _caller(fleet, provider, store)
        provider.hold()
        _begin(here, "first")
        provider.wait_for(1)
        names = [f"{how} {n}" for n in range(5) for how in ("task", "thread")]
        for name in names:
            _begin(there, name, how=name.split()[0], in_line=True)
        for done in range(1, len(names) + 1):
            provider.release(1)
            provider.wait_for(done + 1, 60)
        provider.release()
        assert _asked(provider)[1:] == names
        assert there.ask({"do": "ended", "names": names}) == ["ok"] * len(names)
        assert here.ask({"do": "ended", "names": ["first"]}) == ["ok"]
        fleet.dismiss()
    _must_be_clean(store, 11)
