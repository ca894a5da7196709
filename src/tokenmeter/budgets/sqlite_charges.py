"""Charging in a file of books, and what becomes of the holds of the dead: what these verbs do in their transaction.

Sums are made here and not by SQLite, whose numbers end at 2^63.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence

from tokenmeter.budgets.lasting import check_amounts, unraw
from tokenmeter.budgets.sqlite_sheet import Raises, Sheet, is_lease
from tokenmeter.budgets.sqlite_words import ALONE, Line, charges_of, read_lines, write_charges, write_lines
from tokenmeter.budgets.store import Drawn, Entry, Settled, State

Connection = sqlite3.Connection
Lives = Callable[[int, "float | None"], bool]


class Charges:
    """The verbs that end holds. ``lives`` tells whether a process does."""

    def __init__(self, raises: Raises, lives: Lives) -> None:
        self._raises = raises
        self._lives = lives

    def release(self, db: Connection, hold: bytes) -> bool:
        """End a hold with nothing spent."""
        lines = _taken(db, hold)
        if lines is None:
            return False
        sheet = Sheet(db, [line.key for line in lines if not line.flags & ALONE])
        _undo(sheet, hold, lines)
        sheet.save()
        return True

    def release_own(self, db: Connection, hold: bytes, owner: int) -> bool:
        """The same, if it is a hold of that process."""
        found = db.execute("SELECT 1 FROM holds WHERE id = ? AND owner = ?", (hold, owner)).fetchone()
        return found is not None and self.release(db, hold)

    def settle(self, db: Connection, hold: bytes, amounts: Sequence[int], row: bytes) -> Settled | None:
        """Charge a hold and end it, or correct what was charged by estimate."""
        lines = _taken(db, hold)
        if lines is not None:
            check_amounts(len(lines), amounts)
            return self._charge(db, hold, lines, amounts, row, undone=lines)
        found = _entry(db, hold)
        number, estimate = found or (0, None)
        if estimate is None:
            return None
        lines = read_lines(estimate)
        check_amounts(len(lines), amounts)
        return self._charge(db, hold, lines, amounts, row, corrects=(number, lines))

    def post(
        self, db: Connection, entry: bytes, lines: Sequence[Line], amounts: Sequence[int], row: bytes
    ) -> Settled | None:
        """Charge what no hold stands for, or the hold of this id, or correct what was charged by estimate."""
        held = _taken(db, entry)
        if held is not None:
            return self._charge(db, entry, lines, amounts, row, undone=held, fresh=True)
        found = _entry(db, entry)
        if found is None:
            return self._charge(db, entry, lines, amounts, row, fresh=True)
        number, estimate = found
        if estimate is None:
            return None
        return self._charge(db, entry, lines, amounts, row, corrects=(number, read_lines(estimate)), fresh=True)

    def _charge(
        self,
        db: Connection,
        entry: bytes,
        lines: Sequence[Line],
        amounts: Sequence[int],
        row: bytes,
        *,
        undone: Sequence[Line] = (),
        corrects: tuple[int, Sequence[Line]] | None = None,
        fresh: bool = False,
    ) -> Settled | None:
        """Charge the lines. ``fresh``: their limits are those of now. None: the id was charged before."""
        others = (*undone, *corrects[1]) if fresh and corrects else undone if fresh else ()
        sheet = Sheet(db, [line[0] for line in (*lines, *others) if not line[3] & ALONE])
        _undo(sheet, entry, undone)
        was: dict[bytes, int] = {}
        charges = charges_of(lines, amounts)
        if corrects is None:
            if not _write_entry(db, entry, charges, row):
                sheet.save()  # a row of that id was written while the hold stood: it ends, and charges nothing
                return None
        else:
            was = _retract(sheet, corrects[1])
            # At the end of the ledger, so that who has read the estimate meets the entry again.
            db.execute(
                "UPDATE entries SET number = (SELECT max(number) + 1 FROM entries), at_s = ?, charges = ?, line = ?, "
                "estimate = NULL WHERE number = ?",
                (int(time.time()), charges, row, corrects[0]),
            )
        raised = self._raises.at(db)
        states: list[State] = []
        for line, amount in zip(lines, amounts, strict=True):
            if line[3] & ALONE:
                states.append(State(0, amount, line[2]))
                continue
            page = sheet.page(line)
            page.posted += amount
            if fresh:
                page.rename(line)
            states.append(State(page.posted, page.held, page.top + raised(line[0])))
        sheet.save()
        if not was:
            return Settled(tuple(states), tuple(amounts))
        added = [amount - was.get(line.key, 0) for line, amount in zip(lines, amounts, strict=True)]
        return Settled(tuple(states), tuple(added))

    def draw(
        self, db: Connection, holders: Sequence[bytes], entries: Sequence[tuple[bytes, Entry, Sequence[bytes]]]
    ) -> list[Drawn]:
        """Charge entries out of holds that go on, the first of them first. With each: its id and keys as written."""
        standing: dict[bytes, list[Line]] = {}
        for hold in holders:
            found = db.execute("SELECT claims FROM holds WHERE id = ?", (hold,)).fetchone()
            if found is not None:
                standing[hold] = list(read_lines(found[0]))
        lessened: set[bytes] = set()
        added: dict[bytes, int] = {}
        sheet = Sheet(db, {key for _, _, keys in entries for key in keys})
        for name, entry, keys in entries:
            amounts = [amount for _, amount in entry.charges]
            if not _write_entry(db, name, write_charges(list(zip(keys, amounts, strict=True))), entry.row):
                continue
            for key, amount in zip(keys, amounts, strict=True):
                page = sheet.page(Line(key, 0, 0, 0, 0, b"", None))
                page.posted += amount
                added[key] = added.get(key, 0) + amount
                left = amount
                for hold, lines in standing.items():
                    for place, line in enumerate(lines):
                        covered = min(left, line.amount)
                        if line.key == key and covered and not line.flags & ALONE:
                            left -= covered
                            page.held -= covered
                            page.leased -= covered if is_lease(hold) else 0
                            lines[place] = line._replace(amount=line.amount - covered)
                            lessened.add(hold)
        for hold in lessened:
            db.execute("UPDATE holds SET claims = ? WHERE id = ?", (write_lines(tuple(standing[hold])), hold))
        raised = self._raises.at(db)
        drawn = []
        for key, spent in added.items():
            page = sheet.page(Line(key, 0, 0, 0, 0, b"", None))
            drawn.append(Drawn(unraw(key), State(page.posted, page.held, page.top + raised(key)), spent))
        sheet.save()
        return drawn

    # -- the dead

    @staticmethod
    def lapsed(db: Connection) -> list[int]:
        """Who said that they live, and say so no more."""
        return [owner for (owner,) in db.execute("SELECT id FROM owners WHERE lives_until_s <= ?", (time.time(),))]

    def bury_all(self, db: Connection, also: int | None = None) -> int:
        """End the holds of all the dead, and those of ``also``; how many."""
        return self.bury(db, [owner for (owner,) in db.execute("SELECT DISTINCT owner FROM holds").fetchall()], also)

    def bury(self, db: Connection, owners: Iterable[int], also: int | None = None) -> int:
        """End the holds of those of them who are dead; how many. What was sent is charged by estimate."""
        lapses: dict[int, float] = dict(db.execute("SELECT id, lives_until_s FROM owners").fetchall())
        count = 0
        for owner in owners:
            if owner != also and self._lives(owner, lapses.get(owner)):
                continue
            ended = db.execute("DELETE FROM holds WHERE owner = ? RETURNING id, claims, note", (owner,)).fetchall()
            db.execute("DELETE FROM owners WHERE id = ?", (owner,))
            for hold, claims, note in ended:
                self._bury(db, hold, claims, note)
            count += len(ended)
        return count

    def _bury(self, db: Connection, hold: bytes, claims: bytes, note: bytes | None) -> None:
        lines = read_lines(claims)
        sheet = Sheet(db, [line.key for line in lines if not line.flags & ALONE])
        _undo(sheet, hold, lines)
        charges = charges_of(lines, [line.amount for line in lines])
        if note is not None and _write_entry(db, hold, charges, note, claims):
            for line in lines:
                if not line.flags & ALONE:
                    sheet.page(line).posted += line.amount
        sheet.save()


def _taken(db: Connection, hold: bytes) -> tuple[Line, ...] | None:
    # To the end, because a statement that is still under way can't be committed.
    found = db.execute("DELETE FROM holds WHERE id = ? RETURNING claims", (hold,)).fetchall()
    return read_lines(found[0][0]) if found else None


def _undo(sheet: Sheet, hold: bytes, lines: Iterable[Line]) -> None:
    lease = is_lease(hold)
    for line in lines:
        page = None if line[3] & ALONE else sheet.get(line[0])
        if page is not None:  # else it was dropped while a hold of nothing stood
            page.held -= line[1]
            if lease:
                page.leased -= line[1]


def _retract(sheet: Sheet, lines: Iterable[Line]) -> dict[bytes, int]:
    """Take an estimate back; the amounts by key."""
    for line in lines:
        page = None if line.flags & ALONE else sheet.get(line.key)
        if page is not None:  # else it was dropped, and what it was charged with it
            page.posted -= line.amount
    return {line.key: line.amount for line in lines}


def _entry(db: Connection, entry: bytes) -> tuple[int, bytes | None] | None:
    found: tuple[int, bytes | None] | None
    found = db.execute("SELECT number, estimate FROM entries WHERE id = ?", (entry,)).fetchone()
    return found


def _write_entry(db: Connection, entry: bytes, charges: bytes, row: bytes, estimate: bytes | None = None) -> bool:
    """Write a line of the ledger. False if there is one of that id."""
    try:
        db.execute(
            "INSERT INTO entries (id, at_s, charges, line, estimate) VALUES (?, ?, ?, ?, ?)",
            (entry, int(time.time()), charges, row, estimate),
        )
    except sqlite3.IntegrityError:
        return False
    return True
