"""A report of one team or one agent: of runs and outcomes, the part that is theirs.

Outcomes are judged as a whole before, because who accepts whose work can only be seen on the whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tokenmeter.ledger.views import RunSum
from tokenmeter.outcomes import Judged, Rules
from tokenmeter.outcomes.normalized import credited, in_parts
from tokenmeter.outcomes.people import same
from tokenmeter.report.gathering import Gathered


@dataclass(frozen=True, slots=True)
class Narrow:
    """``window_runs`` and ``waste_runs``: the runs that were under way since a time."""

    runs: tuple[RunSum, ...]
    window_runs: tuple[RunSum, ...]
    waste_runs: tuple[RunSum, ...]
    judged: tuple[Judged, ...]


def narrowed(found: Gathered, judged: Iterable[Judged], rules: Rules, *, team: str | None, agent: str | None) -> Narrow:
    """What is of this team and this agent; None is of all."""
    runs = {run.run: run for run in found.runs}
    if team is not None or agent is not None:
        runs = {run.run: run for run in runs.values() if _is_of(run, rules, team, agent)}
        judged = tuple(part for each in judged if (part := _part(each, runs, rules, team, agent)) is not None)
    if agent is not None:
        runs = {name: replace(run, agents=(agent,)) for name, run in runs.items()}
    some = tuple(runs.values())
    return Narrow(
        some,
        tuple(run for run in some if run.last_s >= found.since_s),
        tuple(run for run in some if run.last_s >= found.waste_since_s),
        tuple(judged),
    )


def _is_of(run: RunSum, rules: Rules, team: str | None, agent: str | None) -> bool:
    return (team is None or rules.team_of(run.user, run.team) == team) and (agent is None or agent in run.agents)


def _part(judged: Judged, runs: dict[str, RunSum], rules: Rules, team: str | None, agent: str | None) -> Judged | None:
    """The part of an outcome that these runs are credited with; one without credits is of the team that claims it."""
    own = tuple(each for each in judged.credits if each.run in runs)
    if agent is not None:
        own = tuple(replace(each, micros=part) for each in own
                    for name, part in in_parts(each.micros, credited(judged.outcome, runs[each.run]))
                    if name == agent)  # fmt: skip
    if own:
        return replace(judged, credits=own, micros=sum(each.micros for each in own))
    if judged.credits or team is None:
        return None
    outcome = judged.outcome
    return judged if same(rules.team_of(outcome.user, outcome.team), team) else None
