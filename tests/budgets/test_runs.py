"""The counters of a run in the store: over at the limit itself, and shown as they were given."""

from __future__ import annotations

import pytest

from tokenmeter import LoopPolicy
from tokenmeter.budgets import Held, MemoryStore, Short
from tokenmeter.budgets.runs import USD, run_claims

LIMIT_NANOS = 500_000_000


@pytest.mark.parametrize(("spent", "over"), [(LIMIT_NANOS - 1, False), (LIMIT_NANOS, True), (LIMIT_NANOS + 1, True)])
def test_a_run_is_over_at_its_limit(spent: int, over: bool) -> None:
    store, policy = MemoryStore(), LoopPolicy(max_usd_per_run="0.50", max_calls_per_run=None)
    [claim] = claims = run_claims(policy, "a", "root")
    assert (claim.budget, claim.limit) == (USD, LIMIT_NANOS)
    assert isinstance(store.hold("first", claims, 0.0), Held)
    store.settle("first", (spent,))
    assert isinstance(store.hold("second", claims, 0.0), Short if over else Held)
