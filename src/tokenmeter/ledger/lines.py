"""A record as it stands in the ledger: what is summed and looked for in columns, the rest in one line."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import Struct

from tokenmeter.record import DIED, CallRecord, Status, was_warned_of
from tokenmeter.usage import Usage

STAND_IN, ESTIMATED, MEASURED = 0, 1, 2

_MOST_TOKENS = 10**12
_MOST_NANOS = 10**17
_LATEST_S = 253_402_300_000.0
_LONGEST_NAME = 256
_KNOWN = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "reasoning_tokens": "output_reasoning_tokens",
}


class Group(NamedTuple):
    """Who made calls of which model."""

    agent: str | None
    team: str | None
    user: str | None
    provider: str
    model: str | None

    def digest(self) -> bytes:
        """What the group is found by."""
        return digest_of(*self)


class Rest(Struct, frozen=True, omit_defaults=True, array_like=True):
    """What no report adds up. ``user`` and ``tags`` may be about a person; `bare` leaves them out."""

    operation: str = ""
    duration_s: float = 0.0
    path: tuple[str, ...] = ()
    tags: Mapping[str, str] = {}
    response_model: str | None = None
    response_id: str | None = None
    stream: bool = False
    http_status: int | None = None
    finish_reasons: tuple[str, ...] = ()
    counts: Mapping[str, int] = {}
    price_source: str | None = None
    output_cap: int | None = None
    warned: tuple[str, ...] = ()
    host: str = ""
    port: int | None = None
    time_to_first_chunk_s: float | None = None
    downgraded_from: str | None = None
    root: str | None = None
    guards: tuple[str, ...] = ()


_AS_RECORDED = tuple(name for name in Rest.__struct_fields__ if name != "counts")
_encode = msgspec.json.Encoder(enc_hook=dict).encode
_decode = msgspec.json.Decoder(Rest).decode


@dataclass(frozen=True, slots=True)
class Line:
    """One call, ready to be written."""

    id: str
    at_s: float
    group: Group
    run: str | None
    status: str
    rank: int
    charged: bool
    tokens: tuple[int | None, ...]  # input, output, read from and written to the cache, reasoning
    cost_nanos: int | None
    error_type: str | None
    fingerprint: str | None
    rest: Rest

    @property
    def hour_s(self) -> int:
        """When its hour begins."""
        return int(self.at_s // 3600) * 3600

    @property
    def day_s(self) -> int:
        """When its day begins."""
        return int(self.at_s // 86_400) * 86_400

    @property
    def agents(self) -> tuple[str, ...]:
        """Who took part, the outermost first."""
        path, agent = self.rest.path, self.group.agent
        return path or ((agent,) if agent is not None else ())

    def sums(self) -> tuple[int, ...]:
        """What it adds to each of `views.SUMS`."""
        if self.status == "refused":
            return (0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0)
        incomplete = int(self.status == "incomplete")
        if not self.charged:
            return (0, 0, 0, 0, 0, 0, 0, 0, 0, 1 - incomplete, incomplete, 0)
        nanos = self.cost_nanos or 0
        estimated = 0 if self.rank == MEASURED else nanos
        tokens = tuple([count or 0 for count in self.tokens])
        return (1, nanos, estimated, *tokens, 0, 0, incomplete, int(self.cost_nanos is None))

    def run_sums(self) -> tuple[int, ...]:
        """What it adds to each of `tables.RUN_SUMS`."""
        sums = self.sums()
        return (*sums[:6], *sums[8:11], int(was_warned_of(self.rest.warned, self.rest.guards)))

    def columns(self, group: int, run: int | None) -> dict[str, Any]:
        """The row of the table."""
        return {
            "id": self.id,
            "at_s": self.at_s,
            "group_number": group,
            "run_number": run,
            "status": self.status,
            "rank": self.rank,
            "charged": self.charged,
            **dict(zip(_KNOWN, self.tokens, strict=True)),
            "cost_nanos": self.cost_nanos,
            "error_type": self.error_type,
            "fingerprint": self.fingerprint,
            "line": _encode(self.rest),
        }

    def of(self, group: Group) -> Line:
        """The same with what was said about its user since: who was taken out of the ledger stays out."""
        if group.user == self.group.user:
            return self
        return replace(self, group=self.group._replace(user=group.user), rest=bare(self.rest))

    def record(self) -> CallRecord:
        """The record, as far as it is kept."""
        rest = self.rest
        counts = dict(rest.counts)
        counts.update((name, n) for name, n in zip(_KNOWN.values(), self.tokens, strict=True) if n is not None)
        estimated = self.charged and self.rank != MEASURED
        return CallRecord(
            id=self.id,
            at_s=self.at_s,
            run=self.run,
            status=cast(Status, self.status),
            error_type=self.error_type,
            usage=Usage(counts, estimated) if self.charged else None,
            cost_nanos=self.cost_nanos,
            estimated=estimated,
            fingerprint=self.fingerprint,
            **self.group._asdict(),
            **{name: getattr(rest, name) for name in _AS_RECORDED},
        )


class Change(NamedTuple):
    """A call that is new, or that takes the place of what was written of it."""

    line: Line
    before: Line | None = None
    number: int = 0  # of the row before


def line_of(call_id: str, record: CallRecord) -> Line:
    """A record, ready to be written. Whatever it says can be: text that no database takes is changed, numbers end."""
    usage = record.usage
    counts = dict(usage.counts) if usage is not None else {}
    tokens = tuple([_count(counts.pop(name, None)) for name in _KNOWN.values()])
    estimated = record.estimated or (usage is not None and usage.estimated)
    stands_in = estimated and record.error_type == DIED
    cost = record.cost_nanos
    return Line(
        id=name_of(call_id),
        at_s=_moment(record.at_s),
        group=Group(
            _name(record.agent), _name(record.team), _name(record.user), name_of(record.provider), _name(record.model)
        ),
        run=_name(record.run),
        status=record.status,
        rank=STAND_IN if stands_in else ESTIMATED if estimated else MEASURED,
        charged=usage is not None,
        tokens=tokens,
        cost_nanos=None if cost is None or usage is None else max(-_MOST_NANOS, min(cost, _MOST_NANOS)),
        error_type=_name(record.error_type),
        fingerprint=_name(record.fingerprint),
        rest=Rest(
            operation=name_of(record.operation),
            duration_s=record.duration_s if math.isfinite(record.duration_s) else 0.0,
            path=tuple(map(name_of, record.path)),
            tags={name_of(key): name_of(value) for key, value in record.tags.items()},
            response_model=_name(record.response_model),
            response_id=_name(record.response_id),
            stream=record.stream,
            http_status=record.http_status,
            finish_reasons=tuple(map(name_of, record.finish_reasons)),
            counts={name_of(name): _count(count) or 0 for name, count in counts.items()},
            price_source=_name(record.price_source),
            output_cap=record.output_cap,
            warned=tuple(map(name_of, record.warned)),
            host=name_of(record.host),
            port=record.port,
            time_to_first_chunk_s=record.time_to_first_chunk_s,
            downgraded_from=_name(record.downgraded_from),
            root=_name(record.root),
            guards=tuple(map(name_of, record.guards)),
        ),
    )


def line_in(row: Any) -> Line:
    """What `Line.columns` gave, joined with its group and its run."""
    return Line(
        id=row.id,
        at_s=row.at_s,
        group=Group(row.agent, row.team, row.user, row.provider, row.model),
        run=row.run,
        status=row.status,
        rank=row.rank,
        charged=row.charged,
        tokens=tuple([getattr(row, name) for name in _KNOWN]),
        cost_nanos=row.cost_nanos,
        error_type=row.error_type,
        fingerprint=row.fingerprint,
        rest=_decode(row.line),
    )


def bare(rest: Rest) -> Rest:
    """The same without what may be about a person."""
    return msgspec.structs.replace(rest, tags={}, response_id=None)


def bared(line: bytes) -> bytes:
    """`bare` of a written one."""
    return _encode(bare(_decode(line)))


def digest_of(*parts: str | None) -> bytes:
    """A short key for names, which may be long and may be missing."""
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).digest()


def name_of(text: str) -> str:
    """A text that every database takes and can look for: good Unicode, no zero byte, not too long."""
    if not text.isascii() or "\0" in text:
        text = text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    if len(text) <= _LONGEST_NAME:
        return text
    return f"{text[: _LONGEST_NAME - 17]} {hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def _name(text: str | None) -> str | None:
    return None if text is None else name_of(text)


def _count(count: int | None) -> int | None:
    return None if count is None else max(0, min(count, _MOST_TOKENS))


def _moment(at_s: float) -> float:
    return min(max(at_s, 0.0), _LATEST_S) if math.isfinite(at_s) else 0.0
