"""What to do about a budget that can't pay: a smaller output cap, or a refusal that says all about it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from tokenmeter.attribution import Scope
from tokenmeter.budgets.budget import Budget
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Short
from tokenmeter.errors import BudgetExceeded
from tokenmeter.money import usd


@dataclass(frozen=True, slots=True)
class Affordable:
    """What can still be paid: ``cap`` for each choice, ``output_tokens`` over all choices."""

    cap: int
    output_tokens: int


def reduced(
    short: Short,
    claims: Sequence[Claim],
    *,
    output_for: Callable[[int], int],
    input_tokens: int,
    choices: int,
    callers_cap: int | None,
) -> Affordable | None:
    """The largest output cap that every budget of the call can pay, or ``None`` if there is none worth giving.

    A cap that the caller gave is lowered only where every budget that stands in the way says ``clamp``. Where
    the budget is spent out, what other calls hold counts as available: they are waited for. ``output_for`` says
    how many output tokens so many nanodollars pay, below 0 if not even the input.
    """
    room = short.if_settled if short.spent_out else short.available
    least = 0
    cap: int | None = None
    for claim, left in zip(claims, room, strict=True):
        if not claim.enforce or claim.amount <= left:
            continue
        budget = claim.budget
        if budget.unit == "calls" or (callers_cap is not None and budget.on_exceed != "clamp"):
            return None
        least = max(least, budget.min_output_tokens)
        output = left - input_tokens if budget.unit == "tokens" else output_for(left)
        cap = output // choices if cap is None else min(cap, output // choices)
    if cap is None or cap < least:
        return None
    if callers_cap is not None:
        cap = min(cap, callers_cap)
    return Affordable(cap, cap * choices)


def exceeded(short: Short, scope: Scope, model: str | None) -> BudgetExceeded:
    """The refusal: which budget, how much, when it resets, and what can be done."""
    claim, state = short.claim, short.state
    budget = claim.budget
    limit, spent, held, needed = (_shown(budget, n) for n in (claim.limit, state.posted, state.held, claim.amount))
    parts = [
        f"budget {budget.name!r} ({claim.scope}) can't pay this call: limit {limit[1]}, spent {spent[1]}, "
        f"held {held[1]}, needed {needed[1]}"
    ]
    if claim.resets_at is not None:
        parts.append(f"; resets at {datetime.fromtimestamp(claim.resets_at, UTC).isoformat()}")
    if short.spent_out:
        parts.append(". Raise the limit, lower the request's output cap, or wait for the window to reset.")
    elif budget.wait_s > 0:
        parts.append(f". Other calls held the rest for longer than wait_s={budget.wait_s:g}; try again later.")
    else:
        parts.append(". Other calls hold the rest; try again, or give the budget a wait_s to wait for them.")
    return BudgetExceeded(
        "".join(parts),
        budget=budget.name,
        scope=claim.scope,
        limit=limit[0],
        spent=spent[0],
        held=held[0],
        needed=needed[0],
        resets_at=claim.resets_at,
        unit=budget.unit,
        agent=scope.agent,
        user=scope.user,
        team=scope.team,
        run=scope.run,
        model=model,
    )


def _shown(budget: Budget, amount: int) -> tuple[Decimal | int, str]:
    if budget.unit != "usd":
        return amount, f"{amount:,} {budget.unit if amount != 1 else budget.unit[:-1]}"
    dollars = usd(amount)
    return dollars, f"${dollars.normalize():f}"
