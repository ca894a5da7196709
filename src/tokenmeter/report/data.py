"""The record of a window that everything is shown from, and how it is made of a ledger.

It is read once; then it is data, without a connection, and shows no name of a person but for the one who asked for
their own figures. Its ``lines`` add up to what the ledger says, to the nanodollar.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from tokenmeter.errors import ConfigError
from tokenmeter.ledger.views import SUMS, HourSum, Outcome, Sums
from tokenmeter.outcomes import (
    BUILT_IN,
    Adoption,
    Finding,
    Judged,
    Kinds,
    Normalized,
    Own,
    Row,
    Rules,
    find_waste,
    judge,
    link,
    own_figures,
    report,
)
from tokenmeter.report import series
from tokenmeter.report.adopted import adopted
from tokenmeter.report.burn import BudgetLine, budget_lines
from tokenmeter.report.depth import Depth, depths
from tokenmeter.report.gathering import Gathered, Progress, gather
from tokenmeter.report.narrowing import narrowed
from tokenmeter.report.series import Series, Steps, UnitCost
from tokenmeter.report.shown import Shown, teams_of

if TYPE_CHECKING:
    from tokenmeter.budgets import Book
    from tokenmeter.ledger.ledger import Ledger

_SHORTEST_UNIT_STEPS_S: Final = 14 * series.DAY_S


@dataclass(frozen=True, slots=True)
class Line:
    """The calls of one step by team, agent and model. A team of None: nobody answers for them."""

    start_s: int
    end_s: int
    team: str | None
    agent: str | None
    provider: str
    model: str | None
    calls: int
    nanos: int
    estimated_nanos: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    refused: int
    failed: int
    incomplete: int
    unpriced: int


@dataclass(frozen=True, slots=True)
class Group:
    """The sums of one team or agent. ``name`` of None: what has none, which stands first."""

    name: str | None
    sums: Sums


@dataclass(frozen=True, slots=True)
class Apart:
    """An outcome that doesn't count, and why. Who claims it and who accepted it is not said."""

    kind: str
    key: str
    at_s: float
    team: str | None
    verdict: str
    why: str


@dataclass(frozen=True, slots=True)
class ReportData:
    """One window of a ledger. Money is in nanodollars, times are in seconds since the epoch.

    ``spend`` has what came of it by team, agent, model and kind, under the names that are shown. ``spendless`` are
    outcomes that no spend led to, ``apart`` the others that don't count. ``runs_cut``: the ledger has more runs than
    were looked into, so that some of what led to outcomes may not be known. ``ahead`` are calls that say they are made
    after now, whoever's they are: a clock is wrong, and they are in no window yet. ``adoption`` has the weeks of each
    group of the directory; None where the rules name no teams, and in a report of one agent.
    """

    address: str
    since_s: int
    until_s: int
    made_s: float
    team: str | None
    agent: str | None
    min_group: int
    total: Sums
    lines: tuple[Line, ...]
    teams: tuple[Group, ...]
    agents: tuple[Group, ...]
    spend: Normalized
    spendless: tuple[Apart, ...]
    apart: tuple[Apart, ...]
    findings: tuple[Finding, ...]
    waste_since_s: int
    steps: Steps
    by_team: tuple[Series, ...]
    by_agent: tuple[Series, ...]
    refused: tuple[int, ...]
    unit_costs: tuple[UnitCost, ...]
    unit_step_s: int
    depths: tuple[Depth, ...]
    budgets: tuple[BudgetLine, ...]
    adoption: tuple[Adoption, ...] | None
    own: Own | None
    runs_cut: bool
    shown: Shown = field(repr=False, compare=False)  # for looking into runs under the same names
    ahead: Sums = field(default_factory=Sums)

    @property
    def unattributed(self) -> Sums:
        """What no team answers for."""
        return next((group.sums for group in self.teams if group.name is None), Sums())


def read(
    ledger: Ledger,
    *,
    since_s: float = 0.0,
    until_s: float | None = None,
    team: str | None = None,
    agent: str | None = None,
    me: str | None = None,
    books: Iterable[Book] = (),
    kinds: Kinds = BUILT_IN,
    rules: Rules | None = None,
    now_s: float | None = None,
    progress: Progress | None = None,
) -> ReportData:
    """The report of a window, whose first and last hour are whole ones.

    ``me`` adds the figures of that one person, for that person. Raises `ConfigError` for a window without a length, and
    for a team or an agent whose figures would be those of a person.
    """
    rules = Rules() if rules is None else rules
    now_s = time.time() if now_s is None else now_s
    end_s = now_s if until_s is None else until_s
    if not since_s < end_s:
        raise ConfigError("the window ends before it begins; give a since that is earlier than until")
    found = gather(ledger, since_s, end_s, team=team, agent=agent, rules=rules, progress=progress)
    data = make(found, address=ledger.address, team=team, agent=agent, me=me, books=books, kinds=kinds, rules=rules,
                now_s=now_s)  # fmt: skip
    return data if end_s < now_s else replace(data, ahead=_sums(ledger.hours(found.until_s, by=())))


