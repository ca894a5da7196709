"""Holding in a file of books: what these verbs do within their transaction.

Sums are made here and not by SQLite, whose numbers end at 2^63.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from tokenmeter.budgets.lasting import check_amounts, short
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.sqlite_sheet import Raises, Sheet, is_lease
from tokenmeter.budgets.sqlite_words import ALONE, ENFORCED, Line, claim_of, read_lines, write_lines
from tokenmeter.budgets.store import Held, Short, State

Connection = sqlite3.Connection
Behind = Callable[[Iterable[Claim]], "frozenset[str]"]


class InUse(ValueError):
    """A hold of that id stands."""


class Gone(LookupError):
    """No hold of that id stands."""


class Holds:
    """The verbs that hold."""

    def __init__(self, raises: Raises) -> None:
        self._raises = raises
        self._labels: dict[int, str] = {}

    def hold(
        self, db: Connection, hold: bytes, owner: int, claims: Sequence[Claim], lines: Sequence[Line]
    ) -> Held | Short:
        """Hold all claims or none."""
        answer = self._hold(db, hold, owner, claims, lines)
        if isinstance(answer, Short) and self._stands(db, hold):
            raise InUse
        return answer

    def look(self, db: Connection, claims: Sequence[Claim], lines: Sequence[Line], behind: frozenset[str]) -> Short:
        """What stands in the way of these claims, where others wait for some of the books."""
        sheet = Sheet(db, [line[0] for line in lines if not line[3] & ALONE])
        raised = self._raises.at(db)
        befores = []
        for line in lines:
            if line.flags & ALONE:
                befores.append(State(0, 0, line.limit))
            else:
                page = sheet.page(line)
                befores.append(State(page.posted, page.held, line.limit + raised(line.key)))
        return short(claims, befores, None, behind)

    def _hold(
        self, db: Connection, hold: bytes, owner: int, claims: Sequence[Claim], lines: Sequence[Line]
    ) -> Held | Short:
        sheet = Sheet(db, [line[0] for line in lines if not line[3] & ALONE])
        raised = self._raises.at(db)
        lease = is_lease(hold)
        befores: list[State] = []
        states: list[State] = []
        warned: tuple[Claim, ...] = ()
        fits = True
        for claim, line in zip(claims, lines, strict=True):
            key, amount, limit, flags, _, _, _ = line
            if flags & ALONE:
                posted = held = 0
                top = limit
            else:
                page = sheet.page(line)
                posted, held = page.posted, page.held
                top = limit + raised(key)
                page.held = held + amount
                page.rename(line)
                if lease:
                    page.leased += amount
            if posted + held + amount > top:
                if flags & ENFORCED:
                    fits = False
                else:
                    warned += (claim,)
            befores.append(State(posted, held, top))
            states.append(State(posted, held + amount, top))
        if not fits:
            sheet.save_names()
            return short(claims, befores)
        try:
            db.execute(
                "INSERT INTO holds (id, owner, claims) VALUES (?, ?, ?)", (hold, owner, write_lines(tuple(lines)))
            )
        except sqlite3.IntegrityError:
            raise InUse from None
        sheet.save()
        return Held(tuple(states), warned)

    def adjust(self, db: Connection, hold: bytes, amounts: Sequence[int], behind_of: Behind) -> Held | Short:
        """Change what a hold holds: less always, more if it is admissible and nobody waits for it."""
        found = db.execute("SELECT claims FROM holds WHERE id = ?", (hold,)).fetchone()
        if found is None:
            raise Gone
        old = read_lines(found[0])
        check_amounts(len(old), amounts)
        lines = [line._replace(amount=amount) for line, amount in zip(old, amounts, strict=True)]
        claims = [claim_of(line, self._label(db, line.budget)) for line in lines]
        own = [line.amount for line in old]
        grown = [claim for claim, before in zip(claims, own, strict=True) if claim.amount > before]
        behind = behind_of(grown) if grown else frozenset()
        return self._adjust(db, hold, claims, lines, own=own, behind=behind)

    def _adjust(
        self,
        db: Connection,
        hold: bytes,
        claims: Sequence[Claim],
        lines: Sequence[Line],
        *,
        own: Sequence[int],
        behind: frozenset[str],
    ) -> Held | Short:
        sheet = Sheet(db, [line.key for line in lines if not line.flags & ALONE])
        raised = self._raises.at(db)
        lease = is_lease(hold)
        befores: list[State] = []
        states: list[State] = []
        warned: list[Claim] = []
        fits = not behind
        for claim, line, before in zip(claims, lines, own, strict=True):
            if line.flags & ALONE:
                posted = held = 0
                top = line.limit
            else:
                page = sheet.page(line)
                posted, held = page.posted, page.held - before
                top = line.limit + raised(line.key)
                page.held = held + line.amount
                page.rename(line)
                if lease:
                    page.leased += line.amount - before
            if posted + held + line.amount > top:
                if not claim.enforce:
                    warned.append(claim)
                elif line.amount > before:
                    fits = False
            befores.append(State(posted, held, top))
            states.append(State(posted, held + line.amount, top))
        if not fits:
            return short(claims, befores, own, behind)
        db.execute("UPDATE holds SET claims = ? WHERE id = ?", (write_lines(tuple(lines)), hold))
        sheet.save()
        return Held(tuple(states), tuple(warned))

    @staticmethod
    def sent(db: Connection, hold: bytes, note: bytes) -> bool:
        """Note that the request goes out; a note that was given stays."""
        changed = db.execute(
            "UPDATE holds SET note = CASE WHEN length(?) OR note IS NULL THEN ? ELSE note END WHERE id = ?",
            (note, note, hold),
        )
        return changed.rowcount == 1

    @staticmethod
    def _stands(db: Connection, hold: bytes) -> bool:
        return db.execute("SELECT 1 FROM holds WHERE id = ?", (hold,)).fetchone() is not None

    def _label(self, db: Connection, budget: int) -> str:
        label = self._labels.get(budget)
        if label is None:
            [label] = db.execute("SELECT label FROM budgets WHERE id = ?", (budget,)).fetchone()
            self._labels[budget] = label
        return label
