"""What is read of a ledger: the sums that are kept ready, and single calls only where one run is looked into."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import msgspec
import sqlalchemy as sa

from tokenmeter.errors import ConfigError
from tokenmeter.ledger.adding import whole_rows
from tokenmeter.ledger.lines import Group, line_in, name_of
from tokenmeter.ledger.memory import ANY
from tokenmeter.ledger.place import Place
from tokenmeter.ledger.statements import in_parts
from tokenmeter.ledger.tables import RUN_SUMS, calls, day_sums, groups, hour_sums, prints, repeat_days, run_sums
from tokenmeter.ledger.views import SUMS, HourSum, RepeatSum, RunSum, Sums
from tokenmeter.record import CallRecord

NAMES = Group._fields
_HOUR_S = 3600
_DAY_S = 86_400
_LAST_S = 2**62

_read_agents = msgspec.json.Decoder(list[tuple[int, str]]).decode
_read_models = msgspec.json.Decoder(tuple[str, ...]).decode


class Reading:
    """The questions that reports ask. Each iterator reads one moment of the ledger, at constant memory."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def hours(
        self,
        since_s: float = 0.0,
        until_s: float | None = None,
        *,
        agent: str | None = ANY,
        team: str | None = ANY,
        user: str | None = ANY,
        provider: str = ANY,
        model: str | None = ANY,
        by: Collection[str] | None = None,
        step_s: int = _HOUR_S,
    ) -> Iterator[HourSum]:
        """The sums of the hours that begin in this time, the earliest first; ``None`` asks for calls without one.

        ``by`` and ``step_s`` (whole hours) have the database add up what isn't asked for: names that are not in
        ``by`` read None (the provider ``""``), and ``hour_s`` is when each step begins. A year by team and day is
        some hundred sums where it would be millions.
        """
        if step_s < _HOUR_S or step_s % _HOUR_S:
            raise ConfigError(f"step_s={step_s} is no number of whole hours; give a multiple of {_HOUR_S}")
        kept = NAMES if by is None else tuple(by)
        if unknown := [name for name in kept if name not in NAMES]:
            raise ConfigError(f"by={unknown[0]!r} is unknown; choose of {', '.join(NAMES)}")
        # What is asked for by whole days is read from the sums of days.
        whole = step_s % _DAY_S == 0 and since_s % _DAY_S == 0 and (until_s is None or until_s % _DAY_S == 0)
        table = day_sums if whole else hour_sums
        h, g = table.c, groups.c
        asked = {"agent": agent, "team": team, "user": user, "provider": provider, "model": model}
        names = [
            g[name] if name in kept else sa.literal("" if name == "provider" else None, sa.Text).label(name)
            for name in NAMES
        ]
        summed = by is not None or step_s != (_DAY_S if whole else _HOUR_S)
        start = (h.start_s - h.start_s % step_s).label("start") if step_s != _HOUR_S else h.start_s
        sums = [_whole(sa.func.sum(h[name])).label(name) if summed else h[name] for name in SUMS]
        found: sa.Select[Any] = sa.select(start, *names, *sums).join(groups, g.number == h.group_number)
        found = found.where(h.start_s >= since_s).where(h.start_s < _end(until_s))
        found = _only(found, {g[name]: value for name, value in asked.items()})
        if summed:
            found = found.group_by(start, *[g[name] for name in NAMES if name in kept])
        with self._place.reading(streamed=True) as db, db.execute(found.order_by(start)) as rows:
            for row in rows:
                yield HourSum(*row)

    def runs(
        self,
        since_s: float = 0.0,
        until_s: float | None = None,
        *,
        agent: str | None = ANY,
        team: str | None = ANY,
        user: str | None = ANY,
        run: str = ANY,
        largest: int | None = None,
    ) -> Iterator[RunSum]:
        """The runs that were under way in this time, by when they last called; or the ``largest`` by spend.

        Team, user and agent are those of the first call that was met of it; the sums are of the whole run.
        """
        r, g = run_sums.c, groups.c
        found = _runs().where(r.last_s >= since_s).where(r.first_s < _end(until_s))
        found = _only(found, {g.agent: agent, g.team: team, g.user: user, r.run: run})
        order = (r.last_s,) if largest is None else (r.nanos.desc(), r.run)
        found = found.order_by(*order).limit(largest)
        with self._place.reading(streamed=True) as db, db.execute(found) as rows:
            yield from map(_run_of, rows)

    def runs_named(self, names: Collection[str]) -> Iterator[RunSum]:
        """The runs of these names that there are: one question for many, where `runs` would be asked for each."""
        for some in in_parts(names):
            with self._place.reading() as db:
                yield from map(_run_of, db.execute(_runs().where(run_sums.c.run.in_(some))))

    def repeats(
        self,
        since_s: float = 0.0,
        until_s: float | None = None,
        *,
        agent: str | None = ANY,
        team: str | None = ANY,
        largest: int | None = None,
    ) -> Iterator[RepeatSum]:
        """Requests that came again on the days of this time, the dearest first.

        ``calls`` and ``nanos`` are of those days and of the first one, whenever it was: what was spent again in this
        time is ``nanos - first_nanos``. ``runs`` counts all there ever were; beyond 32 it may count one twice.
        """
        d, p = repeat_days.c, prints.c
        again = _whole(sa.func.sum(d.nanos)).label("again")
        days = (
            sa.select(d.print_number, _whole(sa.func.sum(d.calls)).label("calls"), again)
            .where(d.day_s >= since_s - since_s % _DAY_S)
            .where(d.day_s < _end(until_s))
            .group_by(d.print_number)
            .subquery()
        )
        sums = [days.c.calls + 1, days.c.again + p.first_nanos, p.first_nanos]
        columns: list[Any] = [p.fingerprint, p.agent, p.team, p.runs, *sums]
        found: Any = sa.select(*columns).join(prints, p.number == days.c.print_number)
        found = _only(found, {p.agent: agent, p.team: team})
        found = found.order_by(days.c.again.desc(), p.number).limit(largest)
        with self._place.reading(streamed=True) as db, db.execute(found) as rows:
            for row in rows:
                yield RepeatSum(*row)

    def calls(
        self, *, run: str | None = ANY, user: str | None = ANY, limit: int | None = None, after: int = 0
    ) -> Iterator[tuple[int, CallRecord]]:
        """Single calls in the order in which they were written, with the number of each; ``after`` such a number.

        For looking into one run: rows that were pruned are not there any more.
        """
        found = whole_rows().where(calls.c.number > after)
        if run is None:
            found = found.where(calls.c.run_number.is_(None))
        elif run is not ANY:
            number = sa.select(run_sums.c.number).where(run_sums.c.run == name_of(run)).scalar_subquery()
            found = found.where(calls.c.run_number == number)
        found = _only(found, {groups.c.user: user}).order_by(calls.c.number).limit(limit)
        with self._place.reading(streamed=True) as db, db.execute(found) as rows:
            for row in rows:
                yield row.number, line_in(row).record()

    def totals(self) -> Sums:
        """All that was ever written, rows that were pruned since too."""
        sums = [_whole(sa.func.coalesce(sa.func.sum(day_sums.c[name]), 0)) for name in SUMS]
        with self._place.reading() as db:
            return Sums(*db.execute(sa.select(*sums)).one())


def _runs() -> sa.Select[Any]:
    """Runs, with the group of their first call."""
    r, g = run_sums.c, groups.c
    sums = [r[name] for name in RUN_SUMS if name != "warned"]
    found = sa.select(r.run, g.team, g.user, r.agents, r.first_s, r.last_s, *sums, r.max_depth, r.models, r.warned)
    return found.join(groups, g.number == r.group_number)


def _run_of(row: Any) -> RunSum:
    agents = tuple([name for _, name in _read_agents(row.agents)])
    return RunSum(**{**row._asdict(), "agents": agents, "models": _read_models(row.models)})


def _only(found: sa.Select[Any], asked: dict[sa.Column[Any], Any]) -> sa.Select[Any]:
    for column, value in asked.items():
        if value is not ANY:
            found = found.where(column.is_(None) if value is None else column == name_of(value))
    return found


def _whole(found: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """A sum as a number of the size of its parts: PostgreSQL would make it a decimal."""
    return sa.cast(found, sa.BigInteger)


def _end(until_s: float | None) -> float:
    return _LAST_S if until_s is None else until_s
