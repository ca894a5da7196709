"""What a ledger would have after these weeks, put together in memory: the sums by hour and by run, and the truth."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field

from tokenmeter.ledger.views import HourSum, Outcome, RepeatSum, RunSum

HOUR_S = 3_600
DAY_S = 86_400
WEEK_S = 7 * DAY_S
START_S = 1_767_571_200  # Monday, 2026-01-05

# Nanodollars of a token: input, output, read from the cache.
PRICES = {
    "large": (15_000, 75_000, 1_500),
    "medium": (1_250, 10_000, 125),
    "small": (250, 2_000, 25),
    "tiny": (50, 400, 5),
}


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody, their team and the agent that they work with."""

    number: int
    user: str
    team: str
    role: str
    rate: float  # changes a week

    @property
    def agent(self) -> str:
        """The agent for their work."""
        return f"{self.role}-{self.number:03}"

    @property
    def helper(self) -> str:
        """The agent that they built for the board."""
        return f"helper-{self.number:03}"


@dataclass(frozen=True, slots=True)
class Work:
    """What one run does: calls, their lengths, their model."""

    calls: int = 15
    input: int = 6_000
    output: int = 500
    cached: float = 0.5
    model: str = "medium"
    hours: float = 1.0
    depth: int = 1
    failed: int = 0
    incomplete: int = 0
    warned: int = 0


_KEYS = ("calls", "nanos", "estimated", "input", "output", "cached", "failed", "incomplete")


@dataclass
class Books:
    """The sums of a company, and what only the simulation knows: what was of value, and what was waste."""

    rng: random.Random
    weeks: int = 8
    hours: dict[tuple[int, str | None, str | None, str | None, str], list[int]] = field(default_factory=dict)
    runs: list[RunSum] = field(default_factory=list)
    repeats: list[RepeatSum] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    value: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    spent: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    wasted: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    @property
    def end_s(self) -> int:
        """When the weeks are over."""
        return START_S + self.weeks * WEEK_S

    def about(self, mean: float, spread: float = 0.3) -> int:
        """A number around a mean, at least one."""
        return max(1, round(mean * self.rng.lognormvariate(0, spread)))

    def run(
        self,
        who: Person,
        at_s: float,
        work: Work,
        *,
        agents: tuple[str, ...] = (),
        waste: bool = False,
        team: str | None = None,
        anonymous: bool = False,
    ) -> RunSum:
        """One run of somebody. ``anonymous``: nobody is named, and there is no run to be seen."""
        agents = agents or (who.agent,)
        team = team or who.team
        calls = self.about(work.calls)
        spread = max(1, round(work.hours))
        total = [0] * len(_KEYS)
        for i in range(spread):
            some = calls // spread + (i < calls % spread)
            if not some:
                continue
            hour_s = int(at_s + i * HOUR_S) // HOUR_S * HOUR_S
            for number, agent in enumerate(agents):
                part = some // len(agents) + (number < some % len(agents))
                sums = self._sums(part, work, first=i == 0 and number == 0)
                key = (
                    (hour_s, None, None, None, work.model) if anonymous else (hour_s, agent, team, who.user, work.model)
                )
                known = self.hours.setdefault(key, [0] * len(_KEYS))
                for j, value in enumerate(sums):
                    known[j] += value
                    total[j] += value
                self.spent[agent, team] += 0 if anonymous else sums[1]
                self.wasted[agent, team] += sums[1] if waste and not anonymous else 0
        if not anonymous:
            self.tokens[who.user] += total[3] + total[4]
        found = RunSum(
            run=f"{self.rng.getrandbits(64):016x}", team=team, user=who.user, agents=agents,
            first_s=at_s, last_s=at_s + work.hours * HOUR_S * 0.9, calls=total[0], nanos=total[1],
            input_tokens=total[3], output_tokens=total[4], cache_read_tokens=total[5], failed=total[6],
            incomplete=total[7], max_depth=work.depth, models=(work.model,), warned=work.warned,
        )  # fmt: skip
        if not anonymous:
            self.runs.append(found)
        return found

    def _sums(self, calls: int, work: Work, *, first: bool) -> list[int]:
        tokens_in, tokens_out = calls * self.about(work.input, 0.2), calls * self.about(work.output, 0.2)
        cached = round(tokens_in * work.cached)
        price_in, price_out, price_cached = PRICES[work.model]
        nanos = (tokens_in - cached) * price_in + cached * price_cached + tokens_out * price_out
        incomplete = min(calls, work.incomplete) if first else 0
        estimated = nanos * incomplete // max(1, calls)
        return [calls, nanos, estimated, tokens_in, tokens_out, cached, work.failed if first else 0, incomplete]

    def repeat(self, agent: str, team: str, run: RunSum, *, of: int, runs: int = 1) -> None:
        """That of a run's requests ``of`` were the same."""
        of = min(of, run.calls)
        if of > 1:
            one = run.nanos // max(1, run.calls)
            self.repeats.append(RepeatSum(f"{self.rng.getrandbits(64):016x}", agent, team, runs, of, one * of, one))

    def hour_sums(self) -> list[HourSum]:
        """All hours."""
        return [
            HourSum(
                hour_s, agent, team, user, "openai", model, calls, nanos, estimated, tokens_in, tokens_out, cached,
                failed=failed, incomplete=incomplete,
            )
            for (hour_s, agent, team, user, model), (
                calls, nanos, estimated, tokens_in, tokens_out, cached, failed, incomplete,
            ) in self.hours.items()
        ]  # fmt: skip
