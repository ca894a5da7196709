"""What is read of the books in a file, and what people say to them: grants and pauses."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from functools import partial

from tokenmeter.budgets import sqlite_words as words
from tokenmeter.budgets.grants import to_forget
from tokenmeter.budgets.lasting import raw, unraw
from tokenmeter.budgets.polling import Line
from tokenmeter.budgets.sqlite_desk import Desk
from tokenmeter.budgets.sqlite_sheet import DAY_S, RUN_S, Raises, fetch
from tokenmeter.budgets.store import Book, Entry, Grant, Pause, State

Connection = sqlite3.Connection

_ENTRIES_A_READ = 256
_ENTRIES_A_TIDY = 500
_ENTRIES_A_TRIM = 1_000
_BOOKS_A_TIDY = 500
_UNSEEN = State(0, 0, 0)


class SqliteViews:
    """The verbs that no call needs."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._line = Line()
        self._raises = Raises()

    def read(self, keys: Iterable[str]) -> tuple[State, ...]:
        """The books of these keys."""
        asked = [raw(key) for key in keys]
        return self._desk.read(lambda db: self._read(db, asked))

    def _read(self, db: Connection, keys: list[bytes]) -> tuple[State, ...]:
        raised = self._raises.at(db)
        found = {
            key: State(int(posted), int(held), int(top) + raised(key))
            for key, posted, held, _, top in fetch(db, list(dict.fromkeys(keys)))
        }
        return tuple([found.get(key, _UNSEEN) for key in keys])

    def books(self) -> list[Book]:
        """Every book that is kept."""
        return self._desk.read(self._books)

    def _books(self, db: Connection) -> list[Book]:
        raised = self._raises.at(db)
        rows = db.execute(
            "SELECT key, posted, held, leased, top, scope, resets_at, label "
            "FROM books LEFT JOIN budgets ON budgets.id = books.budget"
        )
        return [
            words.book(
                key, State(int(posted), int(held), int(top) + raised(key)), int(leased), label, (scope, resets_at)
            )
            for key, posted, held, leased, top, scope, resets_at, label in rows
        ]

    def entries(self, after: str = "") -> Iterator[tuple[str, Entry]]:
        """The ledger from the oldest on.

        An estimate that is corrected leaves its place, and the right entry comes at the end: whoever has read
        the estimate meets the same id again, and the later one is right.
        """
        number = int(after or 0)
        while rows := self._desk.read(partial(_entries, after=number)):
            for number, name, charges, line in rows:
                yield str(number), Entry(unraw(name), words.read_charges(charges), line)

    def trim(self, mark: str, before_s: float) -> int:
        """Drop the entries before a mark that are older; how many. The ids of what they charged are forgotten."""
        count = 0
        while dropped := self._desk.write(partial(_trim, before=int(mark), before_s=before_s)):
            count += dropped
            time.sleep(0)  # whoever holds comes in between
        return count

    def grant(self, grant: Grant) -> None:
        """Raise a limit; harmless when done twice with the same id."""
        row = (
            raw(grant.id),
            raw(grant.account),
            words.wide(grant.amount),
            grant.at_s,
            grant.expires_at_s,
            raw(grant.reason),
            raw(grant.by),
        )
        self._desk.write(lambda db: _grant(db, row))
        self._line.stir()

    def grants(self) -> list[Grant]:
        """The grants, those that ended too."""
        rows = self._desk.read(
            lambda db: db.execute(
                "SELECT id, account, amount, at_s, expires_at_s, reason, granted_by FROM grants ORDER BY number"
            ).fetchall()
        )
        return [
            Grant(unraw(name), unraw(account), int(amount), at_s, expires_at_s, unraw(reason), unraw(by))
            for name, account, amount, at_s, expires_at_s, reason, by in rows
        ]

    def pause(self, pause: Pause) -> None:
        """Stop a target."""
        row = (raw(pause.target), pause.at_s, raw(pause.reason), raw(pause.by))
        self._desk.write(lambda db: db.execute("INSERT OR REPLACE INTO pauses VALUES (?, ?, ?, ?)", row) and None)

    def resume(self, target: str) -> bool:
        """Undo a pause."""
        return self._desk.write(
            lambda db: db.execute("DELETE FROM pauses WHERE target = ?", (raw(target),)).rowcount == 1
        )

    def pauses(self) -> list[Pause]:
        """The pauses that are in force."""
        rows = self._desk.read(lambda db: db.execute("SELECT target, at_s, reason, paused_by FROM pauses").fetchall())
        return [Pause(unraw(target), at_s, unraw(reason), unraw(by)) for target, at_s, reason, by in rows]

    def time_s(self) -> float:
        """The clock of this machine."""
        return time.time()


