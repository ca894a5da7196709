"""Adoption: which part of each team used AI at all in a week. Each person is a yes or a no, so more can't raise it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from tokenmeter.outcomes import Adoption, Rules
from tokenmeter.outcomes import adoption as adoption_of
from tokenmeter.outcomes.groups import SMALL_GROUPS
from tokenmeter.report.gathering import Gathered
from tokenmeter.report.grids import Cells, Grid
from tokenmeter.report.series import WEEK_S
from tokenmeter.report.words import count, day, percent, short

if TYPE_CHECKING:
    from tokenmeter.report.data import ReportData

_EMPTY: Final = "The directory has no group that is large enough to be shown."


def adopted(
    found: Gathered, rules: Rules, *, team: str | None, agent: str | None, now_s: float
) -> tuple[Adoption, ...] | None:
    """The weeks of each group of the directory; None without one, and of one agent, which says nothing of AI at all."""
    if not rules.teams or agent is not None:
        return None
    every = adoption_of(
        found.user_hours, rules.teams, target=rules.adoption_target, min_group=rules.min_group,
        since_s=found.since_s, until_s=min(found.until_s, now_s),
    )  # fmt: skip
    last = sorted(every, key=lambda each: each.group == SMALL_GROUPS)
    return tuple(each for each in last if team is None or each.group == team)


def is_whole(each: Adoption, data: ReportData) -> bool:
    """Whether all of a week lies in the window, and is over."""
    return data.since_s <= each.week_s and each.week_s + WEEK_S <= min(data.until_s, data.made_s)


def adoption_text(data: ReportData) -> tuple[str, ...]:
    """What the figures mean, in sentences."""
    every = data.adoption or ()
    target = f" The target is {percent(round(every[0].target * 1000), 1000)}." if every else ""
    return (
        "The part of a team's people who used AI at all in the week that begins on that Monday, UTC.",
        f"Each is a yes or a no, so that more calls and tokens can't raise it.{target}",
        "Faint: of these, who made two calls or less. Of a week that is marked as a part, only some days are known.",
        f"Groups of fewer than {data.min_group} people are folded.",
    )


def adoption_grid(data: ReportData, most: int) -> Grid:
    """A row for each team, and a column for each of the last weeks."""
    every = data.adoption or ()
    weeks = sorted({each.week_s for each in every})[-most:]
    of: dict[str, dict[int, Adoption]] = defaultdict(dict)
    for each in every:
        of[each.group][each.week_s] = each
    rows = []
    for name, theirs in of.items():
        cells = [_cell(theirs[week_s]) for week_s in weeks]
        people = next(iter(theirs.values())).people
        rows.append(Cells((short(name), count(people), *cells)))
    whole = {each.week_s for each in every if is_whole(each, data)}
    head = ("Team", "People", *(day(week_s) + ("" if week_s in whole else " (part)") for week_s in weeks))
    return Grid("Who used AI at all, by team and week", head, rows, head[1:], _EMPTY)


def _cell(each: Adoption) -> str:
    text = percent(each.used, each.people) + (", met" if each.reached else "")
    return f"{text} ({each.faint} faint)" if each.faint else text
