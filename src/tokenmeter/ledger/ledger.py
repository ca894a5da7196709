"""A ledger: one row a call that lasts, and sums that are kept ready, in SQLite or PostgreSQL.

Opened by `open_ledger`. Rows come from a store's entries (`drain`), and each counts once, by its id. Every sum is
written in the transaction that writes the row, so that at any moment the rows and the sums say the same, to the
nanodollar; what is pruned or forgotten leaves the sums as they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import islice
from types import TracebackType
from typing import NamedTuple

import sqlalchemy as sa

from tokenmeter.errors import ConfigError
from tokenmeter.ledger import people
from tokenmeter.ledger.adding import add
from tokenmeter.ledger.lines import line_of
from tokenmeter.ledger.outcomes import Outcomes
from tokenmeter.ledger.people import Changed
from tokenmeter.ledger.place import Place
from tokenmeter.ledger.reading import Reading
from tokenmeter.ledger.statements import upsert
from tokenmeter.ledger.tables import marks
from tokenmeter.record import CallRecord

ROWS_A_STEP = 1_000


class Mark(NamedTuple):
    """How far a source was read. ``anchor`` is the id of the entry that stands there."""

    mark: str = ""
    anchor: str = ""


class Step(NamedTuple):
    """A piece of a source: what lies between two marks."""

    source: str
    before: Mark
    after: Mark


class Moved(Exception):
    """Somebody else was faster: the source was read beyond where this piece begins. Nothing was written."""


class Added(NamedTuple):
    """What became of rows: how many were new, and how many took the place of an estimate."""

    rows: int
    corrected: int


class Ledger(Reading, Outcomes):
    """The ledger at one address. All verbs may be called from any thread; each that writes is one transaction.

    A database that can't be reached raises `StoreUnavailable`, and nothing of the verb was done.
    """

    def __init__(self, url: str) -> None:
        place = Place(url)
        Reading.__init__(self, place)
        Outcomes.__init__(self, place)
        self.address = place.address

    def add(self, rows: Iterable[tuple[str, CallRecord]]) -> int:
        """Write calls, each once by its id; how many were new or corrected.

        A row whose figures were an estimate is replaced by a later one of its id, and the sums change by the
        difference; what stood in for a process that died never replaces anything else.
        """
        count = 0
        lines = (line_of(call_id, record) for call_id, record in rows)
        while some := list(islice(lines, ROWS_A_STEP)):
            with self._place.writing() as db:
                count += sum(add(db, some))
        return count

    def add_step(self, rows: Iterable[tuple[str, CallRecord]], step: Step) -> Added:
        """Write the calls of a piece of a source, and that it was read, in one transaction.

        Raises `Moved` if another one wrote it meanwhile: each piece is written once, whoever reads it.
        """
        lines = [line_of(call_id, record) for call_id, record in rows]
        with self._place.writing() as db:
            if _mark(db, step.source) != step.before:
                raise Moved
            added = add(db, lines)
            row = {
                "source": step.source,
                "mark": step.after.mark,
                "anchor": step.after.anchor,
                "at_s": time.time(),
            }
            insert = upsert(db, marks)
            changed = {name: insert.excluded[name] for name in ("mark", "anchor", "at_s")}
            db.execute(insert.on_conflict_do_update(index_elements=["source"], set_=changed), row)
        return Added(*added)

    def mark(self, source: str) -> Mark:
        """How far a source was read."""
        with self._place.reading() as db:
            return _mark(db, source)

    def marks(self) -> dict[str, Mark]:
        """How far each source was read."""
        with self._place.reading() as db:
            rows = db.execute(sa.select(marks.c.source, marks.c.mark, marks.c.anchor))
            return {row.source: Mark(row.mark, row.anchor) for row in rows}

    def prune(self, before_s: float) -> int:
        """Drop the rows of calls before this time; how many. The sums stay.

        Estimates stay a month longer, because a late word may still correct them.
        """
        count = 0
        while True:
            with self._place.writing() as db:
                dropped = people.prune(db, before_s)
            if not dropped:
                break
            count += dropped
        if count:
            self._place.give_room_back()
        return count

    def forget_user(self, user: str) -> Changed:
        """Delete the rows of a user, and his name everywhere else; every sum stays as it was.

        What a store has of him that wasn't drained yet comes when it is: drain first.
        """
        with self._place.writing() as db:
            return people.forget(db, user)

    def pseudonymise_user(self, user: str, key: bytes) -> Changed:
        """Put a keyed hash in place of a user's name everywhere, the ``user.hash`` that spans have under this key."""
        if not key:
            raise ConfigError("the key is empty; give the bytes of a secret")
        with self._place.writing() as db:
            return people.pseudonymise(db, user, key)

    def close(self) -> None:
        """Let go of the database."""
        self._place.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _mark(db: sa.Connection, source: str) -> Mark:
    row = db.execute(sa.select(marks.c.mark, marks.c.anchor).where(marks.c.source == source)).first()
    return Mark() if row is None else Mark(row.mark, row.anchor)
