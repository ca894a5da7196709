"""The line of those who wait for books that others change too; the others here use the same books without it."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from tokenmeter.budgets import Claim, Held, MemoryStore, Short, State, Ticket
from tokenmeter.budgets.polling import Line
from tokenmeter.errors import StoreUnavailable

from .conftest import MakeClaim

LONG_S = 60.0  # never waited for: a test that fails hangs no longer


class Desk:
    """A process with a line of its own, on books that it shares with others."""

    def __init__(self, books: MemoryStore | None = None) -> None:
        self.books = books or MemoryStore()
        self.line = Line()
        self.tries: list[str] = []
        self.before_try: Callable[[str], object] = lambda hold_id: None
        self.after_try: Callable[[str], object] = lambda hold_id: None

    def _hold(self, hold_id: str, claims: Sequence[Claim]) -> Held | Short:
        self.tries.append(hold_id)
        self.before_try(hold_id)
        answer = self.books.hold(hold_id, claims, 0.0)
        self.after_try(hold_id)
        return answer

    def _look(self, claims: Sequence[Claim], behind: frozenset[str]) -> Short:
        states = self.books.read([claim.key for claim in claims])
        limits = [State(state.posted, state.held, claim.limit) for claim, state in zip(claims, states, strict=True)]
        vain = [
            claim.amount > state.limit - state.posted and claim.enforce
            for claim, state in zip(claims, limits, strict=True)
        ]
        first = vain.index(True) if any(vain) else 0
        available = tuple(0 if c.key in behind else state.left for c, state in zip(claims, limits, strict=True))
        rooms = tuple(state.limit - state.posted for state in limits)
        return Short(tuple(claims), claims[first], limits[first], any(vain), available, rooms)

    def queue(self, hold_id: str, *claims: Claim) -> Held | Short | Ticket:
        return self.line.queue(
            lambda: self._hold(hold_id, claims),
            lambda: self.books.release(hold_id),
            hold_id,
            claims,
            lambda behind: self._look(claims, behind),
        )

    def ticket(self, hold_id: str, *claims: Claim) -> Ticket:
        answer = self.queue(hold_id, *claims)
        assert not isinstance(answer, Held | Short)
        return answer

    def release(self, hold_id: str) -> None:
        assert self.books.release(hold_id)
        self.line.stir()


class Waits:
    """A thread that waits."""

    def __init__(self, waiting: Ticket, timeout_s: float = LONG_S) -> None:
        self.answer: Held | Short | None = None
        self.error: BaseException | None = None
        self._ticket: Ticket | None = waiting
        self._timeout_s = timeout_s
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()

    def _wait(self) -> None:
        assert self._ticket is not None
        try:
            self.answer = self._ticket.wait(self._timeout_s)
        except Exception as error:
            self.error = error
        self._ticket = None

    def ended(self) -> Held | Short | None:
        self._thread.join(LONG_S)
        assert not self._thread.is_alive()
        return self.answer


@pytest.fixture
def desk() -> Desk:
    return Desk()


def is_left(desk: Desk) -> bool:
    return not desk.line._places and not desk.line._lines and not desk.line._rooms


def test_what_others_give_back_is_found(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("other", (claim(8),), 0.0)
    waits = Waits(desk.ticket("a", claim(5)))
    desk.books.release("other")  # this process hears nothing of it
    assert waits.ended() == Held((State(0, 5, 10),), ())
    assert is_left(desk)


def test_only_the_first_asks(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("other", (claim(8),), 0.0)
    waits = [Waits(desk.ticket(str(number), claim(5))) for number in range(5)]
    while desk.tries.count("0") < 5:
        time.sleep(0.001)
    assert set(desk.tries) == {"0"}
    desk.books.release("other")
    for number, each in enumerate(waits):
        assert isinstance(each.ended(), Held)
        desk.release(str(number))
    assert list(dict.fromkeys(desk.tries)) == ["0", "1", "2", "3", "4"]
    assert is_left(desk)


def test_less_and_less_often(desk: Desk, claim: MakeClaim) -> None:
    line = desk.line
    desk.books.hold("other", (claim(8),), 0.0)
    waiting = desk.ticket("a", claim(5))
    place = line._places["a"]
    until_s = time.monotonic() + LONG_S
    pauses = [line.pause_s(place, until_s) for _ in range(40)]
    assert 0.00375 <= pauses[0] <= 0.00625
    assert all(0.0375 <= pause_s <= 0.0625 for pause_s in pauses[10:])
    assert len(set(pauses)) == 40
    place.wake()
    assert line.pause_s(place, until_s) == 0
    place.stirred = False
    assert line.pause_s(place, until_s) <= 0.00625
    assert line.pause_s(place, time.monotonic() - 1) == 0
    crowd = [desk.ticket(str(number), claim(5), claim(1, 10, f"book {number}")) for number in range(39)]
    assert max(line.pause_s(place, until_s) for _ in range(40)) > 0.1  # all together no more often
    del waiting, crowd
    assert is_left(desk)


def test_a_stir_is_heard_at_once(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("h", (claim(8),), 0.0)
    waiting = desk.ticket("a", claim(5))
    desk.line._places["a"].pace_s = LONG_S  # by itself it would not look again
    waits = Waits(waiting)
    del waiting
    desk.release("h")
    assert isinstance(waits.ended(), Held)


def test_a_stir_between_the_first_try_and_the_line_is_not_missed(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("h", (claim(8),), 0.0)

    def after_try(hold_id: str) -> None:
        if desk.books.release("h"):
            desk.line.stir()

    desk.after_try = after_try
    waiting = desk.ticket("a", claim(5))
    desk.line._places["a"].pace_s = LONG_S
    assert isinstance(waiting.wait(LONG_S), Held)


def test_nobody_is_overtaken(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("h", (claim(8),), 0.0)
    first = desk.ticket("first", claim(5))
    assert desk.line.waited_for((claim(1), claim(1, key="other"))) == {"book"}
    assert desk.line.waited_for((claim(1, warns=True), claim(1, alone=True), claim(1, key="other"))) == frozenset()
    second = desk.ticket("second", claim(1))  # it would fit
    short = second.wait(0.01)
    assert isinstance(short, Short)
    assert (short.available, short.if_settled, short.spent_out) == ((0,), (10,), False)
    assert "second" not in desk.tries
    elsewhere = desk.queue("elsewhere", claim(1, key="other"))
    assert isinstance(elsewhere, Held)
    with pytest.raises(ValueError, match="in use"):
        desk.queue("first", claim(1))
    del first
    assert isinstance(desk.queue("third", claim(1)), Held)


def test_who_waits_for_another_book_is_not_kept(desk: Desk, claim: MakeClaim) -> None:
    a, b = claim(10, 10, "a"), claim(10, 10, "b")
    desk.books.hold("h a", (a,), 0.0)
    desk.books.hold("h b", (b,), 0.0)
    waits = [Waits(desk.ticket("1", a)), Waits(desk.ticket("2", a, b)), Waits(desk.ticket("3", b))]
    four = Waits(desk.ticket("4", claim(1, 10, "c"), b))
    desk.release("h b")  # for 2, who also waits for a: 3 came later
    assert [each.answer for each in waits] == [None, None, None]
    desk.release("h a")
    assert isinstance(waits[0].ended(), Held)
    desk.release("1")
    assert isinstance(waits[1].ended(), Held)
    desk.release("2")
    assert isinstance(waits[2].ended(), Held)
    desk.release("3")
    assert isinstance(four.ended(), Held)
    assert is_left(desk)


def test_spent_out_is_told_to_those_behind_too(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("h", (claim(9),), 0.0)
    first = Waits(desk.ticket("first", claim(5)))
    vain = Waits(desk.ticket("vain", claim(6)))
    small = Waits(desk.ticket("small", claim(2)))
    desk.books.post("p", (claim(),), (5,))
    short = vain.ended()  # while the first goes on
    assert isinstance(short, Short)
    assert short.spent_out
    assert short.state == State(5, 9, 10)
    assert (first.answer, small.answer) == (None, None)
    assert set(desk.tries) == {"first"}
    desk.books.post("q", (claim(),), (1,))
    spent = first.ended()
    assert isinstance(spent, Short)
    assert spent.spent_out
    desk.books.release("h")
    assert isinstance(small.ended(), Held)
    assert is_left(desk)


def asked_again(desk: Desk, hold_id: str) -> None:
    """Return when it has asked twice: the second of them began after this was called."""
    tries = desk.tries.count(hold_id)
    while desk.tries.count(hold_id) < tries + 2:
        time.sleep(0.001)


def test_those_behind_hear_each_time_that_less_is_left(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("h", (claim(9),), 0.0)
    first, behind = Waits(desk.ticket("first", claim(2))), Waits(desk.ticket("behind", claim(5)))
    for spent in (4, 2):
        asked_again(desk, "first")
        assert behind.answer is None
        desk.books.post(str(spent), (claim(),), (spent,))
    short = behind.ended()
    assert isinstance(short, Short)
    assert (short.spent_out, first.answer) == (True, None)
    desk.books.release("h")
    assert isinstance(first.ended(), Held)


def test_what_is_spent_between_the_look_and_the_line_is_told(
    desk: Desk, claim: MakeClaim, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.books.hold("h", (claim(9),), 0.0)
    first = Waits(desk.ticket("first", claim(2)))
    look = desk._look

    def late(claims: Sequence[Claim], behind: frozenset[str]) -> Short:
        monkeypatch.setattr(desk, "_look", look)
        found = look(claims, behind)
        desk.books.post("p", (claim(),), (6,))
        asked_again(desk, "first")
        return found

    monkeypatch.setattr(desk, "_look", late)
    short = Waits(desk.ticket("behind", claim(5))).ended()
    assert isinstance(short, Short)
    assert (short.spent_out, first.answer) == (True, None)
    desk.books.release("h")
    assert isinstance(first.ended(), Held)


def test_spent_out_at_once_also_behind_others(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("h", (claim(9),), 0.0)
    waiting = desk.ticket("a", claim(5))
    short = desk.queue("b", claim(11))
    assert isinstance(short, Short)
    assert short.spent_out
    del waiting


def test_the_last_look_is_fresh(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("h", (claim(8),), 0.0)
    first, behind = desk.ticket("first", claim(5)), desk.ticket("behind", claim(5))
    desk.books.post("p", (claim(),), (1,))
    for waiting in (behind, first):
        short = waiting.wait(0)
        assert isinstance(short, Short)
        assert short.state == State(1, 8, 10)
    desk.books.release("h")
    assert isinstance(desk.ticket if desk.line._places else desk.queue("c", claim(1)), Held)
    late = Desk(desk.books)
    desk.books.hold("h", (claim(8),), 0.0)
    waiting = late.ticket("d", claim(5))
    desk.books.release("h")
    assert isinstance(waiting.wait(0), Held)  # at the end of its time it looks once more
    assert is_left(desk)
    assert is_left(late)


def test_leave_and_close_send_away(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("h", (claim(8),), 0.0)
    waits = [Waits(desk.ticket(str(number), claim(5))) for number in range(3)]
    assert desk.line.leave("0")
    assert not desk.line.leave("0")
    assert not desk.line.leave("h")
    assert isinstance(waits[0].ended(), Short)
    desk.line.close()
    assert all(isinstance(each.ended(), Short) for each in waits)
    assert is_left(desk)


def test_who_left_as_the_hold_was_made_has_none(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("h", (claim(8),), 0.0)
    waiting = desk.ticket("a", claim(5))
    desk.books.release("h")
    desk.after_try = desk.line.leave
    assert isinstance(waiting.wait(LONG_S), Short)
    assert desk.books.read(["book"]) == (State(0, 0, 10),)
    assert is_left(desk)


def test_a_store_that_goes(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("h", (claim(8),), 0.0)

    def gone(hold_id: str) -> None:
        raise StoreUnavailable("gone")

    waiting, behind = desk.ticket("a", claim(5)), Waits(desk.ticket("b", claim(2)))
    desk.before_try = gone
    with pytest.raises(StoreUnavailable):
        waiting.wait(LONG_S)
    behind.ended()
    assert isinstance(behind.error, StoreUnavailable)
    assert is_left(desk)


class Interrupt(BaseException):
    pass


@pytest.mark.parametrize("when", ["before_try", "after_try"])
def test_an_interrupt_while_it_asks(desk: Desk, claim: MakeClaim, when: str) -> None:
    desk.books.hold("h", (claim(8),), 0.0)
    waiting = desk.ticket("a", claim(5))
    desk.books.release("h")

    def interrupt(hold_id: str) -> None:
        raise Interrupt

    setattr(desk, when, interrupt)
    with pytest.raises(Interrupt):
        waiting.wait(LONG_S)
    assert desk.books.read(["book"]) == (State(0, 0, 10),)
    assert is_left(desk)


def test_interrupts_at_any_moment(desk: Desk, claim: MakeClaim) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(150):
            desk.books.hold(f"h{number}", (claim(8),), 0.0)
            name = f"a{number}"
            waiting: object = None
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00002 * (number + 1))
                waiting = desk.queue(name, claim(5))
                if number % 2:
                    desk.release(f"h{number}")
                if not isinstance(waiting, Held | Short):
                    waiting.wait(0.01)
                while True:  # it comes here at the latest
                    time.sleep(0.001)
            except Interrupt:
                pass
            signal.setitimer(signal.ITIMER_REAL, 0)
            del waiting
            desk.books.release(name)  # as the caller does when he is interrupted
            desk.books.release(f"h{number}")
            assert desk.books.read(["book"]) == (State(0, 0, 10),)
            assert is_left(desk)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_dropped_ticket_lets_the_next_go(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("h", (claim(8),), 0.0)
    waiting = desk.ticket("a", claim(5))
    behind = Waits(desk.ticket("b", claim(2)))
    del waiting
    gc.collect()
    assert isinstance(behind.ended(), Held)
    assert is_left(desk)


# -- tasks


def test_threads_and_tasks_in_one_line(desk: Desk, claim: MakeClaim) -> None:
    order: list[int] = []
    lock = threading.Lock()

    def done(number: int, answer: Held | Short) -> None:
        assert isinstance(answer, Held)
        with lock:
            order.append(number)
        desk.release(str(number))

    async def task(number: int, waiting: Ticket) -> None:
        done(number, await waiting.wait_async(LONG_S))

    async def main() -> None:
        desk.books.hold("h", (claim(10),), 0.0)
        tickets = [desk.ticket(str(number), claim(10)) for number in range(10)]
        threads = [
            threading.Thread(target=lambda n=number: done(n, tickets[n].wait(LONG_S))) for number in range(0, 10, 2)
        ]
        for thread in threads:
            thread.start()
        tasks = [asyncio.create_task(task(number, tickets[number])) for number in range(1, 10, 2)]
        await asyncio.sleep(0.01)
        desk.books.release("h")
        await asyncio.gather(*tasks)
        for thread in threads:
            await asyncio.to_thread(thread.join)

    asyncio.run(main())
    assert order == list(range(10))
    assert is_left(desk)


def test_the_loop_goes_on_while_the_store_is_asked(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("h", (claim(8),), 0.0)
    asked, go_on = threading.Event(), threading.Event()

    def slow(hold_id: str) -> None:
        asked.set()
        assert go_on.wait(LONG_S)

    async def main() -> Held | Short:
        waiting = desk.ticket("a", claim(5))
        desk.books.release("h")
        desk.before_try = slow
        task = asyncio.create_task(waiting.wait_async(LONG_S))
        while not asked.is_set():
            await asyncio.sleep(0.001)
        go_on.set()
        return await task

    assert isinstance(asyncio.run(main()), Held)


@pytest.mark.parametrize("moment", ["asleep", "before the hold", "after the hold", "it has landed"])
def test_a_cancelled_task(desk: Desk, claim: MakeClaim, moment: str) -> None:
    desk.books.hold("h", (claim(8),), 0.0)
    asked, go_on = threading.Event(), threading.Event()

    def slow(hold_id: str) -> None:
        asked.set()
        assert go_on.wait(LONG_S)

    async def main() -> None:
        waiting = desk.ticket("a", claim(5))
        place = desk.line._places["a"]
        behind = asyncio.create_task(desk.ticket("b", claim(5)).wait_async(LONG_S))
        if moment != "asleep":
            desk.books.release("h")
        if moment == "before the hold":
            desk.before_try = slow
        elif moment != "asleep":
            desk.after_try = slow
        task = asyncio.create_task(waiting.wait_async(LONG_S))
        await asyncio.sleep(0)
        if moment != "asleep":
            while not asked.is_set():
                await asyncio.sleep(0.001)
        desk.before_try = desk.after_try = lambda hold_id: None
        if moment == "it has landed":
            go_on.set()
            while not place.held:  # the loop has not heard of it: it does not run meanwhile
                time.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        if moment == "asleep":
            desk.books.release("h")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance(await behind, Held)

    asyncio.run(main())
    until_s = time.monotonic() + LONG_S
    while desk.books.read(["book"])[0].held > 5 and time.monotonic() < until_s:
        time.sleep(0.001)  # what "a" held for a moment comes back on a thread
    assert desk.books.read(["book"]) == (State(0, 5, 10),)
    assert not desk.books.release("a")
    assert is_left(desk)


def test_cancelled_at_any_moment(desk: Desk, claim: MakeClaim) -> None:
    async def main() -> None:
        for number in range(120):
            desk.books.hold(f"h{number}", (claim(8),), 0.0)
            task = asyncio.create_task(desk.ticket(f"a{number}", claim(5)).wait_async(LONG_S))
            if number % 3:
                desk.release(f"h{number}")
            for _ in range(number % 5):
                await asyncio.sleep(0)
            await asyncio.sleep(0.00005 * number)
            task.cancel()
            answer = (await asyncio.gather(task, return_exceptions=True))[0]
            if isinstance(answer, Held):  # it was first
                desk.release(f"a{number}")
            desk.books.release(f"h{number}")
            last = desk.queue("last", claim(10))
            if not isinstance(last, Held | Short):
                last = await last.wait_async(LONG_S)
            assert isinstance(last, Held)
            desk.release("last")

    asyncio.run(main())
    assert is_left(desk)


def test_a_store_that_goes_while_a_task_waits(desk: Desk, claim: MakeClaim) -> None:
    def gone(hold_id: str) -> None:
        raise StoreUnavailable("gone")

    async def main() -> None:
        desk.books.hold("h", (claim(8),), 0.0)
        waiting = desk.ticket("a", claim(5))
        desk.before_try = gone
        with pytest.raises(StoreUnavailable):
            await waiting.wait_async(LONG_S)

    asyncio.run(main())
    assert is_left(desk)


def test_under_another_event_loop_there_is_no_waiting(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("h", (claim(8),), 0.0)
    waiting = desk.ticket("a", claim(5)).wait_async(LONG_S)
    with pytest.raises(StopIteration) as ended:
        waiting.send(None)
    assert isinstance(ended.value.value, Short)
    assert desk.tries == ["a"]
    assert is_left(desk)


def test_a_loop_that_was_closed_keeps_nobody(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("h", (claim(8),), 0.0)
    loop = asyncio.new_event_loop()
    waiting = desk.ticket("a", claim(5)).wait_async(LONG_S)

    async def begin() -> None:
        waiting.send(None)  # it sleeps, and nobody will wake it

    loop.run_until_complete(begin())
    behind = Waits(desk.ticket("b", claim(2)))
    loop.close()
    desk.line.stir()
    assert isinstance(behind.ended(), Held)
    waiting.close()
    assert is_left(desk)


def test_a_forked_child_has_a_line_of_its_own(desk: Desk, claim: MakeClaim) -> None:
    desk.books.hold("h", (claim(8),), 0.0)
    waiting = desk.ticket("a", claim(5))
    desk.line.forget()
    assert "a" not in desk.line
    assert desk.line.waited_for((claim(1),)) == frozenset()
    del waiting
