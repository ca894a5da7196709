"""The books in memory, for one process.

One lock guards them, and three things could get in its way, because Python may run other code between two
steps of a verb: a finalizer (the garbage collector closes an abandoned stream, which settles), a signal
handler, and the ``KeyboardInterrupt`` that it raises. So:

- The lock may be taken again by the thread that has it, and ``_busy`` tells that thread that it is in the
  middle of a verb. What must not wait (settle, release, post, leaving the line) is then put in
  ``_deferred`` and done by the interrupted verb at its end. What needs an answer (hold, queue, adjust)
  raises ``StoreUnavailable``.
- A verb computes aside and commits in a few statements without a call between them. CPython runs signal
  handlers and collects garbage only at calls, loops and allocations of containers: a verb is done or not,
  never half.
- What remains to be done after a commit (serving those who wait) stands in ``_recheck`` before it, and can
  be done twice; an interrupted verb leaves it to its own clean-up or to the next verb.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.shelf import Shelf
from tokenmeter.budgets.store import Held, Short, State, Ticket
from tokenmeter.budgets.ticket import MemoryTicket
from tokenmeter.budgets.waiting import Lines, Waiter, stands_in_line
from tokenmeter.errors import StoreUnavailable

_T = TypeVar("_T")
_Deferred = tuple[Callable[..., object], tuple[Any, ...]]
_NOBODY_WARNED: tuple[Claim, ...] = ()
_UNSEEN = State(0, 0, 0)


class MemoryStore:
    """Books in memory.

    Books of ended windows are dropped. Books of runs, which never end, are dropped when there are more than
    ``max_idle_runs``, and only idle ones. After a fork, the child goes on with what was spent and with no
    holds: those are the parent's.
    """

    def __init__(self, *, max_idle_runs: int = 100_000) -> None:
        self._books: dict[str, State] = {}
        self._holds: dict[str, Sequence[Claim]] = {}
        self._waiters: dict[str, Waiter] = {}
        self._lines = Lines()
        self._recheck: dict[str, None] = {}  # books whose line must be looked at, in order
        self._deferred: dict[object, _Deferred] = {}  # by what they end: a hold or a waiter
        self._busy: str | None = None  # in a verb; the id while one is settled, "" else
        self._lock = threading.RLock()
        self._shelf = Shelf(max_idle_runs)
        self._numbers = itertools.count()
        _stores.add(self)

    def hold(self, hold_id: str, claims: Sequence[Claim], now_s: float) -> Held | Short:
        """Hold all claims or none."""
        with self._lock:
            return self._answer("", self._hold, hold_id, claims, now_s)

    def queue(self, hold_id: str, claims: Sequence[Claim], now_s: float) -> Held | Short | Ticket:
        """Hold all claims, or get in line where only other calls stand in the way."""
        with self._lock:
            return self._answer("", self._queue, hold_id, claims, now_s)

    def settle(self, hold_id: str, amounts: Sequence[int]) -> bool:
        """Turn a hold into what was spent; True the first time only."""
        with self._lock:
            if self._busy is None:
                return self._answer(hold_id, self._settle, hold_id, amounts)
            claims = self._holds.get(hold_id)
            if claims is None:
                return False
            _check(claims, amounts)
            return self._defer(hold_id, self._settle, hold_id, amounts)

    def release(self, hold_id: str) -> bool:
        """Give a hold or a place in the line back; True the first time only."""
        with self._lock:
            if self._busy is None:
                return self._answer(hold_id, self._release, hold_id)
            if hold_id not in self._holds and hold_id not in self._waiters:
                return False
            return self._defer(hold_id, self._release, hold_id)

    def adjust(self, hold_id: str, amounts: Sequence[int]) -> Held | Short:
        """Change what a hold holds: less always, more if it is admissible."""
        with self._lock:
            return self._answer("", self._adjust, hold_id, amounts)

    def post(self, claims: Sequence[Claim], amounts: Sequence[int]) -> None:
        """Record what was spent without a hold."""
        _check(claims, amounts)
        # As the settling of a hold of nothing: so it is done once, whatever interrupts it.
        hold_id = f"\0post {next(self._numbers)}"
        with self._lock:
            self._holds[hold_id] = [claim._replace(amount=0) for claim in claims]
            self.settle(hold_id, amounts)

    def read(self, keys: Iterable[str]) -> tuple[State, ...]:
        """The books of these keys."""
        with self._lock:
            return tuple([self._books.get(key, _UNSEEN) for key in keys])

    def states(self) -> list[tuple[str, State]]:
        """Every book that is kept."""
        with self._lock:
            return list(self._books.items())

    def close(self) -> None:
        """Send those who wait away; the books stay readable."""
        for hold_id in list(self._waiters):
            self.release(hold_id)

    # -- one verb at a time; all below runs with the lock held and _busy set

    def _answer(self, busy: str, verb: Callable[..., _T], *args: Any) -> _T:
        if self._busy is not None:
            raise StoreUnavailable(
                "the budgets were asked by a finalizer or a signal handler that had interrupted them on the "
                "same thread; make the call elsewhere"
            )
        try:
            self._busy = busy
            return verb(*args)
        finally:
            self._busy = None
            if self._recheck or self._deferred:
                self._catch_up()

    def _catch_up(self) -> None:
        while self._recheck or self._deferred:
            try:
                self._busy = ""
                for ending in list(self._deferred):
                    verb, args = self._deferred[ending]
                    verb(*args)
                    del self._deferred[ending]  # only now: each of these verbs can be done twice
                if self._recheck:
                    self._serve(next(iter(self._recheck)))
            finally:
                self._busy = None

    def _defer(self, ending: object, verb: Callable[..., object], *args: Any) -> bool:
        """Leave a verb to the one that was interrupted. False when that, or another deferred one, ends the same."""
        deferred = (verb, args)
        # One step, so that a handler that interrupts this one finds it done or not done.
        return self._busy != ending and self._deferred.setdefault(ending, deferred) is deferred

    def _hold(self, hold_id: str, claims: Sequence[Claim], now_s: float) -> Held | Short:
        if hold_id in self._holds or hold_id in self._waiters:
            raise ValueError(f"hold id {hold_id!r} is in use; choose a fresh one for each call")
        if self._lines and self._someone_before(claims):
            return self._short(claims)
        return self._admit(hold_id, claims, now_s)

    def _admit(self, hold_id: str, claims: Sequence[Claim], now_s: float, waiter: Waiter | None = None) -> Held | Short:
        books = self._books
        changed: dict[str, State] = {}
        states: list[State] = []
        warned = _NOBODY_WARNED
        unseen = False
        for claim in claims:
            budget, key, _, amount, limit, _, enforce = claim
            book = books.get(key)
            if book is None:
                posted, held = 0, amount
                unseen = True
            else:
                posted, held, _ = book
                held += amount
            changed[key] = after = State(posted, held, limit)
            if budget.per == "call":
                after = State(0, amount, limit)
                posted, held = 0, amount
            if posted + held > limit or amount < 0:
                if amount < 0:
                    raise ValueError(f"a claim asks for zero or more, not {amount}")
                if enforce:
                    return self._short(claims, waiter)
                warned += (claim,)
            states.append(after)
        if len(changed) != len(claims):
            raise ValueError("two claims of one call have the same key")
        answer = Held(tuple(states), warned)
        if unseen:
            self._shelf.put(claims)
        if waiter is not None:
            waiter.answer = answer
        self._holds[hold_id] = claims
        books.update(changed)  # the commit, with what stands right above it
        if unseen and len(books) >= self._shelf.sweep_at:
            self._shelf.sweep(books, self._lines, now_s)
        return answer

    def _settle(self, hold_id: str, amounts: Sequence[int] | None) -> bool:
        claims = self._holds.get(hold_id)
        if claims is None:
            return False
        if amounts is None:
            amounts = (0,) * len(claims)
        if len(amounts) != len(claims):
            _check(claims, amounts)
        books = self._books
        changed: dict[str, State] = {}
        for claim, spent in zip(claims, amounts, strict=False):
            if spent < 0:
                _check(claims, amounts)
            key = claim.key
            book = books.get(key)
            if book is None:  # it was dropped while a hold of nothing stood
                self._shelf.put((claim,))
                book = State(0, claim.amount, claim.limit)
            changed[key] = State(book.posted + spent, book.held - claim.amount, book.limit)
        if self._lines:
            self._recheck.update(dict.fromkeys(changed))
        del self._holds[hold_id]
        books.update(changed)  # the commit, with what stands right above it
        return True

    def _release(self, hold_id: str) -> bool:
        waiter = self._waiters.get(hold_id)
        if waiter is None or waiter.answer is not None:
            return self._settle(hold_id, None)
        self._dismiss(waiter, self._short(waiter.claims, waiter))
        return True

    def _adjust(self, hold_id: str, amounts: Sequence[int]) -> Held | Short:
        old = self._holds.get(hold_id)
        if old is None:
            raise LookupError(f"no hold {hold_id!r} stands")
        _check(old, amounts)
        new = [claim._replace(amount=amount) for claim, amount in zip(old, amounts, strict=True)]
        changed: dict[str, State] = {}
        states: list[State] = []
        warned: list[Claim] = []
        for before, claim in zip(old, new, strict=True):
            book = self._books.get(claim.key) or State(0, before.amount, claim.limit)
            grown = claim.amount > before.amount
            changed[claim.key] = after = State(book.posted, book.held - before.amount + claim.amount, claim.limit)
            if claim.budget.per == "call":
                after = State(0, claim.amount, claim.limit)
            if after.posted + after.held > claim.limit:
                if grown and claim.enforce:
                    return self._short(new, own=old)
                if not claim.enforce:
                    warned.append(claim)
            if grown and stands_in_line(claim) and self._first(claim.key) is not None:
                return self._short(new, own=old)
            states.append(after)
        answer = Held(tuple(states), tuple(warned))
        self._shelf.put(new)
        if self._lines:
            self._recheck.update(dict.fromkeys(changed))
        self._holds[hold_id] = new
        self._books.update(changed)  # the commit, with what stands right above it
        return answer

    def _short(
        self, claims: Sequence[Claim], waiter: Waiter | None = None, own: Sequence[Claim] | None = None
    ) -> Short:
        """What keeps these claims from being held; ``own`` is what the caller holds already."""
        held_back: tuple[Claim, State] | None = None
        spent_out: tuple[Claim, State] | None = None
        available: list[int] = []
        if_settled: list[int] = []
        for number, claim in enumerate(claims):
            if claim.budget.per == "call":
                state = State(0, 0, claim.limit)
            else:
                posted, held, _ = self._books.get(claim.key, _UNSEEN)
                state = State(posted, held - (own[number].amount if own else 0), claim.limit)
            first = self._first(claim.key) if stands_in_line(claim) else None
            behind = first is not None and first is not waiter
            available.append(0 if behind else state.left)
            if_settled.append(claim.limit - state.posted)
            if claim.enforce and claim.amount > claim.limit - state.posted:
                spent_out = spent_out or (claim, state)
            elif claim.enforce and (behind or claim.amount > claim.limit - state.posted - state.held):
                held_back = held_back or (claim, state)
        # A caller that leaves the line of its own will may have nothing in its way.
        claim, state = spent_out or held_back or next((c, self._state(c)) for c in claims if c.enforce)
        return Short(tuple(claims), claim, state, spent_out is not None, tuple(available), tuple(if_settled))

    def _state(self, claim: Claim) -> State:
        posted, held, _ = self._books.get(claim.key, _UNSEEN)
        return State(posted, held, claim.limit)

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

    def _short_of_the_gone(self, waiter: Waiter) -> Short:
        claims = tuple(waiter.claims)
        nothing = (0,) * len(claims)
        return Short(claims, claims[0], self._state(claims[0]), False, nothing, nothing)

    def _someone_before(self, claims: Sequence[Claim]) -> bool:
        return any(stands_in_line(claim) and self._first(claim.key) is not None for claim in claims)

    def _serve(self, key: str) -> None:
        """Look at the line of a book: refuse who is spent out, grant who is first and fits."""
        for waiter in self._lines.spent_out(key, self._books.get(key, _UNSEEN).posted):
            self._dismiss(waiter, self._short(waiter.claims, waiter))
        while (first := self._first(key)) is not None:
            if first.answer is None:
                if not self._lines.heads_all(first):
                    break
                answer = self._admit(first.hold_id, first.claims, first.now_s, first)
                if isinstance(answer, Short) and not answer.spent_out:
                    break
                first.answer = answer
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
            self._settle(waiter.hold_id, None)
            waiter.answer = self._short_of_the_gone(waiter)

    def take(self, waiter: Waiter) -> Held | Short:
        """The answer to a waiter whose waiting is over; for tickets."""
        with self._lock:
            return self._answer("", self._take, waiter)

    def _take(self, waiter: Waiter) -> Held | Short:
        if waiter.answer is None:
            self._dismiss(waiter, self._short(waiter.claims, waiter))
        assert waiter.answer is not None  # noqa: S101 - for the type checkers
        waiter.taken = True
        return waiter.answer

    def withdraw(self, waiter: Waiter) -> None:
        """Undo a waiter, and the hold that may have been made for it meanwhile; for tickets."""
        with self._lock:
            if self._busy is None:
                self._answer("", self._withdraw, waiter)
            else:
                self._defer(waiter, self._withdraw, waiter)

    def _withdraw(self, waiter: Waiter) -> None:
        if isinstance(waiter.answer, Held):
            self._settle(waiter.hold_id, None)
            waiter.answer = self._short_of_the_gone(waiter)  # so that it is not released once more
        self._dismiss(waiter, self._short_of_the_gone(waiter))

    def _after_fork(self) -> None:
        # Threads that waited or had the lock are not in the child. Each commit is whole: so are the books.
        self._lock = threading.RLock()
        self._busy = None
        self._holds.clear()
        self._waiters.clear()
        self._lines = Lines()
        self._recheck.clear()
        self._deferred.clear()
        for key, book in list(self._books.items()):
            self._books[key] = book._replace(held=0)


def _check(claims: Sequence[Claim], amounts: Sequence[int]) -> None:
    if len(amounts) != len(claims):
        raise ValueError(f"{len(claims)} claims need as many amounts, not {len(amounts)}")
    if any(amount < 0 for amount in amounts):
        raise ValueError(f"amounts are zero or more: {tuple(amounts)}")


_stores: weakref.WeakSet[MemoryStore] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_stores):
        store._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
