"""What every writer of sums needs: keys looked up in parts, and rows that are added to those that are there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

MAX_AT_ONCE = 500


def add_up(db: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> None:
    """Insert rows, or add them to those that have their key."""
    if rows:
        insert = upsert(db, table)
        added = {name: table.c[name] + insert.excluded[name] for name in names}
        db.execute(insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=added), rows)


def upsert(db: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An insert that can say what to do when the key is there."""
    return sqlite.insert(table) if db.dialect.name == "sqlite" else postgresql.insert(table)


def numbers_of(db: sa.Connection, table: sa.Table, digests: Iterable[bytes]) -> dict[bytes, int]:
    """The numbers of the rows that are there, by their digest."""
    found: dict[bytes, int] = {}
    for some in in_parts(digests):
        rows = db.execute(sa.select(table.c.digest, table.c.number).where(table.c.digest.in_(some)))
        found.update((row.digest, row.number) for row in rows)
    return found


def plus(sums: dict[Any, Sequence[int]], key: object, values: Sequence[int]) -> None:
    """Add values to those of a key."""
    before = sums.get(key)
    sums[key] = values if before is None else [a + b for a, b in zip(before, values, strict=True)]


def in_parts(values: Iterable[Any]) -> Iterator[list[Any]]:
    """As many as one question may name."""
    every = list(values)
    for start in range(0, len(every), MAX_AT_ONCE):
        yield every[start : start + MAX_AT_ONCE]
