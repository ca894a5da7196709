"""The books in memory, for one process: the verbs, and the line of those who wait.

`deferral` says why each verb is written as it is, `memory_books` keeps the sums.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Iterator, Sequence

from tokenmeter.budgets.deferral import OneVerbAtATime
from tokenmeter.budgets.memory_books import UNSEEN, MemoryBooks, check
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Book, Drawn, Entry, Grant, Held, Note, Pause, Settled, Short, State, Ticket, in_use
from tokenmeter.budgets.ticket import MemoryTicket
from tokenmeter.budgets.waiting import Waiter, stands_in_line
from tokenmeter.forks import each_in_child
from tokenmeter.turn import in_turn


class MemoryStore(OneVerbAtATime):
    """Books in memory.

    Books of ended windows are dropped. Books of runs, which never end, are dropped when there are more than
    ``max_idle_runs``, and only idle ones. After a fork, the child goes on with what was spent and with no
    holds: those are the parent's. No rows are kept, and of what was charged the last 16,384 ids.
    Grants go by the ``now_s`` of a hold, and elsewhere by the clock.
    """

    instant = True
    keeps_rows = False

    def __init__(self, *, max_idle_runs: int = 100_000) -> None:
        super().__init__()
        self._books = MemoryBooks(self._recheck, max_idle_runs)
        self._holds = self._books.holds
        self._lines = self._books.lines
        self._waiters: dict[str, Waiter] = {}
        self._pauses: dict[str, Pause] = {}
        _stores.add(self)

    @in_turn
    def hold(self, hold_id: str, claims: Sequence[Claim], now_s: float, note: Note | None = None) -> Held | Short:
        """Hold all claims or none."""
        return self._answer("", self._hold, hold_id, claims, now_s)

    @in_turn
    def queue(
        self, hold_id: str, claims: Sequence[Claim], now_s: float, note: Note | None = None
    ) -> Held | Short | Ticket:
        """Hold all claims, or get in line where only other calls stand in the way."""
        return self._answer("", self._queue, hold_id, claims, now_s)

    def sent(self, hold_id: str) -> bool:
        """Whether the hold stands: nobody can take the process for dead."""
        return hold_id in self._holds

    @in_turn
    def settle(self, hold_id: str, amounts: Sequence[int], row: bytes = b"") -> Settled | None:
        """Turn a hold into what was spent; None if it was settled before."""
        if self._busy is None:
            return self._answer(hold_id, self._books.settle, hold_id, amounts)
        claims = self._holds.get(hold_id)
        if claims is None:
            return None
        check(claims, amounts)
        deferred = self._defer(hold_id, self._books.settle, hold_id, amounts)
        return self._expected(hold_id, claims, amounts) if deferred else None

    @in_turn
    def release(self, hold_id: str) -> bool:
        """Give a hold or a place in the line back; True the first time only."""
        if self._busy is None:
            return self._answer(hold_id, self._release, hold_id)
        if hold_id not in self._holds and hold_id not in self._waiters:
            return False
        return self._defer(hold_id, self._release, hold_id)

    @in_turn
    def adjust(self, hold_id: str, amounts: Sequence[int]) -> Held | Short:
        """Change what a hold holds: less always, more if it is admissible."""
        return self._answer("", self._adjust, hold_id, amounts)

    @in_turn
    def post(self, entry_id: str, claims: Sequence[Claim], amounts: Sequence[int], row: bytes = b"") -> Settled | None:
        """Charge what was spent, once; a hold of that id is settled by it."""
        check(claims, amounts)
        if self._busy is None:
            return self._answer(entry_id, self._books.post, entry_id, claims, amounts)
        if entry_id not in self._holds and self._books.was_charged(entry_id):
            return None
        deferred = self._defer(entry_id, self._books.post, entry_id, claims, amounts)
        return self._expected(entry_id, claims, amounts) if deferred else None

    @in_turn
    def draw(self, hold_ids: Sequence[str], entries: Sequence[Entry]) -> tuple[Drawn, ...]:
        """Charge entries out of holds that go on, each once."""
        given = tuple(hold_ids), tuple(entries)
        if self._busy is None:
            return self._answer("", self._draw, *given)
        self._defer(object(), self._draw, *given)
        return ()

    def write(self, entries: Sequence[Entry]) -> None:
        """Note the ids, so that they are charged by nobody; the rows are not kept."""
        self._do(object(), self._write, tuple(entries))

    @in_turn
    def read(self, keys: Iterable[str]) -> tuple[State, ...]:
        """The books of these keys."""
        now_s = self.time_s()
        return tuple([self._books.shown(key, now_s) for key in keys])

    @in_turn
    def books(self) -> list[Book]:
        """Every book that is kept."""
        return self._books.all(self.time_s())

    def entries(self, after: str = "") -> Iterator[tuple[str, Entry]]:
        """None: rows are not kept."""
        return iter(())

    def grant(self, grant: Grant) -> None:
        """Raise a limit; those who wait for it are looked at again."""
        self._do(("grant", grant.id), self._grant, grant)

    def grants(self) -> list[Grant]:
        """The grants, those that ended too."""
        return self._books.grants.all()

    def pause(self, pause: Pause) -> None:
        """Stop a target."""
        self._pauses[pause.target] = pause

    def resume(self, target: str) -> bool:
        """Undo a pause."""
        return self._pauses.pop(target, None) is not None

    def pauses(self) -> list[Pause]:
        """The pauses that are in force."""
        return list(self._pauses.values())

    def recover(self) -> int:
        """Nothing: the books end with their process."""
        return 0

    def time_s(self) -> float:
        """The clock of this machine."""
        return time.time()

    def close(self) -> None:
        """Send those who wait away; the books stay readable."""
        for hold_id in list(self._waiters):
            self.release(hold_id)

    # -- all below runs with the lock held and _busy set

    def _hold(self, hold_id: str, claims: Sequence[Claim], now_s: float) -> Held | Short:
        if hold_id in self._holds or hold_id in self._waiters:
            raise in_use(hold_id)
        if self._lines.by_book and self._someone_before(claims):
            return self._short(claims, now_s)
        return self._books.admit(hold_id, claims, now_s) or self._short(claims, now_s)

    def _draw(self, hold_ids: Sequence[str], entries: Sequence[Entry]) -> tuple[Drawn, ...]:
        added: dict[str, int] = {}
        for entry in entries:
            if self._books.draw(hold_ids, entry):
                for key, spent in entry.charges:
                    added[key] = added.get(key, 0) + spent
        now_s = self._now()
        return tuple([Drawn(key, self._books.shown(key, now_s), spent) for key, spent in added.items()])

    def _write(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._books.mark(entry.id)

    def _release(self, hold_id: str) -> bool:
        waiter = self._waiters.get(hold_id)
        if waiter is None or waiter.answer is not None:
            return self._books.release(hold_id)
        self._dismiss(waiter, self._short_of(waiter))
        return True

    def _adjust(self, hold_id: str, amounts: Sequence[int]) -> Held | Short:
        old = self._holds.get(hold_id)
        if old is None:
            raise LookupError(f"no hold {hold_id!r} stands")
        check(old, amounts)
        now_s = self._now()
        new = [claim._replace(amount=amount) for claim, amount in zip(old, amounts, strict=True)]
        grown = [claim for before, claim in zip(old, new, strict=True) if claim.amount > before.amount]
        answer = None if self._someone_before(grown) else self._books.adjust(hold_id, new, now_s)
        return answer or self._short(new, now_s, own=old)

    def _expected(self, hold_id: str, claims: Sequence[Claim], amounts: Sequence[int]) -> Settled:
        """What a charge that is deferred will do, but for what comes in between."""
        now_s = self._now()
        held = {claim.key: claim.amount for claim in self._holds.get(hold_id, ())}
        states = []
        for claim, amount in zip(claims, amounts, strict=True):
            posted, under_way, limit = self._state(claim, now_s)
            own = 0 if claim.budget.per == "call" else held.get(claim.key, 0)
            states.append(State(posted + amount, under_way - own, limit))
        return Settled(tuple(states), tuple(amounts))

    def _short(
        self,
        claims: Sequence[Claim],
        now_s: float,
        waiter: Waiter | None = None,
        own: Sequence[Claim] | None = None,
    ) -> Short:
        """What keeps these claims from being held; ``own`` is what the caller holds already."""
        held_back: tuple[Claim, State] | None = None
        spent_out: tuple[Claim, State] | None = None
        available: list[int] = []
        if_settled: list[int] = []
        for number, claim in enumerate(claims):
            state = self._state(claim, now_s)
            if own and claim.budget.per != "call":
                state = state._replace(held=state.held - own[number].amount)
            first = self._first(claim.key) if stands_in_line(claim) else None
            behind = first is not None and first is not waiter
            available.append(0 if behind else state.left)
            if_settled.append(state.limit - state.posted)
            if own and claim.amount <= own[number].amount:
                continue  # less is always possible
            if claim.enforce and claim.amount > state.limit - state.posted:
                spent_out = spent_out or (claim, state)
            elif claim.enforce and (behind or claim.amount > state.limit - state.posted - state.held):
                held_back = held_back or (claim, state)
        # A caller that leaves the line of its own will may have nothing in its way.
        claim, state = spent_out or held_back or next((c, self._state(c, now_s)) for c in claims if c.enforce)
        return Short(tuple(claims), claim, state, spent_out is not None, tuple(available), tuple(if_settled))

    def _state(self, claim: Claim, now_s: float) -> State:
        """The book of a claim, under the limit that it speaks of."""
        if claim.budget.per == "call":
            return State(0, 0, claim.limit)
        posted, held, _ = self._books.books.get(claim.key, UNSEEN)
        return State(posted, held, claim.limit + self._books.grants.on(claim.key, now_s))

    def _now(self, at_s: float = 0.0) -> float:
        """What grants go by where no hold says it: the clock, asked only if there are any."""
        return max(at_s, self.time_s()) if self._books.grants.by_account else at_s

    # -- the line

    def _queue(self, hold_id: str, claims: Sequence[Claim], now_s: float) -> Held | Short | Ticket:
        answer = self._hold(hold_id, claims, now_s)
        if isinstance(answer, Held) or answer.spent_out:
            return answer
        waiter = Waiter(hold_id, claims, now_s)
        ticket = MemoryTicket(self, waiter)  # first, so that an interrupt that drops it leaves the line
        self._waiters[hold_id] = waiter
        self._lines.join(waiter)
        return ticket

    def _first(self, key: str) -> Waiter | None:
        """Who is first in line for a book, without those who can't hear any more."""
        while (first := self._lines.head(key)) is not None and first.gone and first.answer is None:
            self._dismiss(first, self._short_of_the_gone(first))
        return first

    def _short_of(self, waiter: Waiter) -> Short:
        return self._short(waiter.claims, self._now(waiter.now_s), waiter)

    def _short_of_the_gone(self, waiter: Waiter) -> Short:
        claims = tuple(waiter.claims)
        nothing = (0,) * len(claims)
        return Short(claims, claims[0], self._state(claims[0], self._now(waiter.now_s)), False, nothing, nothing)

    def _someone_before(self, claims: Sequence[Claim]) -> bool:
        return any(stands_in_line(claim) and self._first(claim.key) is not None for claim in claims)

    def _grant(self, grant: Grant) -> None:
        self._recheck.update(dict.fromkeys(self._lines.keys()))
        self._books.grants.add(grant)
        self._books.grants.forget_ended(self.time_s())

    def _serve(self, key: str) -> None:
        """Look at the line of a book: refuse who is spent out, grant who is first and fits."""
        posted = self._books.books.get(key, UNSEEN).posted - self._books.grants.on(key, self._now())
        for waiter in self._lines.spent_out(key, posted):
            self._dismiss(waiter, self._short_of(waiter))
        while (first := self._first(key)) is not None:
            if first.answer is None:
                if not self._lines.heads_all(first):
                    break
                now_s = self._now(first.now_s)
                answer = self._books.admit(first.hold_id, first.claims, now_s, first)
                if answer is None:
                    short = self._short(first.claims, now_s, first)
                    if not short.spent_out:
                        break
                    first.answer = short
            self._dismiss(first, first.answer)
        self._recheck.pop(key, None)

    def _dismiss(self, waiter: Waiter, answer: Held | Short | None) -> None:
        """Take a waiter out of line with its answer; those behind are looked at again. Can be done twice."""
        waiter.answer = waiter.answer or answer
        self._recheck.update(dict.fromkeys(waiter.excess))
        heard = waiter.wake()  # before it is out of line, where an interrupted verb would find it again
        self._lines.leave(waiter)
        self._waiters.pop(waiter.hold_id, None)
        if not heard and not waiter.taken:
            self._books.release(waiter.hold_id)
            waiter.answer = self._short_of_the_gone(waiter)

    @in_turn
    def take(self, waiter: Waiter) -> Held | Short:
        """The answer to a waiter whose waiting is over; for tickets."""
        return self._answer("", self._take, waiter)

    def _take(self, waiter: Waiter) -> Held | Short:
        if waiter.answer is None:
            self._dismiss(waiter, self._short_of(waiter))
        assert waiter.answer is not None  # noqa: S101 - for the type checkers
        waiter.taken = True
        return waiter.answer

    def withdraw(self, waiter: Waiter) -> None:
        """Undo a waiter, and the hold that may have been made for it meanwhile; for tickets."""
        self._do(waiter, self._withdraw, waiter)

    def _withdraw(self, waiter: Waiter) -> None:
        if isinstance(waiter.answer, Held):
            self._books.release(waiter.hold_id)
            waiter.answer = self._short_of_the_gone(waiter)  # so that it is not released once more
        self._dismiss(waiter, self._short_of_the_gone(waiter))

    def _after_fork(self) -> None:
        self._start_afresh()
        self._waiters.clear()
        self._books.forget_holds()


_stores: weakref.WeakSet[MemoryStore] = weakref.WeakSet()


each_in_child(_stores, lambda store: store._after_fork())
