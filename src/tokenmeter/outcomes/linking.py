"""Which runs led to an outcome: those that it names, else those of its user or team shortly before.

What the outcome itself names is a fact, whoever's runs they are; whether it then counts for who claims it is judged
elsewhere. Shares go to people first, in equal parts, and to their agents and runs then: by neither spend nor the number
of runs can anybody make theirs larger. The shares of an outcome add up to exactly one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tokenmeter.ledger.views import Link, Outcome, RunSum
from tokenmeter.outcomes.people import plain, same
from tokenmeter.outcomes.rules import DEFAULT, Rules
from tokenmeter.outcomes.shares import WHOLE, as_share, split

MAX_RUNS: Final = 100  # of one outcome that names none; the latest
TRAILER_CONFIDENCE: Final = 0.95  # written by hand, at times
_CLOCKS_DIFFER_S: Final = 300.0
_FINE: Final = 10_080

LINKED_BY: Final = "linked_by"  # the attribute that says "trailer"
RUN: Final = "run"  # the attribute that names a further run


def link(outcomes: Iterable[Outcome], runs: Iterable[RunSum], rules: Rules = DEFAULT) -> tuple[Link, ...]:
    """The links of each outcome. Those that nothing led to have none."""
    index = _Index(rules)
    for run in runs:
        index.add(run)
    index.sort()
    found: list[Link] = []
    for outcome in outcomes:
        named = named_runs(outcome)
        known = [index.by_id[name] for name in named if name in index.by_id]
        if known:
            fitting = [run for run in known if _fits(outcome, run, rules)]
            by_trailer = (LINKED_BY, "trailer") in outcome.attributes
            confidence = TRAILER_CONFIDENCE if by_trailer else 1.0
            found += _links(outcome, fitting, confidence, "trailer" if by_trailer else "run", rules)
        else:
            fitting, confidence = index.around(outcome)
            found += _links(outcome, fitting, confidence, "window", rules)
    return tuple(found)


def named_runs(outcome: Outcome) -> list[str]:
    """The runs that an outcome names."""
    named = [] if outcome.run is None else [outcome.run]
    return list(dict.fromkeys([*named, *(value for name, value in outcome.attributes if name == RUN)]))


def _fits(outcome: Outcome, run: RunSum, rules: Rules) -> bool:
    """A run leads to what comes after it began, and not long after it ended."""
    began = run.first_s - _CLOCKS_DIFFER_S <= outcome.at_s
    return run.calls > 0 and began and outcome.at_s - run.last_s <= rules.max_lag_s


def _links(outcome: Outcome, runs: Sequence[RunSum], confidence: float, how: str, rules: Rules) -> list[Link]:
    people: dict[tuple[str, str], dict[tuple[str, ...], list[RunSum]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(runs, key=lambda run: run.run):
        people[rules.team_of(run.user, run.team) or "", run.user or ""][run.agents].append(run)
    if not people:
        return []
    found = []
    for part, agents in zip(split(WHOLE, [1] * len(people)), (people[who] for who in sorted(people)), strict=True):
        theirs = [agents[names] for names in sorted(agents)]
        # An agent that runs all day is there before each outcome: the more runs it has, the less each of them says.
        weights = [_FINE // len(some) if how == "window" else len(some) for some in theirs]
        for piece, some in zip(split(part, weights), theirs, strict=True):
            for bit, run in zip(split(piece, [1] * len(some)), some, strict=True):
                found.append(Link(outcome.kind, outcome.key, run.run, as_share(bit), confidence, how))
    return found


@dataclass(slots=True)
class _Index:
    """Runs by id, and by who made them in the order of their ends."""

    rules: Rules
    by_id: dict[str, RunSum] = field(default_factory=dict)
    by_who: dict[tuple[str, str], list[RunSum]] = field(default_factory=lambda: defaultdict(list))
    ends_s: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, run: RunSum) -> None:
        self.by_id[run.run] = run
        if not run.calls:
            return
        if run.user is not None:
            self.by_who["user", _local(run.user)].append(run)
        team = self.rules.team_of(run.user, run.team)
        if team is not None:
            self.by_who["team", plain(team)].append(run)

    def sort(self) -> None:
        for who, theirs in self.by_who.items():
            theirs.sort(key=lambda run: (run.last_s, run.run))
            self.ends_s[who] = [run.last_s for run in theirs]

    def around(self, outcome: Outcome) -> tuple[list[RunSum], float]:
        """The runs before an outcome that names none, and how sure that is."""
        if outcome.user is not None:
            who, confidence = ("user", _local(outcome.user)), self.rules.user_confidence
        elif outcome.team is not None:
            who, confidence = ("team", plain(outcome.team)), self.rules.team_confidence
        else:
            return [], 0.0
        theirs = self.by_who.get(who, [])
        start = bisect_left(self.ends_s.get(who, []), outcome.at_s - self.rules.window_s)
        found = []
        for run in theirs[start:]:
            if run.first_s > outcome.at_s or run.last_s > outcome.at_s + self.rules.window_s:
                continue
            if outcome.user is not None and not same(outcome.user, run.user):
                continue
            if outcome.team is not None and plain(self.rules.team_of(run.user, run.team) or "") != plain(outcome.team):
                continue
            if outcome.agents and not set(outcome.agents) & set(run.agents):
                continue
            found.append(run)
        return found[-MAX_RUNS:], confidence


def _local(user: str) -> str:
    return plain(user).partition("@")[0]
