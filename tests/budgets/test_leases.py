"""Calls admitted from leases: never more than the limit, nothing lost, and little left lying."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tokenmeter.budgets import Budget, Claim, Held, MemoryStore, Need, Policy, Settled, Short, State, Store
from tokenmeter.budgets.budget import OnStoreError
from tokenmeter.budgets.guarded import GuardedStore
from tokenmeter.budgets.journal import Journal
from tokenmeter.budgets.lease_slices import IDLE_S, SHARE
from tokenmeter.budgets.lease_sums import FIRST_CALLS
from tokenmeter.budgets.leases import LeasedStore
from tokenmeter.budgets.thresholds import Thresholds
from tokenmeter.errors import StoreUnavailable

from .conftest import MakeClaim
from .flaky import Flaky, leave

LONG_S = 20.0
MANY = 100_000


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


class House:
    """One process with leases; its thread does nothing by itself."""

    def __init__(self, directory: Path, inner: Flaky) -> None:
        self.hands = Hands()
        self.inner = inner
        self.journal = Journal(directory)
        self.guard = GuardedStore(inner, self.journal, clock=self.hands)
        self.store = LeasedStore(self.guard, clock=self.hands)
        self.guard._rounds.thread = self.store._rounds.thread = threading.current_thread()

    def call(self, name: str, *claims: Claim, spent: int | None = 1) -> bool:
        """One call, to its end if something was spent."""
        answer = self.store.hold(name, claims, 0.0)
        if not isinstance(answer, Held):
            return False
        assert self.store.sent(name)
        if spent is not None:
            assert self.store.settle(name, (spent,) * len(claims), b"row") is not None
        return True

    def tend(self, after_s: float = 0.0) -> None:
        """What the thread would do."""
        self.hands.at_s += after_s
        self.store._tend()

    def leased(self, key: str = "book") -> int:
        return sum(book.leased for book in self.inner.kept.books() if book.key == key)

    def die(self) -> None:
        """As kill -9 does: nothing more is said."""
        leave(self.journal)
        self.store._closed = self.guard._closed = True


@pytest.fixture
def inner() -> Flaky:
    return Flaky()


@pytest.fixture
def house(tmp_path: Path, inner: Flaky) -> Iterator[House]:
    made = House(tmp_path, inner)
    yield made
    inner.wire.gone = inner.wire.deaf = False
    made.store.close()


def test_a_book_that_is_used_often_is_leased(house: House, claim: MakeClaim) -> None:
    asked = house.inner.wire.asked
    house.call("a", claim(1, MANY))
    assert asked == {"hold": 1, "sent": 1, "settle": 1}
    house.call("b", claim(1, MANY))
    assert asked == {"hold": 2, "sent": 2, "settle": 1}  # the lease
    assert house.inner.book() == State(1, 2 * FIRST_CALLS, MANY)
    for n in range(20):
        house.call(str(n), claim(1, MANY))
    house.tend()
    assert asked.total() < 15
    assert house.inner.book().posted == 22
    house.tend(2 * IDLE_S)
    assert house.inner.book() == State(22, 0, MANY)


def test_a_book_that_is_seldom_used_is_not(house: House, claim: MakeClaim) -> None:
    for n in range(10):
        house.call(str(n), claim(1, MANY))
        house.hands.at_s += 2 * IDLE_S
    assert house.store._sums.by_id == {}
    assert house.inner.book() == State(10, 0, MANY)


def test_answers_are_those_of_a_store(house: House, claim: MakeClaim) -> None:
    store, claims = house.store, (claim(4, MANY), claim(1, 5, alone=True, key="alone"))
    for n in range(3):
        house.call(f"before {n}", *claims)
    found = store.hold("a", claims, 0.0)
    assert isinstance(found, Held)
    assert "a" in store._sums.calls
    assert found.states[1] == State(0, 1, 5)
    assert found.states[0].limit == MANY
    assert found.states[0].held >= 4
    with pytest.raises(ValueError, match="in use"):
        store.hold("a", claims, 0.0)
    with pytest.raises(ValueError, match="amounts"):
        store.settle("a", (1,))
    with pytest.raises(ValueError, match="amounts"):
        store.settle("a", (1, -1))
    settled = store.settle("a", (3, 1), b"row")
    assert isinstance(settled, Settled)
    assert settled.added == (0, 0), "it is added when it is drawn"
    assert settled.states[0].posted == 3 + 3
    assert store.settle("a", (3, 1)) is None
    assert not store.release("a")
    assert store.post("a", claims, (3, 1)) is None
    store.hold("b", claims, 0.0)
    assert store.release("b")
    assert not store.release("b")
    assert store.settle("b", (1, 1)) is None
    assert isinstance(store.hold("c", (claim(4, MANY), claim(6, 5, alone=True, key="alone")), 0.0), Short)
    with pytest.raises(ValueError, match="same key"):
        store.hold("d", (claim(1, MANY), claim(1, MANY)), 0.0)
    with pytest.raises(ValueError, match="zero or more"):
        store.hold("d", (claim(-1, MANY),), 0.0)
    assert store.read(["book"])[0].posted == 6


def test_a_slice_shrinks_with_the_book_down_to_single_holds(house: House, claim: MakeClaim) -> None:
    """One process uses a budget up: to the last call, and slices are never more than a part of what is left."""
    limit = 2_000
    for n in range(limit):
        assert house.call(str(n), claim(1, limit))
        posted, held, _ = house.inner.book()
        assert posted + held <= limit
        free = sum(size - way - spent for size, way, spent in house.store._sums.sums.values())
        assert free * SHARE <= limit - n + SHARE
        if n % 50 == 0:
            house.tend(0.01)
    assert not house.call("one more", claim(1, limit))
    house.tend()
    assert house.inner.book() == State(limit, 0, limit)
    assert house.inner.wire.asked.total() < limit


def test_what_is_free_goes_back_before_a_call_is_refused(house: House, claim: MakeClaim) -> None:
    for n in range(5):
        house.call(str(n), claim(1, 1_000))
    assert house.leased()
    assert house.call("big", claim(995, 1_000), spent=None)
    assert house.inner.book().held >= 995
    refused = house.store.hold("more", (claim(1, 1_000),), 0.0)
    assert isinstance(refused, Short)
    assert not refused.spent_out


def test_who_waits_is_served_by_what_others_give_back(tmp_path: Path, inner: Flaky, claim: MakeClaim) -> None:
    one, two = House(tmp_path, inner), House(tmp_path, inner)
    for n in range(5):
        one.call(str(n), claim(1, 1_000))
    assert one.leased()
    ticket = two.store.queue("big", (claim(995, 1_000),), 0.0)
    assert not isinstance(ticket, Held | Short)
    one.tend(2 * IDLE_S)
    assert isinstance(ticket.wait(LONG_S), Held)
    for house in (one, two):
        house.store.close()


def test_each_threshold_is_told_once_over_all_processes(tmp_path: Path) -> None:
    """Three processes on one book, on leases and near the limit without: one of them says each line."""
    percents = tuple(range(5, 101, 5))
    [claim] = Policy([Budget("3000 calls", per="day", thresholds=percents)]).claims({}, Need(0, 0), 0.0)
    books, seen, of_leases = MemoryStore(), list[float](), list[float]()
    houses = [House(tmp_path / str(number), Flaky(books)) for number in range(3)]

    def listener() -> Callable[[Sequence[Claim], Settled], None]:
        thresholds = Thresholds()

        def told(claims: Sequence[Claim], settled: Settled) -> None:
            found = [each.percent for each in thresholds.crossed(claims, settled, 0.0)]
            seen.extend(found)
            of_leases.extend(found)

        return told

    for house in houses:
        house.store.on_drawn = listener()
    alone = Thresholds()
    order, number = random.Random(5), 0
    while books.read([claim.key])[0].posted < 3_000:
        house, number = order.choice(houses), number + 1
        if isinstance(house.store.hold(str(number), (claim,), 0.0), Held):
            house.store.sent(str(number))
            settled = house.store.settle(str(number), (1,))
            assert settled is not None
            seen += [each.percent for each in alone.crossed((claim,), settled, 0.0)]
        if not order.randrange(20):
            house.tend(order.choice((0.0, 0.05, 0.3)))
        for each in houses:
            if not order.randrange(400):
                each.store.flush()
    assert sorted(seen) == list(percents)
    assert len(of_leases) > len(percents) // 2, "most calls were on leases"
    for house in houses:
        house.store.close()


def test_who_listens_to_draws_does_no_harm(house: House, claim: MakeClaim, caplog: pytest.LogCaptureFixture) -> None:
    def broken(claims: Sequence[Claim], settled: Settled) -> None:
        raise RuntimeError("a fault of whoever listens")

    house.store.on_drawn = broken
    for number in range(20):
        assert house.call(str(number), claim(1, MANY))
    assert house.store.flush()
    assert house.inner.book().posted == 20
    assert len(caplog.records) == 1


def test_a_policy_that_is_read_again_has_its_own_thresholds(house: House) -> None:
    told: list[Claim] = []
    house.store.on_drawn = lambda claims, settled: told.extend(claims)
    for number, percent in enumerate([50] * 10 + [60] * 10):
        budget = Budget("1000 calls", per="total", thresholds=(percent,))
        assert house.call(str(number), Claim(budget, "book", "global", 1, 1_000, None, True))
        house.store.flush()
    assert told[0].budget.thresholds == (50,)
    assert told[-1].budget.thresholds == (60,)


def test_nobody_overtakes_who_waits(house: House, claim: MakeClaim) -> None:
    for n in range(5):
        house.call(str(n), claim(1, 1_000))
    house.call("most", claim(900, 1_000), spent=None)
    ticket = house.store.queue("big", (claim(200, 1_000),), 0.0)
    assert not isinstance(ticket, Held | Short)
    assert house.store.try_hold("small", (claim(1, 1_000),)) is None
    assert isinstance(house.store.hold("small", (claim(1, 1_000),), 0.0), Short)
    house.store.release("most")
    assert isinstance(ticket.wait(LONG_S), Held)
    assert house.call("small", claim(1, 1_000))
    ticket = house.store.queue("too big", (claim(900, 1_000),), 0.0)
    del ticket
    gc.collect()
    assert house.store._slices.waiting == {}


def test_tasks_wait(house: House, claim: MakeClaim) -> None:
    async def main() -> None:
        house.call("most", claim(950, 1_000), spent=None)
        ticket = house.store.queue("big", (claim(200, 1_000),), 0.0)
        assert not isinstance(ticket, Held | Short)
        asyncio.get_running_loop().call_later(0.01, house.store.release, "most")
        assert isinstance(await ticket.wait_async(LONG_S), Held)

    asyncio.run(main())


def test_more_than_was_held_is_charged_all_the_same(house: House, claim: MakeClaim) -> None:
    for n in range(3):
        house.call(str(n), claim(1, MANY))
    assert house.call("first", claim(1, MANY), spent=None)
    assert house.call("second", claim(1, MANY), spent=10_000)
    house.tend()
    assert house.inner.book().posted == 10_003
    assert house.inner.book().held >= 1  # the first one's
    house.store.settle("first", (1,))
    house.tend()
    house.tend(2 * IDLE_S)
    assert house.inner.book() == State(10_004, 0, MANY)


def test_a_hold_that_grows(house: House, claim: MakeClaim) -> None:
    for n in range(3):
        house.call(str(n), claim(1, 1_000))
    assert house.call("a", claim(1, 1_000), spent=None)
    assert "a" in house.store._sums.calls
    assert isinstance(house.store.adjust("a", (5,)), Held)
    assert isinstance(house.store.adjust("a", (500,)), Held)
    assert house.inner.book().held >= 500
    assert isinstance(house.store.adjust("a", (3,)), Held)
    short = house.store.adjust("a", (5_000,))
    assert isinstance(short, Short)
    assert short.spent_out
    assert house.store.settle("a", (3,)) is not None
    with pytest.raises(LookupError):
        house.store.adjust("a", (1,))
    house.tend(2 * IDLE_S)
    assert house.inner.book() == State(6, 0, 1_000)


def test_budgets_that_only_warn(house: House, claim: MakeClaim) -> None:
    limit = 100
    warned = 0
    for n in range(300):
        answer = house.store.hold(str(n), (claim(1, limit, warns=True),), 0.0)
        assert isinstance(answer, Held)
        warned += bool(answer.warned)
        house.store.settle(str(n), (1,))
        house.tend(0.01)
    assert warned == 200
    assert house.inner.wire.asked.total() < 700


def test_a_limit_that_is_changed(house: House, claim: MakeClaim) -> None:
    for n in range(5):
        house.call(f"a{n}", claim(1, MANY))
    assert house.call("old", claim(1, MANY), spent=None)
    for n in range(5):
        house.call(f"b{n}", claim(1, 2 * MANY))
    assert house.store.settle("old", (1,)) is not None
    assert house.inner.book().limit == 2 * MANY
    for _ in range(3):
        house.tend(2 * IDLE_S)
    assert house.inner.book() == State(11, 0, 2 * MANY)
    house.tend(10.0)
    house.tend(10.0)
    assert house.store._sums.by_id == {}
    assert len(house.journal) == 0


def test_several_budgets_all_or_none(house: House, claim: MakeClaim) -> None:
    for n in range(50):
        assert house.call(str(n), claim(1, MANY, "big"), claim(1, 60, "small"))
    for n in range(20):
        house.call(f"more {n}", claim(1, MANY, "big"), claim(1, 60, "small"))
    for _ in range(3):
        house.tend(2 * IDLE_S)
    assert house.inner.book("small") == State(60, 0, 60)
    assert house.inner.book("big") == State(60, 0, MANY)


# -- the store goes away -----------------------------------------------------------------------------------------


def test_no_call_passes_on_a_lease_of_a_store_that_is_gone(house: House, claim: MakeClaim) -> None:
    for n in range(5):
        house.call(str(n), claim(1, MANY))
    house.inner.wire.gone = True
    house.call("drawn in vain", claim(1, MANY))
    house.tend()
    with pytest.raises(StoreUnavailable):
        house.store.hold("closed", (claim(1, MANY),), 0.0)
    assert not house.store.flush(0.0)
    house.inner.wire.gone = False
    house.tend(60.0)
    assert house.call("open again", claim(1, MANY))
    for _ in range(3):
        house.tend(2 * IDLE_S)
    assert house.inner.book() == State(7, 0, MANY)


def on_lease(house: House, mode: OnStoreError, local: int | None = None) -> Claim:
    """A call ``a`` that is under way on a lease, and then the store goes."""
    budget = Budget("1000 calls", on_store_error=mode, local_limit=None if local is None else f"{local} calls")
    claim = Claim(budget, "book", "global", 1, 1_000, None, True)
    for n in range(5):
        house.call(str(n), claim)
    assert house.call("a", claim, spent=None)
    assert "a" in house.store._sums.calls
    house.inner.wire.gone = True
    return claim


def back(house: House) -> None:
    """The store is there again, is told all, and gets back what is free."""
    house.inner.wire.gone = False
    house.hands.at_s += 60.0
    assert house.store.flush(LONG_S)
    for _ in range(3):
        house.tend(2 * IDLE_S)


def test_a_closed_budget_lets_no_leased_hold_grow_while_the_store_is_gone(house: House) -> None:
    on_lease(house, "closed")
    with pytest.raises(StoreUnavailable, match="lets no call pass while its store is gone"):
        house.store.adjust("a", (200,))
    assert isinstance(house.store.adjust("a", (2,)), Held), "the lease has room for that"
    assert house.store.settle("a", (2,), b"row") is not None
    back(house)
    assert house.inner.book() == State(7, 0, 1_000)


def test_an_open_budget_lets_a_leased_hold_grow_while_the_store_is_gone(house: House) -> None:
    on_lease(house, "open")
    assert isinstance(house.store.adjust("a", (200,)), Held)
    assert isinstance(house.store.adjust("a", (5_000,)), Held)
    assert house.store.settle("a", (4_000,), b"row") is not None
    assert house.store.settle("a", (4_000,)) is None
    back(house)
    assert house.inner.book() == State(4_005, 0, 1_000)
    assert len(house.journal) <= 1, "the lease's own line"


def test_a_local_budget_lets_a_leased_hold_grow_up_to_its_local_limit(house: House) -> None:
    on_lease(house, "local", 300)
    assert isinstance(house.store.adjust("a", (301,)), Short)
    assert "a" in house.store._sums.calls
    assert isinstance(house.store.adjust("a", (300,)), Held)
    assert isinstance(house.store.adjust("a", (301,)), Short)
    back(house)
    assert house.store.release("a")
    assert not house.store.release("a")
    back(house)
    assert house.inner.book() == State(5, 0, 1_000)
    assert house.guard._calls == {}


def test_a_leased_hold_that_grew_without_the_store_is_charged_when_its_process_dies(
    tmp_path: Path, house: House
) -> None:
    on_lease(house, "open")
    assert isinstance(house.store.adjust("a", (200,)), Held)
    house.die()
    Journal(tmp_path).replay_dead(house.inner.kept)
    assert house.inner.book() == State(205, 0, 1_000)


def test_a_leased_hold_that_ends_while_it_grows_without_the_store(house: House) -> None:
    on_lease(house, "open")
    house.inner.wire.between = lambda: house.store.settle("a", (1,))
    with pytest.raises(LookupError):
        house.store.adjust("a", (200,))
    house.inner.wire.between = None
    assert house.guard._calls == {}
    back(house)
    assert house.inner.book() == State(6, 0, 1_000)


@pytest.mark.parametrize("lost", ["gone", "deaf"])
def test_answers_that_are_lost(tmp_path: Path, claim: MakeClaim, lost: str) -> None:
    """The wire fails at random; in the end the books say what was spent, and hold nothing."""
    for seed in range(40):
        chance = random.Random(seed)
        inner = Flaky()
        house = House(tmp_path, inner)
        house.guard.breaker.failed = lambda error: None  # type: ignore[method-assign]

        def roll(chance: random.Random = chance, inner: Flaky = inner) -> None:
            setattr(inner.wire, lost, chance.random() < 0.3)

        inner.wire.between = roll
        spent, under_way = 0, []
        for n in range(60):
            name = str(n)
            try:
                if isinstance(house.store.hold(name, (claim(2, 1_000),), 0.0), Held):
                    house.store.sent(name)
                    under_way.append(name)
            except StoreUnavailable:
                house.store.release(name)
            while len(under_way) > chance.randrange(4):
                name = under_way.pop(0)
                if chance.random() < 0.8:
                    house.store.settle(name, (1,))
                    spent += 1
                else:
                    house.store.release(name)
            if chance.random() < 0.3:
                house.tend(chance.random())
        inner.wire.between = None
        setattr(inner.wire, lost, False)
        for name in under_way:
            house.store.settle(name, (1,))
            spent += 1
        assert house.guard.flush(LONG_S)
        for _ in range(3):
            house.tend(2 * IDLE_S)
        assert inner.book() == State(spent, 0, inner.book().limit), seed
        house.store.close()
        assert inner.book() == State(spent, 0, inner.book().limit), seed


# -- crashes -----------------------------------------------------------------------------------------------------


def recover(kept: Store) -> None:
    """What a store that lasts does for a process that died: its leases are charged whole."""
    assert isinstance(kept, MemoryStore)
    for hold_id, claims in list(kept._holds.items()):
        kept.settle(hold_id, [claim.amount for claim in claims])


def test_an_heir_draws_what_was_spent(tmp_path: Path, house: House, claim: MakeClaim) -> None:
    for n in range(10):
        house.call(str(n), claim(2, MANY))
    house.tend()
    for n in range(10, 15):
        house.call(str(n), claim(2, MANY))
    house.call("under way", claim(2, MANY), spent=None)
    assert isinstance(house.store.hold("not sent", (claim(2, MANY),), 0.0), Held)
    house.call("given back", claim(2, MANY), spent=None)
    house.store.release("given back")
    house.die()
    before = house.inner.book()
    assert before.posted == 10
    heir = Journal(tmp_path)
    heir.replay_dead(house.inner.kept)
    assert house.inner.book() == State(17, 0, MANY)


def test_without_the_journal_the_slice_is_charged(house: House, claim: MakeClaim) -> None:
    for n in range(10):
        house.call(str(n), claim(2, MANY))
    spent = 20
    held = house.inner.book().held
    house.die()
    recover(house.inner.kept)
    assert house.inner.book().posted >= spent / 2
    assert house.inner.book() == State(held + 1, 0, MANY)


def test_a_journal_with_a_line_missing_ends_no_lease(tmp_path: Path, house: House, claim: MakeClaim) -> None:
    for n in range(5):
        house.call(str(n), claim(2, MANY))
    full = os.open("/dev/full", os.O_WRONLY)
    assert house.journal._file is not None
    os.dup2(full, house.journal._file)
    os.close(full)
    house.call("lost", claim(2, MANY))
    house.die()
    held = house.inner.book().held
    Journal(tmp_path).replay_dead(house.inner.kept)
    recover(house.inner.kept)
    assert house.inner.book().posted >= 6
    assert house.inner.book() == State(held + 1, 0, MANY)


def test_taken_for_dead(house: House, claim: MakeClaim) -> None:
    """The store charged the leases of a process that lives: it goes on, and corrects that."""
    for n in range(5):
        house.call(str(n), claim(1, MANY))
    house.call("under way", claim(1, MANY), spent=None)
    [lease] = house.store._sums.by_id
    house.inner.kept.release(lease)
    for n in range(100):
        assert house.call(f"more {n}", claim(1, MANY))
        house.tend(0.01)
    house.store.settle("under way", (1,))
    for _ in range(3):
        house.tend(2 * IDLE_S)
    assert house.inner.book() == State(106, 0, MANY)


def test_a_fork_leaves_the_leases_to_the_parent(house: House, claim: MakeClaim) -> None:
    for n in range(5):
        house.call(str(n), claim(1, MANY))
    house.call("under way", claim(1, MANY), spent=None)
    child = os.fork()
    if not child:
        status = 1
        try:
            assert house.store._sums.by_book == {}
            for n in range(5):
                assert isinstance(house.store.hold(f"child {n}", (claim(1, MANY),), 0.0), Held)
                assert house.store.settle(f"child {n}", (1,)) is not None
            assert house.store.flush(LONG_S)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert house.store.settle("under way", (1,)) is not None
    house.tend(2 * IDLE_S)
    assert house.inner.book() == State(6, 0, MANY)


def test_closing_waits_once_for_a_store_that_is_gone(tmp_path: Path, inner: Flaky, claim: MakeClaim) -> None:
    store = LeasedStore(GuardedStore(inner, Journal(tmp_path)))
    for n in range(8):
        assert isinstance(store.hold(str(n), (claim(1, MANY),), 0.0), Held)
        store.sent(str(n))
    inner.wire.gone = True
    for n in range(8):
        store.settle(str(n), (1,))
    store.guard.post("p", (claim(),), (1,))
    before_s = time.monotonic()
    store.close()
    assert time.monotonic() - before_s < 3.0
    inner.wire.gone = False
    assert Journal(tmp_path).replay_dead(inner) > 0
    assert inner.book().posted == 9


def test_what_ends_after_the_end_is_drawn_at_once(tmp_path: Path, inner: Flaky, claim: MakeClaim) -> None:
    store = LeasedStore(GuardedStore(inner, Journal(tmp_path)))
    for n in range(8):
        assert isinstance(store.hold(str(n), (claim(1, MANY),), 0.0), Held)
        store.sent(str(n))
    assert store._sums.calls
    store._end(1.0)
    for n in range(7):
        store.settle(str(n), (1,), b"row")
    store.release("7")
    assert inner.book() == State(7, 0, MANY)
    assert isinstance(store.hold("late", (claim(1, MANY),), 0.0), Held)
    store.settle("late", (1,))
    assert inner.book() == State(8, 0, MANY)
    store.close()


def test_closing_gives_all_back(tmp_path: Path, inner: Flaky, claim: MakeClaim) -> None:
    store = LeasedStore(GuardedStore(inner, Journal(tmp_path)))
    for n in range(100):
        store.hold(str(n), (claim(1, MANY),), 0.0)
        store.settle(str(n), (1,))
    store.close()
    assert inner.book() == State(100, 0, MANY)
    assert list(tmp_path.iterdir()) == []


# -- many at once ------------------------------------------------------------------------------------------------


def run(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("turn", range(3))
def test_never_more_than_the_limit_and_all_of_it(tmp_path: Path, inner: Flaky, turn: int) -> None:
    """Four processes, as it were, of two threads each spend two budgets up."""
    limit = 3_000
    policy = Policy([Budget(f"{limit} calls", per="day"), Budget("$1000", per="month", scope="agent")])
    claims = policy.claims({"agent": "a"}, Need(1_000, 10), 1_795_521_600.0)
    stores = [LeasedStore(GuardedStore(inner, Journal(tmp_path))) for _ in range(4)]
    counts = [0] * 8
    most = [0]

    def work(number: int) -> None:
        store = stores[number % 4]
        refused = n = 0
        while refused < 5:
            name = f"{number}-{n}"
            n += 1
            answer = store.hold(name, claims, 1_795_521_600.0)
            if isinstance(answer, Held):
                store.sent(name)
                counts[number] += 1
                store.settle(name, (1, 400), b"row")
            else:
                assert answer.claim.budget.unit == "calls"
                refused += 1
                if answer.spent_out:
                    break
                time.sleep(0.15)
            posted, held, _ = inner.kept.read([claims[0].key])[0]
            most[0] = max(most[0], posted + held)

    run(work, 8)
    assert sum(counts) == limit
    assert most[0] <= limit
    for store in stores:
        store.close()
    assert inner.book(claims[0].key) == State(limit, 0, limit)
    assert inner.book(claims[1].key).posted == 400 * limit
    assert inner.book(claims[1].key).held == 0


def test_ten_of_fifty(tmp_path: Path, claim: MakeClaim) -> None:
    for turn in range(10):
        inner = Flaky()
        stores = [LeasedStore(GuardedStore(inner, Journal(tmp_path))) for _ in range(4)]
        for store in stores:
            store.hold("warm", (claim(0),), 0.0)
            store.release("warm")
        passed: list[bool] = []

        def work(number: int, stores: list[LeasedStore] = stores, passed: list[bool] = passed) -> None:
            passed.append(isinstance(stores[number % 4].hold(str(number), (claim(),), 0.0), Held))

        run(work, 50)
        assert passed.count(True) == 10, turn
        for store in stores:
            store.close()


def test_signals_and_garbage_in_between(tmp_path: Path, inner: Flaky, claim: MakeClaim) -> None:
    """Finalizers settle, and a signal handler releases, at any step of any verb."""
    store = LeasedStore(GuardedStore(inner, Journal(tmp_path)))
    done = [0, 0]
    stock: list[str] = []

    class Stream:
        def __init__(self, hold_id: str) -> None:
            self.me = self
            self.hold_id = hold_id

        def __del__(self) -> None:
            store.settle(self.hold_id, (1,))

    def handler(*_: object) -> None:
        if stock:
            store.release(stock.pop())
            done[1] += 1

    before = signal.signal(signal.SIGALRM, handler)
    gc.set_threshold(7)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        for n in range(1_500):
            assert isinstance(store.hold(f"s{n}", (claim(2, MANY * 10),), 0.0), Held)
            stock.append(f"s{n}")
            assert isinstance(store.hold(f"g{n}", (claim(2, MANY * 10),), 0.0), Held)
            Stream(f"g{n}")
            assert isinstance(store.hold(str(n), (claim(2, MANY * 10),), 0.0), Held)
            assert store.settle(str(n), (1,)) is not None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.set_threshold(700)
        gc.collect()
    assert done[1]
    for name in stock:
        assert store.release(name)
    assert store.flush(LONG_S)
    store.close()
    assert inner.book() == State(3_000, 0, MANY * 10)


class Interrupt(BaseException):
    """Comes out of a signal handler."""


def test_interrupts_at_any_step(tmp_path: Path, inner: Flaky, claim: MakeClaim) -> None:
    store = LeasedStore(GuardedStore(inner, Journal(tmp_path)))
    spent: set[str] = set()

    armed: list[bool] = []

    def handler(*_: object) -> None:
        if armed:
            armed.clear()
            raise Interrupt

    for n in range(3):  # starts the threads
        store.hold(f"warm {n}", (claim(1, MANY * 10),), 0.0)
        store.settle(f"warm {n}", (0,))
    before = signal.signal(signal.SIGALRM, handler)
    hits = 0
    chance = random.Random(1)
    try:
        for n in range(1_500):
            name = str(n)
            held = False
            try:
                armed.append(True)
                signal.setitimer(signal.ITIMER_REAL, chance.random() * 0.0001 + 0.000001)
                held = isinstance(store.hold(name, (claim(2, MANY * 10),), 0.0), Held)
                store.sent(name)
                store.settle(name, (1,))
                armed.clear()
                spent.add(name)
            except Interrupt:
                hits += 1
                if held:
                    store.settle(name, (1,))
                    spent.add(name)
                else:
                    store.release(name)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert hits
    assert store.flush(LONG_S)
    store.close()
    assert inner.book() == State(len(spent), 0, MANY * 10)


def test_a_signal_handler_that_calls_while_the_thread_starts_starts_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path, Flaky())
    house.store._rounds.thread = None
    started: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) == 1:
            house.store._rounds.start()

    monkeypatch.setattr(threading.Thread, "start", start)
    house.store._rounds.start()
    assert started == [house.store._rounds.thread]
    house.store._rounds.thread = threading.current_thread()
