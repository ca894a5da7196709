"""What the tests of all stores share: ``store`` is one of each kind in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer, missing
from tokenmeter.budgets import Budget, Claim, Store

from .places import KINDS, LASTING, Memory, Place, Redis, Sqlite

MakeClaim = Callable[..., Claim]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real Redis server."""
    if reason := missing():
        pytest.skip(f"no Redis server: {reason}")
    with RedisServer() as server:
        yield server


def _place(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    found: Place
    if request.param == "memory":
        found = Memory()
    elif request.param == "sqlite":
        pytest.importorskip("tokenmeter.budgets.sqlite")
        found = Sqlite(folder)
    else:
        pytest.importorskip("tokenmeter.budgets.redis")
        found = Redis(request.getfixturevalue("redis_server"), folder)
    yield found
    found.close()


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where the books of one test are."""
    yield from _place(request, tmp_path)


@pytest.fixture(params=LASTING)
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """The same for books that outlive a process, and that several share."""
    yield from _place(request, tmp_path)


@pytest.fixture
def store(place: Place) -> Store:
    """One store on books of its own."""
    return place.open()


@pytest.fixture
def claim() -> MakeClaim:
    """A claim on the book ``key``, without a policy."""

    def make(amount: int = 1, limit: int = 10, key: str = "book", *, alone: bool = False, warns: bool = False) -> Claim:
        budget = Budget(f"{limit} calls", per="call" if alone else "total", on_exceed="warn" if warns else "refuse")
        return Claim(budget, key, "global", amount, limit, None, not warns)

    return make
