"""What is read of a ledger for a report: the sums that it keeps ready, outcomes, and the runs that matter.

No call is read. Of runs, those with the most spend and those that outcomes name: what led to an outcome is found, and
a ledger of any size fits into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from tokenmeter.ledger.memory import ANY
from tokenmeter.ledger.views import HourSum, Outcome, RepeatSum, RunSum
from tokenmeter.outcomes.linking import named_runs
from tokenmeter.outcomes.rules import DEFAULT, Rules
from tokenmeter.report.series import DAY_S, HOUR_S, fine_step

if TYPE_CHECKING:
    from tokenmeter.ledger.ledger import Ledger

MOST_RUNS: Final = 50_000
MOST_REPEATS: Final = 2_000
WASTE_DAYS: Final = 30  # signs of waste are read by the hour, and those of last quarter help nobody
_BEFORE_S: Final = 31 * DAY_S  # what led to the first outcomes of a window
_PARTS: Final = 5

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was read. ``hours`` are sums of ``step_s``; ``waste_hours`` of single hours."""

    since_s: int
    until_s: int
    step_s: int
    hours: tuple[HourSum, ...]
    outcomes: tuple[Outcome, ...]
    runs: tuple[RunSum, ...]
    runs_cut: bool  # there are more runs than were read
    repeats: tuple[RepeatSum, ...]
    waste_since_s: int
    waste_hours: tuple[HourSum, ...]
    user_hours: tuple[HourSum, ...] = ()  # who called at all, whatever team and agent the report is of


def gather(
    ledger: Ledger,
    since_s: float,
    until_s: float,
    *,
    team: str | None = None,
    agent: str | None = None,
    rules: Rules = DEFAULT,
    progress: Progress | None = None,
) -> Gathered:
    """Read a window. Its first and its last hour are whole ones. A directory of the rules says the team of each."""
    tell = progress or _quietly
    by_user = bool(rules.teams)
    charged: Any = ANY if team is None else team
    only: dict[str, Any] = {"team": ANY if by_user else charged, "agent": ANY if agent is None else agent}
    since, until = int(since_s) // HOUR_S * HOUR_S, -(-int(until_s) // HOUR_S) * HOUR_S
    tell("hours", 0, _PARTS)
    since = max(since, _first_hour(ledger, since, until))
    step = fine_step(since, until)
    hours = tuple(_theirs(_hours(ledger, since, until, step, only), rules, team))
    user_hours = tuple(_hours(ledger, since, until, DAY_S, {}, by=("user",))) if by_user and agent is None else ()
    tell("outcomes", 1, _PARTS)
    outcomes = tuple(ledger.outcomes(max(0, since - _BEFORE_S), until))
    tell("runs", 2, _PARTS)
    runs = {run.run: run for run in ledger.runs(max(0, since - _BEFORE_S), until, largest=MOST_RUNS)}
    cut = len(runs) == MOST_RUNS
    if cut:
        named = {name for each in outcomes for name in named_runs(each)}
        runs |= {run.run: run for run in ledger.runs_named(sorted(named - runs.keys()))}
    tell("repeats", 3, _PARTS)
    waste_since = max(since, until - WASTE_DAYS * DAY_S)
    repeats = tuple(ledger.repeats(waste_since, until, largest=MOST_REPEATS, **{**only, "team": charged}))
    tell("hours of agents", 4, _PARTS)
    names = ("agent", "team", "model", *(["user"] if by_user else []))
    fine = tuple(_theirs(ledger.hours(waste_since, until, by=names, **only), rules, team))
    tell("", _PARTS, _PARTS)
    return Gathered(since, until, step, hours, outcomes, tuple(runs.values()), cut, repeats, waste_since, fine,
                    user_hours)  # fmt: skip


def _quietly(what: str, done: int, total: int) -> None:
    """Nobody wants to know."""


def _theirs(hours: Iterable[HourSum], rules: Rules, team: str | None) -> Iterator[HourSum]:
    """The hours that this team answers for, whichever team they were charged to; None is any."""
    return (hour for hour in hours if team is None or rules.team_of(hour.user, hour.team) == team)


def _first_hour(ledger: Ledger, since: int, until: int) -> int:
    """When the first calls were made: a window that begins with time itself is drawn from there."""
    if since > DAY_S:
        return since
    return next((hour.hour_s for hour in ledger.hours(since, until)), since)


def _hours(
    ledger: Ledger, since: int, until: int, step_s: int, only: dict[str, Any], *, by: tuple[str, ...] | None = None
) -> Iterator[HourSum]:
    """The sums of a window. Its whole days are read as such, which are few; what is before and after them, by hours."""
    first, last = -(-since // DAY_S) * DAY_S, until // DAY_S * DAY_S
    parts = [(since, until)] if step_s < DAY_S or first >= last else [(since, first), (first, last), (last, until)]
    for begin, end in parts:
        if begin < end:
            for hour in ledger.hours(begin, end, by=by, step_s=step_s, **only):
                # The first step of a window may be cut: it begins with the window.
                yield hour if hour.hour_s >= since else replace(hour, hour_s=since)
