"""What the tests of all stores share: a later store joins by its name in ``store``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tokenmeter.budgets import Budget, Claim, Store, open_store

MakeClaim = Callable[..., Claim]


@pytest.fixture(params=["memory://"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    found = open_store(request.param)
    yield found
    found.close()


@pytest.fixture
def claim() -> MakeClaim:
    """A claim on the book ``key``, without a policy."""

    def make(amount: int = 1, limit: int = 10, key: str = "book", *, alone: bool = False, warns: bool = False) -> Claim:
        budget = Budget(f"{limit} calls", per="call" if alone else "total", on_exceed="warn" if warns else "refuse")
        return Claim(budget, key, "global", amount, limit, None, not warns)

    return make
