"""What is left of the budgets that a call would be held to."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from msgspec import Struct

from tokenmeter.budgets.grants import Grants
from tokenmeter.budgets.policy import Facts, Need, Policy
from tokenmeter.budgets.store import Store
from tokenmeter.money import usd


class Remaining(Struct, frozen=True):
    """The state of one budget in its current window. Money is in US dollars; otherwise whole tokens or calls."""

    budget: str
    scope: str
    unit: Literal["usd", "tokens", "calls"]
    limit: Decimal | int
    spent: Decimal | int
    held: Decimal | int
    left: Decimal | int
    resets_at: float | None


def remaining(policy: Policy, store: Store, facts: Facts, now_s: float) -> tuple[Remaining, ...]:
    """One for each budget that applies to a call of these facts."""
    grants = Grants()
    for grant in store.grants():
        grants.add(grant)
    claims = policy.claims(facts, Need(0, 0, 0), now_s)
    found = []
    for claim, state in zip(claims, store.read([claim.key for claim in claims]), strict=True):
        unit = claim.budget.unit
        most = claim.limit + grants.on(claim.key, now_s)
        amounts = (most, state.posted, state.held, max(0, most - state.posted - state.held))
        limit, spent, held, left = (usd(amount) if unit == "usd" else amount for amount in amounts)
        found.append(Remaining(claim.budget.name or "", claim.scope, unit, limit, spent, held, left, claim.resets_at))
    return tuple(found)
