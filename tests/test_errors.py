"""Every error survives the way to another process, with all that it says."""

from __future__ import annotations

import copy
import pickle
from decimal import Decimal

import pytest

import tokenmeter
from tokenmeter import BudgetExceeded, DepthExceeded, LoopDetected, Refused, UnpricedModel

SAMPLES = [
    BudgetExceeded(
        "no", budget="b", scope="agent=a", limit=Decimal("1.5"), spent=Decimal(1), held=Decimal(0),
        needed=Decimal(2), resets_at=1.5, agent="a",
    ),
    DepthExceeded("deep", agent="a", depth=3, max_depth=2, path=("a", "b", "c")),
    LoopDetected("round", agent="a"),
    UnpricedModel("what", model="m", provider="p", agent=None),
]  # fmt: skip


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_it_pickles(error: Refused) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert twin.details == error.details
        assert twin.agent == error.agent


def test_the_fields_of_a_budget_refusal() -> None:
    error = SAMPLES[0]
    assert isinstance(error, BudgetExceeded)
    assert (error.budget, error.scope, error.limit, error.spent, error.held, error.needed, error.resets_at) == (
        "b", "agent=a", Decimal("1.5"), Decimal(1), Decimal(0), Decimal(2), 1.5,
    )  # fmt: skip


def test_the_tree() -> None:
    for kind in (BudgetExceeded, DepthExceeded, LoopDetected, UnpricedModel):
        assert issubclass(kind, Refused)
        assert kind.reason != "refused"
    assert issubclass(tokenmeter.ConfigError, ValueError)
    assert not issubclass(tokenmeter.ConfigError, Refused)


def test_every_refusal_says_that_it_is_to_be_paid_for_first() -> None:
    """402, which no framework takes for a fault that a further try could mend."""
    assert {error.status_code for error in SAMPLES} == {402}
