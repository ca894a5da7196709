"""What a refusal of a budget says can be done."""

from __future__ import annotations

import pytest

from tokenmeter import Budget
from tokenmeter.attribution import Scope
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Short, State
from tokenmeter.holding import exceeded


@pytest.mark.parametrize(
    ("limit", "resets_at", "remedy"),
    [
        ("$5", 1_800_000_000.0, "Raise the limit, lower the request's output cap, or wait for the window to reset."),
        ("5k tokens", None, "Raise the limit, or lower the request's output cap."),
        ("5 calls", 1_800_000_000.0, "Raise the limit, or wait for the window to reset."),
        ("5 calls", None, "Raise the limit."),
    ],
)
def test_a_remedy_is_one_that_helps(limit: str, resets_at: float | None, remedy: str) -> None:
    budget = Budget(limit)
    amount = budget.limit_amount
    claim = Claim(budget, "book", "global", 1, amount, resets_at, True)
    short = Short((claim,), claim, State(amount, 0, amount), True, (0,), (0,))
    assert str(exceeded(short, Scope(), "gpt-5-mini")).endswith(f". {remedy}")