def make(
    found: Gathered,
    *,
    address: str,
    team: str | None,
    agent: str | None,
    me: str | None,
    books: Iterable[Book],
    kinds: Kinds,
    rules: Rules,
    now_s: float,
) -> ReportData:
    """The record of what was read; no effect, no clock."""
    judged = judge(found.outcomes, found.runs, link(found.outcomes, found.runs, rules),
                   kinds=kinds, rules=rules, as_of_s=found.until_s)  # fmt: skip
    narrow = narrowed(found, judged, rules, team=team, agent=agent)
    spend = report(found.hours, narrow.runs, narrow.judged, rules=rules, since_s=found.since_s, until_s=found.until_s)
    shown = Shown(teams_of(spend.by_team), _people(found, rules), rules)
    _refuse_persons(spend, shown, team, agent, rules)
    lines = _lines(found, shown, rules)
    findings = find_waste(found.waste_hours, narrow.waste_runs, found.repeats, narrow.judged, rules=rules)
    over = series.steps(found.since_s, found.until_s, found.step_s)
    long = found.until_s - found.since_s >= _SHORTEST_UNIT_STEPS_S
    unit_over = series.steps(found.since_s, found.until_s, series.WEEK_S if long else found.step_s)
    apart = [_apart(each, shown, rules) for each in spend.apart]
    return ReportData(
        address=address,
        since_s=found.since_s,
        until_s=found.until_s,
        made_s=now_s,
        team=team,
        agent=agent,
        min_group=rules.min_group,
        total=_sums(lines),
        lines=lines,
        teams=_groups(lines, "team"),
        agents=_groups(lines, "agent"),
        spend=replace(spend, by_agent=_masked(spend.by_agent, shown)),
        spendless=tuple(each for each in apart if each.verdict == "spendless"),
        apart=tuple(each for each in apart if each.verdict != "spendless"),
        findings=_shown_findings(findings, shown),
        waste_since_s=found.waste_since_s,
        steps=over,
        by_team=series.by_name(lines, lambda line: line.team, over),
        by_agent=series.by_name(lines, lambda line: line.agent, over),
        refused=series.totals(lines, lambda line: line.refused, over),
        unit_costs=series.unit_costs(lines, spend.counted, unit_over),
        unit_step_s=unit_over.step_s,
        depths=depths(narrow.window_runs),
        budgets=budget_lines(books, lines, shown, now_s, min_group=rules.min_group),
        adoption=adopted(found, rules, team=team, agent=agent, now_s=now_s),
        own=own_figures(me, found.hours, _within(found, narrow.judged)) if me is not None else None,
        runs_cut=found.runs_cut,
        shown=shown,
    )


def _people(found: Gathered, rules: Rules) -> set[str]:
    """Everybody who is named anywhere."""
    people = {hour.user for hour in found.hours} | {run.user for run in found.runs} | set(rules.teams)
    people |= {each.user for each in found.outcomes}
    return {name for name in people if name is not None}


def _refuse_persons(spend: Normalized, shown: Shown, team: str | None, agent: str | None, rules: Rules) -> None:
    """A report of one team or agent alone must not be one of a person."""
    if team is not None and team not in shown.teams and any(row.people is not None for row in spend.by_team):
        raise ConfigError(
            f"team {team!r} has fewer than {rules.min_group} people in this window, and is not shown by itself; leave "
            "the team out, or ask for your own figures"
        )
    if agent is not None and shown.is_personal(agent):
        raise ConfigError(f"agent {agent!r} is named after a person, and is not shown by itself; leave the agent out")


def _lines(found: Gathered, shown: Shown, rules: Rules) -> tuple[Line, ...]:
    """The sums under the names that are shown; what no team answers for stands first."""
    sums: dict[tuple[str | None, str | None, str, str | None, int], list[int]] = defaultdict(lambda: [0] * len(SUMS))
    for hour in found.hours:
        team = shown.team(rules.team_of(hour.user, hour.team))
        of = sums[team, shown.agent(hour.agent), hour.provider, hour.model, hour.hour_s]
        for place, name in enumerate(SUMS):
            of[place] += getattr(hour, name)
    lines = []
    for team, agent, provider, model, start_s in sorted(sums, key=_order):
        end_s = min(start_s - start_s % found.step_s + found.step_s, found.until_s)
        lines.append(Line(start_s, end_s, team, agent, provider, model, *sums[team, agent, provider, model, start_s]))
    return tuple(lines)


def _order(names: tuple[str | None, str | None, str, str | None, int]) -> tuple[object, ...]:
    team, agent, provider, model, start_s = names
    return team is not None, team or "", agent is not None, agent or "", provider, model or "", start_s


def _sums(lines: Iterable[Line | HourSum]) -> Sums:
    found = [0] * len(SUMS)
    for line in lines:
        for place, name in enumerate(SUMS):
            found[place] += getattr(line, name)
    return Sums(*found)


def _groups(lines: Iterable[Line], name: str) -> tuple[Group, ...]:
    of: dict[str | None, list[Line]] = defaultdict(list)
    for line in lines:
        of[getattr(line, name)].append(line)
    names = sorted(of, key=lambda each: (each is not None, each or ""))
    return tuple(Group(each, _sums(of[each])) for each in names)


def _masked(rows: Sequence[Row], shown: Shown) -> tuple[Row, ...]:
    """The rows of agents; those that are named after persons as one."""
    found: dict[str | None, Row] = {}
    for row in rows:
        name = shown.agent(row.name)
        known = found.get(name)
        more = replace(row, name=name)
        if known is not None:
            more = replace(
                more, nanos=known.nanos + row.nanos, micros=known.micros + row.micros, groups=known.groups + 1
            )
        found[name] = more
    return tuple(found.values())


def _apart(judged: Judged, shown: Shown, rules: Rules) -> Apart:
    outcome: Outcome = judged.outcome
    team = shown.team(rules.team_of(outcome.user, outcome.team))
    return Apart(outcome.kind, shown.text(outcome.key), outcome.at_s, team, judged.verdict, judged.why)


def _shown_findings(findings: Iterable[Finding], shown: Shown) -> tuple[Finding, ...]:
    return tuple(replace(each, agent=shown.agent(each.agent), team=shown.team(each.team)) for each in findings)


def _within(found: Gathered, judged: Iterable[Judged]) -> list[Judged]:
    return [each for each in judged if found.since_s <= each.outcome.at_s < found.until_s]
