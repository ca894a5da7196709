"""Where the fleets of these tests keep their books: SQLite and Redis, each with and without leases."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.fleet.fleet import Fleet, Nursery
from tests.support.redis_server import RedisServer, missing

KINDS = ("sqlite", "redis", "redis+leases")

_numbers = itertools.count()

MakeUrl = Callable[..., str]


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals and marks of this test are its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="session")
def fleet_redis() -> Iterator[RedisServer]:
    """One Redis for all tests that don't harm it."""
    if reason := missing():
        pytest.skip(f"no Redis server: {reason}")
    with RedisServer() as server:
        yield server


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which store, and whether with leases."""
    return str(request.param)


@pytest.fixture
def fresh(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> MakeUrl:
    """Gives the address of books that nobody has used yet; options are written behind it."""

    def make(**options: object) -> str:
        number = next(_numbers)
        base, _, leases = kind.partition("+")
        folder = tmp_path / f"place{number}"
        folder.mkdir()
        if base == "sqlite":
            url = f"sqlite:///{folder / 'books.db'}"
            options = {"timeout_s": 20, "lease_s": 100, **options}
        else:
            server: RedisServer = request.getfixturevalue("fleet_redis")
            url = f"{server.url}/0"
            state = quote(str(folder))
            options = {"tenant": f"f{number}", "state_dir": state, "timeout_s": 5, "lease_s": 60, **options}
        options["leases"] = "on" if leases else "off"
        return url + "?" + "&".join(f"{name}={value}" for name, value in options.items())

    return make


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where the children of all fleets are born."""
    found = Nursery()
    yield found
    found.close()


@pytest.fixture
def fleet(nursery: Nursery, tmp_path: Path) -> Iterator[Fleet]:
    """Processes that end with the test."""
    with Fleet(nursery, tmp_path) as found:
        yield found
