"""Waste, from the ledger: where money went that bought nothing, with evidence and a remedy.

A finding is about an agent of a team, never about a person; an agent's name that gives away its owner is left out. Each
sign is read from sums alone. It is told only where it is a fair part of what the agent spent, because nobody reads a
report of trifles. The money of a finding is what would have been saved, by a low estimate where one is needed. Two
findings of one agent may speak of the same money, so they don't add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from tokenmeter.ledger.views import HourSum, RepeatSum, RunSum
from tokenmeter.outcomes import signs
from tokenmeter.outcomes.judging import Judged
from tokenmeter.outcomes.people import names_a_person, plain
from tokenmeter.outcomes.profiles import profiles
from tokenmeter.outcomes.rules import DEFAULT, Rules

WasteKind = Literal[
    "repeats",
    "duplicates",
    "loops",
    "chatter",
    "padding",
    "oversized",
    "reverted",
    "retries",
    "cache",
    "abandoned",
    "fruitless",
]

LEAST_NANOS: Final = 1_000_000_000  # a dollar
_SHORTEST_NAME: Final = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was paid for nothing. ``evidence`` is plain data."""

    kind: WasteKind
    agent: str | None
    team: str | None
    money_nanos: int
    evidence: Mapping[str, Any] = field(hash=False)
    remedy: str


def find_waste(
    hours: Iterable[HourSum],
    runs: Iterable[RunSum] = (),
    repeats: Iterable[RepeatSum] = (),
    judged: Iterable[Judged] = (),
    *,
    rules: Rules = DEFAULT,
    least_nanos: int = LEAST_NANOS,
    least_part: float = 0.2,
) -> tuple[Finding, ...]:
    """What was wasted in the window of ``hours``, the most money first.

    A finding has at least ``least_nanos`` and that part of what the agent spent. Where no outcomes are known at all,
    the signs that need them say nothing.
    """
    hours, runs, judged = list(hours), list(runs), list(judged)
    users = {plain(hour.user) for hour in hours if hour.user is not None}
    users |= {plain(user) for user in rules.teams}
    short = frozenset(name for user in users if len(name := user.partition("@")[0]) >= _SHORTEST_NAME)
    found, peers = profiles(hours, runs, repeats, judged, rules)
    findings = []
    for profile in found.values():
        least = max(least_nanos, round(least_part * profile.all.nanos))
        for kind, sign in SIGNS.items():
            seen = sign(profile, peers)
            if seen is None or seen.nanos < least:
                continue
            finding = Finding(kind, profile.agent, profile.team, seen.nanos, seen.evidence, seen.remedy)
            if profile.agent is not None and names_a_person(profile.agent, short):
                finding = replace(finding, agent=None)
            findings.append(finding)
    return tuple(sorted(findings, key=lambda each: (-each.money_nanos, each.kind, each.agent or "", each.team or "")))


SIGNS: Final[Mapping[WasteKind, signs.Sign]] = {
    "repeats": signs.repeats,
    "duplicates": signs.duplicates,
    "loops": signs.loops,
    "chatter": signs.chatter,
    "padding": signs.padding,
    "oversized": signs.oversized,
    "reverted": signs.reverted,
    "retries": signs.retries,
    "cache": signs.cache,
    "abandoned": signs.abandoned,
    "fruitless": signs.fruitless,
}
