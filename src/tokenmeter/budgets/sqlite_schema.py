"""The tables of a file of books, and how a file of an older version becomes one of this.

Names and ids are kept as bytes, because any text may be one; sums that are too large for a column of numbers are
kept as decimal text. `STEPS` has what leads from each version to the next: what is there is never changed, the next
version adds to it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tokenmeter.errors import ConfigError

APPLICATION = 0x746F6B6D  # "tokm", in the head of the file

STEPS: tuple[tuple[str, ...], ...] = (
    (
        # What a budget is, once for all its books: JSON by a hash of it.
        "CREATE TABLE budgets (id INTEGER PRIMARY KEY, label TEXT NOT NULL)",
        # `ends_s`: when the book may be dropped; `used_day`: the day of the last use.
        """
        CREATE TABLE books (
            key BLOB PRIMARY KEY, posted NOT NULL, held NOT NULL, leased NOT NULL, top NOT NULL,
            used_day INTEGER NOT NULL, budget INTEGER NOT NULL, scope BLOB NOT NULL, resets_at REAL, ends_s REAL
        ) WITHOUT ROWID
        """,
        "CREATE INDEX books_by_end ON books (ends_s) WHERE ends_s IS NOT NULL",
        # `note` is there when the request was sent.
        """
        CREATE TABLE holds (
            id BLOB PRIMARY KEY, owner INTEGER NOT NULL, claims BLOB NOT NULL, note BLOB
        ) WITHOUT ROWID
        """,
        # The ledger. `estimate`: the claims of a hold that was charged because its process died; see `settle`.
        """
        CREATE TABLE entries (
            number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, at_s INTEGER NOT NULL,
            charges BLOB NOT NULL, line BLOB NOT NULL, estimate BLOB
        )
        """,
        """
        CREATE TABLE grants (
            number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, account BLOB NOT NULL, amount NOT NULL,
            at_s REAL NOT NULL, expires_at_s REAL NOT NULL, reason BLOB NOT NULL, granted_by BLOB NOT NULL
        )
        """,
        """
        CREATE TABLE pauses (
            target BLOB PRIMARY KEY, at_s REAL NOT NULL, reason BLOB NOT NULL, paused_by BLOB NOT NULL
        ) WITHOUT ROWID
        """,
        # Processes that have no lock to show that they live, and until when they are taken to.
        "CREATE TABLE owners (id INTEGER PRIMARY KEY, lives_until_s REAL NOT NULL)",
    ),
)


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables, or bring them up to date, in one transaction; ``ConfigError`` for a file that isn't ours."""
    if version(db, path) == len(STEPS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        for step in STEPS[version(db, path) :]:  # another process may have been faster
            for statement in step:
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {len(STEPS)}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.rollback()
        raise


def version(db: sqlite3.Connection, path: Path) -> int:
    """Which version the file is of; ``ConfigError`` if it isn't ours."""
    # Another process may make the tables between these steps: whose they are is read last, so that they aren't
    # taken for a stranger's.
    [tables] = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    [found] = db.execute("PRAGMA user_version").fetchone()
    [application] = db.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION and (tables or found or application):
        raise ConfigError(f"{path} is a database of another program; name a file of its own for the budgets")
    if found > len(STEPS):
        raise ConfigError(
            f"{path} was written by a newer tokenmeter (version {found} of the file, this one knows {len(STEPS)}); "
            "update the package tokenmeter-sdk, or name another file"
        )
    return int(found)
