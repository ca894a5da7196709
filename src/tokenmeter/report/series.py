"""Sums over time: the steps of a window, and what was spent in each of them by one name or another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tokenmeter.outcomes.normalized import unit_cost

if TYPE_CHECKING:
    from tokenmeter.outcomes import Judged
    from tokenmeter.report.data import Line

HOUR_S: Final = 3600
DAY_S: Final = 86_400
WEEK_S: Final = 7 * DAY_S
_MONDAY_S: Final = 4 * DAY_S  # 1970-01-05
_STEPS_S: Final = (HOUR_S, DAY_S, WEEK_S, 4 * WEEK_S, 52 * WEEK_S)
_MOST_STEPS: Final = 93
_LONGEST_IN_HOURS_S: Final = 3 * DAY_S
MOST_NAMES: Final = 7


@dataclass(frozen=True, slots=True)
class Series:
    """The nanodollars of one name in each step. ``name`` is None for what has none; ``others`` were put together."""

    name: str | None
    nanos: tuple[int, ...]
    others: int = 0


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a window, which begin at these times and are ``step_s`` long."""

    step_s: int
    starts_s: tuple[int, ...]

    def number(self, at_s: float) -> int | None:
        """Which step a moment falls into."""
        if not self.starts_s or not self.starts_s[0] <= at_s < self.starts_s[-1] + self.step_s:
            return None
        return int(at_s - self.starts_s[0]) // self.step_s

    def __len__(self) -> int:
        return len(self.starts_s)


def fine_step(since_s: float, until_s: float) -> int:
    """The step in which the ledger is read: hours of a short window, days of others."""
    return HOUR_S if until_s - since_s <= _LONGEST_IN_HOURS_S else DAY_S


def steps(since_s: float, until_s: float, least_s: int) -> Steps:
    """As many steps as can be drawn, none shorter than ``least_s``. Weeks begin on Monday, UTC."""
    found = Steps(least_s, ())
    for step_s in _STEPS_S:
        if step_s < least_s:
            continue
        origin = _MONDAY_S if step_s >= WEEK_S else 0
        first = int(since_s - origin) // step_s * step_s + origin
        number = max(0, -int(-(until_s - first) // step_s))
        found = Steps(step_s, tuple(first + step_s * n for n in range(min(number, _MOST_STEPS))))
        if number <= _MOST_STEPS:
            break
    return found


def by_name(lines: Iterable[Line], names: Callable[[Line], str | None], over: Steps) -> tuple[Series, ...]:
    """What each name spent: what has none first, then the largest in the order of their names, the rest as one."""
    sums: dict[str | None, list[int]] = defaultdict(lambda: [0] * len(over))
    for line in lines:
        number = over.number(line.start_s)
        if number is not None and line.nanos:
            sums[names(line)][number] += line.nanos
    nameless = sums.pop(None, None)
    largest = sorted(sums, key=lambda name: (-sum(sums[name]), name or ""))
    kept, rest = largest[:MOST_NAMES], largest[MOST_NAMES:]
    if len(rest) == 1:
        kept, rest = largest, []
    found = [Series(None, tuple(nameless))] if nameless is not None else []
    found += [Series(name, tuple(sums[name])) for name in sorted(kept, key=lambda name: name or "")]
    if rest:
        found.append(Series("others", tuple(map(sum, zip(*(sums[name] for name in rest), strict=True))), len(rest)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class UnitCost:
    """What was spent and what was accepted from one time on, for a step."""

    start_s: int
    nanos: int
    micros: int

    @property
    def unit_nanos(self) -> int | None:
        """What a unit did cost; None where nothing was accepted."""
        return unit_cost(self.nanos, self.micros)


def unit_costs(lines: Iterable[Line], counted: Iterable[Judged], over: Steps) -> tuple[UnitCost, ...]:
    """What an outcome did cost over time."""
    nanos, micros = [0] * len(over), [0] * len(over)
    for line in lines:
        if (number := over.number(line.start_s)) is not None:
            nanos[number] += line.nanos
    for each in counted:
        if (number := over.number(each.outcome.at_s)) is not None:
            micros[number] += each.micros
    return tuple(map(UnitCost, over.starts_s, nanos, micros))


def totals(lines: Iterable[Line], what: Callable[[Line], int], over: Steps) -> tuple[int, ...]:
    """One figure of each step."""
    found = [0] * len(over)
    for line in lines:
        if (number := over.number(line.start_s)) is not None:
            found[number] += what(line)
    return tuple(found)
