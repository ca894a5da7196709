"""What the simulation measures: rank correlations with the truth, and how well wasteful agents are found.

The correlations are over people, because the board ranks people: the board's figure against each one's own normalized
outcomes, which in the product only that person sees. Over teams, which the product does show, they stand beside.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from examples.leaderboard.books import DAY_S, Books, Person
from examples.leaderboard.company import (
    left_running,
    mates_of,
    nameless,
    newcomer,
    night_desk,
    people_of,
    play_honestly,
)
from examples.leaderboard.players import Table, Way, play
from tokenmeter.outcomes import Finding, Judged, Normalized, Rules, find_waste, judge, link, report

WASTEFUL_PART = 0.3
LEAST_NANOS = 1_000_000_000  # a dollar in all these weeks


@dataclass(frozen=True, slots=True)
class Company:
    """A company after its weeks: the books, who played and how, and what tokenmeter makes of the books."""

    people: tuple[Person, ...]
    ways: Mapping[str, str]
    books: Books
    judged: tuple[Judged, ...]
    findings: tuple[Finding, ...]
    report: Normalized

    @property
    def units(self) -> dict[str, float]:
        """The normalized outcomes of each one, as each would see their own."""
        found: dict[str, float] = defaultdict(float)
        for each in self.judged:
            for credit in each.credits:
                found[credit.claimant[1] or ""] += credit.micros / 1e6
        return found


@dataclass(frozen=True, slots=True)
class Score:
    """The figures of one company."""

    board: float
    normalized: float
    board_teams: float
    normalized_teams: float
    cost_teams: float
    precision: float
    recall: float
    wasteful: int


def simulate(
    seed: int,
    ways: Sequence[Way],
    *,
    size: int = 200,
    weeks: int = 8,
    players: float = 0.3,
    own_word: float = 1.0,
) -> Company:
    """A company of a seed: ``players`` of its people play, each in one of the ways. ``own_word`` is a rule's."""
    rng = random.Random(seed)
    people = people_of(rng, size)
    mates = mates_of(people)
    books = Books(rng, weeks)
    order = people[:]
    rng.shuffle(order)
    playing = order[: round(players * size)]
    ways_of = {who.user: ways[i % len(ways)] for i, who in enumerate(playing)}
    for who in people:
        if who.user not in ways_of:
            play_honestly(books, who, mates[who.user])
    for who in order[len(playing) : len(playing) + max(1, size // 60)]:
        left_running(books, who)
    for who in order[-max(1, size // 40) :]:
        newcomer(books, who)
        nameless(books, who)
    desks = [who for who in order[len(playing) :] if who.role == "desk"]
    for who in desks[: max(1, size // 60)]:
        night_desk(books, who)
    for who in playing:
        play(Table(books, who, mates[who.user], people), ways_of[who.user])
    rules = Rules(own_word=own_word, teams={who.user: who.team for who in people})
    hours = books.hour_sums()
    judged = judge(
        books.outcomes, books.runs, link(books.outcomes, books.runs, rules), rules=rules, as_of_s=books.end_s
    )
    findings = find_waste(hours, books.runs, books.repeats, judged, rules=rules)
    told = report(hours, books.runs, judged, rules=rules)
    names = {user: way.__name__ for user, way in ways_of.items()}
    return Company(tuple(people), names, books, judged, findings, told)


def score(company: Company) -> Score:
    """The figures of a company."""
    books, people = company.books, company.people
    value = [books.value[who.user] for who in people]
    units = company.units
    teams = sorted({who.team for who in people})
    value_of = {team: sum(books.value[who.user] for who in people if who.team == team) for team in teams}
    tokens_of = {team: sum(books.tokens[who.user] for who in people if who.team == team) for team in teams}
    rows = {row.name: row for row in company.report.by_team}
    true_cost = [rows[team].nanos / value_of[team] for team in teams]
    cost = [float(rows[team].unit_nanos or 10**18) for team in teams]
    wasteful, found = wasteful_agents(company), found_agents(company)
    right = len(wasteful & found)
    return Score(
        board=spearman([float(books.tokens[who.user]) for who in people], value),
        normalized=spearman([units[who.user] for who in people], value),
        board_teams=spearman([float(tokens_of[team]) for team in teams], [value_of[team] for team in teams]),
        normalized_teams=spearman([rows[team].units for team in teams], [value_of[team] for team in teams]),
        cost_teams=spearman(cost, true_cost),
        precision=right / len(found) if found else 1.0,
        recall=right / len(wasteful) if wasteful else 1.0,
        wasteful=len(wasteful),
    )


@dataclass(frozen=True, slots=True)
class Saving:
    """What limits would have kept back, of wasteful agents and of the others, in nanodollars."""

    wasted: int
    wasted_kept: int
    worked: int
    worked_kept: int


def saving(company: Company, *, calls_per_run: int = 60, depth: int = 4, nanos_per_day: int = 10**9) -> Saving:
    """What loop limits, and then a budget for each agent and day, would have kept back.

    A run ends at its limit of calls, agents aren't nested deeper, the fourth of the same request isn't sent.
    """
    wasteful = wasteful_agents(company)
    repeated: dict[str, int] = defaultdict(int)
    whole, left = [0, 0], [0, 0]
    spent: dict[tuple[str, int], int] = defaultdict(int)
    for run in company.books.runs:
        agent, is_waste = run.agents[0], run.agents[0] in wasteful
        whole[is_waste] += run.nanos
        within = run.nanos * min(run.calls, calls_per_run) // run.calls
        spent[agent, int(run.first_s) // DAY_S] += within * min(run.max_depth, depth) // run.max_depth
    for repeat in company.books.repeats:
        if repeat.runs == 1:
            repeated[repeat.agent or ""] += max(0, min(repeat.calls, calls_per_run) - 3) * repeat.first_nanos
    for (agent, _), nanos in spent.items():
        left[agent in wasteful] += min(nanos, nanos_per_day)
    for agent, nanos in repeated.items():
        left[agent in wasteful] -= min(nanos, left[agent in wasteful])
    return Saving(whole[1], whole[1] - left[1], whole[0], whole[0] - left[0])


def wasteful_agents(company: Company) -> set[str]:
    """The agents whose spend was waste for a good part, and no trifle; only the simulation knows it."""
    spent: dict[str, int] = defaultdict(int)
    wasted: dict[str, int] = defaultdict(int)
    for (agent, team), nanos in company.books.spent.items():
        spent[agent] += nanos
        wasted[agent] += company.books.wasted[agent, team]
    return {agent for agent, nanos in spent.items() if wasted[agent] >= max(LEAST_NANOS, WASTEFUL_PART * nanos)}


def found_agents(company: Company) -> set[str]:
    """The agents that findings name."""
    return {each.agent for each in company.findings if each.agent is not None}


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation; equal values share their ranks."""
    left, right = ranks(one), ranks(other)
    middle = mean(left)
    up = sum((a - middle) * (b - middle) for a, b in zip(left, right, strict=True))
    down = (sum((a - middle) ** 2 for a in left) * sum((b - middle) ** 2 for b in right)) ** 0.5
    return up / down if down else 0.0


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 0 on; equal ones share the middle of theirs."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    ranks = [0.0] * len(values)
    i = 0
    while i < len(order):
        j = i
        while j + 1 < len(order) and values[order[j + 1]] == values[order[i]]:
            j += 1
        for k in range(i, j + 1):
            ranks[order[k]] = (i + j) / 2
        i = j + 1
    return ranks
