"""What is known of each book, and which books can be dropped: those of ended windows, and idle ones of runs."""

from __future__ import annotations

from collections.abc import Iterable

from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Book, State
from tokenmeter.budgets.waiting import Lines

_GRACE_S = 3600.0  # how long a book outlives its window: clocks may step back
_FIRST_SWEEP = 1024


class Shelf:
    """Keeps a claim of each book, which tells its life and its name, and drops the books that are over."""

    def __init__(self, max_idle_runs: int) -> None:
        self.sweep_at = _FIRST_SWEEP
        self._max_idle_runs = max_idle_runs
        self._claims: dict[str, Claim] = {}
        self._seen: dict[str, State] = {}  # the books of runs as the last sweep saw them

    def put(self, claims: Iterable[Claim]) -> None:
        """Note the books of these claims; the last claim of a book speaks."""
        for claim in claims:
            self._claims[claim.key] = claim

    def label(self, key: str, state: State, leased: int) -> Book:
        """A book as it is shown."""
        claim = self._claims.get(key)
        if claim is not None:
            budget = claim.budget
            return Book(key, budget.name, claim.scope, budget.unit, claim.resets_at, state, leased)
        named, _, rest = key.partition("|")
        unit, _, name = named.partition(" ")
        return Book(key, name, rest.partition("|")[0], unit, None, state, leased)

    def sweep(self, books: dict[str, State], lines: Lines, now_s: float) -> None:
        """Drop what has ended. The next sweep comes when the books have doubled: its cost spreads out."""
        runs: list[str] = []
        for key, claim in list(self._claims.items()):
            book = books.get(key)
            if book is None:
                del self._claims[key]
            elif book.held or key in lines:
                continue
            elif claim.resets_at is not None and claim.resets_at + _GRACE_S <= now_s:
                self._drop(key, books)
            elif claim.budget.per == "run" or "run" in claim.budget.scope:
                runs.append(key)
        if len(runs) > self._max_idle_runs:
            idle = [key for key in runs if self._seen.get(key) is books[key]]
            for key in idle[: len(runs) - self._max_idle_runs]:
                self._drop(key, books)
        self._seen = {key: books[key] for key in runs if key in books}
        self.sweep_at = max(_FIRST_SWEEP, 2 * len(books))

    def _drop(self, key: str, books: dict[str, State]) -> None:
        del books[key]
        self._claims.pop(key, None)
