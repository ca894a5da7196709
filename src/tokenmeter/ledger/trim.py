"""Dropping entries from a store once they are in a ledger, to give their memory back.

What is dropped is older than some days: until then an id must be known, so that what was charged is not charged
again, and an estimate may be corrected.
"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING

from tokenmeter.budgets import Store
from tokenmeter.budgets.sqlite import SqliteStore
from tokenmeter.errors import ConfigError

if TYPE_CHECKING:
    from tokenmeter.budgets.redis import RedisStore

TRIM_DAYS = 7.0
LEAST_DAYS = 1.0
_DAY_S = 86_400
_ENTRIES_A_STEP = 1_000


def trim(store: Store, mark: str, days: float = TRIM_DAYS) -> int:
    """Drop the entries before a mark that are older than ``days``; how many."""
    if not days >= LEAST_DAYS:
        raise ConfigError(f"to trim after {days:g} days is too soon: late words need their entries; give 1 or more")
    if not mark:
        return 0
    before_s = store.time_s() - days * _DAY_S
    if isinstance(store, SqliteStore):
        return _trim_file(store, int(mark), before_s)
    from tokenmeter.budgets.redis import RedisStore

    if isinstance(store, RedisStore):
        return _trim_stream(store, mark, before_s)
    raise ConfigError(f"entries of {type(store).__name__} can't be trimmed; leave that out")


def _trim_file(store: SqliteStore, mark: int, before_s: float) -> int:
    def some(db: sqlite3.Connection) -> int:
        return db.execute(
            "DELETE FROM entries WHERE number IN (SELECT number FROM entries WHERE number < ? AND at_s < ? "
            "AND number < (SELECT max(number) FROM entries) ORDER BY number LIMIT ?)",
            (mark, before_s, _ENTRIES_A_STEP),
        ).rowcount

    count = 0
    while dropped := store._desk.write(some):
        count += dropped
        time.sleep(0)  # whoever holds comes in between
    return count


def _trim_stream(store: RedisStore, mark: str, before_s: float) -> int:
    room = store._room
    oldest_ms = int(before_s * 1000)
    keep_from = mark if int(mark.partition("-")[0]) < oldest_ms else f"{oldest_ms}-0"
    words = (b"XTRIM", f"{room._tag}:entries".encode(), b"MINID", b"~", keep_from.encode(), b"LIMIT", b"10000")
    count = 0
    while dropped := int(room._link.command(room.deadline(), *words)):
        count += dropped
    return count