def tidy(db: Connection, keep_days: float) -> bool:
    """Drop some of what has had its time. Whether there may be more."""
    now_s = time.time()
    more = _drop_books(db, now_s)
    db.execute("DELETE FROM owners WHERE lives_until_s < ?", (now_s - DAY_S,))
    return (_drop_entries(db, now_s - keep_days * DAY_S) if keep_days else False) or more


def _drop_books(db: Connection, now_s: float) -> bool:
    ended = db.execute(
        "SELECT key, held, resets_at, used_day FROM books WHERE ends_s <= ? LIMIT ?", (now_s, _BOOKS_A_TIDY)
    ).fetchall()
    for key, held, resets_at, used_day in ended:
        idle_s = now_s - used_day * DAY_S
        if held != 0 or idle_s < (DAY_S if resets_at is not None else RUN_S):
            db.execute("UPDATE books SET ends_s = ? WHERE key = ?", (now_s + DAY_S, key))
        else:
            db.execute("DELETE FROM books WHERE key = ?", (key,))
    return len(ended) == _BOOKS_A_TIDY


def _drop_entries(db: Connection, before_s: float) -> bool:
    """Drop the oldest entries. The youngest stays whatever its age: the numbers go on from it."""
    [newest] = db.execute("SELECT max(number) FROM entries").fetchone()
    last = None
    count = 0
    oldest = db.execute("SELECT number, at_s FROM entries ORDER BY number LIMIT ?", (_ENTRIES_A_TIDY,)).fetchall()
    for number, at_s in oldest:
        if at_s >= before_s or number == newest:
            break
        last = number
        count += 1
    if last is not None:
        db.execute("DELETE FROM entries WHERE number <= ?", (last,))
    return count == _ENTRIES_A_TIDY


def _entries(db: Connection, after: int) -> list[tuple[int, bytes, bytes, bytes]]:
    return db.execute(
        "SELECT number, id, charges, line FROM entries WHERE number > ? ORDER BY number LIMIT ?",
        (after, _ENTRIES_A_READ),
    ).fetchall()


def _trim(db: Connection, before: int, before_s: float) -> int:
    return db.execute(
        "DELETE FROM entries WHERE number IN (SELECT number FROM entries WHERE number < ? AND at_s < ? "
        "AND number < (SELECT max(number) FROM entries) ORDER BY number LIMIT ?)",
        (before, before_s, _ENTRIES_A_TRIM),
    ).rowcount


def _grant(db: Connection, row: tuple[bytes, bytes, int | str, float, float, bytes, bytes]) -> None:
    db.execute(
        "INSERT OR IGNORE INTO grants (id, account, amount, at_s, expires_at_s, reason, granted_by) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        row,
    )
    [count] = db.execute("SELECT count(*) FROM grants").fetchone()
    if excess := to_forget(count):
        db.execute(
            # Not the youngest, whatever it is: by its number the others know whether there is news.
            "DELETE FROM grants WHERE number IN (SELECT number FROM grants WHERE expires_at_s <= ? "
            "AND number < (SELECT max(number) FROM grants) ORDER BY expires_at_s LIMIT ?)",
            (time.time(), excess),
        )
