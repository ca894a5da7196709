"""Says once when what is spent of a budget crosses one of its thresholds. Pure.

A settle tells the book after it and by how much it changed what is posted: the settle that had the line between
before and after has crossed it. The books of a store are changed one settle after the other, so that over all
processes exactly one settle crosses a line on the way up, and only its process says so. That needs no memory and no
word between processes. The memory here is for what goes down and up again: when a late settle corrects a charge,
the same line is not told twice.

A grant that raises the limit raises the lines; what then crosses the higher line is news.
"""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache

from msgspec import Struct

from tokenmeter.budgets.limit import Unit, format_limit
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Settled, State
from tokenmeter.money import usd

MAX_TOLD = 8_192


class Crossing(Struct, frozen=True):
    """What is spent has reached ``percent`` of the limit.

    ``scope`` says for whom: ``agent=triage``. ``spent`` and ``limit``, grants included, are US dollars as `Decimal`
    where ``unit`` is ``"usd"``, else whole tokens or calls. ``resets_at`` is in seconds since the epoch, None if never.
    """

    budget: str
    scope: str
    percent: int | float
    spent: Decimal | int
    limit: Decimal | int
    unit: Unit
    resets_at: float | None
    message: str


class Thresholds:
    """Finds the crossings of each settle. Thread-safe without a lock; memory is bounded by ``max_told`` crossings."""

    __slots__ = ("_ends_s", "_max_told", "_told")

    def __init__(self, max_told: int = MAX_TOLD) -> None:
        self._max_told = max_told
        self._told: dict[tuple[str, int | float, int], tuple[object, float]] = {}
        self._ends_s = math.inf  # when the next window ends of those that were told of

    def crossed(self, claims: Sequence[Claim], settled: Settled, now_s: float) -> tuple[Crossing, ...]:
        """The crossings of this settle that are new, in the order of the claims and of the thresholds."""
        found: list[Crossing] | None = None
        for claim, state, added in zip(claims, settled.states, settled.added, strict=True):
            percents = claim.budget.thresholds
            if added <= 0 or not percents:
                continue
            after = state.posted
            lines = _lines(percents, state.limit)
            if after < lines[0]:
                continue
            reached = bisect_right(lines, after)
            if lines[reached - 1] <= after - added or claim.budget.per == "call":
                continue
            first = bisect_right(lines, after - added)
            for percent in percents[first:reached]:
                if self._is_new(claim, percent, state.limit, now_s):
                    found = found or []
                    found.append(_crossing(claim, state, percent))
        return tuple(found) if found else ()

    def _is_new(self, claim: Claim, percent: int | float, limit: int, now_s: float) -> bool:
        if now_s >= self._ends_s:
            self._forget_ended(now_s)
        ends_s = math.inf if claim.resets_at is None else claim.resets_at
        # Of threads that come here at once with the same line, the one whose mark stands there has told it.
        mark = (object(), ends_s)
        told = self._told
        if told.setdefault((claim.key, percent, limit), mark) is not mark:
            return False
        self._ends_s = min(self._ends_s, ends_s)
        while len(told) > self._max_told:
            with contextlib.suppress(RuntimeError, StopIteration):  # another thread was at work on it meanwhile
                told.pop(next(iter(told)), None)
        return True

    def _forget_ended(self, now_s: float) -> None:
        self._ends_s = math.inf
        next_s = math.inf
        for key, (_, ends_s) in list(self._told.items()):
            if ends_s <= now_s:
                self._told.pop(key, None)
            else:
                next_s = min(next_s, ends_s)
        self._ends_s = min(self._ends_s, next_s)


@lru_cache(maxsize=1_024)
def _lines(percents: tuple[int | float, ...], limit: int) -> tuple[int, ...]:
    """The amounts at which the thresholds are reached: whole ones, so that they compare exactly."""
    from fractions import Fraction

    return tuple(math.ceil(Fraction(str(percent)) * limit / 100) for percent in percents)


def _crossing(claim: Claim, state: State, percent: int | float) -> Crossing:
    budget = claim.budget
    unit = budget.unit
    text = (
        f"budget {budget.name!r} ({claim.scope}) has reached {percent:g} % of its limit "
        f"{format_limit(unit, state.limit)}: spent {format_limit(unit, state.posted)}"
    )
    if claim.resets_at is not None:
        text += f"; resets at {datetime.fromtimestamp(claim.resets_at, UTC).isoformat()}"
    spent, limit = (usd(n) if unit == "usd" else n for n in (state.posted, state.limit))
    return Crossing(budget.name, claim.scope, percent, spent, limit, unit, claim.resets_at, text)
