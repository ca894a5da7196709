"""What this process has leased and what its calls take of it: the sums, in memory alone.

    size      what the store holds for a slice
    under way what calls hold of it
    undrawn   what was spent from it, and the store doesn't know yet
    free      the rest: size - under way - undrawn

`deferral` says why each verb is written as it is: it computes aside, and its last statements are the commit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tokenmeter.budgets.deferral import OneVerbAtATime
from tokenmeter.budgets.journal_lines import Draw
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Held, Note, Settled, State, in_use
from tokenmeter.turn import Turn, in_turn

FIRST_CALLS = 16  # a slice is for so many calls at first
MAX_UNDRAWN = 16_384

_T = TypeVar("_T")
_Sum = tuple[int, int, int]  # size, under way, undrawn


@dataclass(slots=True, eq=False)
class Slice:
    """A slice of one book. The sums are kept in `LeaseSums`, by its id."""

    id: str
    claim: Claim
    state: State  # the book as the store told it last
    told_s: float  # and when
    used_s: float = field(init=False)
    grown_s: float = field(init=False)
    calls: int = FIRST_CALLS
    low: int = 0  # with less free than this, more is asked for in advance
    asked: bool = False
    made: bool = False  # whether the store has the hold,
    sent: bool = False  # and counts it as sent
    doubt: bool = False  # the store may hold something else than is known here
    ending: bool = False
    io: Turn = field(default_factory=Turn)  # whoever speaks with the store about this slice

    def __post_init__(self) -> None:
        self.used_s = self.grown_s = self.told_s


@dataclass(slots=True, eq=False)
class Call:
    """A call that is under way on leases; ``leases`` has None where a budget per call has no book."""

    claims: Sequence[Claim]
    leases: tuple[str | None, ...]
    note: Note | None
    in_journal: bool = False


class LeaseSums(OneVerbAtATime):
    """The slices, the calls that are under way on them, and what is to be drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.by_book: dict[str, Slice] = {}
        self.by_id: dict[str, Slice] = {}  # those that end too
        self.sums: dict[str, _Sum] = {}  # by id
        self.calls: dict[str, Call] = {}
        self.undrawn: dict[str, Draw] = {}
        self.low = False  # whether a slice wants to be enlarged

    # -- the verbs of a call

    @in_turn
    def take(self, hold_id: str, claims: Sequence[Claim], note: Note | None, now_s: float) -> Held | None:
        """Hold all claims, or None."""
        return self._answer("", self._take, hold_id, claims, note, now_s) if self._busy is None else None

    @in_turn
    def settle(self, call: Call, draw: Draw, amounts: Sequence[int]) -> Settled | None:
        """End a call with what it spent."""
        if self._busy is None:
            return self._answer(draw.id, self._settle, draw, amounts)
        deferred = draw.id in self.calls and self._defer(draw.id, self._settle, draw, amounts)
        return self._reckoned(call, amounts) if deferred else None

    @in_turn
    def release(self, hold_id: str) -> bool:
        """End a call with nothing spent."""
        if self._busy is None:
            return self._answer(hold_id, self._release, hold_id)
        return hold_id in self.calls and self._defer(hold_id, self._release, hold_id)

    def adjust(self, hold_id: str, claims: Sequence[Claim]) -> Held | None:
        """Let a call hold these claims; None where a slice is too small."""
        return self._locally(self._adjust, hold_id, claims)

    # -- the slices

    def free(self, part: Slice) -> int:
        """What calls can take; below zero where more was spent than was held."""
        size, under_way, undrawn = self.sums.get(part.id, (0, 0, 0))
        return size - under_way - undrawn

    @in_turn
    def all(self) -> list[tuple[Slice, _Sum]]:
        """Every slice with its sums."""
        return [(part, self.sums[part.id]) for part in self.by_id.values()]

    @in_turn
    def open(self, fresh: Slice) -> Slice:
        """Keep an empty slice, unless the book has one."""
        part = self.by_book.get(fresh.claim.key)
        if part is None:
            self.sums[fresh.id] = (0, 0, 0)
            self.by_id[fresh.id] = fresh
            self.by_book[fresh.claim.key] = part = fresh
        return part

    def resize(self, part: Slice, by: int) -> int:
        """Change the size; never by more than is free. By how much it was changed."""
        return self._locally(self._resize, part.id, by)

    def drawn(self, draws: Sequence[Draw]) -> None:
        """The store knows these, which are the oldest."""
        self._locally(self._drawn, draws)

    def retire(self, part: Slice) -> bool:
        """Let no call take from a slice any more. Whether all is over that was taken."""
        return self._locally(self._retire, part)

    @in_turn
    def forget(self, part: Slice) -> None:
        """A retired slice is over."""
        self.sums.pop(part.id, None)
        self.by_id.pop(part.id, None)

    def start_afresh(self) -> None:
        """In a forked child: all of it is the parent's."""
        self._start_afresh()
        for kept in (self.by_book, self.by_id, self.sums, self.calls, self.undrawn):
            kept.clear()

    @in_turn
    def _locally(self, verb: Callable[..., _T], *args: Any) -> _T:
        return self._answer("", verb, *args)

    def _serve(self, key: str) -> None:
        """Nobody stands in line here."""

    # -- all below runs with the lock held and _busy set

    def _take(self, hold_id: str, claims: Sequence[Claim], note: Note | None, now_s: float) -> Held | None:
        slices, sums = self.by_book, self.sums
        if hold_id in self.calls or hold_id in self.undrawn:
            raise in_use(hold_id)
        changed: dict[str, _Sum] = {}
        leases: list[str | None] = []
        states: list[State] = []
        used: list[tuple[Slice, int, Claim]] = []
        warned: tuple[Claim, ...] = ()
        for claim in claims:
            budget, key, _, amount, limit, _, enforce = claim
            if budget.per == "call":
                if amount > limit:
                    if enforce:
                        return None
                    warned += (claim,)
                leases.append(None)
                states.append(State(0, amount, limit))
                continue
            part = slices.get(key)
            if part is None or part.claim.limit != limit or amount < 0:
                return None
            lease_id = part.id
            size, under_way, undrawn = sums[lease_id]
            free = size - under_way - undrawn - amount
            if free < 0 or lease_id in changed:
                return None
            changed[lease_id] = size, under_way + amount, undrawn
            leases.append(lease_id)
            state = part.state
            states.append(state)
            if not enforce and state.posted + state.held > state.limit:
                warned += (claim,)
            used.append((part, free, claim))
        if not changed or len(self.undrawn) >= MAX_UNDRAWN:
            return None
        for part, free, claim in used:
            part.used_s = now_s
            if part.claim.budget is not claim.budget:
                part.claim = claim  # the policy was read again
            if free < part.low and not part.asked:
                part.asked = True
                self.low = True
        call = Call(claims, tuple(leases), note)
        answer = Held(tuple(states), warned)
        calls = self.calls
        calls[hold_id] = call
        sums |= changed
        return answer

    def _settle(self, draw: Draw, amounts: Sequence[int]) -> Settled | None:
        call = self.calls.get(draw.id)
        if call is None:
            return None
        sums = self.sums
        changed: dict[str, _Sum] = {}
        for claim, lease_id, spent in zip(call.claims, call.leases, amounts, strict=True):
            if lease_id is not None:
                size, under_way, undrawn = sums[lease_id]
                changed[lease_id] = size, under_way - claim.amount, undrawn + spent
        calls, waiting = self.calls, self.undrawn
        del calls[draw.id]
        waiting[draw.id] = draw
        sums |= changed
        return self._reckoned(call, amounts)

    def _release(self, hold_id: str) -> bool:
        call = self.calls.get(hold_id)
        if call is None:
            return False
        sums = self.sums
        changed: dict[str, _Sum] = {}
        for claim, lease_id in zip(call.claims, call.leases, strict=True):
            if lease_id is not None:
                size, under_way, undrawn = sums[lease_id]
                changed[lease_id] = size, under_way - claim.amount, undrawn
        calls = self.calls
        del calls[hold_id]
        sums |= changed
        return True

    def _adjust(self, hold_id: str, claims: Sequence[Claim]) -> Held | None:
        call = self.calls.get(hold_id)
        if call is None:
            raise LookupError(f"no hold {hold_id!r} stands")
        sums = self.sums
        changed: dict[str, _Sum] = {}
        states: list[State] = []
        warned: list[Claim] = []
        for claim, old, lease_id in zip(claims, call.claims, call.leases, strict=True):
            grown = claim.amount - old.amount
            if lease_id is None:
                if grown > 0 and claim.amount > claim.limit:
                    if claim.enforce:
                        return None
                    warned.append(claim)
                states.append(State(0, claim.amount, claim.limit))
                continue
            size, under_way, undrawn = sums[lease_id]
            if grown > 0 and size - under_way - undrawn < grown:
                return None
            changed[lease_id] = size, under_way + grown, undrawn
            states.append(self.by_id[lease_id].state)
        fresh = Call(claims, call.leases, call.note, call.in_journal)
        answer = Held(tuple(states), tuple(warned))
        calls = self.calls
        calls[hold_id] = fresh
        sums |= changed
        return answer

    def _resize(self, lease_id: str, by: int) -> int:
        size, under_way, undrawn = self.sums[lease_id]
        by = max(by, -max(0, size - under_way - undrawn))
        changed = {lease_id: (size + by, under_way, undrawn)}
        sums = self.sums
        sums |= changed
        return by

    def _drawn(self, draws: Sequence[Draw]) -> None:
        sums = self.sums
        changed: dict[str, _Sum] = {}
        for draw in draws:
            for lease_id, (_, spent) in zip(draw.holds, draw.charges, strict=True):
                size, under_way, undrawn = changed.get(lease_id) or sums[lease_id]
                changed[lease_id] = max(0, size - spent), under_way, undrawn - spent
        left = dict(itertools.islice(self.undrawn.items(), len(draws), None))  # they are the oldest
        self.undrawn = left
        sums |= changed

    def _retire(self, part: Slice) -> bool:
        part.ending = True
        if self.by_book.get(part.claim.key) is part:
            del self.by_book[part.claim.key]
        return not (
            any(self.sums[part.id][1:])
            or any(part.id in call.leases for call in self.calls.values())
            or any(part.id in draw.holds for draw in self.undrawn.values())
        )

    def _reckoned(self, call: Call, amounts: Sequence[int]) -> Settled:
        """The books after a charge, as far as is known here; nothing is added as long as it isn't drawn."""
        states = []
        for claim, lease_id, spent in zip(call.claims, call.leases, amounts, strict=True):
            if lease_id is None:
                states.append(State(0, spent, claim.limit))
                continue
            posted, held, limit = self.by_id[lease_id].state
            undrawn = self.sums[lease_id][2]
            states.append(State(posted + undrawn, max(0, held - undrawn), limit))
        return Settled(tuple(states), (0,) * len(states))
