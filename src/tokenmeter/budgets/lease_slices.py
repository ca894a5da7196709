"""What this process has leased: how much it asks the store for, and what it gives back.

A slice is at most an eighth of what its book has left, so that slices shrink with the book. One is worth having for
a few calls at least; what a call needs beyond that is its own affair.
"""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial

from tokenmeter.budgets.journal import Journal
from tokenmeter.budgets.journal_lines import Lease
from tokenmeter.budgets.lease_sums import FIRST_CALLS, LeaseSums, Slice
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Held, Short, State, Store
from tokenmeter.errors import StoreUnavailable

IDLE_S = 0.25  # unused so long, a slice goes back
SHARE = 8  # a slice is at most this part of what is left
MOST_CALLS = 4096
FEWEST_CALLS = 4  # a slice for fewer is not worth having
PATIENCE_S = 0.05  # how long a call waits for another that speaks with the store about the same slice
_GONE_AFTER_S = 5.0  # an empty slice that nobody used so long is ended
_MAX_SLICES = 1024
_MAX_SEEN = 4096


class Slices:
    """The slices of a process, and its errands to the store about them.

    ``store`` raises `StoreUnavailable` where it can't be reached; ``out`` tells whether it did the last time.
    Whoever speaks with the store about a slice has its ``io`` meanwhile.
    """

    def __init__(self, store: Store, journal: Journal, sums: LeaseSums, clock: Callable[[], float]) -> None:
        self._store = store
        self._journal = journal
        self._sums = sums
        self._clock = clock
        self.start_afresh()

    def start_afresh(self) -> None:
        """At first, and in a forked child."""
        self._name = f"lease:{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._numbers = itertools.count(1)
        self._seen: dict[str, tuple[float, State]] = {}  # books without a slice: last used, and how they stood
        self.waiting: dict[object, tuple[str, ...]] = {}  # who waits in the store's queue, and for which books
        self.out = False
        self.now_s = 0.0  # what the last caller said

    def heard(self, answers: bool) -> None:
        """The store was spoken with elsewhere, and answers or not."""
        self.out = not answers

    # -- before a call

    def waited_for(self, claims: Sequence[Claim]) -> bool:
        """Whether somebody of this process waits for one of these books."""
        if not self.waiting:
            return False
        keys = {key for keys in list(self.waiting.values()) for key in keys}
        return any(claim.key in keys for claim in claims)

    def provide(self, claims: Sequence[Claim]) -> bool:
        """Take or enlarge the slices that these claims lack. False: better ask the store for this call alone."""
        if self.out or self.waited_for(claims):
            return False
        lacking = []
        for claim in claims:
            if claim.budget.per == "call":
                if claim.enforce and claim.amount > claim.limit:
                    return False
                continue
            part = self._of(claim)
            if part is None or self._sums.free(part) < claim.amount:
                if self._room(claim) < FEWEST_CALLS * claim.amount:
                    return False
                lacking.append(claim)
        return bool(lacking) and all(self._provide(claim) for claim in lacking)

    def stretch(self, lease_id: str, by: int) -> None:
        """Try to have that much free in a slice."""
        part = self._sums.by_id[lease_id]
        part.io.take(lambda: self._enlarge(part, by - self._sums.free(part)), False, PATIENCE_S)

    def give_back(self, claims: Sequence[Claim]) -> bool:
        """Give back what is free in the slices of these books. Whether there was something."""
        gave = False
        for claim in claims:
            part = self._sums.by_book.get(claim.key)
            if part is not None and self._sums.free(part) > 0:
                gave = part.io.take(partial(self._lessen, part), False, PATIENCE_S) or gave
        return gave

    def learn(self, claims: Sequence[Claim], answer: Held | Short) -> None:
        """Note how the books stand, and that they are used."""
        self.out = False
        at_s = self._clock()
        if len(self._seen) >= _MAX_SEEN:
            self._seen.clear()
        if isinstance(answer, Held):
            states = answer.states
        else:
            states = tuple([_told(*each) for each in zip(claims, answer.available, answer.if_settled, strict=True)])
        for claim, state in zip(claims, states, strict=True):
            part = self._sums.by_book.get(claim.key)
            if part is not None:
                part.state, part.told_s = state, at_s
            elif claim.budget.per != "call":
                self._seen[claim.key] = at_s, state

    # -- from time to time

    def look(self) -> None:
        """See how the books stand that have something free here, and that were not spoken of lately."""
        at_s = self._clock()
        stale = [
            part
            for part, (size, under_way, undrawn) in self._sums.all()
            if size - under_way - undrawn > 0 and at_s - part.told_s > IDLE_S and at_s - part.used_s <= IDLE_S
        ]
        if not stale:
            return
        try:
            states = self._store.read([part.claim.key for part in stale])
        except StoreUnavailable:
            self.out = True
            return
        for part, state in zip(stale, states, strict=True):
            part.state, part.told_s = state, at_s

    def mind(self) -> None:
        """Enlarge what runs low, give back what is not used."""
        for part in list(self._sums.by_id.values()):
            part.io.take(partial(self._mind, part), None)

    def end(self, until_s: float) -> None:
        """Give back all that no call is under way on; no more when the store can't be reached or the time is over."""
        self.out = False
        for part in list(self._sums.by_id.values()):
            if self.out or time.monotonic() > until_s:
                return
            part.io.take(partial(self._end, part), None, PATIENCE_S)

    # -- one slice; with its ``io`` held where it says so

    def _of(self, claim: Claim) -> Slice | None:
        part = self._sums.by_book.get(claim.key)
        return part if part is not None and part.claim.limit == claim.limit else None

    def _room(self, claim: Claim) -> int:
        """How much may be free in a slice of the book, by what is known; nothing for one that is seldom used."""
        part = self._of(claim)
        if part is not None:
            state, free = part.state, max(0, self._sums.free(part))
        else:
            seen = self._seen.get(claim.key)
            if seen is None or self._clock() - seen[0] > IDLE_S or len(self._sums.by_id) >= _MAX_SLICES:
                return 0
            state, free = seen[1], 0
        if not claim.enforce and state.posted >= state.limit:
            return claim.amount * MOST_CALLS  # every call is warned of, and none is refused
        return (state.left + free) // SHARE

    def _worth(self, part: Slice, claim: Claim) -> int:
        """How much should be free: the sooner the last was used up, the more."""
        at_s = self._clock()
        if at_s - part.grown_s < IDLE_S:
            part.calls = min(MOST_CALLS, part.calls * 2)
        elif at_s - part.grown_s > 8 * IDLE_S:
            part.calls = max(FIRST_CALLS, part.calls // 2)
        part.grown_s = at_s
        return claim.amount * part.calls

    def _provide(self, claim: Claim) -> bool:
        part = self._of(claim)
        if part is None:
            old = self._sums.by_book.get(claim.key)
            if old is not None:
                self._sums.retire(old)  # the policy was changed
            seen = self._seen.get(claim.key)
            state = seen[1] if seen is not None else State(0, 0, claim.limit)
            part = self._sums.open(Slice(f"{self._name}:{next(self._numbers)}", claim, state, self._clock()))
        return part.io.take(partial(self._provide_from, part, claim), False, PATIENCE_S)

    def _provide_from(self, part: Slice, claim: Claim) -> bool:
        """With ``part.io``."""
        free = self._sums.free(part)
        if free >= claim.amount:
            return True
        wanted = max(claim.amount, min(self._room(claim), self._worth(part, claim)))
        return not part.ending and self._enlarge(part, wanted - max(0, free))

    def _end(self, part: Slice) -> None:
        """With ``part.io``."""
        if part.id in self._sums.sums:
            self._lessen(part)
            if not part.doubt:
                self._finish(part)

    def _mind(self, part: Slice) -> None:
        """With ``part.io``."""
        if part.id not in self._sums.sums:
            return
        asked, part.asked = part.asked, False
        size, under_way, undrawn = self._sums.sums[part.id]
        free = size - under_way - undrawn
        idle_s = self._clock() - part.used_s
        claim = part.claim
        if part.ending or (not (size or under_way or undrawn) and idle_s > _GONE_AFTER_S):
            if part.doubt or free > 0:
                self._lessen(part)
            if not part.doubt:
                self._finish(part)
        elif free < 0:
            self._enlarge(part, -free)
        elif part.doubt or (free and (idle_s > IDLE_S or self.waited_for((claim,)))):
            self._lessen(part)
        elif asked and not self.out:
            wanted = min(self._room(claim), self._worth(part, claim))
            if wanted - free >= FEWEST_CALLS * claim.amount:
                self._enlarge(part, wanted - free)
            else:
                part.low = 0
        elif free and claim.enforce:
            left = part.state.left
            most = (left + free) // SHARE if left >= claim.amount else 0  # others may wait for it
            if free > 2 * most:
                self._lessen(part, most)

    def _enlarge(self, part: Slice, by: int) -> bool:
        """Ask the store for more. With ``part.io``."""
        if by <= 0:
            return False
        doubted, part.doubt = part.doubt, True
        try:
            answer = self._ask(part, by)
        except LookupError:
            self._lost(part)
            return False
        except StoreUnavailable:
            self.out = True
            if not part.sent:
                self._sums.retire(part)  # the store may have it or not: it is released later
            return False
        self.out = False
        part.told_s = self._clock()
        if isinstance(answer, Short):
            part.doubt = doubted
            part.state = answer.state
            part.low = 0
            return False
        part.state = answer.states[0]
        self._sums.resize(part, by)
        part.doubt = False
        part.low = min(by, part.state.left) // 2
        return True

    def _ask(self, part: Slice, by: int) -> Held | Short:
        if part.made:
            answer = self._store.adjust(part.id, [self._sums.sums[part.id][0] + by])
        else:
            self._journal.put(Lease(part.id))
            answer = self._store.hold(part.id, [part.claim._replace(amount=by)], self.now_s)
            part.made = isinstance(answer, Held)
        if isinstance(answer, Held) and not part.sent:
            # Before any call is sent on it: should this process die then, the slice must be charged.
            part.sent = self._store.sent(part.id)
            if not part.sent:
                raise LookupError(part.id)
        return answer

    def _lessen(self, part: Slice, to_free: int = 0) -> bool:
        """Give back what is free above that. True if there was something. With ``part.io``."""
        excess = self._sums.free(part) - to_free
        if excess > 0:
            excess = -self._sums.resize(part, -excess)  # first here, then there
        if excess <= 0 and not part.doubt:
            return False
        part.doubt = True
        if part.made:
            try:
                answer = self._store.adjust(part.id, [self._sums.sums[part.id][0]])
            except LookupError:
                self._lost(part)
                return False
            except StoreUnavailable:
                self.out = True
                return False
            self.out = False
            if isinstance(answer, Held):
                part.state, part.told_s = answer.states[0], self._clock()
        part.doubt = False
        part.low = 0
        return excess > 0

    def _lost(self, part: Slice) -> None:
        """The store has no such hold any more: this process was taken for dead, and the slice charged whole."""
        self._sums.retire(part)
        self._sums.resize(part, -(1 << 62))
        part.doubt = False

    def _finish(self, part: Slice) -> None:
        """End a slice if nothing that was taken from it is under way any more. With ``part.io``."""
        if not self._sums.retire(part):
            return
        try:
            # One that is gone was charged by estimate; all that was spent from it is drawn.
            if not self._store.release(part.id):
                self._store.settle(part.id, (0,))
        except StoreUnavailable:
            self.out = True
            return
        self._journal.forget(part.id)
        self._sums.forget(part)


def _told(claim: Claim, available: int, if_settled: int) -> State:
    limit = max(claim.limit, if_settled)
    return State(limit - if_settled, max(0, if_settled - available), limit)
