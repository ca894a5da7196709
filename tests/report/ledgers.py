"""Ledgers to report on: one like a company's, and random ones."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from tests.ledger.rows import NOON_S, call, estimate, printed, refusal
from tokenmeter.ledger.views import Outcome

if TYPE_CHECKING:
    from tokenmeter.ledger.ledger import Ledger
    from tokenmeter.record import CallRecord

NOW_S = NOON_S
DAY_S = 86_400.0
HOSTILE = ("<script>alert(1)</script>", "=cmd|' /C calc'!A0", '"><img src=http://evil.test/x>', "+1", "@SUM(A1)")
MODELS = (("openai", "gpt-5-mini", 400), ("openai", "gpt-5", 4_000), ("anthropic", "claude-sonnet-4-5", 9_000))


def fresh(folder: Path) -> Ledger:
    """An empty ledger."""
    from tokenmeter.ledger import open_ledger

    return open_ledger(f"sqlite:///{folder / 'ledger.db'}")


def fill(
    ledger: Ledger,
    *,
    days: int = 30,
    teams: tuple[str, ...] = ("growth", "platform", "search", "support", "two of us"),
    agents: tuple[str, ...] = ("coder", "reviewer", "summariser", "triage", *HOSTILE[:2]),
    runs_a_day: int = 3,
    seed: int = 7,
) -> None:
    """Calls of teams, unattributed ones, a chatty agent, loops that were stopped, and what came of it."""
    rng = random.Random(seed)
    rows: list[tuple[str, CallRecord]] = []

    def put(record: CallRecord) -> None:
        rows.append((record.id, record))

    for day in range(days):
        begun_s = NOW_S - (days - day) * DAY_S
        for place, team in enumerate(teams):
            people = 2 if team == "two of us" else 6
            for number in range(runs_a_day):
                run, at_s = f"run-{day}-{place}-{number}", begun_s + rng.random() * 80_000
                agent = agents[(place + number) % len(agents)]
                provider, model, price = MODELS[rng.randrange(len(MODELS))]
                told: dict[str, Any] = {
                    "agent": agent,
                    "user": f"person{place}x{rng.randrange(people)}",
                    "team": None if number == 1 and day % 3 == 0 else team,
                    "run": run,
                    "path": ("root",) * rng.choice([0, 0, 1, 2]) + (agent,),
                    "provider": provider,
                    "model": model,
                }
                for n in range(rng.randint(1, 4)):
                    tokens = rng.randint(300, 9_000), rng.randint(20, 1_500)
                    nanos = price * (tokens[0] + 4 * tokens[1]) + rng.randrange(10)
                    put(call(f"{run}-{n}", nanos=nanos, tokens=tokens, at_s=at_s + n, **told))
                if rng.random() < 0.2:
                    put(
                        refusal(
                            f"{run}-no",
                            at_s=at_s + 9,
                            error_type="LoopDetected",
                            **{**told, "path": ("root",) * 9 + (agent,)},
                        )
                    )
                if rng.random() < 0.1:
                    put(estimate(f"{run}-cut", at_s=at_s + 10, **told))
                if told["team"] is not None and rng.random() < 0.5:
                    kind = rng.choice(["deployment", "merge", "case"])
                    ledger.put_outcome(
                        Outcome(kind, f"{kind}-{run}", at_s + 4_000, team=team, run=run, accepted_by="ci", source="git")
                    )
        for hour in range(24):
            record = call(
                f"chat-{day}-{hour}", nanos=40_000_000, tokens=(3_000, 30), at_s=begun_s + hour * 3_600,
                agent="chatter", path=("chatter",), user=f"person3x{hour % 6}", team="support",
                run=f"chat-{day}-{hour}", model="gpt-5",
            )  # fmt: skip
            put(printed(record.id, f"fp{hour % 3}", record))
    ledger.put_outcome(Outcome("release", "v1", NOW_S - DAY_S, accepted_by="ci", source="git"))
    ledger.add(rows)


_NAMES = st.none() | st.sampled_from(["a", "b", "c", *HOSTILE, "=1", "ünïcödé", "\u202etricky", " padded", "x" * 300])


@st.composite
def records(draw: st.DrawFn) -> list[CallRecord]:
    """Calls of any kind, within some weeks."""
    found: list[CallRecord] = []
    for number in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["call", "estimate", "refusal"]))
        told: dict[str, Any] = {
            "at_s": NOW_S - draw(st.integers(0, 40 * 86_400)),
            "agent": draw(_NAMES),
            "team": draw(_NAMES),
            "user": draw(st.none() | st.sampled_from(["wilhelmina", "bartholomew", "cassiopeia", "x"])),
            "model": draw(_NAMES),
            "provider": draw(st.sampled_from(["", "openai", "=evil"])),
            "run": draw(st.none() | st.sampled_from(["r1", "r2", "r3"])),
        }
        name, nanos = f"c{number}", draw(st.integers(0, 10**14))
        if kind == "refusal":
            found.append(refusal(name, **told))
        else:
            found.append((call if kind == "call" else estimate)(name, nanos=nanos, **told))
    return found
