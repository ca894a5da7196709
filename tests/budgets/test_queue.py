"""Waiting in turn, for every store; how the line of a store in memory works inside is in ``test_waiting``."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable

import pytest

from tokenmeter.budgets import Grant, Held, Short, State, Store, Ticket

from .conftest import MakeClaim
from .places import Place

LONG_S = 60.0  # never waited for: a test that fails hangs no longer


def ticket(answer: Held | Short | Ticket) -> Ticket:
    assert not isinstance(answer, Held | Short)
    return answer


class Waits:
    """A thread that waits with a ticket."""

    def __init__(self, waiting: Ticket, after: Callable[[], object] = lambda: None) -> None:
        self.answer: Held | Short | None = None
        self._ticket: Ticket | None = waiting
        self._after = after
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()

    def _wait(self) -> None:
        assert self._ticket is not None
        self.answer = self._ticket.wait(LONG_S)
        self._ticket = None
        self._after()

    def ended(self) -> Held | Short | None:
        self._thread.join(LONG_S)
        return self.answer


def test_queue_answers_at_once_where_it_can(store: Store, claim: MakeClaim) -> None:
    assert isinstance(store.queue("h", (claim(6),), 0.0), Held)
    spent_out = store.queue("i", (claim(11),), 0.0)
    assert isinstance(spent_out, Short)
    assert spent_out.spent_out
    waiting = ticket(store.queue("j", (claim(6),), 0.0))
    assert isinstance(waiting.wait(0), Short)
    assert store.read(["book"]) == (State(0, 6, 10),)


@pytest.mark.parametrize("end", ["settle", "release", "adjust", "grant", "post"])
def test_all_that_changes_the_books_is_heard_of(store: Store, claim: MakeClaim, end: str) -> None:
    key = "calls b||total"
    store.hold("h", (claim(8, key=key),), store.time_s())
    waits = Waits(ticket(store.queue("i", (claim(7, key=key),), store.time_s())))
    if end == "settle":
        store.settle("h", (3,))
        assert waits.ended() == Held((State(3, 7, 10),), ())
    elif end == "release":
        store.release("h")
        assert waits.ended() == Held((State(0, 7, 10),), ())
    elif end == "adjust":
        store.adjust("h", (2,))
        assert waits.ended() == Held((State(0, 9, 10),), ())
    elif end == "grant":
        store.grant(Grant("g", "calls b|", 6, store.time_s() - 1, store.time_s() + 1000, "", ""))
        assert waits.ended() == Held((State(0, 15, 16),), ())
    else:
        store.post("p", (claim(key=key),), (4,))
        short = waits.ended()
        assert isinstance(short, Short)
        assert short.spent_out
        assert (short.state, short.if_settled) == (State(4, 8, 10), (6,))
        assert store.sent("i") is False


def test_what_waited_is_held(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    waits = Waits(ticket(store.queue("i", (claim(7),), 0.0, note=lambda: b"row")))
    store.release("h")
    assert isinstance(waits.ended(), Held)
    assert store.sent("i")
    assert store.settle("i", (5,), b"row")
    assert store.read(["book"]) == (State(5, 0, 10),)


def test_nobody_of_this_process_is_overtaken(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(5),), 0.0)
    large = Waits(ticket(store.queue("large", (claim(8),), 0.0)))
    small = Waits(ticket(store.queue("small", (claim(3),), 0.0)))
    short = store.hold("at once", (claim(1),), 0.0)
    assert isinstance(short, Short)
    assert not short.spent_out
    assert large.answer is small.answer is None
    store.release("h")
    assert isinstance(large.ended(), Held)
    store.release("large")
    assert isinstance(small.ended(), Held)


def test_first_come_first_served(store: Store, claim: MakeClaim) -> None:
    order: list[int] = []

    def done(number: int) -> None:
        order.append(number)
        store.settle(str(number), (0,))

    store.hold("h", (claim(10),), 0.0)
    waits = []
    for number in range(6):
        waiting = ticket(store.queue(str(number), (claim(10),), 0.0))
        waits.append(Waits(waiting, lambda number=number: done(number)))  # type: ignore[misc]
        del waiting
    store.release("h")
    for each in waits:
        assert isinstance(each.ended(), Held)
    assert order == list(range(6))
    assert store.read(["book"]) == (State(0, 0, 10),)


def test_time_over_is_short_and_nothing_stays(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    for timeout_s in (0.001, 0, -5):
        short = ticket(store.queue("i", (claim(6),), 0.0)).wait(timeout_s)
        assert isinstance(short, Short)
        assert (short.state, short.spent_out, short.available) == (State(0, 8, 10), False, (2,))
    assert not store.release("i")
    store.release("h")
    assert store.read(["book"]) == (State(0, 0, 10),)
    assert isinstance(store.hold("i", (claim(10),), 0.0), Held)


def test_a_dropped_ticket_leaves_nothing(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    waiting = store.queue("i", (claim(6),), 0.0)
    behind = Waits(ticket(store.queue("j", (claim(2),), 0.0)))
    del waiting
    gc.collect()
    assert isinstance(behind.ended(), Held)
    dropped = store.queue("k", (claim(6),), 0.0)
    store.release("h")
    del dropped
    gc.collect()
    assert store.read(["book"]) == (State(0, 2, 10),)
    assert isinstance(store.hold("l", (claim(8),), 0.0), Held)


def test_release_takes_a_waiter_out_of_line(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    waits = Waits(ticket(store.queue("i", (claim(6),), 0.0)))
    assert store.settle("i", (1,)) is None
    assert store.release("i")
    assert isinstance(waits.ended(), Short)
    assert not store.release("i")
    store.release("h")
    assert store.read(["book"]) == (State(0, 0, 10),)


def test_the_id_of_a_waiter_is_in_use(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    waiting = store.queue("i", (claim(6),), 0.0)
    with pytest.raises(ValueError, match="in use"):
        store.queue("i", (claim(6),), 0.0)
    del waiting


def test_close_sends_away_who_waits(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    waits = Waits(ticket(store.queue("i", (claim(6),), 0.0)))
    store.close()
    assert isinstance(waits.ended(), Short)


def test_warn_and_per_call_budgets_make_no_line(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(10),), 0.0)
    shared = (claim(1, key="soft", warns=True), claim(1, key="each", alone=True))
    waiting = ticket(store.queue("i", (claim(1), *shared), 0.0))
    assert isinstance(store.hold("j", shared, 0.0), Held)
    del waiting


async def started() -> None:
    """Let the tasks that were just made run until they wait."""
    for _ in range(3):
        await asyncio.sleep(0)


async def wait(
    store: Store, hold_id: str, claim: MakeClaim, amount: int = 6, timeout_s: float = LONG_S
) -> Held | Short:
    return await ticket(store.queue(hold_id, (claim(amount),), 0.0)).wait_async(timeout_s)


def test_tasks_wait_in_turn(store: Store, claim: MakeClaim) -> None:
    order: list[int] = []

    async def call(number: int) -> None:
        assert isinstance(await wait(store, str(number), claim, 10), Held)
        order.append(number)
        store.settle(str(number), (0,))

    async def main() -> None:
        store.hold("h", (claim(10),), 0.0)
        tasks = [asyncio.create_task(call(number)) for number in range(5)]
        await started()
        assert order == []
        store.release("h")
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert order == [0, 1, 2, 3, 4]


def test_a_task_is_woken_from_another_thread(store: Store, claim: MakeClaim) -> None:
    async def main() -> Held | Short:
        store.hold("h", (claim(10),), 0.0)
        task = asyncio.create_task(wait(store, "i", claim))
        await started()
        thread = threading.Thread(target=store.release, args=("h",))
        thread.start()
        found = await task
        await asyncio.to_thread(thread.join)
        return found

    assert isinstance(asyncio.run(main()), Held)


def test_time_over_for_a_task(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    for timeout_s in (0.001, 0, -5):
        short = asyncio.run(wait(store, "i", claim, timeout_s=timeout_s))
        assert isinstance(short, Short)
        assert not short.spent_out
    assert not store.release("i")
    assert store.read(["book"]) == (State(0, 8, 10),)


@pytest.mark.parametrize("pause_s", [0, 0.002, 0.02])
@pytest.mark.parametrize("room", [False, True])
def test_a_cancelled_task_leaves_nothing(store: Store, claim: MakeClaim, room: bool, pause_s: float) -> None:
    async def main() -> None:
        store.hold("h", (claim(8),), 0.0)
        task = asyncio.create_task(wait(store, "i", claim))
        await started()
        await asyncio.sleep(pause_s)  # not waited for anything: at whatever point the task is then
        if room:  # in the race: the hold may have been made, or is about to be
            store.release("h")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    store.release("h")
    assert isinstance(ticket_or_answer(store.queue("j", (claim(10),), 0.0)), Held)
    assert store.read(["book"]) == (State(0, 10, 10),)
    assert not store.release("i")


def ticket_or_answer(answer: Held | Short | Ticket) -> Held | Short:
    """The answer, and a little patience for a hold that is released as it lands."""
    return answer if isinstance(answer, Held | Short) else answer.wait(LONG_S)


def test_outside_asyncio_there_is_no_waiting(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    waiting = wait(store, "i", claim)
    with pytest.raises(StopIteration) as ended:
        waiting.send(None)  # as another event loop would
    assert isinstance(ended.value.value, Short)
    assert store.read(["book"]) == (State(0, 8, 10),)


def test_who_waits_hears_of_other_processes(lasting: Place, claim: MakeClaim) -> None:
    here, there = lasting.open(), lasting.open()
    there.hold("h", (claim(8),), 0.0)
    thread = Waits(ticket(here.queue("i", (claim(6),), 0.0)))
    there.settle("h", (4,))
    assert thread.ended() == Held((State(4, 6, 10),), ())

    async def main() -> Held | Short:
        task = asyncio.create_task(wait(there, "j", claim, 4))
        await started()
        here.settle("i", (1,))
        return await task

    assert asyncio.run(main()) == Held((State(5, 4, 10),), ())
