"""What the stores that last have in common: some verbs, what they take, how they write it down, and their answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from itertools import repeat
from typing import Any

from tokenmeter.budgets.budget import Budget
from tokenmeter.budgets.limit import MAX_AMOUNT
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.polling import Line
from tokenmeter.budgets.store import Book, Drawn, Entry, Held, Note, Short, State, Ticket, in_use
from tokenmeter.errors import ConfigError
from tokenmeter.faults import swallow

_MAX_ID = 200
_BUDGET_FIELDS = tuple(field.name for field in fields(Budget) if field.init)


class Lasting:
    """The verbs that are the same in all of them: callers stand in line, and rows are drawn from no hold."""

    _line: Line

    def hold(self, hold_id: str, claims: Sequence[Claim], now_s: float, note: Note | None = None) -> Held | Short:
        """Hold all claims or none."""
        if hold_id in self._line:
            raise in_use(hold_id)
        behind = self._line.waited_for(claims)
        return self._look(claims, behind) if behind else self._try_hold(hold_id, claims, note)

    def queue(
        self, hold_id: str, claims: Sequence[Claim], now_s: float, note: Note | None = None
    ) -> Held | Short | Ticket:
        """Hold all claims, or get in line where only other calls stand in the way."""
        return self._line.queue(
            lambda: self._try_hold(hold_id, claims, note),
            lambda: self._release(hold_id),
            hold_id,
            claims,
            lambda behind: self._look(claims, behind),
        )

    def release(self, hold_id: str) -> bool:
        """Give a hold or a place in the line back; True the first time only."""
        return self._line.leave(hold_id) or self._release(hold_id)

    def write(self, entries: Sequence[Entry]) -> None:
        """Write rows that charge nothing, each once."""
        self.draw((), [entry._replace(charges=()) for entry in entries])

    def draw(self, hold_ids: Sequence[str], entries: Sequence[Entry]) -> tuple[Drawn, ...]:
        """Charge entries out of holds that go on."""
        raise NotImplementedError

    def _try_hold(self, hold_id: str, claims: Sequence[Claim], note: Note | None) -> Held | Short:
        """Hold all claims or none, whoever waits."""
        raise NotImplementedError

    def _look(self, claims: Sequence[Claim], behind: frozenset[str]) -> Short:
        """What stands in the way of these claims, where others wait for some of the books."""
        raise NotImplementedError

    def _release(self, hold_id: str) -> bool:
        """Give a hold back."""
        raise NotImplementedError


def raw(text: str) -> bytes:
    """Any text, also such that is no good Unicode."""
    return text.encode("utf-8", "surrogatepass")


def unraw(text: bytes) -> str:
    """What `raw` was given."""
    return text.decode("utf-8", "surrogatepass")


# -- what is taken


def check_id(hold_id: str) -> None:
    """Ids are short."""
    if len(hold_id) > _MAX_ID:
        raise ValueError(f"an id has at most {_MAX_ID} characters, not {len(hold_id)}")


def check_amounts(count: int, amounts: Sequence[int]) -> None:
    """One amount a claim, none below zero."""
    if len(amounts) != count:
        raise ValueError(f"{count} claims need as many amounts, not {len(amounts)}")
    for amount in amounts:
        if not 0 <= amount <= MAX_AMOUNT:
            raise ValueError(f"amounts are zero or more, and less than 2^63: {tuple(amounts)}")


def check_claims(claims: Sequence[Claim]) -> None:
    """No two books alike, and amounts that make sense."""
    keys = set()
    for claim in claims:
        if not 0 <= claim.amount <= MAX_AMOUNT:
            raise ValueError(f"a claim asks for zero or more, and less than 2^63, not {claim.amount}")
        if claim.budget.per != "call":
            if claim.key in keys:
                raise ValueError("two claims of one call have the same key")
            keys.add(claim.key)


def row_of(note: Note | None) -> bytes:
    """The row of a call that goes out."""
    try:
        return b"" if note is None else note()
    except Exception as error:  # noqa: BLE001 - without the row the call can still be charged
        swallow(error, "writing the row of a call that goes out")
        return b""


# -- what a budget is, in JSON


def label_of(budget: Budget, more: Mapping[str, object]) -> str:
    """A budget as it is written down, with what else is to stand there."""
    told = {name: getattr(budget, name) for name in _BUDGET_FIELDS}
    return json.dumps({**told, "unit": budget.unit, **more}, default=str)


@lru_cache(maxsize=1024)
def budget_of(label: str | bytes) -> Budget:
    """The budget that a label tells of."""
    found: dict[str, Any] = json.loads(label)
    known = {name: found[name] for name in _BUDGET_FIELDS if name in found}
    try:
        return Budget(**known)
    except ConfigError:  # of a version that knows other words
        return Budget(known["limit"], name=known["name"])


def nameless(key: bytes, state: State, leased: int) -> Book:
    """A book that was only drawn upon and has no label: what its key tells."""
    named, _, rest = unraw(key).partition("|")
    unit, _, name = named.partition(" ")
    return Book(unraw(key), name, rest.partition("|")[0], unit, None, state, leased)


# -- answers


def short(
    claims: Sequence[Claim],
    states: Sequence[State],
    before: Sequence[int] | None = None,
    behind: frozenset[str] = frozenset(),
) -> Short:
    """Why claims can't be held. ``before``: what the caller holds already; ``behind``: books with a line."""
    spent_out = held_back = None
    available, if_settled = [], []
    owns = before if before is not None else repeat(-1)
    for claim, state, own in zip(claims, states, owns, strict=False):
        room = state.limit - state.posted
        waits = claim.key in behind and claim.enforce and claim.budget.per != "call"
        available.append(0 if waits else state.left)
        if_settled.append(room)
        if not claim.enforce or claim.amount <= own:
            continue
        if claim.amount > room:
            spent_out = spent_out or (claim, state)
        elif waits or claim.amount > room - state.held:
            held_back = held_back or (claim, state)
    found = spent_out or held_back or (claims[0], states[0])
    return Short(tuple(claims), *found, spent_out is not None, tuple(available), tuple(if_settled))
