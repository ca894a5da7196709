"""Leases: most calls are admitted without asking the store.

A process that uses a book often takes a slice of it in advance: an ordinary hold in the store, whose id starts with
``lease:`` and which counts as sent. Its calls are admitted from the slice, and what they spend is drawn from it a few
dozen at a time. Slices shrink with the book, and near the limit each call has a hold of its own in the store. What is
not used goes back: after a quarter of a second without use, as soon as the book has nothing left for others, and
before a call is refused.

A process that dies leaves its slices charged whole, by the store's recovery. What it sent and what it settled stands
in its journal; whoever finds that on the same machine draws it, and gives the rest of the slices back.

    lease_sums    what is free in the slices and what calls take, in memory
    lease_slices  what is asked of the store and given back
    lease_draws   what was spent, told to the store
    leases        the store that puts them together, and its thread
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence

from tokenmeter.budgets.breaker import Through
from tokenmeter.budgets.guarded import GuardedStore
from tokenmeter.budgets.journal_lines import Draw
from tokenmeter.budgets.lease_draws import Draws
from tokenmeter.budgets.lease_slices import IDLE_S, PATIENCE_S, Slices
from tokenmeter.budgets.lease_sums import Call, LeaseSums
from tokenmeter.budgets.memory_books import check
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Book, Entry, Held, Note, Settled, Short, State, Ticket
from tokenmeter.ending import TIMEOUT_S, at_end
from tokenmeter.errors import StoreUnavailable
from tokenmeter.faults import swallow
from tokenmeter.forks import each_in_child
from tokenmeter.rounds import Rounds
from tokenmeter.turn import Turn

TICK_S = 0.05  # how long what was spent waits to be drawn
DRAW_AT = 64  # or so many calls
_SLEEP_S = 15.0


class LeasedStore(Through):
    """A store most of whose calls are admitted from slices of the books that this process took in advance.

    ``guard`` is the store, whose journal is that of the leases too. ``clock`` is monotonic, in seconds. What a leased
    call spent changes the books when it is drawn: ``on_drawn`` hears of it then, with a claim for each book that is
    told.
    """

    on_drawn: Callable[[Sequence[Claim], Settled], object] | None = None
    patience_s = 2 * IDLE_S  # after so long, what other processes have leased and don't use is back

    def __init__(self, guard: GuardedStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(guard)
        self.instant = False
        self.guard = guard
        self.journal = guard.journal
        self._clock = clock
        self._sums = LeaseSums()
        self._slices = Slices(guard.through, guard.journal, self._sums, clock)
        self._draws = Draws(guard.through, guard.journal, self._sums, self._slices.heard)
        self._start_afresh()
        _stores.add(self)

    def _start_afresh(self) -> None:
        self._rounds = Rounds(self._round, name="leases", doing="tending leases", first_s=TICK_S)
        self._asleep = True
        self._rung = False
        self._drawing = Turn()
        self._ending = False  # nothing more is leased
        self._closed = False

    # -- the verbs of a call

    def try_hold(self, hold_id: str, claims: Sequence[Claim], note: Note | None = None) -> Held | None:
        """Hold all claims from leases, without waiting for anything; None if that can't be done."""
        slices, sums = self._slices, self._sums
        if slices.out or (slices.waiting and slices.waited_for(claims)):
            return None
        answer = sums.take(hold_id, claims, note, self._clock())
        if sums.low:
            sums.low = False
            self._wake()
        return answer

    def hold(self, hold_id: str, claims: Sequence[Claim], now_s: float, note: Note | None = None) -> Held | Short:
        """Hold all claims from leases, or all of them in the store."""
        answer = self.try_hold(hold_id, claims, note)
        if answer is not None:
            return answer
        slices = self._slices
        slices.now_s = now_s
        if not self._ending and slices.provide(claims):
            self._rounds.start()
            answer = self.try_hold(hold_id, claims, note)
            if answer is not None:
                return answer
        found = self.guard.hold(hold_id, claims, now_s, note)
        if isinstance(found, Short) and slices.give_back(claims):
            found = self.guard.hold(hold_id, claims, now_s, note)
        slices.learn(claims, found)
        return found

    def queue(
        self, hold_id: str, claims: Sequence[Claim], now_s: float, note: Note | None = None
    ) -> Held | Short | Ticket:
        """Like ``hold``; what was leased and is free goes back before anybody waits for it."""
        answer = self.try_hold(hold_id, claims, note)
        if answer is not None:
            return answer
        self._slices.give_back(claims)
        found = self.guard.queue(hold_id, claims, now_s, note)
        if isinstance(found, Held | Short):
            self._slices.learn(claims, found)
            return found
        return _LeasedTicket(self, found, tuple([claim.key for claim in claims]))

    def sent(self, hold_id: str) -> bool:
        """Note that the request goes out now; for a leased call, in the journal."""
        return self.try_sent(hold_id) or self.guard.sent(hold_id)

    def try_sent(self, hold_id: str) -> bool:
        """The same for a leased call, without waiting for the store; False for any other."""
        call = self._sums.calls.get(hold_id)
        if call is None:
            return False
        call.in_journal = True
        amounts = [claim.amount for claim in call.claims]
        self.journal.put(_line(hold_id, call, amounts, call.note() if call.note is not None else b""))
        return True

    def settle(self, hold_id: str, amounts: Sequence[int], row: bytes = b"") -> Settled | None:
        """Charge a hold and end it; a leased one is drawn within a twentieth of a second."""
        sums = self._sums
        call = sums.calls.get(hold_id)
        if call is None:
            return self.guard.settle(hold_id, amounts, row)
        check(call.claims, amounts)
        draw = _line(hold_id, call, amounts, row)
        self.journal.put(draw)
        settled = sums.settle(call, draw, amounts)
        if self._ending:
            self._end_late()
        elif self._asleep or self._slices.waiting or (len(sums.undrawn) >= DRAW_AT and not self._rung):
            self._wake()
        return settled

    def release(self, hold_id: str) -> bool:
        """Give a hold back."""
        call = self._sums.calls.get(hold_id)
        if call is None:
            return self.guard.release(hold_id)
        if call.in_journal:
            self.journal.forget(hold_id)
        released = self._sums.release(hold_id)
        if self._ending:
            self._end_late()
        elif self._asleep or self._slices.waiting:
            self._wake()
        return released

    def adjust(self, hold_id: str, amounts: Sequence[int]) -> Held | Short:
        """Change what a hold holds; a leased one within its leases, which are enlarged if they can be."""
        sums = self._sums
        call = sums.calls.get(hold_id)
        if call is None:
            return self.guard.adjust(hold_id, amounts)
        check(call.claims, amounts)
        claims = [claim._replace(amount=amount) for claim, amount in zip(call.claims, amounts, strict=True)]
        answer = sums.adjust(hold_id, claims)
        if answer is None:
            for claim, old, lease_id in zip(claims, call.claims, call.leases, strict=True):
                if lease_id is not None and claim.amount > old.amount:
                    self._slices.stretch(lease_id, claim.amount - old.amount)
            answer = sums.adjust(hold_id, claims)
        if answer is not None:
            return answer
        try:
            return self._short(call.claims, claims)
        except StoreUnavailable as error:
            return self._grow_without(hold_id, call, claims, error)

    def post(self, entry_id: str, claims: Sequence[Claim], amounts: Sequence[int], row: bytes = b"") -> Settled | None:
        """Charge what was spent, once."""
        if entry_id in self._sums.calls:
            return self.settle(entry_id, amounts, row)
        if entry_id in self._sums.undrawn:
            return None
        return self.guard.post(entry_id, claims, amounts, row)

    # -- what is read, once the store knows what was spent here

    def read(self, keys: Iterable[str]) -> tuple[State, ...]:
        self._draw_all()
        return self.guard.read(keys)

    def books(self) -> list[Book]:
        self._draw_all()
        return self.guard.books()

    def entries(self, after: str = "") -> Iterator[tuple[str, Entry]]:
        self._draw_all()
        return self.guard.entries(after)

    # -- the end

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Tell the store all that was spent. False: the time was over first; the rest stands in the journal."""
        deadline_s = time.monotonic() + timeout_s
        while not self._draw_all() and time.monotonic() < deadline_s and not self.guard.breaker.shut:
            time.sleep(0.02)
        return self.guard.flush(max(0.0, deadline_s - time.monotonic())) and not self._sums.undrawn

    def close(self) -> None:
        """Draw what was spent, give the slices back, and close the store."""
        if self._closed:
            return
        until_s = time.monotonic() + TIMEOUT_S
        self._end(TIMEOUT_S)
        self._closed = True
        self._rounds.end(max(0.0, until_s - time.monotonic()))
        self.guard.close(max(0.0, until_s - time.monotonic()))

    # -- inside

    def _short(self, old: Sequence[Claim], claims: Sequence[Claim]) -> Short:
        """What keeps a hold from being enlarged."""
        keys = [claim.key for claim in claims if claim.budget.per != "call"]
        told = dict(zip(keys, self.guard.read(keys), strict=True))
        states: list[State] = []
        for before, claim in zip(old, claims, strict=True):
            posted, held, limit = told.get(claim.key, State(0, before.amount, claim.limit))
            states.append(State(posted, max(0, held - before.amount), limit))
        grown = [n for n, claim in enumerate(claims) if claim.enforce and claim.amount > old[n].amount] or [0]
        spent_out = [n for n in grown if claims[n].amount > states[n].limit - states[n].posted]
        held_back = [n for n in grown if claims[n].amount > states[n].left] or grown  # or others came in between
        first = (spent_out or held_back)[0]
        available = tuple([state.left for state in states])
        if_settled = tuple([state.limit - state.posted for state in states])
        return Short(tuple(claims), claims[first], states[first], bool(spent_out), available, if_settled)

    def _grow_without(self, hold_id: str, call: Call, claims: Sequence[Claim], error: StoreUnavailable) -> Held | Short:
        """Enlarge a hold while the store is gone, if its budgets allow it: the guard has it then, and no lease."""
        answer = self.guard.take_over(hold_id, call.claims, claims, call.note, error)
        if isinstance(answer, Held):
            if not self._sums.release(hold_id):  # another thread ended it meanwhile
                self.guard.release(hold_id)
                raise LookupError(f"no hold {hold_id!r} stands")
            if call.in_journal:
                self.guard.sent(hold_id)
        return answer

    def _draw_all(self, but: int = 0) -> bool:
        """Tell the store what was spent, until no more calls than that are left.

        False: it can't be reached, or another does it.
        """
        while len(self._sums.undrawn) > but:
            drawn = self._drawing.take(self._draws.draw, None, PATIENCE_S)
            if drawn is None:
                return False
            if self.on_drawn is not None and drawn[0]:
                try:
                    self.on_drawn(*drawn)
                except Exception as fault:  # noqa: BLE001 - what was drawn is drawn
                    swallow(fault, "telling what was drawn from leases")
        return True

    def _round(self) -> float:
        """What the thread does, and what those who spend go by, so as not to ring for each call."""
        self._asleep = self._rung = False
        next_s = self._tend()
        self._asleep = next_s > TICK_S
        return TICK_S if self._sums.undrawn else next_s

    def _tend(self) -> float:
        """Draw, enlarge in advance, give back. How long to sleep then."""
        undrawn = self._sums.undrawn
        if undrawn and self._draw_all(but=len(undrawn) - 1):
            self._draw_all(but=DRAW_AT - 1)  # not to the last: they come as fast as they go
        self._slices.look()
        self._slices.mind()
        slices = self._sums.all()
        if self._sums.undrawn or any(size or part.doubt or part.ending for part, (size, _, _) in slices):
            return TICK_S
        return IDLE_S if slices else _SLEEP_S

    def _wake(self) -> None:
        self._asleep = False
        self._rung = True
        self._rounds.ring()

    def _end(self, timeout_s: float) -> None:
        """Draw and give back all that can be; what ends later is drawn as it ends."""
        self._ending = True
        until_s = time.monotonic() + timeout_s
        self.flush(timeout_s)
        self._slices.end(until_s)

    def _end_late(self) -> None:
        if self._draw_all():
            self._slices.end(time.monotonic() + TIMEOUT_S)

    def _after_fork(self) -> None:
        """In a forked child: slices, calls and what was spent are the parent's."""
        self._sums.start_afresh()
        self._slices.start_afresh()
        self._start_afresh()


