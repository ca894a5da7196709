"""Dropping entries from a store once they are in a ledger, to give their memory back.

What is dropped is older than some days: until then an id must be known, so that what was charged is not charged
again, and an estimate may be corrected.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from tokenmeter.budgets import Store
from tokenmeter.errors import ConfigError

TRIM_DAYS = 7.0
LEAST_DAYS = 1.0
_DAY_S = 86_400


@runtime_checkable
class _Trims(Protocol):
    """A store that can drop entries."""

    def trim(self, mark: str, before_s: float) -> int:
        """Drop those before the mark that are older, too; how many."""
        ...


def trim(store: Store, mark: str, days: float = TRIM_DAYS) -> int:
    """Drop the entries before a mark that are older than ``days``; how many."""
    if not days >= LEAST_DAYS:
        raise ConfigError(f"to trim after {days:g} days is too soon: late words need their entries; give 1 or more")
    if not mark:
        return 0
    if not isinstance(store, _Trims):
        raise ConfigError(f"entries of {type(store).__name__} can't be trimmed; leave that out")
    return store.trim(mark, store.time_s() - days * _DAY_S)
