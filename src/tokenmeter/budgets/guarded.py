"""A store that may be gone for a while: what its budgets say happens then, and what is spent is told it later.

`GuardedStore` stands around a store that lasts. While the store answers, each verb goes there. While it doesn't:

- a call is held if each of its budgets allows it: ``on_store_error`` is ``"closed"`` (no call passes: the store's
  error comes out), ``"open"`` (every call passes) or ``"local"`` (up to ``local_limit`` in this process, until the
  store has been told all);
- what is settled, posted or released goes to the `Journal`, and a thread tells it to the store when that is back.
  These verbs never raise `StoreUnavailable`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from tokenmeter.budgets.breaker import NotAsked
from tokenmeter.budgets.journal import Journal
from tokenmeter.budgets.journal_lines import Draw, Undo, Write, posting
from tokenmeter.budgets.limit import MAX_AMOUNT
from tokenmeter.budgets.memory import MemoryStore
from tokenmeter.budgets.memory_books import check
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Drawn, Entry, Held, Note, Settled, Short, State, Store, Ticket, in_use
from tokenmeter.budgets.telling import Telling
from tokenmeter.errors import StoreUnavailable

_Answer = TypeVar("_Answer", Held | Short, Held | Short | Ticket)


class _Call:
    """A call under way. ``alone``: the books it is held in because the store was gone."""

    __slots__ = ("alone", "claims", "in_journal", "note", "states", "uncertain")

    def __init__(self, claims: Sequence[Claim], note: Note | None) -> None:
        self.claims = claims
        self.note = note
        self.states: tuple[State, ...] | None = None  # None as long as it is not held
        self.alone: MemoryStore | None = None
        self.uncertain = False  # the store may have the hold although it didn't say so
        self.in_journal = False


class GuardedStore(Telling):
    """A store behind a circuit breaker and before a journal: the verbs of a call.

    What ``settle`` and ``post`` return while the store is gone is reckoned from what was known at the hold.
    """

    def __init__(self, inner: Store, journal: Journal, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls: dict[str, _Call] = {}
        self._alone = MemoryStore()
        super().__init__(inner, journal, clock=clock)

    # -- the verbs that a call needs

    def hold(self, hold_id: str, claims: Sequence[Claim], now_s: float, note: Note | None = None) -> Held | Short:
        """Hold all claims or none; without the store, as the budgets say."""
        call = self._begin(hold_id, claims, note)
        answer = self._ask(hold_id, call, lambda store, claims: store.hold(hold_id, claims, now_s, note))
        return self._answered(hold_id, call, answer)

    def queue(
        self, hold_id: str, claims: Sequence[Claim], now_s: float, note: Note | None = None
    ) -> Held | Short | Ticket:
        """Like ``hold``, or a ticket."""
        call = self._begin(hold_id, claims, note)
        answer = self._ask(hold_id, call, lambda store, claims: store.queue(hold_id, claims, now_s, note))
        if isinstance(answer, Held | Short):
            return self._answered(hold_id, call, answer)
        return _GuardedTicket(self, hold_id, call, answer, now_s)

    def sent(self, hold_id: str) -> bool:
        """Note that the request goes out now; without the store, in the journal."""
        call = self._calls.get(hold_id)
        if call is not None and call.alone is not None:
            self._note_sent(hold_id, call)
            return True
        try:
            stands = self.through.sent(hold_id)
        except StoreUnavailable:
            if call is not None:
                self._note_sent(hold_id, call)
            return True
        if not stands:
            self._calls.pop(hold_id, None)
        return stands

    def settle(self, hold_id: str, amounts: Sequence[int], row: bytes = b"") -> Settled | None:
        """Charge a hold and end it, now or when the store is back; also one that the store has lost."""
        call = self._calls.get(hold_id)
        if call is None or call.states is None:
            try:
                return self.through.settle(hold_id, amounts, row)
            except StoreUnavailable:
                return None
        check(call.claims, amounts)
        if call.alone is not None:
            self._post_later(hold_id, call.claims, amounts, row)
            ended = call.alone.settle(hold_id, amounts)
            self._calls.pop(hold_id, None)
            return None if ended is None else _reckoned(call, amounts)
        settled: Settled | None
        try:
            settled = self.through.settle(hold_id, amounts, row)
            if settled is None:
                settled = self.through.post(hold_id, call.claims, amounts, row)
        except StoreUnavailable:
            self._post_later(hold_id, call.claims, amounts, row)
            return None if self._calls.pop(hold_id, None) is None else _reckoned(call, amounts)
        self._ended(hold_id, call)
        return settled

    def release(self, hold_id: str) -> bool:
        """Give a hold back, now or when the store is there again."""
        call = self._calls.get(hold_id)
        if call is None:
            try:
                return self.through.release(hold_id)
            except StoreUnavailable:
                return False
        released = call.states is not None
        later = call.uncertain
        if call.alone is not None:
            released = call.alone.release(hold_id)
        elif not (later and self.breaker.open):
            try:
                released = self.through.release(hold_id)
                later = False
            except StoreUnavailable as error:
                later = later or released or not isinstance(error, NotAsked)
        if later:
            self._undo_later(hold_id, call)
            self._calls.pop(hold_id, None)
        else:
            self._ended(hold_id, call)
        return released

    def adjust(self, hold_id: str, amounts: Sequence[int]) -> Held | Short:
        """Change what a hold holds; without the store, less always, and more as the budgets say."""
        call = self._calls.get(hold_id)
        if call is None or call.states is None:
            return self.through.adjust(hold_id, amounts)
        check(call.claims, amounts)
        claims = [claim._replace(amount=amount) for claim, amount in zip(call.claims, amounts, strict=True)]
        if call.alone is not None:
            answer = call.alone.adjust(hold_id, amounts)
        else:
            try:
                answer = self.through.adjust(hold_id, amounts)
            except StoreUnavailable as error:
                if not _grown(call.claims, claims):
                    return Held(call.states, ())  # the settle will tell
                answer = self._enlarge_alone(hold_id, call.claims, claims, error)
                if isinstance(answer, Held):
                    call.alone, call.uncertain = self._alone, True
        if isinstance(answer, Held):
            call.claims, call.states = claims, answer.states
        return answer

    def take_over(
        self, hold_id: str, old: Sequence[Claim], claims: Sequence[Claim], note: Note | None, error: StoreUnavailable
    ) -> Held | Short:
        """Hold what was leased until now and can't be enlarged in the store, which is gone; as the budgets say."""
        answer = self._enlarge_alone(hold_id, old, claims, error)
        if isinstance(answer, Held):
            call = _Call(claims, note)
            call.states, call.alone = answer.states, self._alone
            self._calls[hold_id] = call
        return answer

    def post(self, entry_id: str, claims: Sequence[Claim], amounts: Sequence[int], row: bytes = b"") -> Settled | None:
        """Charge what was spent, now or when the store is back."""
        check(claims, amounts)
        try:
            settled = self.through.post(entry_id, claims, amounts, row)
        except StoreUnavailable:
            self._post_later(entry_id, claims, amounts, row)
            states = [State(amount, 0, claim.limit) for claim, amount in zip(claims, amounts, strict=True)]
            settled = Settled(tuple(states), tuple(amounts))
        self._calls.pop(entry_id, None)
        return settled

    def draw(self, hold_ids: Sequence[str], entries: Sequence[Entry]) -> tuple[Drawn, ...]:
        """Charge entries out of holds, now or when the store is back."""
        try:
            return self.through.draw(hold_ids, entries)
        except StoreUnavailable:
            for entry in entries:
                self.journal.put(Draw(entry.id, tuple(hold_ids), entry.charges, entry.row))
            self._rounds.ring()
            return ()

    def write(self, entries: Sequence[Entry]) -> None:
        """Write rows that charge nothing, now or when the store is back."""
        try:
            self.through.write(entries)
        except StoreUnavailable:
            for entry in entries:
                before = self.journal.get(entry.id)
                # The id is that of the call, whose hold may still have to be given back.
                undo = isinstance(before, Undo) and Undo(before.id, before.claims, entry.row)
                self.journal.put(undo or Write(entry.id, entry.row))
            self._rounds.ring()

    # -- inside

    def _begin(self, hold_id: str, claims: Sequence[Claim], note: Note | None) -> _Call:
        """Note a call before its hold is made: an interrupt right after the making must find it."""
        self._rounds.start()
        before = self._calls.get(hold_id)
        if before is not None and before.states is not None:
            raise in_use(hold_id)
        call = _Call(claims, note)
        call.uncertain = isinstance(self.journal.get(hold_id), Undo) if before is None else before.uncertain
        self._calls[hold_id] = call
        return call

    def _ask(self, hold_id: str, call: _Call, ask: Callable[[Store, Sequence[Claim]], _Answer]) -> _Answer:
        """Ask the store for a hold; without it, the books in memory."""
        try:
            if call.uncertain:  # what an earlier try with the same id may have left must go before the next, not after
                self._undoing.run(self._undo_now, hold_id)  # not for as long as all is told that waits
                call.uncertain = False
            return ask(self.through, call.claims)
        except StoreUnavailable as error:
            return self._ask_alone(hold_id, call, ask, error)
        except Exception:
            self._calls.pop(hold_id, None)
            raise

    def _ask_alone(
        self,
        hold_id: str,
        call: _Call,
        ask: Callable[[Store, Sequence[Claim]], _Answer],
        error: StoreUnavailable,
    ) -> _Answer:
        """Ask the books in memory, if the budgets let the call pass without the store."""
        if not isinstance(error, NotAsked):
            call.uncertain = True
        try:
            self._must_allow(call.claims, error)
        except StoreUnavailable:
            if not call.uncertain:
                self._calls.pop(hold_id, None)  # there is nothing to release
            raise
        call.alone = self._alone
        return ask(call.alone, _limited(call.claims))

    def _undo_now(self, hold_id: str) -> None:
        self.through.release(hold_id)
        self.journal.forget(hold_id)

    def _answered(self, hold_id: str, call: _Call, answer: Held | Short) -> Held | Short:
        if isinstance(answer, Held):
            call.states = answer.states
        elif call.uncertain:
            self._undo_later(hold_id, call)
            self._calls.pop(hold_id, None)
        else:
            self._calls.pop(hold_id, None)
        return answer

    def _ended(self, hold_id: str, call: _Call) -> None:
        self._calls.pop(hold_id, None)
        if call.in_journal:
            self.journal.forget(hold_id)

    def _must_allow(self, claims: Sequence[Claim], error: StoreUnavailable) -> None:
        for claim in claims:
            if claim.budget.per == "call":
                continue  # it has no books that could be gone
            if claim.enforce and claim.budget.on_store_error == "closed":
                raise StoreUnavailable(
                    f"budget {claim.budget.name!r} ({claim.scope}) lets no call pass while its store is gone: {error}. "
                    "Bring the store back, or give the budget on_store_error='local' or 'open'."
                ) from error
        if self.journal.full:
            raise StoreUnavailable(
                f"the store is gone, and the journal in {self.journal.directory} is full of what it must be told: "
                f"{error}. Bring the store back."
            ) from error

    def _enlarge_alone(
        self, hold_id: str, old: Sequence[Claim], claims: Sequence[Claim], error: StoreUnavailable
    ) -> Held | Short:
        self._must_allow(_grown(old, claims), error)
        return self._alone.hold(hold_id, _limited(claims), self._alone.time_s())

    def _note_sent(self, hold_id: str, call: _Call) -> None:
        row = call.note() if call.note is not None else b""
        call.in_journal = True
        self.journal.put(posting(hold_id, call.claims, [claim.amount for claim in call.claims], row, final=False))

    def _post_later(self, entry_id: str, claims: Sequence[Claim], amounts: Sequence[int], row: bytes) -> None:
        self.journal.put(posting(entry_id, claims, amounts, row))
        self._rounds.ring()

    def _undo_later(self, hold_id: str, call: _Call) -> None:
        before = self.journal.get(hold_id)
        self.journal.put(Undo(hold_id, len(call.claims), before.row if isinstance(before, Write) else b""))
        self._rounds.ring()

    def _is_all_told(self) -> None:
        """Where the outage is over for every call, the next one has a local limit of its own."""
        if not any(call.alone is self._alone for call in list(self._calls.values())):
            self._alone = MemoryStore()

    def _after_fork(self) -> None:
        """In a forked child: the holds are the parent's, too."""
        super()._after_fork()
        self._calls.clear()
        self._alone = MemoryStore()


