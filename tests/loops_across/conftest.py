"""Three agents in three processes, and the stores that they share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.loops_across.ring import Ring
from tests.support.redis_server import RedisServer, missing
from tokenmeter.testing import Reply

STORES = ("sqlite", "redis", "redis+leases")

_numbers = itertools.count()


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    """The three processes, for all tests."""
    with Ring(tmp_path_factory.mktemp("state")) as found:
        yield found


@pytest.fixture
def ring(processes: Ring) -> Ring:
    """The ring, which becomes what a test wants; each call of its model costs the same."""
    processes.provider.reply = Reply("There is none.", input_tokens=4_000, output_tokens=500)
    return processes


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """One Redis for all; each test has a tenant of its own."""
    if reason := missing():
        pytest.skip(f"no Redis server: {reason}")
    with RedisServer() as server:
        yield server


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Gives the address of a store that nobody has used yet."""

    def fresh() -> str:
        base, _, leases = str(request.param).partition("+")
        if base == "sqlite":
            return f"sqlite:///{tmp_path_factory.mktemp('books') / 'books.db'}?timeout_s=20&lease_s=100"
        server: RedisServer = request.getfixturevalue("shared_redis")
        options = f"tenant=t{next(_numbers)}&timeout_s=5&lease_s=60&leases={'on' if leases else 'off'}"
        return f"{server.url}/0?{options}"

    return fresh
