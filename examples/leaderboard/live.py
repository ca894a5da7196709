"""A small company through a real meter: real HTTP to a scripted provider, a clock that is turned, a week.

It is played twice: as it was, and with budgets and loop limits. What the provider billed is the difference.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from examples.leaderboard.books import DAY_S, HOUR_S
from tokenmeter import Budget, LoopPolicy, Meter, Price, Refused
from tokenmeter.ledger import open_ledger
from tokenmeter.outcomes import Finding, Kind, Normalized, declare, find_waste, judge, link, new_outcome, report
from tokenmeter.testing import CapturedCalls, FakeClock, Reply, Request, ScriptedProvider

DAYS = 5
PRICES = {"large": Price(15, 75), "medium": Price("1.25", 10), "small": Price("0.25", 2)}
KINDS = declare(Kind("deployment", accepters=("ci",)))
BUDGETS = (
    Budget("$0.15", per="day", scope="agent", name="agent-day"),
    Budget("20k tokens", per="call", name="call"),
    Budget("120 calls", per="run", name="run"),
)
NO_LIMITS = LoopPolicy(
    max_depth=None, max_visits=None, max_calls_per_run=None, max_usd_per_run=None, max_calls_per_minute=None,
    max_runs_per_minute=None, max_repeats=None, max_rounds_without_news=None, max_polls=None,
)  # fmt: skip
LIMITS = LoopPolicy(max_depth=4, actions={"max_repeats": "refuse", "max_rounds_without_news": "refuse"})


@dataclass(frozen=True, slots=True)
class Week:
    """What a week came to."""

    nanos_by_agent: dict[str, int]
    refused_by_agent: dict[str, dict[str, int]]
    delivered: int
    billed_calls: int
    report: Normalized
    findings: tuple[Finding, ...]

    @property
    def nanos(self) -> int:
        """All that was spent."""
        return sum(self.nanos_by_agent.values())


class _Play:
    """The week of each one. A refusal ends what they were about to do, and nothing else."""

    def __init__(self, meter: Meter, client: httpx.Client, url: str, clock: FakeClock) -> None:
        self._meter, self._client, self._url, self._clock = meter, client, url, clock
        self.delivered: list[tuple[str, str, float]] = []

    def ask(self, model: str, text: str, most: int = 400) -> None:
        body = {"model": model, "max_completion_tokens": most, "messages": [{"role": "user", "content": text}]}
        self._client.post(f"{self._url}/chat/completions", json=body).raise_for_status()

    def try_(self, work: Callable[[], None]) -> bool:
        try:
            work()
        except Refused:
            return False
        return True

    def honest(self, day: int, user: str, team: str) -> None:
        """A change a day, in a dozen requests."""

        def work() -> None:
            for i in range(12):
                self.ask("medium", f"{user} {day}: step {i} of the change " * 60)

        run = f"{user}-{day}"
        with self._meter.agent(f"coder-{team}", user=user, team=team, run=run):
            if self.try_(work):
                self.delivered.append((run, user, self._clock.now_s() + 600))

    def triage(self, day: int) -> None:
        """The same mail, again and again."""

        def work() -> None:
            for _ in range(40):
                self.ask("small", "Sort this mail: lunch is at noon. " * 40, 60)

        for cycle in range(6):
            with self._meter.agent("triage", user="t1", team="red", run=f"triage-{day}-{cycle}"):
                self.try_(work)

    def chat(self, day: int) -> None:
        """Two agents hand a word to and fro, each inside the other."""

        def turn(left: int) -> None:
            with self._meter.agent("ping" if left % 2 else "pong", user="t2", team="red", run=f"chat-{day}"):
                self.ask("small", f"Day {day}, turn {left}: how are you today, my friend? " * 30, 200)
                if left:
                    turn(left - 1)

        self.try_(lambda: turn(60))

    def padded(self, day: int) -> None:
        """A small question behind a whole handbook."""
        handbook = "The handbook says the same as ever. " * 4_000
        with self._meter.agent("scribe", user="t3", team="red"):
            for i in range(8):
                self.try_(partial(self.ask, "medium", f"{day}.{i} {handbook}"))

    def oversized(self, day: int) -> None:
        """The dearest model says yes or no."""
        with self._meter.agent("sorter", user="t4", team="red"):
            for i in range(60):
                self.try_(partial(self.ask, "large", f"Is mail {day}/{i} of interest? yes or no " * 30, 40))

    def background(self, day: int) -> None:
        """Whether anything is new, all night."""
        with self._meter.agent("watcher", user="t5", team="red", run=f"watch-{day}"):
            for _ in range(150):
                self.try_(partial(self.ask, "small", "Is there anything new? " * 60, 60))


def play(*, limits: bool) -> Week:
    """The week, with or without limits."""
    clock, calls = FakeClock(), CapturedCalls(100_000)
    loops = LIMITS if limits else NO_LIMITS
    logging.getLogger("tokenmeter").setLevel(logging.ERROR)  # what it warns of is counted below
    budgets = BUDGETS if limits else ()
    with (
        ScriptedProvider(_reply) as provider,
        Meter(budgets, loops=loops, prices=PRICES, clock=clock, recorders=[calls]) as meter,
        meter.wrap(httpx.Client()) as client,
    ):
        week = _Play(meter, client, provider.openai_url, clock)
        for day in range(DAYS):
            clock.advance(9 * HOUR_S)
            for user, team in (("h1", "blue"), ("h2", "blue"), ("h3", "green")):
                week.honest(day, user, team)
                clock.advance(HOUR_S)
            for way in (week.triage, week.chat, week.padded, week.oversized, week.background):
                way(day)
                clock.advance(HOUR_S)
            clock.advance(DAY_S - 17 * HOUR_S)
        billed = provider.wait_idle()
    with tempfile.TemporaryDirectory() as folder, open_ledger(f"sqlite:///{Path(folder) / 'ledger.db'}") as ledger:
        ledger.add((row.id, row) for row in calls)
        for run, user, at_s in week.delivered:
            done = new_outcome(
                "deployment", f"app#{run}", at_s, run=run, user=user, accepted_by="ci", source="http:ci", kinds=KINDS
            )
            ledger.put_outcome(done)
        hours, runs, outcomes = list(ledger.hours()), list(ledger.runs()), list(ledger.outcomes())
        repeats = list(ledger.repeats())
    judged = judge(outcomes, runs, link(outcomes, runs), kinds=KINDS)
    by_agent: dict[str, int] = {}
    refused: dict[str, dict[str, int]] = {}
    for row in calls:
        agent = row.agent or "(none)"
        by_agent[agent] = by_agent.get(agent, 0) + (row.cost_nanos or 0)
        if row.status == "refused":
            why = refused.setdefault(agent, {})
            why[row.error_type or "refused"] = why.get(row.error_type or "refused", 0) + 1
    return Week(
        nanos_by_agent=dict(sorted(by_agent.items())),
        refused_by_agent=refused,
        delivered=len(week.delivered),
        billed_calls=billed.calls,
        report=report(hours, runs, judged),
        findings=find_waste(hours, runs, repeats, judged, least_nanos=10_000_000),
    )


def _reply(request: Request) -> Reply:
    model = request.model or ""
    words = {"large": 6, "small": 40}.get(model, 220)
    return Reply(f"{len(request.body)} " + "word " * words)
