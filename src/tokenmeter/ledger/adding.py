"""How calls are added: the rows and every sum they belong to, in one transaction of the one writer.

A call is known by its id, and counts once. A later word on one whose row was an estimate takes its place: the sums
change by the difference. What was measured is never changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from tokenmeter.ledger.adding_repeats import add_to_prints
from tokenmeter.ledger.adding_runs import add_to_runs
from tokenmeter.ledger.lines import MEASURED, STAND_IN, Change, Group, Line, line_in
from tokenmeter.ledger.statements import add_up, in_parts, numbers_of, plus
from tokenmeter.ledger.tables import calls, day_sums, groups, hour_sums, run_sums
from tokenmeter.ledger.views import SUMS


def add(db: sa.Connection, lines: Sequence[Line]) -> tuple[int, int]:
    """Write calls; how many were new, and how many corrected."""
    changes = _changes(db, lines)
    if not changes:
        return 0, 0
    numbers = groups_of(db, {change.line.group for change in changes})
    runs = add_to_runs(db, changes, numbers)
    _add_to_times(db, changes, numbers)
    add_to_prints(db, changes)
    fresh, corrected = [], []
    for line, before, number in changes:
        row = line.columns(numbers[line.group], runs.get(line.run) if line.run is not None else None)
        if before is None:
            fresh.append(row)
        else:
            corrected.append({**row, "b_number": number})
    if fresh:
        db.execute(calls.insert(), fresh)
    if corrected:
        db.execute(calls.update().where(calls.c.number == sa.bindparam("b_number")), corrected)
    return len(fresh), len(corrected)


def _changes(db: sa.Connection, lines: Iterable[Line]) -> list[Change]:
    """What isn't in the ledger yet."""
    wanted: dict[str, Line] = {}
    for line in lines:
        known = wanted.get(line.id)
        if known is None or corrects(line, known.rank):
            wanted[line.id] = line
    ranks: dict[str, int] = {}
    for some in in_parts(wanted):
        found = db.execute(sa.select(calls.c.id, calls.c.rank).where(calls.c.id.in_(some)))
        ranks.update((row.id, row.rank) for row in found)
    fresh = [Change(line) for id_, line in wanted.items() if id_ not in ranks]
    later = [id_ for id_, rank in ranks.items() if corrects(wanted[id_], rank)]
    return fresh + [
        Change(line, before, number)
        for number, before in rows_of(db, calls.c.id, later)
        if (line := wanted[before.id].of(before.group)) != before
    ]


def corrects(line: Line, rank: int) -> bool:
    """Whether a line takes the place of one of that rank."""
    return rank != MEASURED and (line.rank != STAND_IN or rank == STAND_IN)


def rows_of(db: sa.Connection, column: sa.Column[Any], values: Collection[Any]) -> Iterator[tuple[int, Line]]:
    """The calls that have one of these values, with their numbers."""
    for some in in_parts(values):
        for row in db.execute(whole_rows().where(column.in_(some))).all():
            yield row.number, line_in(row)


def whole_rows() -> sa.Select[Any]:
    """Calls, with their group and their run."""
    g = groups.c
    return (
        sa.select(calls, g.agent, g.team, g.user, g.provider, g.model, run_sums.c.run)
        .join(groups, g.number == calls.c.group_number)
        .outerjoin(run_sums, run_sums.c.number == calls.c.run_number)
    )


# -- groups and hours


def groups_of(db: sa.Connection, wanted: Collection[Group]) -> dict[Group, int]:
    """The numbers of groups; those that are missing are made."""
    digests = {group.digest(): group for group in wanted}
    found = numbers_of(db, groups, digests)
    missing = [digest for digest in digests if digest not in found]
    if missing:
        db.execute(groups.insert(), [{"digest": digest, **digests[digest]._asdict()} for digest in missing])
        found.update(numbers_of(db, groups, missing))
    return {group: found[digest] for digest, group in digests.items()}


def _add_to_times(db: sa.Connection, changes: Sequence[Change], numbers: Mapping[Group, int]) -> None:
    old = {change.before.group for change in changes if change.before is not None} - numbers.keys()
    known = {**numbers, **groups_of(db, old)}
    hours: dict[tuple[int, int], Sequence[int]] = {}
    days: dict[tuple[int, int], Sequence[int]] = {}
    for line, before, _ in changes:
        for each, sign in ((line, 1), (before, -1)):
            if each is not None:
                sums = [sign * value for value in each.sums()]
                plus(hours, (each.hour_s, known[each.group]), sums)
                plus(days, (each.day_s, known[each.group]), sums)
    for table, found in ((hour_sums, hours), (day_sums, days)):
        rows = [
            {"start_s": start_s, "group_number": group, **dict(zip(SUMS, values, strict=True))}
            for (start_s, group), values in sorted(found.items())
            if any(values)
        ]
        add_up(db, table, rows, SUMS)
