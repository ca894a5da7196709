"""Where each kind of store keeps its books, for tests that run over all of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from tests.support.redis_server import RedisServer
from tokenmeter.budgets import MemoryStore, Store

KINDS = ("memory", "sqlite", "redis")
LASTING = ("sqlite", "redis")


class Place(Protocol):
    """One set of books; what ``open`` gives are the stores of several processes, as it were."""

    def open(self) -> Store:
        """One more store on these books."""
        ...

    def close(self) -> None:
        """Let go of all that was opened."""
        ...


class Memory:
    """Books in memory: a place for one store."""

    def __init__(self) -> None:
        self._store: MemoryStore | None = None

    def open(self) -> Store:
        assert self._store is None, "books in memory are for one process"
        self._store = MemoryStore()
        return self._store

    def close(self) -> None:
        if self._store is not None:
            self._store.close()


class Sqlite:
    """A file of its own."""

    def __init__(self, folder: Path) -> None:
        self._url = f"sqlite:///{folder / 'books.db'}"
        self._opened: list[Store] = []

    def open(self) -> Store:
        from tokenmeter.budgets.sqlite import open_sqlite

        self._opened.append(open_sqlite(self._url))
        return self._opened[-1]

    def close(self) -> None:
        for store in self._opened:
            store.close()


class Redis:
    """A tenant of its own on one server."""

    _numbers = itertools.count()

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self._url = (
            f"{server.url}?tenant=t{next(self._numbers)}&state_dir={quote(str(folder))}&timeout_s=20&lease_s=120"
        )
        self._opened: list[Store] = []

    def open(self) -> Store:
        from tokenmeter.budgets.redis import open_redis

        self._opened.append(open_redis(self._url))
        return self._opened[-1]

    def close(self) -> None:
        for store in self._opened:
            store.close()


def die(store: Store) -> None:
    """What kill -9 leaves of a store: its holds, and nobody who has them."""
    getattr(store, "_die")()  # noqa: B009 - a seam of the lasting stores for tests
