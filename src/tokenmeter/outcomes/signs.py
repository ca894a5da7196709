"""The signs of waste, one function each: from what is known of an agent, and what is usual, to money and evidence.

Where a sign needs a comparison, it is with the median of all agents, which a few wasteful ones don't move, or with the
agent's own earlier weeks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tokenmeter.ledger.views import RunSum
from tokenmeter.outcomes.profiles import Peers, Profile

_AGAIN: Final = 4  # times that one run sends a request before it goes round
_MANY_CALLS: Final = 40  # of a run
_MANY_TIMES: Final = 5  # above what is usual
_HOURS_OF_DAY: Final = 20
_ACTIVE_PART: Final = 0.5
_SHORTEST_DAYS: Final = 3.0
_POOR: Final = 8  # times what a unit usually costs, and it is as good as none
_SHORT_OUTPUT: Final = 80  # tokens
_SHORT_INPUT: Final = 2_500
_DEARER: Final = 4
_FEW_CALLS: Final = 50
_SOME_CALLS: Final = 20
_PADDED: Final = 2.5
_FLAT: Final = 1.25
_DEARER_UNITS: Final = 1.5
_LONG_INPUT: Final = 4_000
_FAILING: Final = 0.2
_FRUITLESS_DAYS: Final = 5
_MUCH: Final = 0.25  # of what an agent usually spends


@dataclass(frozen=True, slots=True)
class Seen:
    """What a sign found."""

    nanos: int
    evidence: Mapping[str, Any]
    remedy: str


Sign = Callable[[Profile, Peers], Seen | None]


def repeats(profile: Profile, peers: Peers) -> Seen | None:
    """The same request again and again in one run, let through."""
    own = [each for each in profile.repeats if each.runs == 1 and each.calls >= _AGAIN]
    if not own:
        return None
    evidence = {"requests": len(own), "calls": sum(each.calls for each in own), "most": max(e.calls for e in own)}
    remedy = "set LoopPolicy(max_repeats=3), which refuses the fourth; keep the first answer"
    return Seen(sum(each.nanos - each.first_nanos for each in own), evidence, remedy)


def duplicates(profile: Profile, peers: Peers) -> Seen | None:
    """The same request in many runs."""
    own = [each for each in profile.repeats if each.runs > 1]
    if not own:
        return None
    evidence = {"requests": len(own), "calls": sum(each.calls for each in own), "runs": sum(each.runs for each in own)}
    remedy = "keep the answer and share it between runs; begin a run only when its input has changed"
    return Seen(sum(each.nanos - each.first_nanos for each in own), evidence, remedy)


def loops(profile: Profile, peers: Peers) -> Seen | None:
    """Runs that go on and on, or that a guard warned of, and that led to nothing."""
    least = max(_MANY_CALLS, _MANY_TIMES * peers.calls_per_run)
    own = [
        run for run in profile.runs
        if run.run not in profile.fruitful
        and ((run.calls >= least and run.last_s < peers.ripe_s) or 2 * run.warned >= run.calls > 0)
    ]  # fmt: skip
    if not own:
        return None
    evidence = {
        "runs": len(own),
        "calls": sum(run.calls for run in own),
        "usual_calls_per_run": round(peers.calls_per_run, 1),
        "max_depth": max(run.max_depth for run in own),
        "warned": sum(run.warned for run in own),
    }
    remedy = (
        f"set LoopPolicy(max_calls_per_run={round(least)}, max_rounds_without_news=3) and a budget per run; "
        "see what ends its task"
    )
    return Seen(_part(own), evidence, remedy)


def chatter(profile: Profile, peers: Peers) -> Seen | None:
    """Calls at all hours, day and night, from which nothing comes."""
    active = [hour_s for hour_s, calls in profile.hours.items() if calls]
    if not active or not _poor(profile, peers):
        return None
    days = (max(active) - min(active) + 3600) / 86_400
    of_day = {hour_s // 3600 % 24 for hour_s in active}
    part = len(active) / (24 * days)
    if days < _SHORTEST_DAYS or len(of_day) < _HOURS_OF_DAY or part < _ACTIVE_PART:
        return None
    evidence = {"days": round(days, 1), "hours_of_day": len(of_day), "active_part": round(part, 2),
                "calls": profile.all.calls, "units": profile.micros / 1e6}  # fmt: skip
    return Seen(profile.all.nanos, evidence, "let an event start it, not a timer; pause it until somebody misses it")


def padding(profile: Profile, peers: Peers) -> Seen | None:
    """Prompts that grew, or are far longer than those of others, with no more answer and no more outcome."""
    if not _outcomes_known(peers):
        return None
    early, late, whole = profile.early, profile.late, profile.all
    usual_input, usual_output = _usual(profile, peers.input_by_model), _usual(profile, peers.output_by_model)
    if (
        min(early.calls, late.calls) >= _SOME_CALLS
        and late.input_per_call >= _PADDED * early.input_per_call > 0
        and late.output_per_call <= _FLAT * early.output_per_call
        and late.nanos * profile.early_micros >= _DEARER_UNITS * early.nanos * profile.late_micros
    ):
        before, sums = early.input_per_call, late
    elif (
        whole.calls >= _FEW_CALLS
        and whole.input_per_call >= max(_LONG_INPUT, 2 * _PADDED * usual_input)
        and whole.output_per_call <= 2 * _FLAT * usual_output
        and profile.unit_nanos() >= 2 * _PADDED * peers.unit_nanos
    ):
        before, sums = usual_input, whole
    else:
        return None
    nanos = round(sums.input_nanos * (1 - before / sums.input_per_call))
    evidence = {"input_tokens_per_call": round(sums.input_per_call), "before_or_usual": round(before),
                "output_tokens_per_call": round(sums.output_per_call), "units": profile.micros / 1e6,
                "estimated": True}  # fmt: skip
    return Seen(nanos, evidence, "send what the task needs; set Budget('… tokens', per='call') at the usual length")


def oversized(profile: Profile, peers: Peers) -> Seen | None:
    """A dear model for answers of a few words."""
    if not peers.prices:
        return None
    cheapest = min(peers.prices, key=lambda name: (peers.prices[name], name))
    price = peers.prices[cheapest]
    nanos = calls = 0
    names = []
    for name, sums in sorted(profile.models.items(), key=lambda item: item[0] or ""):
        own = peers.prices.get(name or "", 0.0)
        trivial = sums.output_per_call <= _SHORT_OUTPUT and sums.input_per_call <= _SHORT_INPUT
        if sums.calls >= _FEW_CALLS and trivial and own >= _DEARER * price:
            nanos += sums.nanos - round(sums.weight * price)
            calls += sums.calls
            names.append(name)
    if not names:
        return None
    evidence = {"models": names, "calls": calls, "output_tokens_per_call": round(profile.all.output_per_call),
                "cheaper": cheapest, "estimated": True}  # fmt: skip
    remedy = f"try {cheapest!r} for it; Budget(on_exceed='downgrade') chooses it when money runs short"
    return Seen(max(0, nanos), evidence, remedy)


def reverted(profile: Profile, peers: Peers) -> Seen | None:
    """Runs whose outcomes were taken back."""
    own = [run for run in profile.runs if run.run in profile.reverted]
    if len(own) < 2:
        return None
    evidence = {"runs": len(own), "of_runs": len(profile.runs), "fruitful_runs": len(profile.fruitful)}
    remedy = "look at what was reverted and why before it goes on; ask for a review before it deploys"
    return Seen(_part(own), evidence, remedy)


def retries(profile: Profile, peers: Peers) -> Seen | None:
    """Requests that fail and are sent again. A failure is not billed; what it costs are those given up half-way."""
    tries = profile.all.calls + profile.failed
    if profile.failed < _FEW_CALLS or profile.failed < _FAILING * tries or not profile.incomplete:
        return None
    nanos = profile.all.nanos * profile.incomplete // max(1, profile.all.calls)
    evidence = {"failed": profile.failed, "tries": tries, "incomplete": profile.incomplete, "estimated": True}
    return Seen(nanos, evidence, "raise the timeout, lower max_retries, and wait longer between tries")


def cache(profile: Profile, peers: Peers) -> Seen | None:
    """Long prompts, many within an hour, and nothing read from the cache, though others do."""
    sums = profile.all
    warm = sum(calls for calls in profile.hours.values() if calls >= 6)
    if sums.calls < _FEW_CALLS or sums.input_per_call < _LONG_INPUT or sums.cached * 20 > sums.input:
        return None
    part = warm / sums.calls * peers.cached_part
    nanos = round(sums.input_nanos * part * 0.9)
    evidence = {"input_tokens_per_call": round(sums.input_per_call), "calls_within_an_hour_of_others": warm,
                "cached_part": round(sums.cached / sums.input, 3), "cached_part_of_others": round(peers.cached_part, 2),
                "estimated": True}  # fmt: skip
    return Seen(nanos, evidence, "put what stays the same first, and mark it for the cache where the provider asks")


def abandoned(profile: Profile, peers: Peers) -> Seen | None:
    """Answers that nobody waited for."""
    calls = profile.all.calls
    if profile.incomplete < _FEW_CALLS or profile.incomplete < _FAILING * calls:
        return None
    nanos = min(profile.all.nanos, max(profile.incomplete_nanos, profile.all.nanos * profile.incomplete // calls))
    evidence = {"incomplete": profile.incomplete, "calls": calls, "estimated": True}
    return Seen(nanos, evidence, "ask for less output, or let it end; a stream that is left is paid for")


def fruitless(profile: Profile, peers: Peers) -> Seen | None:
    """Much spend over many days, and nothing, or next to nothing, that anybody accepted."""
    if not _outcomes_known(peers) or not _poor(profile, peers):
        return None
    days = len({hour_s // 86_400 for hour_s, calls in profile.hours.items() if calls and hour_s < peers.ripe_s})
    if days < _FRUITLESS_DAYS or profile.all.nanos < _MUCH * peers.agent_nanos:
        return None
    evidence = {"days": days, "runs": len(profile.runs), "units": profile.micros / 1e6, "calls": profile.all.calls}
    remedy = "ask its owner what comes of it, and record that with meter.outcome(…); else give it a budget or end it"
    return Seen(profile.all.nanos, evidence, remedy)


def _outcomes_known(peers: Peers) -> bool:
    return peers.unit_nanos != float("inf")


def _poor(profile: Profile, peers: Peers) -> bool:
    """Whether nothing came of it, or so little that a unit costs many times the usual."""
    return not profile.micros or (_outcomes_known(peers) and profile.unit_nanos() >= _POOR * peers.unit_nanos)


def _part(runs: list[RunSum]) -> int:
    """An agent's part of what runs spent; those of several agents are theirs in equal parts."""
    return sum(run.nanos // max(1, len(run.agents)) for run in runs)


def _usual(profile: Profile, by_model: Mapping[str | None, float]) -> float:
    """What is usual with the models that an agent uses, by how much it uses them."""
    calls = max(1, profile.all.calls)
    return sum(by_model.get(name, 0.0) * sums.calls for name, sums in profile.models.items()) / calls
