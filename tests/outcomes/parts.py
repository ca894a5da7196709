"""Small parts that the tests of outcomes are made of."""

from __future__ import annotations

from collections.abc import Iterable

from tokenmeter.ledger.views import HourSum, Outcome, RunSum
from tokenmeter.outcomes import Judged, Kind, Kinds, Rules, declare, judge, link

HOUR_S = 3_600
DAY_S = 86_400
KINDS = declare(Kind("solved", 1.0, foldable=False))


def run(name: str, user: str | None = "ann", team: str | None = "blue", at_s: float = 0.0, **more: object) -> RunSum:
    usual: dict[str, object] = {"agents": ("coder",), "calls": 5, "nanos": 1_000, "models": ("m",)}
    return RunSum(run=name, user=user, team=team, first_s=at_s, last_s=at_s + 600, **{**usual, **more})  # type: ignore[arg-type]


def hour(nanos: int, user: str | None = "ann", team: str | None = "blue", hour_s: int = 0, **more: object) -> HourSum:
    usual: dict[str, object] = {"agent": "coder", "provider": "openai", "model": "m", "calls": 1}
    return HourSum(hour_s, user=user, team=team, nanos=nanos, **{**usual, **more})  # type: ignore[arg-type]


def outcome(key: str = "api#1", at_s: float = 1_000.0, **more: object) -> Outcome:
    usual: dict[str, object] = {"kind": "deployment", "accepted_by": "rev", "source": "git"}
    return Outcome(key=key, at_s=at_s, **{**usual, **more})  # type: ignore[arg-type]


def judged(
    outcomes: Iterable[Outcome], runs: Iterable[RunSum], rules: Rules | None = None, kinds: Kinds = KINDS
) -> dict[str, Judged]:
    """What became of each, by kind and key."""
    outcomes, runs, rules = list(outcomes), list(runs), rules or Rules()
    found = judge(outcomes, runs, link(outcomes, runs, rules), kinds=kinds, rules=rules)
    return {f"{each.outcome.kind} {each.outcome.key}": each for each in found}


def verdicts(found: dict[str, Judged]) -> dict[str, str]:
    return {name: each.verdict for name, each in found.items()}