class _GuardedTicket:
    """A place in the queue of a store that may go meanwhile."""

    __slots__ = ("_call", "_done", "_guard", "_hold_id", "_now_s", "_ticket")

    def __init__(self, guard: GuardedStore, hold_id: str, call: _Call, ticket: Ticket, now_s: float) -> None:
        self._guard = guard
        self._hold_id = hold_id
        self._call = call
        self._ticket = ticket
        self._now_s = now_s
        self._done = False

    def wait(self, timeout_s: float) -> Held | Short:
        """Wait on this thread."""
        self._done = True
        try:
            answer = self._ticket.wait(timeout_s)
        except StoreUnavailable as error:
            answer = self._without(error)
        return self._guard._answered(self._hold_id, self._call, answer)

    async def wait_async(self, timeout_s: float) -> Held | Short:
        """Wait as a task of asyncio."""
        self._done = True
        try:
            answer = await self._ticket.wait_async(timeout_s)
        except StoreUnavailable as error:
            answer = self._without(error)
        return self._guard._answered(self._hold_id, self._call, answer)

    def _without(self, error: StoreUnavailable) -> Held | Short:
        return self._guard._ask_alone(
            self._hold_id, self._call, lambda books, claims: books.hold(self._hold_id, claims, self._now_s), error
        )

    def __del__(self) -> None:
        if not getattr(self, "_done", True):  # where its making was interrupted, it stands in no line
            self._guard._calls.pop(self._hold_id, None)


def _grown(old: Sequence[Claim], claims: Sequence[Claim]) -> list[Claim]:
    return [claim for claim, before in zip(claims, old, strict=True) if claim.amount > before.amount]


def _limited(claims: Sequence[Claim]) -> list[Claim]:
    """The claims with the limits that are in force without the store."""
    found = []
    for claim in claims:
        if claim.budget.per == "call":
            found.append(claim)
        elif claim.enforce and claim.budget.on_store_error == "local":
            found.append(claim._replace(limit=claim.budget.local_limit_amount or 0))
        else:
            found.append(claim._replace(limit=MAX_AMOUNT))
    return found


def _reckoned(call: _Call, amounts: Sequence[int]) -> Settled:
    states = []
    for claim, state, amount in zip(call.claims, call.states or (), amounts, strict=True):
        held = 0 if claim.budget.per == "call" else max(0, state.held - claim.amount)
        states.append(State(state.posted + amount, held, claim.limit))
    return Settled(tuple(states), tuple(amounts))
