"""A store that goes away and comes back: who passes meanwhile, and what the books say in the end."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tokenmeter.budgets import Budget, Claim, Entry, Held, MemoryStore, Settled, Short, State
from tokenmeter.budgets.breaker import FAILURES, Breaker, NotAsked
from tokenmeter.budgets.budget import OnStoreError
from tokenmeter.budgets.guarded import GuardedStore
from tokenmeter.budgets.journal import Journal
from tokenmeter.budgets.journal_lines import Undo
from tokenmeter.errors import StoreUnavailable

from .flaky import Flaky, leave

LONG_S = 20.0


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


class House:
    """A guarded store, what is behind it, and what it is told by."""

    def __init__(self, directory: Path) -> None:
        self.hands = Hands()
        self.inner = Flaky()
        self.journal = Journal(directory)
        self.store = GuardedStore(self.inner, self.journal, clock=self.hands)

    def back(self) -> None:
        """The store is there again, and all is told."""
        self.inner.wire.gone = self.inner.wire.deaf = False
        self.hands.at_s += 60.0
        assert self.store.flush(LONG_S)
        assert not self.journal.waiting()

    def book(self, key: str = "book") -> State:
        return self.inner.book(key)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.inner.wire.gone = made.inner.wire.deaf = False
    made.store.close()


def claim(
    mode: OnStoreError, amount: int = 1, limit: int = 10, local: int = 0, key: str = "book", warns: bool = False
) -> Claim:
    budget = Budget(
        f"{limit} calls",
        name=mode,
        on_exceed="warn" if warns else "refuse",
        on_store_error=mode,
        local_limit=f"{local} calls" if mode == "local" else None,
    )
    return Claim(budget, key, "agent=triage", amount, limit, None, not warns)


def test_while_it_answers_it_is_the_store_itself(house: House) -> None:
    store = house.store
    assert store.hold("a", (claim("closed", 4),), 0.0) == Held((State(0, 4, 10),), ())
    assert store.sent("a")
    assert store.settle("a", (3,), b"row") == Settled((State(3, 0, 10),), (3,))
    assert store.settle("a", (3,)) is None
    assert isinstance(store.hold("b", (claim("closed", 8),), 0.0), Short)
    assert store.hold("c", (claim("closed", 7),), 0.0)
    with pytest.raises(ValueError, match="in use"):
        store.hold("c", (claim("closed", 0),), 0.0)
    with pytest.raises(ValueError, match="amounts"):
        store.settle("c", (1, 2))
    assert store.release("c")
    assert not store.release("c")
    assert house.book() == State(3, 0, 10)
    assert store._calls == {}
    assert len(house.journal) == 0


def test_closed_lets_nothing_pass(house: House) -> None:
    house.inner.wire.gone = True
    with pytest.raises(StoreUnavailable, match=r"'closed' \(agent=triage\).*redis://somewhere.*on_store_error="):
        house.store.hold("a", (claim("closed"),), 0.0)
    house.store.release("a")
    house.back()
    assert house.book() == State(0, 0, 0)


def test_a_hold_whose_answer_was_lost_is_given_back(house: House) -> None:
    house.inner.wire.deaf = True
    with pytest.raises(StoreUnavailable):
        house.store.hold("a", (claim("closed", 4),), 0.0)
    assert house.book() == State(0, 4, 10)
    house.inner.wire.gone, house.inner.wire.deaf = True, False
    house.store.release("a")
    house.back()
    assert house.book() == State(0, 0, 10)
    assert house.store._calls == {}


def test_the_same_id_may_be_tried_again(house: House) -> None:
    house.inner.wire.deaf = True
    with pytest.raises(StoreUnavailable):
        house.store.hold("a", (claim("closed", 4),), 0.0)
    house.store.release("a")
    house.inner.wire.deaf = False
    assert house.store.hold("a", (claim("closed", 5),), 0.0) == Held((State(0, 5, 10),), ())
    house.back()
    assert house.book() == State(0, 5, 10)  # the old try's undoing has not undone the new one
    assert house.store.settle("a", (5,)) is not None


def test_open_lets_everything_pass(house: House) -> None:
    house.inner.wire.gone = True
    for n in range(20):
        assert isinstance(house.store.hold(str(n), (claim("open", 4),), 0.0), Held)
        assert house.store.sent(str(n))
        assert house.store.settle(str(n), (2,)) is not None
        assert house.store.settle(str(n), (2,)) is None
    assert house.book() == State(0, 0, 0)
    house.back()
    assert house.book() == State(40, 0, 10)
    assert 20 <= house.inner.wire.asked["post"] <= 25


def test_local_passes_up_to_an_amount_until_all_is_told(house: House) -> None:
    def passed(names: str) -> int:
        return sum(isinstance(house.store.hold(n, (claim("local", 1, 10, local=3),), 0.0), Held) for n in names)

    house.inner.wire.gone = True
    assert passed("abcdef") == 3
    assert house.store.settle("a", (1,)) is not None
    assert house.store.release("b")
    assert passed("gh") == 1
    house.back()
    house.inner.wire.gone = True
    assert passed("ij") == 0  # calls of that outage are still under way
    for name in "cg":
        house.store.settle(name, (1,))
    house.back()
    assert house.book() == State(3, 0, 10)
    house.inner.wire.gone = True
    assert passed("klmnop") == 3


def test_an_interrupt_right_after_a_hold_without_the_store_leaves_none(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = MemoryStore.hold

    def interrupted(*args: Any) -> None:
        hold(*args)
        raise KeyboardInterrupt

    house.inner.wire.gone = True
    with monkeypatch.context() as patched:
        patched.setattr(MemoryStore, "hold", interrupted)
        with pytest.raises(KeyboardInterrupt):
            house.store.hold("a", (claim("local", 1, 10, local=1),), 0.0)
    house.store.release("a")
    assert isinstance(house.store.hold("b", (claim("local", 1, 10, local=1),), 0.0), Held)


def test_one_closed_budget_closes_the_call(house: House) -> None:
    house.inner.wire.gone = True
    with pytest.raises(StoreUnavailable, match="'closed'"):
        house.store.hold("a", (claim("open"), claim("closed", key="other")), 0.0)
    warns = claim("closed", key="other", warns=True)
    assert isinstance(house.store.hold("b", (claim("open"), warns), 0.0), Held)


def test_a_budget_per_call_needs_no_store(house: House) -> None:
    """It is closed by default, and has no books that could be gone."""
    alone = Claim(Budget("5 calls", per="call"), "alone", "global", 5, 5, None, True)
    house.inner.wire.gone = True
    assert isinstance(house.store.hold("a", (alone, claim("open")), 0.0), Held)
    assert isinstance(house.store.adjust("a", (5, 2)), Held)
    assert house.store.settle("a", (5, 1)) is not None
    assert isinstance(house.store.hold("b", (alone._replace(amount=6), claim("open")), 0.0), Short)
    with pytest.raises(StoreUnavailable, match="lets no call pass"):
        house.store.hold("c", (alone, claim("closed")), 0.0)


def test_waiting_for_the_local_amount(house: House) -> None:
    house.inner.wire.gone = True
    mine = (claim("local", 3, local=3),)
    assert isinstance(house.store.hold("a", mine, 0.0), Held)
    ticket = house.store.queue("b", mine, 0.0)
    assert not isinstance(ticket, Held | Short)
    threading.Timer(0.05, house.store.release, ("a",)).start()
    assert isinstance(ticket.wait(LONG_S), Held)
    assert house.store.settle("b", (2,)) is not None
    house.back()
    assert house.book() == State(2, 0, 10)


def test_a_store_that_goes_while_one_waits(house: House) -> None:
    assert isinstance(house.store.hold("a", (claim("open", 10),), 0.0), Held)
    ticket = house.store.queue("b", (claim("open", 1),), 0.0)
    assert not isinstance(ticket, Held | Short)

    class Breaks:
        def wait(self, timeout_s: float) -> Held | Short:
            raise StoreUnavailable("gone in the middle")

    setattr(ticket, "_ticket", Breaks())  # noqa: B010
    assert isinstance(ticket.wait(LONG_S), Held)
    house.store.settle("b", (1,))
    house.store.settle("a", (10,))
    house.back()
    assert house.book() == State(11, 0, 10)


def test_a_ticket_that_is_dropped_leaves_nothing(house: House) -> None:
    assert isinstance(house.store.hold("a", (claim("closed", 10),), 0.0), Held)
    house.store.queue("b", (claim("closed", 1),), 0.0)
    gc.collect()
    house.store.release("a")
    assert house.book() == State(0, 0, 10)
    assert house.store._calls == {}


def test_tasks_wait_too(house: House) -> None:
    async def main() -> None:
        assert isinstance(house.store.hold("a", (claim("closed", 10),), 0.0), Held)
        ticket = house.store.queue("b", (claim("closed", 1),), 0.0)
        assert not isinstance(ticket, Held | Short)
        asyncio.get_running_loop().call_later(0.02, house.store.release, "a")
        assert isinstance(await ticket.wait_async(LONG_S), Held)

    asyncio.run(main())
    assert house.book() == State(0, 1, 10)


@pytest.mark.parametrize("lost", ["gone", "deaf"])
def test_settled_in_an_outage_arrives_once(house: House, lost: str) -> None:
    for name in "abc":
        house.store.hold(name, (claim("closed", 3),), 0.0)
    setattr(house.inner.wire, lost, True)
    assert house.store.sent("a")
    assert house.store.settle("a", (2,), b"row") == Settled((State(2, 0, 10),), (2,))
    assert house.store.settle("a", (2,)) is None
    assert house.store.release("b")
    house.store.post("p", (claim("closed"),), (1,))
    house.store.draw(["c"], [Entry("d", (("book", 2),), b"")])
    house.back()
    assert house.book() == State(5, 1, 10)
    assert house.store.settle("c", (1,)) is not None
    assert house.book() == State(6, 0, 10)


def test_a_hold_that_the_store_has_lost_is_charged_all_the_same(house: House) -> None:
    house.store.hold("a", (claim("closed", 3),), 0.0)
    house.inner.kept.release("a")  # as a flush does, or another process that took this one for dead
    assert house.store.settle("a", (2,)) == Settled((State(2, 0, 10),), (2,))
    assert house.store.settle("a", (2,)) is None


def test_a_crash_in_an_outage(tmp_path: Path, house: House) -> None:
    """What was sent is charged by whoever comes next, and what was settled as it was settled."""
    for name in "abc":
        house.store.hold(name, (claim("closed", 3),), 0.0, lambda: b"estimated")
    house.inner.wire.gone = True
    house.store.sent("a")
    house.store.sent("b")
    house.store.settle("b", (1,))
    leave(house.journal)
    house.inner.wire.gone = False
    house.hands.at_s += 60
    heir = GuardedStore(house.inner, Journal(tmp_path))
    assert heir.flush(LONG_S)
    assert house.book() == State(4, 3, 10)  # c never left: its hold is for the store to drop
    heir.close()


@pytest.mark.parametrize("row_first", [False, True])
def test_a_call_that_failed_unbilled_in_an_outage(tmp_path: Path, house: House, row_first: bool) -> None:
    """Its row doesn't take the place of the word that its hold is to be given back, in whatever order they come."""
    house.store.hold("a", (claim("closed", 3),), 0.0, lambda: b"estimated")
    house.store.sent("a")
    house.inner.wire.gone = True
    if not row_first:
        house.store.release("a")
    house.store.write([Entry("a", (), b"row")])
    house.store.release("a")
    assert house.journal.waiting() == [Undo("a", 1, b"row")]
    leave(house.journal)
    house.inner.wire.gone = False
    house.hands.at_s += 60
    written: list[Entry] = []
    house.inner.write = written.extend  # type: ignore[method-assign,assignment]
    heir = GuardedStore(house.inner, Journal(tmp_path))
    assert heir.flush(LONG_S)
    assert house.book() == State(0, 0, 10)
    assert set(written) == {Entry("a", (), b"row")}
    heir.close()


