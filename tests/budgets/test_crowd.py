"""Fifty at once on a budget of ten calls: threads, tasks, and both; for every store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from tokenmeter.budgets import Budget, Claim, Held, MemoryStore, Need, Policy, Short, State, Store

CROWD = 50
LONG_S = 60.0
POLICY = Policy([Budget("10 calls", scope="agent"), Budget("$1", scope="agent")])
KEYS = [claim.key for claim in POLICY.claims({"agent": "triage"}, Need(1_000, 10), 0.0)]


def claims() -> tuple[Claim, ...]:
    return POLICY.claims({"agent": "triage"}, Need(1_000, 10), 0.0)


# Twenty times where it is cheap, thrice elsewhere.
every_store = pytest.mark.parametrize("place", ["memory"] * 20 + ["sqlite"] * 3 + ["redis"] * 3, indirect=True)


def threads(work: Callable[[str], None], names: range) -> list[threading.Thread]:
    """One thread a name, all let go at once."""
    start = threading.Barrier(len(names))

    def run(name: str) -> None:
        start.wait(LONG_S)
        work(name)

    made = [threading.Thread(target=run, args=(str(name),)) for name in names]
    for thread in made:
        thread.start()
    return made


def nothing_stays(store: Store) -> None:
    if isinstance(store, MemoryStore):
        assert not store._holds
        assert not store._waiters
        assert not store._lines.by_book


def books(store: Store) -> tuple[State, ...]:
    return store.read(KEYS)


@every_store
def test_threads_cold(store: Store) -> None:
    found: list[Held | Short] = []
    for thread in threads(lambda name: found.append(store.hold(name, claims(), 0.0)), range(CROWD)):
        thread.join(LONG_S)
    assert [isinstance(answer, Held) for answer in found].count(True) == 10
    assert len(found) == CROWD
    assert [state.held for state in books(store)] == [10, 10_000]


@every_store
def test_tasks_cold(store: Store) -> None:

    async def call(name: str) -> bool:
        await asyncio.sleep(0)
        return isinstance(store.hold(name, claims(), 0.0), Held)

    async def main() -> int:
        return sum(await asyncio.gather(*(call(str(n)) for n in range(CROWD))))

    assert asyncio.run(main()) == 10


class Calls:
    """Calls that wait for their turn, are counted while they are under way, and end."""

    def __init__(self, store: Store, spends: bool) -> None:
        self.store = store
        self.spends = spends
        self.lock = threading.Lock()
        self.under_way = 0
        self.most = 0
        self.passed = 0
        self.refused = 0

    def begun(self, answer: Held | Short) -> bool:
        with self.lock:
            if isinstance(answer, Short):
                assert answer.spent_out
                self.refused += 1
                return False
            self.passed += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            return True

    def end(self, name: str) -> None:
        with self.lock:
            self.under_way -= 1
        assert self.store.settle(name, (1, 900)) if self.spends else self.store.release(name)

    def sync(self, name: str) -> None:
        answer = self.store.queue(name, claims(), 0.0)
        if self.begun(answer if isinstance(answer, Held | Short) else answer.wait(LONG_S)):
            self.end(name)

    async def task(self, name: str) -> None:
        answer = self.store.queue(name, claims(), 0.0)
        if self.begun(answer if isinstance(answer, Held | Short) else await answer.wait_async(LONG_S)):
            await asyncio.sleep(0)
            self.end(name)

    async def tasks(self, names: range) -> None:
        await asyncio.gather(*(self.task(str(name)) for name in names))


@every_store
@pytest.mark.parametrize("kind", ["threads", "tasks", "mixed"])
@pytest.mark.parametrize("spends", [True, False])
def test_a_crowd_that_waits(store: Store, spends: bool, kind: str) -> None:
    calls = Calls(store, spends)
    in_threads = {"threads": range(CROWD), "tasks": range(0), "mixed": range(CROWD // 2)}[kind]
    in_tasks = range(len(in_threads), CROWD)
    made = threads(calls.sync, in_threads) if in_threads else []
    if in_tasks:
        asyncio.run(calls.tasks(in_tasks))
    for thread in made:
        thread.join(LONG_S)
    # Calls that spend nothing make room for the next; ten that spend leave none.
    assert (calls.passed, calls.refused) == ((10, 40) if spends else (50, 0))
    assert calls.most <= 10
    assert (
        books(store) == (State(10, 0, 10), State(9_000, 0, 10**9)) if spends else (State(0, 0, 10), State(0, 0, 10**9))
    )
    nothing_stays(store)


@every_store
@pytest.mark.parametrize("first", range(3))
def test_cancelled_and_impatient_callers_leave_nothing(store: Store, first: int) -> None:
    for number in range(10):
        store.hold(f"holder {number}", claims(), 0.0)

    async def main() -> None:
        calls = Calls(store, spends=False)
        tasks = [asyncio.create_task(calls.task(f"task {n}")) for n in range(20)]
        await asyncio.sleep(0)
        impatient = threads(lambda name: _give_up(store, name), range(20))
        for task in tasks[first::2]:
            task.cancel()
        for number in range(10):
            store.release(f"holder {number}")
        await asyncio.gather(*tasks, return_exceptions=True)
        for thread in impatient:
            await asyncio.to_thread(thread.join, LONG_S)

    asyncio.run(main())
    # In a store that lasts, a hold that was cancelled on its way is given back when it lands.
    answer = store.queue("last", POLICY.claims({"agent": "triage"}, Need(1_000, 10, 10), 0.0), 0.0)
    assert isinstance(answer if isinstance(answer, Held | Short) else answer.wait(LONG_S), Held)
    assert store.release("last")
    assert books(store) == (State(0, 0, 10), State(0, 0, 10**9))
    nothing_stays(store)


def _give_up(store: Store, name: str) -> None:
    answer = store.queue(name, claims(), 0.0)
    if not isinstance(answer, Held | Short):
        answer = answer.wait(0)
    if isinstance(answer, Held):
        assert store.release(name)
