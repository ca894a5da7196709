"""What one transaction reads of the books, changes, and writes back; and by how much grants raise their limits."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable
from functools import lru_cache

from tokenmeter.budgets.sqlite_words import OF_A_RUN, Line, wide

DAY_S = 86_400
RUN_S = 30 * DAY_S
_KEYS_A_READ = 500
_FEW_KEYS = 8
_SELECT = "SELECT key, posted, held, leased, top FROM books"


class Page:
    """One book."""

    __slots__ = ("held", "kept", "leased", "name", "posted", "top")

    def __init__(self, posted: int, held: int, leased: int, top: int, name: Line | None, *, kept: bool) -> None:
        self.posted = posted
        self.held = held
        self.leased = leased
        self.top = top
        self.name = name
        self.kept = kept

    def rename(self, line: Line) -> None:
        """Let a claim tell what the book is; the last one speaks."""
        if self.top != line[2]:
            self.top = line[2]
            self.name = line


class Sheet:
    """The books of these keys, as far as there are any."""

    __slots__ = ("_db", "_pages")

    def __init__(self, db: sqlite3.Connection, keys: Iterable[bytes]) -> None:
        self._db = db
        pages: dict[bytes, Page] = {}
        self._pages = pages
        for key, posted, held, leased, top in fetch(db, list(keys)):
            pages[key] = Page(int(posted), int(held), int(leased), int(top), None, kept=True)

    def get(self, key: bytes) -> Page | None:
        """A book, if it is there."""
        return self._pages.get(key)

    def page(self, line: Line) -> Page:
        """The book of a claim; a fresh one if it isn't there."""
        page = self._pages.get(line[0])
        if page is None:
            page = self._pages[line[0]] = Page(0, 0, 0, line[2], line, kept=False)
        return page

    def save_names(self) -> None:
        """Write only what a claim told that was not met: else a limit that was lowered would never be shown."""
        named = [
            (wide(page.top), page.name.budget, key)
            for key, page in self._pages.items()
            if page.kept and page.name is not None
        ]
        if named:
            self._db.executemany("UPDATE books SET top = ?, budget = ? WHERE key = ?", named)

    def save(self) -> None:
        """Write them back."""
        now_s = time.time()
        day = int(now_s) // DAY_S
        kept, named = [], []
        for key, page in self._pages.items():
            line = page.name
            if line is None:
                kept.append((wide(page.posted), wide(page.held), wide(page.leased), day, key))
                continue
            ends_s = line.resets_at + DAY_S if line.resets_at is not None else None
            if ends_s is None and line.flags & OF_A_RUN:
                ends_s = now_s + RUN_S
            sums = (wide(page.posted), wide(page.held), wide(page.leased), wide(page.top))
            named.append((key, *sums, day, line.budget, line.scope, line.resets_at, ends_s))
        if kept:
            self._db.executemany("UPDATE books SET posted = ?, held = ?, leased = ?, used_day = ? WHERE key = ?", kept)
        if named:
            self._db.executemany("INSERT OR REPLACE INTO books VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", named)


def fetch(db: sqlite3.Connection, keys: list[bytes]) -> list[tuple[bytes, int, int, int, int]]:
    """The books of these keys: key, posted, held, leased, top."""
    if len(keys) <= _FEW_KEYS:
        return db.execute(_few(len(keys)), keys).fetchall() if keys else []
    found = []
    for start in range(0, len(keys), _KEYS_A_READ):
        some = keys[start : start + _KEYS_A_READ]
        marks = ",".join("?" * len(some))
        found += db.execute(f"{_SELECT} WHERE key IN ({marks})", some).fetchall()
    return found


@lru_cache
def _few(count: int) -> str:
    """A third faster than ``IN``, which sorts the keys in a table of its own."""
    return " UNION ALL ".join([f"{_SELECT} WHERE key = ?"] * count)


def is_lease(hold: bytes) -> bool:
    """Whether the hold of that id is a lease."""
    return hold.startswith(b"lease:")


Raised = Callable[[bytes], int]


class Raises:
    """The grants that are in force, read again when there is a new one."""

    def __init__(self) -> None:
        self._newest: int | None = None
        self._by_account: dict[bytes, list[tuple[int, float, float]]] = {}

    def at(self, db: sqlite3.Connection) -> Raised:
        """What grants add now to the limit of a book."""
        [newest] = db.execute("SELECT max(number) FROM grants").fetchone()
        if newest is None:
            return _nothing
        now_s = time.time()
        if newest != self._newest:
            self._read(db, newest, now_s)
        by_account = self._by_account
        if not by_account:
            return _nothing

        def raised(key: bytes) -> int:
            found = by_account.get(key.rpartition(b"|")[0], ())
            return sum([amount for amount, from_s, to_s in found if from_s <= now_s < to_s])

        return raised

    def _read(self, db: sqlite3.Connection, newest: int, now_s: float) -> None:
        by_account: dict[bytes, list[tuple[int, float, float]]] = {}
        rows = db.execute(
            "SELECT account, amount, at_s, expires_at_s FROM grants WHERE expires_at_s > ?", (now_s - DAY_S,)
        )
        for account, amount, from_s, to_s in rows:
            by_account.setdefault(account, []).append((int(amount), from_s, to_s))
        self._by_account, self._newest = by_account, newest


def _nothing(key: bytes) -> int:
    return 0