def test_the_breaker_spares_callers(house: House) -> None:
    house.inner.wire.gone = True
    for n in range(50):
        with pytest.raises(StoreUnavailable):
            house.store.hold(str(n), (claim("closed"),), 0.0)
    assert house.inner.wire.asked.total() == FAILURES
    house.hands.at_s += 1.1
    for n in range(50):
        with pytest.raises(StoreUnavailable):
            house.store.hold(str(n), (claim("closed"),), 0.0)
    assert house.inner.wire.asked.total() == FAILURES + 1
    with pytest.raises(StoreUnavailable):
        house.store.read(["book"])
    assert house.store._calls.keys() <= {str(n) for n in range(50)}
    house.inner.wire.gone = False
    house.hands.at_s += 2.1
    assert isinstance(house.store.hold("x", (claim("closed"),), 0.0), Held)


def test_while_the_store_is_gone_its_thread_sleeps_as_long_as_it_would_not_be_asked(house: House) -> None:
    house.inner.wire.gone = True
    for n in range(FAILURES + 1):
        house.store.post(str(n), (claim("open"),), (1,))
    wait_s = house.store.breaker.wait_s
    assert wait_s > 0.5
    assert house.store._round() == wait_s
    house.back()
    assert house.store._round() > 1


def test_the_breaker_asks_once_at_a_time_and_ever_more_rarely() -> None:
    hands = Hands()
    breaker = Breaker(hands)
    asked: list[float] = []
    inside = threading.Event()
    let_go = threading.Event()

    def fail() -> None:
        asked.append(hands.at_s)
        raise StoreUnavailable("gone")

    def slow() -> None:
        inside.set()
        let_go.wait(LONG_S)

    for _ in range(600):
        with pytest.raises(StoreUnavailable):
            breaker(fail)
        hands.at_s += 0.1
    gaps = [round(after - before) for before, after in pairwise(asked[2:])]
    assert gaps[:5] == [1, 2, 4, 8, 10]
    assert set(gaps[5:]) == {10}
    hands.at_s += 11
    probe = threading.Thread(target=breaker, args=(slow,))
    probe.start()
    assert inside.wait(LONG_S)
    with pytest.raises(NotAsked):
        breaker(slow)
    let_go.set()
    probe.join(LONG_S)
    assert not breaker.open
    breaker(lambda: None)


