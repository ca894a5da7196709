"""What an accepted outcome costs, by team, agent, model and kind: all that was spent over all that was accepted.

The spend is that of every call, of failed and abandoned tries too. It is in three parts that add up to it: what no team
answers for, which stands first; what led to outcomes that count; and what led to none. Rows stand in the order of their
names, and none is of a person.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tokenmeter.ledger.views import HourSum, Link, Outcome, RunSum
from tokenmeter.outcomes.changes import MICROS
from tokenmeter.outcomes.groups import fold_small
from tokenmeter.outcomes.judging import Judged, judge
from tokenmeter.outcomes.kinds import BUILT_IN, Kinds
from tokenmeter.outcomes.linking import link
from tokenmeter.outcomes.rules import DEFAULT, Rules
from tokenmeter.outcomes.shares import split


def unit_cost(nanos: int, micros: int) -> int | None:
    """What a unit costs, in nanodollars; None where nothing was accepted, which is not zero."""
    return None if micros <= 0 else (nanos * MICROS + micros // 2) // micros


@dataclass(frozen=True, slots=True)
class Row:
    """One team, agent, model or kind. A name of None: the calls that have none, which stand first.

    ``micros`` are millionths of a unit: the outcomes that count, by their weights. ``linked_nanos`` is the spend of
    runs that led to them, ``fruitless_nanos`` the rest; both only where the spend can be told apart, by team.
    ``people`` is None where no call of the team names anybody.
    """

    name: str | None
    nanos: int
    micros: int
    estimated_nanos: int = 0
    linked_nanos: int | None = None
    fruitless_nanos: int | None = None
    people: int | None = None
    groups: int = 1  # how many were folded into it

    @property
    def units(self) -> float:
        """The outcomes that count, for display."""
        return self.micros / MICROS

    @property
    def unit_nanos(self) -> int | None:
        """What a unit costs."""
        return unit_cost(self.nanos, self.micros)


@dataclass(frozen=True, slots=True)
class Normalized:
    """The report. ``unattributed_nanos + linked_nanos + fruitless_nanos == total_nanos``, to the nanodollar."""

    unattributed_nanos: int  # no team answers for it
    nameless_nanos: int  # the part of it that has neither agent nor user
    total_nanos: int
    estimated_nanos: int
    linked_nanos: int
    fruitless_nanos: int
    micros: int
    by_team: tuple[Row, ...]
    by_agent: tuple[Row, ...]
    by_model: tuple[Row, ...]
    by_kind: tuple[Row, ...]
    counted: tuple[Judged, ...]
    apart: tuple[Judged, ...]  # what doesn't count, with the reason

    @property
    def unit_nanos(self) -> int | None:
        """What a unit costs over all, what is unattributed included."""
        return unit_cost(self.total_nanos, self.micros)


def normalize(
    hours: Iterable[HourSum],
    runs: Iterable[RunSum],
    outcomes: Iterable[Outcome],
    *,
    links: Iterable[Link] | None = None,
    kinds: Kinds = BUILT_IN,
    rules: Rules = DEFAULT,
    since_s: float | None = None,
    until_s: float | None = None,
) -> Normalized:
    """The report over a window: hours that begin in it, and outcomes that were accepted in it.

    ``runs`` should reach back further than the window, so that what led to its first outcomes is among them. Without
    ``links`` they are made here. What was revoked, whenever, doesn't count in any window.
    """
    runs, outcomes = list(runs), list(outcomes)
    found = judge(outcomes, runs, link(outcomes, runs, rules) if links is None else links,
                  kinds=kinds, rules=rules, as_of_s=until_s)  # fmt: skip
    return report(hours, runs, found, rules=rules, since_s=since_s, until_s=until_s)


def report(
    hours: Iterable[HourSum],
    runs: Iterable[RunSum],
    judged: Iterable[Judged],
    *,
    rules: Rules = DEFAULT,
    since_s: float | None = None,
    until_s: float | None = None,
) -> Normalized:
    """The report from outcomes that were judged before."""
    spend = _Spend(rules)
    for hour in hours:
        if _within(hour.hour_s, since_s, until_s):
            spend.add(hour)
    gain = _Gain({run.run: run for run in runs})
    counted, apart = [], []
    for each in judged:
        if each.verdict == "future" or not _within(each.outcome.at_s, since_s, until_s):
            continue
        if each.verdict == "counted":
            counted.append(each)
            gain.add(each)
        else:
            apart.append(each)
    # A run may have begun before the window, or be known in part: no team's part is larger than what it spent.
    linked: dict[str | None, int] = {
        team: min(spend.teams[team], nanos) for team, nanos in gain.linked.items() if team is not None
    }
    nobodys = None in spend.teams or gain.teams.get(None, 0) > 0  # calls without a price count as well
    unattributed = spend.teams.pop(None, 0)
    total = unattributed + sum(spend.teams.values())
    led = sum(linked.values())
    teams = [
        Row(
            team, spend.teams[team], gain.teams[team], spend.estimated[team], linked.get(team, 0),
            spend.teams[team] - linked.get(team, 0), len(spend.people[team]) if team in spend.people else None,
        )
        for team in spend.teams.keys() | {team for team in gain.teams if team is not None}
    ]  # fmt: skip
    first = [Row(None, unattributed, gain.teams[None], spend.estimated[None])] if nobodys else []
    return Normalized(
        unattributed_nanos=unattributed,
        nameless_nanos=spend.nameless,
        total_nanos=total,
        estimated_nanos=sum(spend.estimated.values()),
        linked_nanos=led,
        fruitless_nanos=total - unattributed - led,
        micros=sum(each.micros for each in counted),
        by_team=(*first, *fold_small(teams, rules.min_group)),
        by_agent=_rows(spend.agents, gain.agents),
        by_model=_rows(spend.models, gain.models),
        by_kind=_by_kind({None: unattributed, **spend.teams}, gain),
        counted=tuple(counted),
        apart=tuple(apart),
    )


def _within(at_s: float, since_s: float | None, until_s: float | None) -> bool:
    return (since_s is None or at_s >= since_s) and (until_s is None or at_s < until_s)


class _Spend:
    """What was spent, and by how many."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.teams: dict[str | None, int] = defaultdict(int)
        self.estimated: dict[str | None, int] = defaultdict(int)
        self.people: dict[str | None, set[str]] = defaultdict(set)
        self.agents: dict[str | None, int] = defaultdict(int)
        self.models: dict[str | None, int] = defaultdict(int)
        self.nameless = 0
        for user, team in rules.teams.items():
            self.people[team].add(user)

    def add(self, hour: HourSum) -> None:
        team = self._rules.team_of(hour.user, hour.team)
        self.teams[team] += hour.nanos
        self.estimated[team] += hour.estimated_nanos
        self.agents[hour.agent] += hour.nanos
        self.models[hour.model] += hour.nanos
        if team is None and hour.agent is None and hour.user is None:
            self.nameless += hour.nanos
        if hour.user is None:
            return
        if not self._rules.teams:
            self.people[team].add(hour.user)
        elif team is not None:
            self.people.setdefault(team, set())  # of people, though the directory knows none of them


