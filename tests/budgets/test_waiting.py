"""The line of a store in memory: who waits, in which order, and how one leaves it. Threads and tasks."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable

import pytest

from tokenmeter.budgets import Held, MemoryStore, Short, State, Store, Ticket
from tokenmeter.budgets.ticket import MemoryTicket

from .conftest import MakeClaim


@pytest.fixture
def store() -> Store:
    return MemoryStore()


LONG_S = 60.0  # never waited for: a test that fails hangs no longer


def ticket(answer: Held | Short | Ticket) -> MemoryTicket:
    assert isinstance(answer, MemoryTicket)
    return answer


def answer_of(ticket: MemoryTicket) -> Held | Short | None:
    """The answer so far, without leaving the line."""
    return ticket._waiter.answer


def test_queue_answers_at_once_where_it_can(store: Store, claim: MakeClaim) -> None:
    assert isinstance(store.queue("h", (claim(6),), 0.0), Held)
    spent_out = store.queue("i", (claim(11),), 0.0)
    assert isinstance(spent_out, Short)
    assert spent_out.spent_out
    waiting = ticket(store.queue("j", (claim(6),), 0.0))
    assert answer_of(waiting) is None
    with pytest.raises(ValueError, match="in use"):
        store.queue("j", (claim(6),), 0.0)


def test_a_settle_hands_over(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    waiting = ticket(store.queue("i", (claim(6),), 0.0))
    assert answer_of(waiting) is None
    store.settle("h", (4,))
    assert store.read(["book"]) == (State(4, 6, 10),)  # held before the waiter runs
    assert waiting.wait(LONG_S) == Held((State(4, 6, 10),), ())
    assert waiting.wait(LONG_S) == Held((State(4, 6, 10),), ())
    assert store.settle("i", (6,))


@pytest.mark.parametrize("end", ["release", "adjust", "withdraw"])
def test_all_that_frees_room_hands_over(store: Store, claim: MakeClaim, end: str) -> None:
    store.hold("h", (claim(8),), 0.0)
    first = ticket(store.queue("i", (claim(7),), 0.0))
    second = ticket(store.queue("j", (claim(2),), 0.0))
    if end == "release":
        store.release("h")
        assert isinstance(answer_of(first), Held)
    elif end == "adjust":
        store.adjust("h", (1,))
        assert isinstance(answer_of(first), Held)
    else:
        first.wait(0)
    assert isinstance(answer_of(second), Held)


def test_who_becomes_spent_out_is_refused_at_once(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    small, large = (ticket(store.queue(str(n), (claim(n),), 0.0)) for n in (3, 7))
    store.post("p", (claim(),), (4,))
    assert answer_of(small) is None
    refused = answer_of(large)  # although it isn't the first in line
    assert isinstance(refused, Short)
    assert refused.spent_out
    assert refused.state == State(4, 8, 10)
    store.settle("h", (6,))
    assert isinstance(answer_of(small), Short)
    assert store.read(["book"]) == (State(10, 0, 10),)


def test_nobody_is_overtaken(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(5),), 0.0)
    large = ticket(store.queue("large", (claim(8),), 0.0))
    # There is room for these, but someone waits for it.
    short = store.hold("small", (claim(1),), 0.0)
    assert isinstance(short, Short)
    assert not short.spent_out
    assert short.available == (0,)
    small = ticket(store.queue("small", (claim(1),), 0.0))
    grown = store.adjust("h", (6,))
    assert isinstance(grown, Short)
    assert answer_of(small) is None
    store.release("h")
    assert isinstance(answer_of(large), Held)
    assert isinstance(answer_of(small), Held)


def test_first_come_first_served(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(10),), 0.0)
    tickets = [ticket(store.queue(str(n), (claim(10),), 0.0)) for n in range(10)]
    before = "h"
    for number, waiting in enumerate(tickets):
        assert all(answer_of(other) is None for other in tickets[number:])
        store.settle(before, (0,))
        assert isinstance(answer_of(waiting), Held)
        before = str(number)


def test_books_apart_are_no_hindrance(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(10, key="a"),), 0.0)
    ticket(store.queue("i", (claim(1, key="a"), claim(1, key="b")), 0.0)).wait(0)
    waiting = ticket(store.queue("j", (claim(1, key="a"), claim(1, key="b")), 0.0))
    assert isinstance(store.hold("c", (claim(10, key="c"),), 0.0), Held)
    assert isinstance(store.hold("b", (claim(1, key="b"),), 0.0), Short)  # shares a book with the waiter
    assert answer_of(waiting) is None


def test_a_line_over_two_books_moves_on(store: Store, claim: MakeClaim) -> None:
    store.hold("ha", (claim(10, key="a"),), 0.0)
    store.hold("hb", (claim(10, key="b"),), 0.0)
    both = ticket(store.queue("both", (claim(5, key="a"), claim(5, key="b")), 0.0))
    only_b = ticket(store.queue("b", (claim(5, key="b"),), 0.0))
    store.release("hb")
    assert answer_of(both) is None
    assert answer_of(only_b) is None
    store.release("ha")
    assert isinstance(answer_of(both), Held)
    assert isinstance(answer_of(only_b), Held)
    assert store.read(["a", "b"]) == (State(0, 5, 10), State(0, 10, 10))


def test_warn_and_per_call_budgets_make_no_line(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(10),), 0.0)
    shared = (claim(1, key="soft", warns=True), claim(1, key="each", alone=True))
    ticket_ = ticket(store.queue("i", (claim(1), *shared), 0.0))
    assert isinstance(store.hold("j", shared, 0.0), Held)
    assert answer_of(ticket_) is None


def test_time_over_is_short_and_nothing_stays(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    for timeout_s in (0.001, 0, -5):
        short = ticket(store.queue("i", (claim(6),), 0.0)).wait(timeout_s)
        assert isinstance(short, Short)
        assert (short.state, short.spent_out, short.available) == (State(0, 8, 10), False, (2,))
    assert not store.release("i")
    assert store.read(["book"]) == (State(0, 8, 10),)
    store.release("h")
    assert store.read(["book"]) == (State(0, 0, 10),)
    assert isinstance(store.hold("i", (claim(10),), 0.0), Held)


def test_a_dropped_ticket_leaves_the_line_and_its_hold(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    waiting = store.queue("i", (claim(6),), 0.0)
    behind = ticket(store.queue("j", (claim(2),), 0.0))
    del waiting
    gc.collect()
    assert isinstance(answer_of(behind), Held)
    granted = store.queue("k", (claim(6),), 0.0)
    store.release("h")
    assert store.read(["book"]) == (State(0, 8, 10),)
    del granted
    gc.collect()
    assert store.read(["book"]) == (State(0, 2, 10),)


def test_release_takes_a_waiter_out_of_line(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    waiting = ticket(store.queue("i", (claim(6),), 0.0))
    assert not store.settle("i", (1,))
    assert store.release("i")
    assert not store.release("i")
    assert isinstance(waiting.wait(LONG_S), Short)


def test_close_sends_away_who_waits(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    waiting = ticket(store.queue("i", (claim(6),), 0.0))
    store.close()
    assert isinstance(waiting.wait(LONG_S), Short)
    assert store.settle("h", (8,))


def test_a_withdrawn_ticket_touches_no_later_hold(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    waiting = ticket(store.queue("i", (claim(6),), 0.0))
    store.release("h")
    waiting._desk.withdraw(waiting._waiter)
    assert isinstance(store.hold("i", (claim(6),), 0.0), Held)
    del waiting
    gc.collect()
    assert store.read(["book"]) == (State(0, 6, 10),)


def test_threads_wait(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(10),), 0.0)
    tickets = [ticket(store.queue(str(n), (claim(10),), 0.0)) for n in range(5)]
    order: list[int] = []

    def wait(number: int) -> None:
        assert isinstance(tickets[number].wait(LONG_S), Held)
        order.append(number)
        store.settle(str(number), (0,))

    threads = [threading.Thread(target=wait, args=(number,)) for number in reversed(range(5))]
    for thread in threads:
        thread.start()
    store.release("h")
    for thread in threads:
        thread.join(LONG_S)
    assert order == [0, 1, 2, 3, 4]
    assert store.read(["book"]) == (State(0, 0, 10),)


def test_an_interrupted_thread_leaves_nothing(store: Store, claim: MakeClaim) -> None:
    class Gate:
        """Interrupts the waiting, at its start or when the hold was made already."""

        def __init__(self, before: Callable[[], object]) -> None:
            self.before = before

        def acquire(self, timeout: float) -> bool:
            self.before()
            raise KeyboardInterrupt

        def release(self) -> None:
            raise RuntimeError

    for before in (lambda: None, lambda: store.release("h")):
        store.hold("h", (claim(8),), 0.0)
        waiting = ticket(store.queue("i", (claim(6),), 0.0))
        waiting._waiter.gate = Gate(before)  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            waiting.wait(LONG_S)
        store.release("h")
        assert store.read(["book"]) == (State(0, 0, 10),)
        assert not store.release("i")


async def started() -> None:
    """Let the tasks that were just made run until they wait."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_tasks_wait(store: Store, claim: MakeClaim) -> None:
    order: list[int] = []

    async def wait(number: int) -> None:
        waiting = ticket(store.queue(str(number), (claim(10),), 0.0))
        assert isinstance(await waiting.wait_async(LONG_S), Held)
        order.append(number)
        store.settle(str(number), (0,))

    async def main() -> None:
        store.hold("h", (claim(10),), 0.0)
        tasks = [asyncio.create_task(wait(number)) for number in range(5)]
        await started()
        assert order == []
        store.release("h")
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert order == [0, 1, 2, 3, 4]


