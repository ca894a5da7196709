"""Which books can be dropped: those of ended windows, and idle ones of runs when there are too many."""

from __future__ import annotations

from collections.abc import Iterable

from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import State
from tokenmeter.budgets.waiting import Lines

_GRACE_S = 3600.0  # how long a book outlives its window: clocks may step back
_FIRST_SWEEP = 1024


class Shelf:
    """Keeps the life of each book, and drops those that are over."""

    def __init__(self, max_idle_runs: int) -> None:
        self.sweep_at = _FIRST_SWEEP
        self._max_idle_runs = max_idle_runs
        self._life: dict[str, tuple[float | None, bool]] = {}  # key -> (end, is of a run or a call)
        self._seen: dict[str, State] = {}  # the books of runs as the last sweep saw them

    def put(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            if claim.key not in self._life:
                budget = claim.budget
                of_a_run = budget.per in ("run", "call") or "run" in budget.scope
                self._life[claim.key] = (claim.resets_at, of_a_run)

    def sweep(self, books: dict[str, State], lines: Lines, now_s: float) -> None:
        """Drop what has ended. The next sweep comes when the books have doubled: its cost spreads out."""
        runs: list[str] = []
        for key, (ends_at, of_a_run) in list(self._life.items()):
            book = books.get(key)
            if book is None:
                del self._life[key]
            elif book.held or key in lines:
                continue
            elif ends_at is not None and ends_at + _GRACE_S <= now_s:
                self._drop(key, books)
            elif of_a_run:
                runs.append(key)
        if len(runs) > self._max_idle_runs:
            idle = [key for key in runs if self._seen.get(key) is books[key]]
            for key in idle[: len(runs) - self._max_idle_runs]:
                self._drop(key, books)
        self._seen = {key: books[key] for key in runs if key in books}
        self.sweep_at = max(_FIRST_SWEEP, 2 * len(books))

    def _drop(self, key: str, books: dict[str, State]) -> None:
        del books[key]
        self._life.pop(key, None)