def test_the_log_says_once_that_it_is_gone_and_once_that_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    """A full server refuses what writes and answers what reads."""
    hands = Hands()
    breaker = Breaker(hands)
    for _ in range(6):
        for _ in range(FAILURES):
            breaker.failed(StoreUnavailable("full"))
        breaker.passed()
        hands.at_s += 0.3
    told = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert told == ["tokenmeter's store does not answer", "tokenmeter's store answers again"] * (len(told) // 2)
    assert 2 <= len(told) <= 6


def test_refusals_are_answers() -> None:
    breaker = Breaker()

    def gone() -> None:
        raise StoreUnavailable("gone")

    for _ in range(3 * FAILURES):
        for _ in range(FAILURES - 1):
            with pytest.raises(StoreUnavailable, match="gone"):
                breaker(gone)
        with pytest.raises(ValueError, match="no"):
            breaker(int, "no")
    assert not breaker.open


def test_what_ends_in_an_outage_outlives_the_process(tmp_path: Path) -> None:
    house = House(tmp_path)
    for n in range(10):
        house.store.hold(str(n), (claim("closed"),), 0.0)
    house.inner.wire.gone = True
    for n in range(9):
        house.store.settle(str(n), (1,), b"row")
    house.store.release("9")
    house.store.close(0.1)
    house.inner.wire.gone = False
    assert Journal(tmp_path).replay_dead(house.inner) == 10
    assert house.book() == State(9, 0, 10)


def test_a_slow_store_does_not_stop_the_end(tmp_path: Path) -> None:
    house = House(tmp_path)
    for n in range(5):
        house.store.hold(str(n), (claim("closed"),), 0.0)
    house.inner.wire.gone = True
    for n in range(5):
        house.store.settle(str(n), (1,))
    stuck, go_on = threading.Event(), threading.Event()

    def between() -> None:
        stuck.set()
        go_on.wait(LONG_S)

    house.inner.wire.between = between
    house.inner.wire.gone = False
    house.hands.at_s += 60.0
    house.store._rounds.ring()
    assert stuck.wait(LONG_S)
    before_s = time.monotonic()
    house.store.close(0.2)
    assert time.monotonic() - before_s < LONG_S / 4
    go_on.set()
    thread = house.store._rounds.thread
    assert thread is not None
    thread.join(LONG_S)
    Journal(tmp_path).replay_dead(house.inner)
    assert house.book() == State(5, 0, 10)


def test_a_finalizer_that_settles(house: House) -> None:
    """Garbage is collected at any step of any verb."""

    class Stream:
        def __init__(self, hold_id: str) -> None:
            self.me = self
            self.hold_id = hold_id

        def __del__(self) -> None:
            house.store.settle(self.hold_id, (1,))
            told.append(self.hold_id)

    told: list[str] = []
    gc.set_threshold(5)
    try:
        for n in range(300):
            assert isinstance(house.store.hold(str(n), (claim("closed", 1, 10_000),), 0.0), Held)
            Stream(str(n))
    finally:
        gc.set_threshold(700)
    until_s = time.monotonic() + LONG_S
    while len(told) < 300 and time.monotonic() < until_s:
        gc.collect()  # does nothing while another thread is at it
        time.sleep(0.001)
    assert house.store.flush(LONG_S)
    assert house.book() == State(300, 0, 10_000)


def test_threads_through_outages(house: House) -> None:
    """The store comes and goes; in the end the books say what was spent, and nothing is held."""
    spent = [0] * 4
    stop = threading.Event()

    def work(number: int) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            name = f"{number}-{n}"
            try:
                answer = house.store.hold(name, (claim("closed", 2, 10**9),), 0.0)
            except StoreUnavailable:
                house.store.release(name)
                continue
            assert isinstance(answer, Held)
            house.store.sent(name)
            if n % 3:
                house.store.settle(name, (1,))
                spent[number] += 1
            else:
                house.store.release(name)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(12):
        time.sleep(0.02)
        house.inner.wire.gone = turn % 2 == 1
        house.inner.wire.deaf = turn % 3 == 1
        house.hands.at_s += 30
    stop.set()
    for thread in threads:
        thread.join(LONG_S)
    house.back()
    assert sum(spent)
    assert house.book() == State(sum(spent), 0, 10**9)
    assert house.store._calls == {}


def test_adjusting_in_an_outage(house: House) -> None:
    house.store.hold("a", (claim("closed", 4),), 0.0)
    assert house.store.adjust("a", (5,)) == Held((State(0, 5, 10),), ())
    house.inner.wire.gone = True
    assert isinstance(house.store.adjust("a", (3,)), Held)
    with pytest.raises(StoreUnavailable, match="'closed'"):
        house.store.adjust("a", (6,))
    house.store.settle("a", (2,))
    house.back()
    assert house.book() == State(2, 0, 10)


def test_growing_in_an_outage(house: House) -> None:
    house.store.hold("a", (claim("local", 4, local=6),), 0.0)
    house.inner.wire.gone = True
    assert isinstance(house.store.adjust("a", (7,)), Short)
    assert isinstance(house.store.adjust("a", (6,)), Held)
    house.store.settle("a", (6,))
    house.back()
    assert house.book() == State(6, 0, 10)


def test_a_full_journal_stops_open_budgets_too(tmp_path: Path) -> None:
    inner = Flaky()
    store = GuardedStore(inner, Journal(tmp_path, max_bytes=4_000))
    inner.wire.gone = True

    def go_on() -> None:
        for n in range(1_000):
            store.hold(str(n), (claim("open"),), 0.0)
            store.settle(str(n), (1,), b"x" * 100)

    with pytest.raises(StoreUnavailable, match="full"):
        go_on()
    inner.wire.gone = False
    store.close()


def test_a_fork_leaves_the_calls_to_the_parent(house: House) -> None:
    house.store.hold("a", (claim("closed", 4),), 0.0)
    child = os.fork()
    if not child:
        status = 1
        try:
            assert house.store._calls == {}
            assert isinstance(house.store.hold("b", (claim("closed", 1),), 0.0), Held)
            house.store.settle("b", (1,))
            assert house.store.flush(LONG_S)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert house.store.settle("a", (4,)) is not None


def test_no_call_waits_until_all_is_told(house: House) -> None:
    """A call whose first try may have been made asks again while thousands of lines are told."""
    store = house.store
    house.inner.wire.deaf = True
    assert isinstance(store.hold("a", [claim("open")], 0.0), Held)
    with pytest.raises(StoreUnavailable):
        store.hold("c", [claim("closed")], 0.0)
    told, gate = threading.Event(), threading.Event()
    asker = threading.Thread(target=store.hold, args=("c", [claim("closed")], 0.0))

    def between() -> None:
        if threading.current_thread() is not asker:
            told.set()
            assert gate.wait(LONG_S)

    house.inner.wire.between = between
    house.inner.wire.deaf = False
    store.settle("a", [1])  # goes to the journal
    house.hands.at_s += 60.0
    teller = threading.Thread(target=store.flush, args=(LONG_S,))
    teller.start()
    assert told.wait(LONG_S)  # a line is on its way, and stays there
    asker.start()
    asker.join(LONG_S)
    waited = asker.is_alive()
    gate.set()
    asker.join(LONG_S)
    teller.join(LONG_S)
    assert not waited
    assert store.release("c")
    assert store.flush(LONG_S)
    assert house.book() == State(1, 0, 10)


def test_a_signal_handler_that_settles_while_the_thread_starts_starts_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) == 1:
            house.store._rounds.start()

    monkeypatch.setattr(threading.Thread, "start", start)
    house.store._rounds.start()
    assert started == [house.store._rounds.thread]
    house.store._rounds.thread = None