class _LeasedTicket:
    """A place in the queue of the store; meanwhile no call of this process is admitted from leases of its books."""

    __slots__ = ("__weakref__", "_key", "_ticket", "_waiting")

    def __init__(self, store: LeasedStore, ticket: Ticket, keys: tuple[str, ...]) -> None:
        self._ticket = ticket
        self._key = object()
        self._waiting = store._slices.waiting
        self._waiting[self._key] = keys
        store._wake()

    def wait(self, timeout_s: float) -> Held | Short:
        """Wait on this thread."""
        try:
            return self._ticket.wait(timeout_s)
        finally:
            self._waiting.pop(self._key, None)

    async def wait_async(self, timeout_s: float) -> Held | Short:
        """Wait as a task of asyncio."""
        try:
            return await self._ticket.wait_async(timeout_s)
        finally:
            self._waiting.pop(self._key, None)

    def __del__(self) -> None:
        if hasattr(self, "_waiting"):  # else its making was interrupted
            self._waiting.pop(self._key, None)


def _line(hold_id: str, call: Call, amounts: Sequence[int], row: bytes) -> Draw:
    """The journal's line for a leased call; this process tells it itself, as long as it lives."""
    holds: list[str] = []
    charges: list[tuple[str, int]] = []
    for claim, lease_id, amount in zip(call.claims, call.leases, amounts, strict=True):
        if lease_id is not None:
            holds.append(lease_id)
            charges.append((claim.key, amount))
    return Draw(hold_id, tuple(holds), tuple(charges), row, False)


_stores: weakref.WeakSet[LeasedStore] = weakref.WeakSet()


def _at_end(left_s: float) -> None:
    until_s = time.monotonic() + left_s
    for store in list(_stores):
        if not store._closed:
            store._end(max(0.0, until_s - time.monotonic()))


at_end(1, _at_end)  # before the store that it draws from
each_in_child(_stores, lambda store: store._after_fork())
