"""Adoption: which part of a group used AI at all in a week, against a target.

A person and a week have a yes or a no, so more tokens can't raise it, and neither can more calls. Groups are those of
the directory: an account that is in no group is nobody. A whole week that was one call is a yes, too, and can be had by
a ping; the part of the yeses that are no more than that stands beside, so that a target that is met by pings is seen.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tokenmeter.errors import ConfigError
from tokenmeter.ledger.views import HourSum
from tokenmeter.outcomes.groups import SMALL_GROUPS, parted
from tokenmeter.outcomes.people import plain

WEEK_S: Final = 7 * 86_400
_MONDAY_S: Final = 4 * 86_400  # 1970-01-05
FEW_CALLS: Final = 2
_ROUNDING: Final = 1e-9  # 0.55 of a hundred is more than 55 in floats


@dataclass(frozen=True, slots=True)
class Adoption:
    """One group in one week, which begins on Monday, UTC. ``faint`` of those who ``used`` it made at most two calls."""

    group: str
    week_s: int
    people: int
    used: int
    faint: int
    target: float

    @property
    def share(self) -> float:
        """The part of the group that used AI."""
        return self.used / self.people

    @property
    def reached(self) -> bool:
        """Whether the target is met."""
        return self.used >= math.ceil(self.target * self.people - _ROUNDING)


def week_of(at_s: float) -> int:
    """When the week of a moment began."""
    return int(at_s - _MONDAY_S) // WEEK_S * WEEK_S + _MONDAY_S


def adoption(
    hours: Iterable[HourSum],
    groups: Mapping[str, str],
    *,
    target: float = 0.8,
    min_group: int = 5,
    since_s: float | None = None,
    until_s: float | None = None,
) -> tuple[Adoption, ...]:
    """Each group and week, in the order of names and time; ``groups`` says the group of each person.

    Groups of fewer than ``min_group`` people are one, and if that is too small as well, nobody's. Weeks are those of
    ``hours``, and all between ``since_s`` and ``until_s`` if both are given: in a week without calls nobody used it.

    Raises:
        ConfigError: a target that is no part of one.
    """
    if not 0 < target <= 1:
        raise ConfigError(f"adoption target is {target!r}; give a part of one, such as 0.8")
    members: dict[str, set[str]] = defaultdict(set)
    for user, group in groups.items():
        members[group].add(plain(user))
    group_of = _shown(members, min_group)
    people: dict[str, int] = defaultdict(int)
    for group in group_of.values():
        people[group] += 1
    calls: dict[tuple[int, str], int] = defaultdict(int)
    weeks: set[int] = set()
    if since_s is not None and until_s is not None:
        weeks.update(range(week_of(since_s), math.ceil(until_s), WEEK_S))
    for hour in hours:
        week_s = week_of(hour.hour_s)
        weeks.add(week_s)
        if hour.user is not None and hour.calls and plain(hour.user) in group_of:
            calls[week_s, plain(hour.user)] += hour.calls
    used: dict[tuple[str, int], list[int]] = defaultdict(list)
    for (week_s, user), number in calls.items():
        used[group_of[user], week_s].append(number)
    return tuple(
        Adoption(group, week_s, people[group], len(found), sum(number <= FEW_CALLS for number in found), target)
        for group in sorted(people)
        for week_s in sorted(weeks)
        for found in (used[group, week_s],)
    )


def _shown(members: Mapping[str, set[str]], least: int) -> dict[str, str]:
    """The group under which each person is shown."""
    large, small = parted({group: len(users) for group, users in members.items()}, least)
    found = {user: group for group in large for user in members[group]}
    if sum(len(members[group]) for group in small) >= least:
        found |= {user: SMALL_GROUPS for group in small for user in members[group]}
    return found
