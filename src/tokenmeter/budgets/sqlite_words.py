"""Claims, labels and charges as they stand in a file of books."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from tokenmeter.budgets.budget import Budget
from tokenmeter.budgets.lasting import budget_of, label_of, nameless, raw, unraw
from tokenmeter.budgets.limit import MAX_AMOUNT
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Book, State

ENFORCED, ALONE, OF_A_RUN = 1, 2, 4
_MAX_CLAIMS_KNOWN = 4096
_new = tuple.__new__  # of a named tuple: its own constructor costs twice as much


class Line(NamedTuple):
    """A claim as it is written. ``budget`` is the id of its label; ``flags`` as above."""

    key: bytes
    amount: int
    limit: int
    flags: int
    budget: int
    scope: bytes
    resets_at: float | None


write_lines = msgspec.msgpack.Encoder().encode
read_lines = msgspec.msgpack.Decoder(tuple[Line, ...]).decode
write_charges = msgspec.msgpack.Encoder().encode
_read_charges = msgspec.msgpack.Decoder(tuple[tuple[bytes, int], ...]).decode


def read_charges(blob: bytes) -> tuple[tuple[str, int], ...]:
    """The charges of an entry."""
    return tuple([(unraw(key), amount) for key, amount in _read_charges(blob)])


def charges_of(lines: Iterable[Line], amounts: Iterable[int]) -> bytes:
    """The charges of a call, as they are written; a budget per call has no book."""
    return write_charges(
        [(line[0], amount) for line, amount in zip(lines, amounts, strict=True) if not line[3] & ALONE]
    )


def wide(amount: int) -> int | str:
    """A number of any size, for a column."""
    return amount if -MAX_AMOUNT <= amount <= MAX_AMOUNT else str(amount)


class Lines:
    """Writes claims; what is the same each time is made once. ``fresh``: labels that may not be in the file yet."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, bool], tuple[Budget, str, float | None, bytes, int, int, bytes]] = {}
        self._told: set[int] = set()
        self.fresh: dict[int, str] = {}

    def __call__(self, claims: Sequence[Claim]) -> list[Line]:
        """The claims, ready to be written."""
        known = self._known
        found: list[Line] = []
        for claim in claims:
            budget, key, scope, amount, limit, resets_at, enforce = claim
            parts = known.get((key, id(budget), limit, enforce))
            if parts is None or parts[0] is not budget or parts[1] != scope or parts[2] != resets_at:
                parts = self._learn(claim)
            found.append(_new(Line, (parts[3], amount, limit, parts[4], parts[5], parts[6], resets_at)))
        return found

    def told(self, labels: Iterable[int]) -> None:
        """These labels are in the file."""
        self._told.update(labels)
        for label in list(labels):
            self.fresh.pop(label, None)

    def _learn(self, claim: Claim) -> tuple[Budget, str, float | None, bytes, int, int, bytes]:
        budget = claim.budget
        if len(self._known) >= _MAX_CLAIMS_KNOWN:
            self._known.clear()
        flags = ENFORCED if claim.enforce else 0
        flags |= ALONE if budget.per == "call" else 0
        flags |= OF_A_RUN if budget.per == "run" or "run" in budget.scope else 0
        label = label_of(budget, {})
        number = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "big") >> 1
        if number not in self._told:
            self.fresh[number] = label
        parts = (budget, claim.scope, claim.resets_at, raw(claim.key), flags, number, raw(claim.scope))
        self._known[claim.key, id(budget), claim.limit, claim.enforce] = parts
        return parts


def claim_of(line: Line, label: str) -> Claim:
    """The claim that was written."""
    budget = budget_of(label)
    enforce = bool(line.flags & ENFORCED)
    return Claim(budget, unraw(line.key), unraw(line.scope), line.amount, line.limit, line.resets_at, enforce)


def book(key: bytes, state: State, leased: int, label: str | None, whose: tuple[bytes, float | None]) -> Book:
    """A book as it is shown, with its scope and end."""
    if not label:
        return nameless(key, state, leased)
    found = json.loads(label)
    return Book(unraw(key), found["name"], unraw(whose[0]), found["unit"], whose[1], state, leased)
