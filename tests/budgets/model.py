"""What every store must do, done slowly: the books of the state machine in ``test_machine``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tokenmeter.budgets import Claim, Drawn, Entry, Grant, Held, Settled, Short, State, account_of

Claims = tuple[Claim, ...]


@dataclass
class Standing:
    """A hold that stands."""

    claims: Claims
    owner: int
    note: bytes
    sent: bool = False


def shared(claim: Claim) -> bool:
    """Whether calls share the book of this claim."""
    return claim.budget.per != "call"


def in_line(claim: Claim) -> bool:
    return claim.enforce and shared(claim)


class Model:
    """The same books. Each verb gives the answer that the store is to give."""

    def __init__(self) -> None:
        self.posted: Counter[str] = Counter()
        self.holds: dict[str, Standing] = {}
        self.entries: dict[str, Entry] = {}
        self.estimated: dict[str, Claims] = {}  # the holds of the dead that were charged, until they are corrected
        self.dropped: dict[str, Claims] = {}  # those that were given back, or released
        self.grants: dict[str, Grant] = {}
        self.limits: dict[str, set[int]] = {}  # by book: those that claims spoke of
        self.overspent: set[str] = set()
        self.waiting: dict[str, Claims] = {}
        self.refused: set[str] = set()

    # -- the books

    def held(self, key: str, only: str = "") -> int:
        return sum(
            claim.amount
            for hold_id, standing in self.holds.items()
            if hold_id.startswith(only)
            for claim in standing.claims
            if claim.key == key
        )

    def raised(self, key: str) -> int:
        """What grants add; each of them is in force for good, or long over, or far off."""
        return sum(
            g.amount for g in self.grants.values() if g.account == account_of(key) and g.at_s < 1 < g.expires_at_s
        )

    def state(self, claim: Claim) -> State:
        if not shared(claim):
            return State(0, 0, claim.limit)
        return State(self.posted[claim.key], self.held(claim.key), claim.limit + self.raised(claim.key))

    # -- the verbs

    def hold(self, hold_id: str, claims: Claims, owner: int, note: bytes) -> Held | Short:
        answer = self._ask(claims, None)
        if isinstance(answer, Held):
            self.holds[hold_id] = Standing(claims, owner, note)
        self._see(claims if isinstance(answer, Held) else tuple(c for c in claims if c.key in self.limits))
        return answer

    def adjust(self, hold_id: str, amounts: Sequence[int]) -> Held | Short:
        standing = self.holds[hold_id]
        new = tuple(c._replace(amount=amount) for c, amount in zip(standing.claims, amounts, strict=True))
        answer = self._ask(new, standing.claims)
        if isinstance(answer, Held):
            standing.claims = new
            self._see(new)
        return answer

    def settle(self, hold_id: str, amounts: Sequence[int], row: bytes) -> Settled | None:
        standing = self.holds.pop(hold_id, None)
        if standing is not None:
            self._note_overspending(standing.claims, amounts)
            return self._charge(hold_id, standing.claims, amounts, row)
        if hold_id in self.estimated:
            return self._correct(hold_id, amounts, row)
        return None

    def post(self, entry_id: str, claims: Claims, amounts: Sequence[int], row: bytes) -> Settled | None:
        if entry_id in self.holds or entry_id in self.estimated:
            return self.settle(entry_id, amounts, row)
        if entry_id in self.entries:
            return None
        self.dropped.pop(entry_id, None)
        self._see(claims)
        self.overspent |= {claim.key for claim in claims}
        return self._charge(entry_id, claims, amounts, row)

    def release(self, hold_id: str) -> bool:
        standing = self.holds.pop(hold_id, None)
        if standing is not None:
            self.dropped[hold_id] = standing.claims
        return standing is not None

    def draw(self, hold_ids: Sequence[str], entries: Sequence[Entry]) -> tuple[Drawn, ...]:
        added: Counter[str] = Counter()
        for entry in entries:
            if entry.id in self.entries:
                continue
            self.entries[entry.id] = entry
            for key, amount in entry.charges:
                self.posted[key] += amount
                added[key] += amount
                left = amount
                for hold_id in hold_ids:
                    standing = self.holds.get(hold_id)
                    for claim in standing.claims if standing is not None else ():
                        if standing is not None and claim.key == key:
                            covered = min(left, claim.amount)
                            left -= covered
                            standing.claims = tuple(
                                c._replace(amount=c.amount - covered) if c is claim else c for c in standing.claims
                            )
                if left:
                    self.overspent.add(key)
        # Of several limits that claims spoke of, a store knows the last; which one that is, is not kept here.
        return tuple(
            Drawn(key, State(self.posted[key], self.held(key), max(self.limits[key]) + self.raised(key)), amount)
            for key, amount in added.items()
        )

    def die(self, owner: int) -> int:
        """What recovery makes of the holds of a process that is gone; how many they are."""
        mine = [hold_id for hold_id, standing in self.holds.items() if standing.owner == owner]
        for hold_id in mine:
            standing = self.holds.pop(hold_id)
            if standing.sent:
                self._charge(hold_id, standing.claims, [c.amount for c in standing.claims], standing.note)
                self.estimated[hold_id] = standing.claims
            else:
                self.dropped[hold_id] = standing.claims
        return len(mine)

    # -- how

    def _ask(self, claims: Claims, own: Claims | None) -> Held | Short:
        befores, lefts, spent_out, held_back, warned = [], [], [], [], []
        for number, claim in enumerate(claims):
            before = self.state(claim)
            if own is not None and shared(claim):
                before = before._replace(held=before.held - own[number].amount)
            befores.append(before)
            lefts.append(0 if self.blocked((claim,)) else before.left)
            over = before.posted + before.held + claim.amount > before.limit
            may_stay = own is not None and claim.amount <= own[number].amount
            if claim.enforce and not may_stay:
                if before.posted + claim.amount > before.limit:
                    spent_out.append(number)
                elif over or self.blocked((claim,)):
                    held_back.append(number)
            if over and not claim.enforce:
                warned.append(claim)
        if in_the_way := spent_out + held_back:
            first = in_the_way[0]
            if_settled = tuple(before.limit - before.posted for before in befores)
            return Short(claims, claims[first], befores[first], bool(spent_out), tuple(lefts), if_settled)
        states = (b._replace(held=b.held + claim.amount) for b, claim in zip(befores, claims, strict=True))
        return Held(tuple(states), tuple(warned))

    def _charge(self, entry_id: str, claims: Claims, amounts: Sequence[int], row: bytes) -> Settled:
        states = []
        for claim, amount in zip(claims, amounts, strict=True):
            if shared(claim):
                self.posted[claim.key] += amount
                states.append(self.state(claim))
            else:
                states.append(State(0, amount, claim.limit))
        charges = tuple((c.key, amount) for c, amount in zip(claims, amounts, strict=True) if shared(c))
        self.entries[entry_id] = Entry(entry_id, charges, row)
        return Settled(tuple(states), tuple(amounts))

    def _correct(self, hold_id: str, amounts: Sequence[int], row: bytes) -> Settled:
        claims = self.estimated.pop(hold_id)
        before = [claim.amount for claim in claims]
        self._note_overspending(claims, amounts)
        for claim, amount in zip(claims, before, strict=True):
            self.posted[claim.key] -= amount if shared(claim) else 0
        settled = self._charge(hold_id, claims, amounts, row)
        return settled._replace(added=tuple(a - b for a, b in zip(amounts, before, strict=True)))

    def _see(self, claims: Claims) -> None:
        for claim in claims:
            seen = self.limits.setdefault(claim.key, set())
            seen.add(claim.limit)
            # Where a limit was lowered, or is none for some, the sum may stand above it.
            if len(seen) > 1 or not claim.enforce:
                self.overspent.add(claim.key)

    def _note_overspending(self, claims: Claims, amounts: Sequence[int]) -> None:
        self.overspent |= {c.key for c, amount in zip(claims, amounts, strict=True) if amount > c.amount}

    # -- the line, where the store lets the machine look at it

    def blocked(self, claims: Claims) -> bool:
        waited_for = {claim.key for others in self.waiting.values() for claim in others if in_line(claim)}
        return any(claim.key in waited_for for claim in claims if in_line(claim))

    def serve(self) -> None:
        """Go through all who wait, in order, until nothing changes."""
        for hold_id, claims in list(self.waiting.items()):
            if self._spent_out(claims):
                del self.waiting[hold_id]
                self.refused.add(hold_id)
        before: set[str] = set()
        for hold_id, claims in list(self.waiting.items()):
            keys = {claim.key for claim in claims if in_line(claim)}
            if not keys & before and self._fits(claims):
                self.holds[hold_id] = Standing(self.waiting.pop(hold_id), 0, b"")
                self._see(claims)
            else:
                before |= keys

    def _spent_out(self, claims: Claims) -> bool:
        return any(c.amount > self.state(c).limit - self.state(c).posted for c in claims if c.enforce)

    def _fits(self, claims: Claims) -> bool:
        states = [(claim, self.state(claim)) for claim in claims if claim.enforce]
        return all(state.posted + state.held + claim.amount <= state.limit for claim, state in states)
