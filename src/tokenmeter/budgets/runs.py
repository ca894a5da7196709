"""What a run has done over all processes: its calls and its spend, counted in the store like any budget. Pure.

A run is known by its root, the run at its very beginning. So a lineage that was lost or shortened on the way starts
another count, and can't lower this one. Spend is looked at when a call begins and its worst case isn't held: the guard
stops a run that has spent too much, and budgets are there to keep money from being spent at all.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenmeter.budgets.budget import Budget
from tokenmeter.budgets.policy import Claim, escaped
from tokenmeter.budgets.store import Short, State
from tokenmeter.loops.policy import Guard, LoopPolicy

CALLS = Budget("1 calls", per="run", name="max_calls_per_run", wait_s=0, thresholds=(), on_store_error="open")
USD = Budget("$1", per="run", name="max_usd_per_run", wait_s=0, thresholds=(), on_store_error="open")


def run_claims(policy: LoopPolicy, agent: str | None, root: str | None) -> tuple[Claim, ...]:
    """What one more call asks of the counters of its run."""
    if root is None:
        return ()
    own = policy.of(agent)
    scope, found = f"run={root}", []
    if own.max_calls_per_run is not None:
        key = f"calls loops max_calls_per_run|run={escaped(root)}|run"
        enforce = own.action("max_calls_per_run") == "refuse"
        found.append(Claim(CALLS, key, scope, 1, own.max_calls_per_run, None, enforce))
    nanos = own.max_nanos_per_run
    if nanos is not None:
        key = f"usd loops max_usd_per_run|run={escaped(root)}|run"
        # A nanodollar, so that the run is over at the limit itself.
        found.append(Claim(USD, key, scope, 1, nanos, None, own.action("max_usd_per_run") == "refuse"))
    return tuple(found)


def guard_of(claim: Claim) -> Guard | None:
    """The guard that a claim is of; None for a claim of a budget."""
    if claim.budget is CALLS:
        return "max_calls_per_run"
    return "max_usd_per_run" if claim.budget is USD else None


def counted(claims: Sequence[Claim], states: Sequence[State]) -> tuple[int | None, int | None]:
    """The calls, those under way included, and the nanodollars of the run before this call, as far as known."""
    calls: int | None = None
    nanos: int | None = None
    for claim, state in zip(claims, states, strict=True):
        if claim.budget is CALLS:
            calls = state.posted + state.held
        elif claim.budget is USD:
            nanos = state.posted
    return calls, nanos


def counted_short(short: Short) -> tuple[int | None, int | None]:
    """The same where there was no room."""
    calls: int | None = None
    nanos: int | None = None
    for claim, available, if_settled in zip(short.claims, short.available, short.if_settled, strict=True):
        if claim.budget is CALLS:
            calls = claim.limit - min(available, if_settled)
        elif claim.budget is USD:
            nanos = claim.limit - if_settled
    return calls, nanos
