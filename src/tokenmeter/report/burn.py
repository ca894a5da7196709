"""Budgets at one moment: what is spent and held of each, and how it went since its window began.

A budget that is kept for each user, run or tag is one line, without their names; so is one of teams that are too small
to be shown. The way to the present is drawn from the ledger, and only where that and the books say the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from tokenmeter.budgets.checks import ATTRIBUTES
from tokenmeter.budgets.policy import NONE
from tokenmeter.outcomes.groups import SMALL_GROUPS
from tokenmeter.report.series import DAY_S
from tokenmeter.report.shown import Shown

if TYPE_CHECKING:
    from tokenmeter.budgets import Book
    from tokenmeter.report.data import Line

NEAR: Final = 0.8
MOST_CURVES: Final = 6
_ALIKE: Final = 0.02
_PAIR: Final = re.compile(rf",(?=(?:{'|'.join(ATTRIBUTES)}|tag:[^=,]+)=)")
_DRAWN: Final = frozenset({"agent", "team", "provider", "model"})


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """One budget, or all the books of one that are not told apart. Amounts are in its unit; nanodollars are money.

    ``curve`` has what was posted at some times since the window began, nothing where that isn't known.
    """

    budget: str
    scope: str
    unit: str
    posted: int
    held: int
    limit: int
    starts_s: float | None
    resets_s: float | None
    books: int = 1
    near: int = 0  # books of which 80 % or more are used
    curve: tuple[tuple[float, int], ...] = ()

    @property
    def left(self) -> int:
        """What is left beside what is held."""
        return max(0, self.limit - self.posted - self.held)

    @property
    def used(self) -> float:
        """The part that is spent or held; one where there is no limit to speak of."""
        return (self.posted + self.held) / self.limit if self.limit > 0 else 1.0


def budget_lines(
    books: Iterable[Book], lines: Sequence[Line], shown: Shown, now_s: float, *, min_group: int
) -> tuple[BudgetLine, ...]:
    """The budgets whose window goes on, in the order of their names."""
    single: list[BudgetLine] = []
    folded: dict[tuple[str, str, str], list[Book]] = defaultdict(list)
    curves = 0
    for book in sorted(books, key=lambda book: (book.budget, book.scope)):
        if book.resets_at is not None and book.resets_at <= now_s:
            continue
        pairs = pairs_of(book.scope)
        what = _folds_into(pairs, shown)
        if what is not None:
            folded[shown.text(book.budget), what, book.unit].append(book)
            continue
        starts_s = _start_of(book.key)
        curve = _curve(book, pairs, lines, starts_s) if curves < MOST_CURVES else ()
        curves += bool(curve)
        scope = "all" if not pairs else ", ".join(f"{name} {shown.text(value)}" for name, value in pairs.items())
        state = book.state
        single.append(
            BudgetLine(shown.text(book.budget), scope, book.unit, state.posted, state.held, state.limit, starts_s,
                       book.resets_at, 1, int(_is_near(book)), curve)
        )  # fmt: skip
    together = [_together(*names, some, min_group) for names, some in sorted(folded.items())]
    return tuple(sorted([*single, *together], key=lambda line: (line.budget, line.scope)))


def pairs_of(scope: str) -> dict[str, str]:
    """The scope of a book: ``agent=triage,team=support``; that of all calls has no pairs."""
    if scope == "global":
        return {}
    return {name: value for name, _, value in (part.partition("=") for part in _PAIR.split(scope))}


def _folds_into(pairs: Mapping[str, str], shown: Shown) -> str | None:
    """What books that are not told apart are called; None for one that stands by itself."""
    personal = [name for name in pairs if name in ("user", "run") or name.startswith("tag:")]
    if personal:
        return f"each {' and '.join(personal)}"
    team = pairs.get("team")
    return SMALL_GROUPS if team is not None and team != NONE and shown.team(team) != team else None


def _together(budget: str, what: str, unit: str, books: Sequence[Book], min_group: int) -> BudgetLine:
    """Books as one line. The sums of a few people would be theirs, and are left out."""
    least = min_group if "user" in what else 2 if what == SMALL_GROUPS else 1
    if len(books) < least:
        return BudgetLine(budget, f"{what} (fewer than {least})", unit, 0, 0, 0, None, None, len(books))
    posted, held, limit = (sum(book.state[n] for book in books) for n in range(3))
    resets = {book.resets_at for book in books}
    starts = {_start_of(book.key) for book in books}
    return BudgetLine(
        budget, what, unit, posted, held, limit, starts.pop() if len(starts) == 1 else None,
        resets.pop() if len(resets) == 1 else None, len(books), sum(map(_is_near, books)),
    )  # fmt: skip


def _is_near(book: Book) -> bool:
    return book.state.posted + book.state.held >= NEAR * book.state.limit


def _start_of(key: str) -> float | None:
    """When the window of a book began; its key ends with it: ``…|day:2026-12-01T00:00:00+00:00``."""
    _, sign, begun = key.rpartition("|")[2].partition(":")
    try:
        return datetime.fromisoformat(begun).timestamp() if sign else None
    except ValueError:
        return None


def _curve(
    book: Book, pairs: Mapping[str, str], lines: Sequence[Line], starts_s: float | None
) -> tuple[tuple[float, int], ...]:
    """What was posted from the window's beginning on, if the ledger has all of it."""
    if book.unit != "usd" or starts_s is None or not pairs.keys() <= _DRAWN or not lines:
        return ()
    step_s = min(line.end_s - line.start_s for line in lines)
    begun = [line for line in lines if line.start_s >= starts_s]
    if step_s >= DAY_S and (book.resets_at or 0) - starts_s <= DAY_S:
        return ()
    sums: dict[int, int] = defaultdict(int)
    for line in begun:
        if all(value == (getattr(line, name) or NONE) for name, value in pairs.items()):
            sums[line.end_s] += line.nanos
    if abs(sum(sums.values()) - book.state.posted) > _ALIKE * book.state.posted or not sums:
        return ()
    posted, found = 0, [(starts_s, 0)]
    for end_s in sorted(sums):
        posted += sums[end_s]
        found.append((float(end_s), posted))
    return tuple(found)
