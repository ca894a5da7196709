"""What the tests of the command share."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.collector import Collector
from tests.cli.shared_books import SharedBooks
from tests.support.redis_server import RedisServer, missing

_tenants = itertools.count()


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real Redis server."""
    if reason := missing():
        pytest.skip(f"no Redis server: {reason}")
    with RedisServer() as server:
        yield server


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without any configuration, and a state of its own."""
    monkeypatch.delenv("TOKENMETER_CONFIG", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(params=["sqlite", "redis"])
def shared(request: pytest.FixtureRequest, elsewhere: Path) -> Iterator[SharedBooks]:
    """Books that several processes share, fresh ones."""
    if request.param == "sqlite":
        pytest.importorskip("tokenmeter.budgets.sqlite")
        found = SharedBooks(f"sqlite:///{elsewhere / 'books.db'}", elsewhere)
    else:
        pytest.importorskip("tokenmeter.budgets.redis")
        server: RedisServer = request.getfixturevalue("redis_server")
        found = SharedBooks(f"{server.url}?tenant=cli{next(_tenants)}&timeout_s=20&lease_s=120", elsewhere)
    with found:
        yield found