class _Gain:
    """What was accepted, and the spend that led to it."""

    def __init__(self, by_id: Mapping[str, RunSum]) -> None:
        self._by_id = by_id
        self._seen: set[str] = set()
        self.teams: dict[str | None, int] = defaultdict(int)
        self.linked: dict[str | None, int] = defaultdict(int)
        self.agents: dict[str | None, int] = defaultdict(int)
        self.models: dict[str | None, int] = defaultdict(int)
        self.kinds: dict[str | None, int] = defaultdict(int)
        self.nanos_of_kinds: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))  # by team

    def add(self, judged: Judged) -> None:
        outcome = judged.outcome
        self.kinds[outcome.kind] += judged.micros
        for credit in judged.credits:
            run = self._by_id.get(credit.run)
            team = credit.claimant[0]
            self.teams[team] += credit.micros
            if run is None or not credit.micros:
                continue
            if run.run not in self._seen:
                self._seen.add(run.run)
                self.linked[team] += run.nanos
            for to, names in ((self.agents, credited(outcome, run)), (self.models, run.models)):
                for name, part in in_parts(credit.micros, names):
                    to[name] += part
            if team is not None:
                self.nanos_of_kinds[team][outcome.kind] += max(1, run.nanos * credit.micros // MICROS)


def in_parts(micros: int, names: Sequence[str]) -> Iterable[tuple[str | None, int]]:
    """What each of them has of it; where nobody is named, nobody has all."""
    some: tuple[str | None, ...] = tuple(names) or (None,)
    return zip(some, split(micros, [1] * len(some)), strict=True)


def credited(outcome: Outcome, run: RunSum) -> tuple[str, ...]:
    """The agents of a run that share in an outcome: those that it names, else all that took part."""
    named = tuple(agent for agent in run.agents if agent in outcome.agents)
    return named or run.agents


def _rows(nanos: Mapping[str | None, int], micros: Mapping[str | None, int]) -> tuple[Row, ...]:
    names = sorted(nanos.keys() | micros.keys(), key=lambda name: (name is not None, name or ""))
    return tuple(Row(name, nanos.get(name, 0), micros.get(name, 0)) for name in names)


def _by_kind(teams: Mapping[str | None, int], gain: _Gain) -> tuple[Row, ...]:
    """All that a team spent, its failed tries too, goes to the kinds that it delivered; without any, to none."""
    nanos: dict[str | None, int] = defaultdict(int)
    for team, spent in teams.items():
        kinds = gain.nanos_of_kinds.get(team, {}) if team is not None else {}
        if not kinds:
            nanos[None] += spent
            continue
        names = sorted(kinds)
        for name, part in zip(names, split(spent, [kinds[name] for name in names]), strict=True):
            nanos[name] += part
    return _rows(nanos, dict(gain.kinds))