def test_a_task_is_woken_from_another_thread(store: Store, claim: MakeClaim) -> None:
    async def main() -> Held | Short:
        store.hold("h", (claim(10),), 0.0)
        task = asyncio.create_task(ticket(store.queue("i", (claim(10),), 0.0)).wait_async(LONG_S))
        await started()
        threading.Thread(target=store.release, args=("h",)).start()
        return await task

    assert isinstance(asyncio.run(main()), Held)


def test_a_task_whose_answer_is_there_does_not_wait(store: Store, claim: MakeClaim) -> None:
    async def main() -> Held | Short:
        store.hold("h", (claim(10),), 0.0)
        waiting = ticket(store.queue("i", (claim(10),), 0.0))
        store.release("h")
        return await waiting.wait_async(LONG_S)

    assert isinstance(asyncio.run(main()), Held)


def test_time_over_for_a_task(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    for timeout_s in (0.001, 0, -5):
        short = asyncio.run(_queue_and_wait(store, claim, timeout_s))
        assert isinstance(short, Short)
        assert not short.spent_out
    assert not store.release("i")
    assert store.read(["book"]) == (State(0, 8, 10),)


async def _queue_and_wait(store: Store, claim: MakeClaim, timeout_s: float) -> Held | Short:
    return await ticket(store.queue("i", (claim(6),), 0.0)).wait_async(timeout_s)


@pytest.mark.parametrize("granted", [False, True])
def test_a_cancelled_task_leaves_nothing(store: Store, claim: MakeClaim, granted: bool) -> None:
    async def main() -> None:
        store.hold("h", (claim(8),), 0.0)
        task = asyncio.create_task(_queue_and_wait(store, claim, LONG_S))
        await started()
        behind = ticket(store.queue("j", (claim(5),), 0.0))
        if granted:  # in the race: the hold is made, and the task cancelled before it runs again
            store.release("h")
            assert store.read(["book"]) == (State(0, 6, 10),)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not store.release("i")
        store.release("h")
        assert isinstance(answer_of(behind), Held)
        assert store.read(["book"]) == (State(0, 5, 10),)

    asyncio.run(main())


@pytest.mark.parametrize("dropped", [False, True])
def test_a_closed_loop_is_not_waited_for(store: Store, claim: MakeClaim, dropped: bool) -> None:
    loop = asyncio.new_event_loop()
    store.hold("h", (claim(8),), 0.0)
    loop.set_exception_handler(lambda *_: None)  # it reports the pending task
    task = loop.create_task(_queue_and_wait(store, claim, LONG_S))
    loop.run_until_complete(started())
    loop.close()
    if dropped:
        del task
        gc.collect()
        assert isinstance(store.hold("j", (claim(2),), 0.0), Held)
        return
    # The first in line can't hear any more: a newcomer that finds it there goes on.
    assert isinstance(store.hold("j", (claim(2),), 0.0), Held)
    del task
    gc.collect()
    assert store.read(["book"]) == (State(0, 10, 10),)


def test_a_grant_to_a_loop_that_closes_is_passed_on(store: Store, claim: MakeClaim) -> None:
    loop = asyncio.new_event_loop()
    store.hold("h", (claim(8),), 0.0)
    loop.set_exception_handler(lambda *_: None)
    task = loop.create_task(_queue_and_wait(store, claim, LONG_S))
    loop.run_until_complete(started())
    behind = ticket(store.queue("j", (claim(10),), 0.0))
    loop.is_closed = lambda: False  # type: ignore[method-assign] # it closes right after it was asked
    loop.close()
    store.release("h")
    del loop.is_closed
    assert isinstance(answer_of(behind), Held)
    assert store.read(["book"]) == (State(0, 10, 10),)
    del task
    gc.collect()
    assert store.read(["book"]) == (State(0, 10, 10),)


def test_outside_asyncio_there_is_no_waiting(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    waiting = _queue_and_wait(store, claim, LONG_S)
    with pytest.raises(StopIteration) as ended:
        waiting.send(None)  # as another event loop would
    assert isinstance(ended.value.value, Short)
    assert store.read(["book"]) == (State(0, 8, 10),)


def test_lines_vanish_with_their_waiters(claim: MakeClaim) -> None:
    store = MemoryStore()
    store.hold("h", (claim(10),), 0.0)
    for number in range(50):
        ticket(store.queue(str(number), (claim(1),), 0.0)).wait(0)
    assert not store._lines.by_book
    assert not store._waiters
    assert not store._recheck
