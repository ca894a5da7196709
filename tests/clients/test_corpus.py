"""Recorded exchanges through metered clients: the provider's own counts in the record, its very bytes at the caller.

Each exchange goes to its real address through a transport that never leaves the process: whole and in random pieces
through all four clients, small ones byte by byte, and a share of them compressed or under budgets.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any, Final

import pytest

from tests.clients.faces import ENCODINGS, FACES, Face, come, face_id, on_a_loop
from tests.clients.test_encoded_bodies import decodes
from tests.support.shared import CORPUS
from tests.wire.exchanges import Exchange, recorded
from tests.wire.test_corpus import DISPUTED, wrong
from tokenmeter import Budget, Meter, wire
from tokenmeter.record import CallRecord
from tokenmeter.testing import CapturedCalls

HTTPX, HTTPX2 = (face for face in FACES if not face.is_async)
SHARE: Final = 5  # every fifth row
SMALL_BYTES: Final = 600
PIECE_BYTES: Final = (1, 2, 3, 7, 50, 400, 3_000, 60_000)

Split = Callable[[bytes, random.Random], list[bytes]]


@dataclass(frozen=True)
class Row:
    """An exchange with what only a client needs of it."""

    exchange: Exchange
    url: str
    request_headers: dict[str, str]
    response_headers: dict[str, str]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    if not CORPUS.exists():
        pytest.skip(f"no recorded traffic at {CORPUS}")
    return _rows()


@cache
def _rows() -> list[Row]:
    with gzip.open(CORPUS) as lines:
        raw = {row["id"]: row for row in map(json.loads, lines)}
    return [_row(exchange, raw[exchange.id]) for exchange in recorded()]


def _row(exchange: Exchange, raw: dict[str, Any]) -> Row:
    headers = {name.lower(): value for name, value in raw["response_headers"].items()}
    headers.pop("transfer-encoding", None)  # the framing of the recorded connection
    return Row(exchange, raw["url"], raw["request_headers"], headers)


def whole(body: bytes, dice: random.Random) -> list[bytes]:
    return [body]


def in_pieces(body: bytes, dice: random.Random) -> list[bytes]:
    return list(_cut(body, lambda: dice.choice(PIECE_BYTES)))


def byte_by_byte(body: bytes, dice: random.Random) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


def _cut(body: bytes, size: Callable[[], int]) -> Iterator[bytes]:
    at = 0
    while at < len(body):
        end = at + size()
        yield body[at:end]
        at = end


class Recording:
    """A server that answers with what was recorded, and keeps the request that reached it."""

    def __init__(self, face: Face, split: Split, coding: str = "identity") -> None:
        self.face = face
        self.split = split
        self.coding = coding
        self.row: Row | None = None
        self.arrived: Any = None
        self.dice = random.Random(0)

    def __call__(self, request: Any) -> Any:
        assert self.row is not None
        self.arrived = request
        exchange, headers = self.row.exchange, dict(self.row.response_headers)
        name, encode = ENCODINGS[self.coding]
        if name is not None:
            headers["content-encoding"] = name
        pieces = self.split(encode(exchange.response), self.dice)
        return self.face.response(exchange.status, pieces, headers)


@dataclass
class Passed:
    """One row as it went through a client."""

    row: Row
    seen: bytes  # what the caller read
    sent: bytes  # the body that arrived
    records: list[CallRecord]


async def play(
    face: Face,
    meter: Meter,
    calls: CapturedCalls,
    rows: Iterable[Row],
    split: Split = in_pieces,
    coding: str = "identity",
) -> list[Passed]:
    """Send rows, one after another, through one metered client."""
    server = Recording(face, split, coding)
    client = meter.wrap(face.client(server))
    passed = []
    for number, row in enumerate(rows):
        calls.clear()
        exchange, server.row, server.dice = row.exchange, row, random.Random(number)
        request = client.build_request(exchange.method, row.url, content=exchange.request, headers=row.request_headers)
        streamed = server.dice.random() < 0.5
        response = await come(client.send(request, stream=streamed))
        assert response.status_code == exchange.status
        seen = b"".join(await face.pieces(response, "iter_bytes")) if streamed else response.content
        await face.close(response)
        passed.append(Passed(row, seen, server.arrived.content, list(calls)))
    await face.close(client)
    return passed


def faults(passed: Iterable[Passed]) -> list[str]:
    """All that differs from the recording."""
    return [fault for one in passed for fault in (_miscounted(one), _altered(one)) if fault]


def _miscounted(one: Passed) -> str | None:
    exchange = one.row.exchange
    if exchange.route is None:
        return f"{exchange.id}: no model call, and recorded" if one.records else None
    if len(one.records) != 1:
        return f"{exchange.id}: recorded {len(one.records)} times"
    [record] = one.records
    if (record.http_status or exchange.status) != exchange.status:
        return f"{exchange.id}: status {exchange.status}, recorded {record.http_status}"
    if exchange.truth is None or exchange.id in DISPUTED:
        return None
    if record.status != "ok" and not (record.status == "error" and _reports_an_error(exchange)):
        return f"{exchange.id}: recorded as {record.status}"
    if record.estimated or (record.usage is not None and record.usage.estimated):
        return f"{exchange.id}: {exchange.truth} billed, estimated {record.usage}"
    return wrong(exchange, wire.Reading(usage=record.usage))


def _reports_an_error(exchange: Exchange) -> bool:
    """Whether the body says itself that something failed, beside the usage that it bills."""
    assert exchange.route is not None
    return wire.read_body(exchange.route, exchange.response, exchange.content_type).failed is not None


def _altered(one: Passed) -> str | None:
    exchange = one.row.exchange
    shown = exchange.response
    if one.sent != exchange.request:
        if not _asks_for_usage_in_place_of_the_caller(one):
            return f"{exchange.id}: another request arrived"
        shown = _unasked(shown)
    return None if one.seen == shown else f"{exchange.id}: the caller read {len(one.seen)} bytes, not {len(shown)}"


def _asks_for_usage_in_place_of_the_caller(one: Passed) -> bool:
    """Whether the request differs only in this option of streams, about which the caller had said nothing."""
    body, sent = json.loads(one.row.exchange.request), json.loads(one.sent)
    options = body.get("stream_options") or {}
    if body.get("stream") is not True or "include_usage" in options:
        return False
    return bool(sent == body | {"stream_options": options | {"include_usage": True}})


def _unasked(stream: bytes) -> bytes:
    """A stream as the server sends it to who does not ask for usage, as far as that can be told from outside.

    A server that sends usage to everybody can't be told from one that was asked.
    """
    events = re.findall(rb".+?\n\n|.+", stream, re.DOTALL)
    return b"".join(re.sub(rb',\s*"usage":\s*null', b"", event) for event in events if not _is_only_usage(event))


def _is_only_usage(event: bytes) -> bool:
    if not event.startswith(b"data: {"):
        return False
    chunk = json.loads(event[5:])
    return chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)


def counted(passed: Iterable[Passed]) -> int:
    return sum(one.row.exchange.truth is not None and one.row.exchange.id not in DISPUTED for one in passed)


@pytest.mark.parametrize("split", [whole, in_pieces], ids=["whole", "in-pieces"])
@pytest.mark.parametrize("face", FACES, ids=face_id)
@on_a_loop
async def test_every_exchange_is_counted_to_the_token(
    meter: Meter, calls: CapturedCalls, rows: list[Row], face: Face, split: Split
) -> None:
    passed = await play(face, meter, calls, rows, split)
    assert faults(passed) == []
    assert counted(passed) > 1_000
    assert sum(one.sent != one.row.exchange.request for one in passed) > 40


@on_a_loop
async def test_byte_by_byte(meter: Meter, calls: CapturedCalls, rows: list[Row]) -> None:
    passed = await play(
        HTTPX2, meter, calls, [row for row in rows if len(row.exchange.response) <= SMALL_BYTES], byte_by_byte
    )
    assert faults(passed) == []
    assert counted(passed) > 100


@on_a_loop
async def test_without_asking_for_usage_nothing_differs(calls: CapturedCalls, rows: list[Row]) -> None:
    with Meter(recorders=[calls], ask_stream_usage=False) as meter:
        passed = await play(HTTPX2, meter, calls, rows)
    assert faults(passed) == []
    assert [one.row.exchange.id for one in passed if one.sent != one.row.exchange.request] == []
    assert [one.row.exchange.id for one in passed if one.seen != one.row.exchange.response] == []


@on_a_loop
async def test_under_budgets(calls: CapturedCalls, rows: list[Row]) -> None:
    """Holding money for a call changes nothing of its counts, and all of it comes back."""
    budgets = [Budget("$1000000", per="day"), Budget("1000000 calls", per="day")]
    with Meter(budgets, recorders=[calls], unpriced="allow") as meter:
        passed = await play(HTTPX2, meter, calls, rows)
        money, number = meter.remaining()
    assert faults(passed) == []
    records = [record for one in passed for record in one.records]
    assert (money.held, number.held) == (0, 0)
    assert money.spent == Decimal(sum(record.cost_nanos or 0 for record in records)) / 10**9
    assert number.spent == sum(record.usage is not None for record in records)


@pytest.mark.parametrize(
    ("face", "coding"),
    [(HTTPX2, "gzip"), (HTTPX2, "deflate"), (HTTPX2, "br"), (HTTPX, "zstd")],
    ids=["gzip", "deflate", "br", "zstd"],
)
@on_a_loop
async def test_compressed(meter: Meter, calls: CapturedCalls, rows: list[Row], face: Face, coding: str) -> None:
    if not decodes(face, coding):
        pytest.skip(f"{face.library.__name__} can't decode {coding} here, and asks no server for it")
    passed = await play(face, meter, calls, rows[list(ENCODINGS).index(coding) % SHARE :: SHARE], coding=coding)
    assert faults(passed) == []
    assert counted(passed) > 200
