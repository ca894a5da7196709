"""What came of the spend, kept beside it: outcomes, what was taken back, and the runs that led to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import msgspec
import sqlalchemy as sa

from tokenmeter.ledger.lines import name_of
from tokenmeter.ledger.place import Place
from tokenmeter.ledger.statements import in_parts, upsert
from tokenmeter.ledger.tables import links, outcomes, revocations
from tokenmeter.ledger.views import Link, Outcome

_write = msgspec.json.encode
_read_names = msgspec.json.Decoder(tuple[str, ...]).decode
_read_pairs = msgspec.json.Decoder(tuple[tuple[str, str], ...]).decode


class Outcomes:
    """The verbs for outcomes. Kind and key name one: what is said twice counts once."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def put_outcome(self, outcome: Outcome) -> bool:
        """Keep an outcome. False, and nothing is changed, if there is one of its kind and key."""
        row = asdict(outcome)
        revoked_s, why = row.pop("revoked_s"), row.pop("revoked_why")
        for name in ("kind", "key", "team", "user", "run", "fold", "accepted_by", "source"):
            row[name] = _text(row[name])
        row["agents"] = _write([name_of(agent) for agent in outcome.agents])
        row["attributes"] = _write([(name_of(key), name_of(value)) for key, value in outcome.attributes])
        with self._place.writing() as db:
            written = _is_new(db, outcomes, row)
            if written and revoked_s is not None:
                _revoke(db, outcome.kind, outcome.key, revoked_s, why)
        return written

    def revoke(self, kind: str, key: str, at_s: float, why: str | None = None) -> bool:
        """Take an outcome back, also before it is known; the earliest counts. False if it was taken back before."""
        with self._place.writing() as db:
            return _revoke(db, kind, key, at_s, why)

    def outcomes(self, since_s: float = 0.0, until_s: float | None = None) -> Iterator[Outcome]:
        """The outcomes of this time, those that were taken back too."""
        o, r = outcomes.c, revocations.c
        found = sa.select(outcomes, r.at_s.label("revoked_s"), r.why.label("revoked_why"))
        found = found.outerjoin(revocations, (r.kind == o.kind) & (r.key == o.key)).where(o.at_s >= since_s)
        if until_s is not None:
            found = found.where(o.at_s < until_s)
        found = found.order_by(o.at_s, o.kind, o.key)
        with self._place.reading(streamed=True) as db, db.execute(found) as rows:
            for row in rows.mappings():
                told: dict[str, Any] = dict(row)
                told["agents"], told["attributes"] = _read_names(row["agents"]), _read_pairs(row["attributes"])
                yield Outcome(**told)

    def put_links(self, found: Iterable[Link]) -> None:
        """Keep what led to outcomes, in place of what was kept of each of these outcomes."""
        named = {(name_of(link.kind), name_of(link.key), name_of(link.run)): link for link in found}
        rows = [{**asdict(link), "kind": kind, "key": key, "run": run} for (kind, key, run), link in named.items()]
        keys = dict.fromkeys((kind, key) for kind, key, _ in named)
        with self._place.writing() as db:
            for some in in_parts(keys):
                db.execute(links.delete().where(sa.tuple_(links.c.kind, links.c.key).in_(some)))
            if rows:
                db.execute(links.insert(), rows)

    def links(
        self,
        since_s: float = 0.0,
        until_s: float | None = None,
        *,
        kind: str | None = None,
        key: str | None = None,
        run: str | None = None,
    ) -> Iterator[Link]:
        """The links of the outcomes of this time, or of one kind, outcome or run."""
        k, o = links.c, outcomes.c
        found = sa.select(links)
        if since_s or until_s is not None:
            found = found.join(outcomes, (o.kind == k.kind) & (o.key == k.key)).where(o.at_s >= since_s)
        if until_s is not None:
            found = found.where(o.at_s < until_s)
        for column, value in ((k.kind, kind), (k.key, key), (k.run, run)):
            if value is not None:
                found = found.where(column == name_of(value))
        found = found.order_by(k.kind, k.key, k.run)
        with self._place.reading(streamed=True) as db, db.execute(found) as rows:
            for row in rows:
                yield Link(*row)


def _revoke(db: sa.Connection, kind: str, key: str, at_s: float, why: str | None) -> bool:
    row = {"kind": name_of(kind), "key": name_of(key), "at_s": at_s, "why": _text(why or "")}
    if _is_new(db, revocations, row):
        return True
    r = revocations.c
    later = (r.at_s > at_s) | ((r.at_s == at_s) & (sa.func.coalesce(r.why, "") > row["why"]))
    earlier = {"at_s": at_s, "why": row["why"]}
    db.execute(revocations.update().where(r.kind == row["kind"], r.key == row["key"], later).values(earlier))
    return False


def _is_new(db: sa.Connection, table: sa.Table, row: dict[str, Any]) -> bool:
    """Write a row, unless there is one of its kind and key."""
    insert = upsert(db, table).values(row).on_conflict_do_nothing()
    return db.execute(insert.returning(table.c.kind)).first() is not None


def _text(text: str | None) -> str | None:
    return None if text is None else name_of(text)
