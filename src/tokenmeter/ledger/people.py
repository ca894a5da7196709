"""What the law may ask about one person, and how long rows are kept. No sum changes by any of it.

Calls and sums name a user by the number of their group, so that a group whose user changes is renamed, or put
together with the one that has that name already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from tokenmeter.ledger.lines import MEASURED, Group, bared, name_of
from tokenmeter.ledger.statements import in_parts, upsert
from tokenmeter.ledger.tables import calls, day_sums, groups, hour_sums, outcomes, prints, repeat_days, run_sums
from tokenmeter.ledger.views import SUMS
from tokenmeter.telemetry.people import user_hash

LATE_S = 30 * 86_400
"""How long after it would have been pruned an estimate stays, because a late word may still correct it."""

_ROWS_A_STEP = 5_000
_read_pairs = msgspec.json.Decoder(list[tuple[str, str]]).decode


@dataclass(frozen=True, slots=True)
class Changed:
    """How much spoke of a user: ``calls`` are rows of calls, ``outcomes`` those that named him in any part."""

    calls: int = 0
    outcomes: int = 0


def forget(db: sa.Connection, user: str) -> Changed:
    """Delete the rows of a user; what they cost stays in the sums, as nobody's.

    Estimates stay too, without anything that is about a person, because a late word may still correct them.
    """
    user = name_of(user)
    theirs = _numbers_of(user)
    deleted = db.execute(calls.delete().where(calls.c.group_number.in_(theirs), calls.c.rank == MEASURED)).rowcount
    deleted += _bare_calls(db, theirs)
    _rename(db, user, None)
    return Changed(deleted, _rename_in_outcomes(db, user, None))


def pseudonymise(db: sa.Connection, user: str, key: bytes) -> Changed:
    """Put a keyed hash in place of a user's name, and drop the tags of his calls."""
    given, user = user, name_of(user)
    changed = _bare_calls(db, _numbers_of(user))
    name = user_hash(given, key)
    _rename(db, user, name)
    return Changed(changed, _rename_in_outcomes(db, user, name))


def prune(db: sa.Connection, before_s: float) -> int:
    """Drop some of the rows that are older; how many. 0: there are no more."""
    c = calls.c
    old = (
        sa.select(c.number)
        .where(c.at_s < before_s)
        .where((c.rank == MEASURED) | (c.at_s < before_s - LATE_S))
        .order_by(c.at_s)
        .limit(_ROWS_A_STEP)
    )
    dropped = db.execute(calls.delete().where(c.number.in_(old))).rowcount
    if dropped < _ROWS_A_STEP:
        # A fingerprint that never came again is no sum of anything: it only waits for the next one.
        repeated = sa.select(repeat_days.c.print_number)
        db.execute(prints.delete().where(prints.c.last_s < before_s, prints.c.number.not_in(repeated)))
    return dropped


def _numbers_of(user: str) -> sa.Select[Any]:
    return sa.select(groups.c.number).where(groups.c.user == user)


def _bare_calls(db: sa.Connection, theirs: sa.Select[Any]) -> int:
    """Take out of calls what may be about a person; how many there are."""
    number, count = 0, 0
    while True:
        rows = db.execute(
            sa.select(calls.c.number, calls.c.line)
            .where(calls.c.group_number.in_(theirs), calls.c.number > number)
            .order_by(calls.c.number)
            .limit(_ROWS_A_STEP)
        ).all()
        if not rows:
            return count
        count, number = count + len(rows), rows[-1].number
        changed = [{"b_number": row.number, "b_line": bared(row.line)} for row in rows]
        db.execute(
            calls.update().where(calls.c.number == sa.bindparam("b_number")).values(line=sa.bindparam("b_line")),
            changed,
        )


def _rename(db: sa.Connection, user: str, name: str | None) -> None:
    """Give the groups of a user another name; where there is a group of that name, the two become one."""
    g = groups.c
    renamed = {
        row.number: Group(row.agent, row.team, name, row.provider, row.model)
        for row in db.execute(sa.select(groups).where(g.user == user)).all()
    }
    digests = {group.digest(): number for number, group in renamed.items()}
    there: dict[int, int] = {}
    for some in in_parts(digests):
        found = db.execute(sa.select(g.digest, g.number).where(g.digest.in_(some)))
        there.update((digests[row.digest], row.number) for row in found)
    for number, group in renamed.items():
        values = {"moved_to": there[number]} if number in there else {"user": name, "digest": group.digest()}
        db.execute(groups.update().where(g.number == number).values(values))
    if there:
        _put_together(db)


def _put_together(db: sa.Connection) -> None:
    """Move what groups have to those that they are moved to."""
    g = groups.c
    moved = sa.select(g.number).where(g.moved_to.is_not(None))
    for table in (hour_sums, day_sums):
        t = table.c
        sums = [sa.cast(sa.func.sum(t[name]), sa.BigInteger) for name in SUMS]
        theirs = (
            sa.select(t.start_s, g.moved_to, *sums)
            .join(groups, g.number == t.group_number)
            .where(g.moved_to.is_not(None))
            .group_by(t.start_s, g.moved_to)
        )
        insert = upsert(db, table).from_select(["start_s", "group_number", *SUMS], theirs)
        added = {name: t[name] + insert.excluded[name] for name in SUMS}
        db.execute(insert.on_conflict_do_update(index_elements=["start_s", "group_number"], set_=added))
        db.execute(table.delete().where(t.group_number.in_(moved)))
    for table in (calls, run_sums):
        to = sa.select(g.moved_to).where(g.number == table.c.group_number).scalar_subquery()
        db.execute(table.update().where(table.c.group_number.in_(moved)).values(group_number=to))
    db.execute(groups.delete().where(g.moved_to.is_not(None)))


def _rename_in_outcomes(db: sa.Connection, user: str, name: str | None) -> int:
    o = outcomes.c
    quoted = sa.literal(msgspec.json.encode(user), sa.LargeBinary)
    # What names the user in its attributes is found by its text, and then looked at.
    named: sa.ColumnElement[Any]
    if db.dialect.name == "sqlite":
        named = sa.func.instr(o.attributes, quoted)
    else:
        named = sa.func.octet_length(o.attributes) - sa.func.octet_length(
            sa.func.decode(
                sa.func.replace(sa.func.encode(o.attributes, "hex"), sa.func.encode(quoted, "hex"), ""), "hex"
            )
        )
    rows = db.execute(sa.select(outcomes).where((o.user == user) | (o.accepted_by == user) | (named > 0))).all()
    count = 0
    for row in rows:
        pairs = [(key, name if value == user else value) for key, value in _read_pairs(row.attributes)]
        values = {
            "user": name if row.user == user else row.user,
            "accepted_by": name if row.accepted_by == user else row.accepted_by,
            "attributes": msgspec.json.encode([pair for pair in pairs if pair[1] is not None]),
        }
        if any(getattr(row, column) != value for column, value in values.items()):
            count += db.execute(outcomes.update().where(o.kind == row.kind, o.key == row.key).values(values)).rowcount
    return count
