"""A store at the end of a wire that can be cut, and that counts what goes over it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from tokenmeter.budgets import MemoryStore, State, Store
from tokenmeter.budgets.breaker import Breaker, Through
from tokenmeter.budgets.journal import Journal
from tokenmeter.errors import StoreUnavailable

_T = TypeVar("_T")


class Wire(Breaker):
    """What a store is asked goes through it."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = False
        self.deaf = False  # the store does what it is asked, and the answer is lost
        self.asked: Counter[str] = Counter()
        self.between: Callable[[], object] | None = None  # done before each verb

    def __call__(self, verb: Callable[..., _T], *args: Any, **named: Any) -> _T:
        self.asked[verb.__name__] += 1
        if self.between is not None:
            self.between()
        if self.gone:
            raise StoreUnavailable("no route to redis://somewhere")
        answer = verb(*args, **named)
        if self.deaf:
            raise StoreUnavailable("no answer from redis://somewhere")
        return answer


class Flaky(Through):
    """Books that can't be reached at times."""

    def __init__(self, books: Store | None = None) -> None:
        self.wire = Wire()
        self.kept = books or MemoryStore()
        super().__init__(self.kept, self.wire)

    def book(self, key: str = "book") -> State:
        """How the book stands, whatever happened to the wire."""
        return self.kept.read([key])[0]


def leave(journal: Journal) -> None:
    """What kill -9 does to a journal."""
    for file in (journal._file, journal._lock_file):
        if file is not None:
            os.close(file)
    journal._file = journal._lock_file = None
    journal._broken = True
