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


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty ledger."""
    pytest.importorskip("sqlalchemy")
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    """An empty ledger."""
    with open_ledger(url) as found:
        yield found
