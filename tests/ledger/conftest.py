"""What the tests of the ledger share: ``url`` is an empty ledger of each kind in turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.ledger.postgres_server import PostgresServer
from tests.ledger.postgres_server import missing as postgres_missing
from tests.support.redis_server import RedisServer
from tests.support.redis_server import missing as redis_missing
from tokenmeter.ledger import open_ledger
from tokenmeter.outcomes import MemorySink

if TYPE_CHECKING:
    from tokenmeter.ledger.ledger import Ledger


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real Redis server."""
    if reason := redis_missing():
        pytest.skip(f"no Redis server: {reason}")
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server."""
    if reason := postgres_missing():
        pytest.skip(f"no PostgreSQL server: {reason}")
    with PostgresServer() as server:
        yield server


def _empty(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    pytest.importorskip("sqlalchemy")
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty ledger."""
    return _empty(request.param, request, tmp_path)


@pytest.fixture(params=["sqlite", "postgres", "memory"])
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger | MemorySink]:
    """Each that keeps outcomes, empty."""
    if request.param == "memory":
        yield MemorySink()
        return
    with open_ledger(_empty(request.param, request, tmp_path)) as found:
        yield found


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    """An empty ledger."""
    with open_ledger(url) as found:
        yield found
