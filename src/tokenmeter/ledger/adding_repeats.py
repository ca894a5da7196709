"""How calls are added to what is known of their fingerprints: the first of each is kept, the others are summed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from tokenmeter.ledger.lines import Change, Line, digest_of
from tokenmeter.ledger.statements import add_up, in_parts, numbers_of, plus
from tokenmeter.ledger.tables import prints, repeat_days

_RECENT_RUNS = 32
_HASH = 8


class _Print:
    """One fingerprint of an agent, and what a batch adds to it."""

    def __init__(self, line: Line, old: Any = None) -> None:
        self.number: int | None = old.number if old is not None else None
        self.fingerprint, self.agent, self.team = line.fingerprint, line.group.agent, line.group.team
        self.first_id: str = old.first_id if old is not None else line.id
        self.first_nanos: int = old.first_nanos if old is not None else 0
        self.last_s: float = old.last_s if old is not None else line.at_s
        self.runs: int = old.runs if old is not None else 0
        self.recent: bytes = old.recent if old is not None else b""
        self.days: dict[int, Sequence[int]] = {}

    def add(self, line: Line, before: Line | None) -> None:
        nanos = (line.cost_nanos or 0) - ((before.cost_nanos or 0) if before is not None else 0)
        if line.id == self.first_id:
            self.first_nanos += nanos
        else:
            plus(self.days, line.day_s, (int(before is None), nanos))
        self.last_s = max(self.last_s, line.at_s)
        if before is None and line.run is not None:
            self._meet(hashlib.blake2b(line.run.encode(), digest_size=_HASH).digest())

    def _meet(self, run: bytes) -> None:
        known = {self.recent[at : at + _HASH] for at in range(0, len(self.recent), _HASH)}
        if run not in known:
            self.runs += 1
            self.recent = (self.recent + run)[-_RECENT_RUNS * _HASH :]

    def columns(self) -> dict[str, Any]:
        """What can change of the row."""
        return {
            "first_nanos": self.first_nanos,
            "last_s": self.last_s,
            "runs": self.runs,
            "recent": self.recent,
        }


def add_to_prints(db: sa.Connection, changes: Iterable[Change]) -> None:
    """Add to the repeats. A correction is of the same request, so that it has the fingerprint of its estimate."""
    wanted: dict[bytes, list[Change]] = {}
    for change in changes:
        line, before, _ = change
        if line.fingerprint is not None and line.charged and (before is None or before.fingerprint is not None):
            key = digest_of(line.fingerprint, line.group.agent, line.group.team)
            wanted.setdefault(key, []).append(change)
    found: dict[bytes, _Print] = {}
    for some in in_parts(wanted):
        for row in db.execute(sa.select(prints).where(prints.c.digest.in_(some))):
            found[row.digest] = _Print(wanted[row.digest][0].line, row)
    for digest, several in wanted.items():
        part = found.setdefault(digest, _Print(several[0].line))
        for line, before, _ in several:
            part.add(line, before)
    fresh = [
        {
            "digest": digest,
            "fingerprint": part.fingerprint,
            "agent": part.agent,
            "team": part.team,
            "first_id": part.first_id,
            **part.columns(),
        }
        for digest, part in found.items()
        if part.number is None
    ]
    changed = [{"b_number": part.number, **part.columns()} for part in found.values() if part.number is not None]
    if changed:
        db.execute(prints.update().where(prints.c.number == sa.bindparam("b_number")), changed)
    if fresh:
        db.execute(prints.insert(), fresh)
    days = [(digest, day_s, values) for digest, part in found.items() for day_s, values in part.days.items()]
    if days:
        numbers = numbers_of(db, prints, dict.fromkeys(digest for digest, _, _ in days))
        rows = [
            {"day_s": day_s, "print_number": numbers[digest], "calls": values[0], "nanos": values[1]}
            for digest, day_s, values in days
        ]
        add_up(db, repeat_days, rows, ("calls", "nanos"))
