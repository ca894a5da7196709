"""What is known of one agent of one team over a window: the sums that signs of waste are read from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from tokenmeter.ledger.views import HourSum, RepeatSum, RunSum
from tokenmeter.outcomes.judging import Judged
from tokenmeter.outcomes.rules import Rules

_GRACE_S: Final = 7 * 86_400

Key = tuple[str | None, str | None]  # agent and team
OUTPUT_PRICE: Final = 4  # an output token costs about so many input tokens, with most models
_CACHED_TENTHS: Final = 1  # and one that was read from the cache about a tenth


@dataclass(slots=True)
class Sums:
    """Calls, money and tokens."""

    calls: int = 0
    nanos: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0

    def add(self, hour: HourSum) -> None:
        """One more hour."""
        self.calls += hour.calls
        self.nanos += hour.nanos
        self.input += hour.input_tokens
        self.output += hour.output_tokens
        self.cached += hour.cache_read_tokens

    @property
    def input_per_call(self) -> float:
        """Input tokens of a call."""
        return self.input / self.calls if self.calls else 0.0

    @property
    def output_per_call(self) -> float:
        """Output tokens of a call."""
        return self.output / self.calls if self.calls else 0.0

    @property
    def weight(self) -> int:
        """Tokens by what they cost, in tenths of an uncached input token."""
        cached = min(self.cached, self.input)
        return 10 * (self.input - cached) + _CACHED_TENTHS * cached + 10 * OUTPUT_PRICE * self.output

    @property
    def input_nanos(self) -> int:
        """The part of the money that went for input, by estimate."""
        weight = self.weight
        return self.nanos * (weight - 10 * OUTPUT_PRICE * self.output) // weight if weight else 0


@dataclass(slots=True)
class Profile:
    """One agent of one team."""

    agent: str | None
    team: str | None
    all: Sums = field(default_factory=Sums)
    early: Sums = field(default_factory=Sums)  # the first quarter of the window
    late: Sums = field(default_factory=Sums)  # the second half
    models: dict[str | None, Sums] = field(default_factory=lambda: defaultdict(Sums))
    hours: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # calls by hour
    failed: int = 0
    incomplete: int = 0
    incomplete_nanos: int = 0  # estimated spend of hours that have incomplete calls
    runs: list[RunSum] = field(default_factory=list)
    repeats: list[RepeatSum] = field(default_factory=list)
    micros: int = 0
    early_micros: int = 0
    late_micros: int = 0
    fruitful: set[str] = field(default_factory=set)  # runs that led to an outcome that counts
    reverted: set[str] = field(default_factory=set)  # runs whose outcomes were all taken back

    def unit_nanos(self) -> float:
        """What a unit costs; without any, infinitely much."""
        return self.all.nanos * 1e6 / self.micros if self.micros else float("inf")


@dataclass(slots=True)
class Peers:
    """What is usual among the agents of the window, and when the window begins and ends."""

    begin_s: int
    end_s: int
    agent_nanos: float
    unit_nanos: float  # of agents that led to outcomes; infinite where none did
    calls_per_run: float
    output_by_model: Mapping[str | None, float]  # the usual output of a call
    input_by_model: Mapping[str | None, float]
    prices: Mapping[str, float]  # nanodollars per unit of weight
    cached_part: float

    @property
    def ripe_s(self) -> float:
        """From what began later an outcome may still come."""
        return self.end_s - min(_GRACE_S, (self.end_s - self.begin_s) / 4)


def profiles(
    hours: Iterable[HourSum],
    runs: Iterable[RunSum],
    repeats: Iterable[RepeatSum],
    judged: Iterable[Judged],
    rules: Rules,
) -> tuple[dict[Key, Profile], Peers]:
    """The profile of each agent that made a call, and what is usual among them."""
    hours = list(hours)
    begin_s = min((hour.hour_s for hour in hours), default=0)
    end_s = max((hour.hour_s for hour in hours), default=0) + 3600
    early_s, late_s = begin_s + (end_s - begin_s) / 4, (begin_s + end_s) / 2
    found: dict[Key, Profile] = {}

    def of(agent: str | None, team: str | None) -> Profile:
        known = found.get((agent, team))
        if known is None:
            known = found[agent, team] = Profile(agent, team)
        return known

    for hour in hours:
        each = of(hour.agent, rules.team_of(hour.user, hour.team))
        each.all.add(hour)
        if hour.hour_s < early_s:
            each.early.add(hour)
        elif hour.hour_s >= late_s:
            each.late.add(hour)
        each.models[hour.model].add(hour)
        each.hours[hour.hour_s] += hour.calls
        each.failed += hour.failed
        each.incomplete += hour.incomplete
        if hour.incomplete:
            each.incomplete_nanos += hour.estimated_nanos
    by_run: dict[str, list[Profile]] = {}
    for run in runs:
        team = rules.team_of(run.user, run.team)
        theirs = [found[agent, team] for agent in run.agents if (agent, team) in found]
        by_run[run.run] = theirs
        for each in theirs:
            each.runs.append(run)
    by_agent: dict[str | None, list[Profile]] = defaultdict(list)
    for each in found.values():
        by_agent[each.agent].append(each)
    for repeat in repeats:
        # The directory may have put the agent's calls to another team than they were charged to.
        own = found.get((repeat.agent, repeat.team)) or next(iter(by_agent.get(repeat.agent, ())), None)
        if own is not None:
            own.repeats.append(repeat)
    _tell_of_outcomes(judged, by_run, early_s, late_s)
    return found, _peers(found, begin_s, end_s)


def _tell_of_outcomes(
    judged: Iterable[Judged], by_run: Mapping[str, list[Profile]], early_s: float, late_s: float
) -> None:
    stood: set[str] = set()
    back: set[str] = set()
    for each in judged:
        if each.verdict == "revoked":
            back |= {run for run in (each.outcome.run,) if run is not None}
        for credit in each.credits:
            stood.add(credit.run)
            theirs = by_run.get(credit.run, ())
            for profile in theirs:
                part = credit.micros // len(theirs)
                profile.micros += part
                profile.early_micros += part if each.outcome.at_s < early_s else 0
                profile.late_micros += part if each.outcome.at_s >= late_s else 0
                profile.fruitful.add(credit.run)
    for run in back - stood:
        for profile in by_run.get(run, ()):
            profile.reverted.add(run)


def _peers(found: Mapping[Key, Profile], begin_s: int, end_s: int) -> Peers:
    agents = [each for each in found.values() if each.all.calls]
    by_model: dict[str | None, list[Sums]] = defaultdict(list)
    for each in agents:
        for name, sums in each.models.items():
            if sums.calls:
                by_model[name].append(sums)
    calls_per_run = [median(run.calls for run in each.runs) for each in agents if each.runs]
    cached = [each.all.cached / each.all.input for each in agents if each.all.cached and each.all.input]
    return Peers(
        begin_s=begin_s,
        end_s=end_s,
        agent_nanos=_median(each.all.nanos for each in agents),
        unit_nanos=_median((each.unit_nanos() for each in agents if each.micros), default=float("inf")),
        calls_per_run=_median(calls_per_run),
        output_by_model={name: _median(sums.output_per_call for sums in those) for name, those in by_model.items()},
        input_by_model={name: _median(sums.input_per_call for sums in those) for name, those in by_model.items()},
        prices={name: price for name, those in by_model.items() if name is not None and (price := _price(those))},
        cached_part=_median(cached, default=0.5),
    )


def _price(those: Iterable[Sums]) -> float:
    """What a unit of weight costs; 0 where that isn't known."""
    some = [sums for sums in those if sums.nanos]
    weight = sum(sums.weight for sums in some)
    return sum(sums.nanos for sums in some) / weight if weight else 0.0


def _median(values: Iterable[float], default: float = 0.0) -> float:
    some = list(values)
    return float(median(some)) if some else default
