"""urllib3's response, read in each way that it knows: the bare client's bytes, and every token counted."""

from __future__ import annotations

import gc
import io
import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.clients.faces import ASK, COST_NANOS, ENCODINGS, INPUT, OUTPUT, chat_body, chat_events
from tests.clients.loopback import Asked, Says, Served, serving
from tokenmeter import Budget, Meter
from tokenmeter.testing import CapturedCalls

requests = pytest.importorskip("requests")
urllib3 = pytest.importorskip("urllib3")

STREAMED = ASK | {"stream": True}
OPTED = STREAMED | {"stream_options": {"include_usage": True}}


def _by(amount: Any, **options: Any) -> Callable[[Any], list[bytes]]:
    return lambda raw: list(iter(lambda: raw.read(amount, **options), b""))


def _into(raw: Any) -> bytes:
    found, room = b"", bytearray(11)
    while size := raw.readinto(room):
        found += room[:size]
    return found


def _copied(raw: Any) -> bytes:
    target = io.BytesIO()
    raw.decode_content = True
    shutil.copyfileobj(raw, target, 64)
    return target.getvalue()


def _with(raw: Any) -> Any:
    with raw as found:
        return found.read(), raw.closed


def _text(raw: Any) -> list[str]:
    raw.auto_close = False
    return list(io.TextIOWrapper(raw, encoding="latin-1"))


def _continued(raw: Any) -> list[bytes]:
    """One that stops, and then goes on."""
    first = [next(iter(raw.stream(16)))]
    gc.collect()
    return first + list(raw.stream(16))


WAYS: dict[str, Callable[[Any], Any]] = {
    "read": lambda raw: (raw.read(), raw.read(), raw.read(5)),
    "read-minus": lambda raw: raw.read(-1),
    "read-none": lambda raw: (raw.read(0), raw.read()),
    "read-some": _by(7),
    "read-one": lambda raw: b"".join(_by(1)(raw)),
    "read-much": _by(1 << 20),
    "read-plain": _by(64, decode_content=True),
    "read-coded": _by(64, decode_content=False),
    "read-whole-plain": lambda raw: raw.read(decode_content=True),
    "read-then-data": lambda raw: (raw.read(3), raw.data),
    "read1": lambda raw: b"".join(iter(lambda: raw.read1(9), b"")),
    "read1-any": lambda raw: b"".join(iter(raw.read1, b"")),
    "readinto": _into,
    "readline": lambda raw: (raw.readline(), raw.readline(3), raw.readline(0), raw.readline(), raw.read()),
    "readlines": lambda raw: raw.readlines(),
    "readlines-hint": lambda raw: (raw.readlines(200), raw.readlines()),
    "next": lambda raw: (next(raw), raw.read()),
    "iterated": list,
    "stream": lambda raw: list(raw.stream()),
    "stream-one": lambda raw: list(raw.stream(1)),
    "stream-none": lambda raw: list(raw.stream(None)),
    "stream-some": lambda raw: b"".join(raw.stream(13)),
    "stream-plain": lambda raw: b"".join(raw.stream(13, decode_content=True)),
    "stream-coded": lambda raw: list(raw.stream(1024, decode_content=False)),
    "stream-twice": lambda raw: (list(raw.stream(64)), list(raw.stream(64))),
    "continued": _continued,
    "read_chunked": lambda raw: list(raw.read_chunked()),
    "read_chunked-some": lambda raw: list(raw.read_chunked(10, decode_content=True)),
    "data": lambda raw: (raw.data, raw.data),
    "json": lambda raw: raw.json(),
    "with": _with,
    "text": _text,
    "buffered": lambda raw: io.BufferedReader(raw).read(),
    "copied": _copied,
    "drained": lambda raw: (raw.drain_conn(), raw.read()),
    "closed": lambda raw: (raw.read(5), raw.close(), raw.closed, list(raw.stream())),
    "said": lambda raw: (
        raw.status,
        raw.reason,
        raw.version,
        raw.tell(),
        raw.read(20),
        raw.tell(),
        raw.closed,
        raw.isclosed(),
        raw.readable(),
        raw.length_remaining,
        raw.read(),
        raw.closed,
        raw.isclosed(),
    ),
}
if not hasattr(urllib3.HTTPResponse, "read1"):
    del WAYS["read1"], WAYS["read1-any"]
if urllib3.__version__.startswith("1."):
    del WAYS["read-minus"]  # it waits for ever
    del WAYS["read-plain"], WAYS["copied"]  # they stop where a piece of brotli decodes to nothing yet
NOT_READ_OUT = {"drained", "closed"}
STOP = {"continued", "readlines-hint"}
"""These stop on the way; of a chunked body urllib3 gives no more then."""


def outcome(way: Callable[[Any], Any], raw: Any) -> Any:
    """What a way to read gives, or how it fails."""
    try:
        return way(raw)
    except Exception as error:
        return type(error)


def chat(asked: Asked, coding: str = "identity", framing: str = "length") -> Says:
    """An answer, as OpenAI gives it."""
    streamed = json.loads(asked.body).get("stream")
    events = chat_events(usage=b"include_usage" in asked.body)
    pieces = events if streamed else [chat_body()[:90], chat_body()[90:]]
    name, encode = ENCODINGS[coding]
    headers = {"set-cookie": "seen=1; Path=/"}
    if name is not None:
        headers["content-encoding"] = name
        whole = encode(b"".join(pieces))
        pieces = [whole[at : at + 50] for at in range(0, len(whole), 50)]
    kind = "text/event-stream" if streamed else "application/json"
    return Says(kind=kind, pieces=pieces, headers=headers, framing=framing)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """The path tells the coding and the framing."""
    with serving(lambda asked: chat(asked, *asked.path.split("/")[1:3])) as found:
        yield found


def url(served: Served, coding: str, framing: str) -> str:
    return f"{served.url}/{coding}/{framing}/v1/chat/completions"


@pytest.mark.parametrize("ask", [ASK, OPTED], ids=["whole", "sse"])
@pytest.mark.parametrize(
    ("coding", "framing"),
    [(coding, "chunked") for coding in ENCODINGS] + [("identity", "length"), ("gzip", "length"), ("identity", "close")],
)
def test_read_in_every_way(served: Served, coding: str, framing: str, ask: Any) -> None:
    address = url(served, coding, framing)
    calls = CapturedCalls()
    wrong: dict[str, Any] = {}
    with requests.Session() as bare, requests.Session() as client, Meter(recorders=[calls]) as meter:
        meter.wrap(client)
        for name, way in WAYS.items():
            expected = outcome(way, bare.post(address, json=ask, stream=True).raw)
            response = client.post(address, json=ask, stream=True)
            assert isinstance(response.raw, urllib3.HTTPResponse)
            found = outcome(way, response.raw)
            response.close()
            rows = list(calls)
            calls.clear()
            if found != expected:
                wrong[name] = found, expected
            elif len(rows) != 1:
                wrong[name] = rows
            elif name in NOT_READ_OUT or isinstance(expected, type) or (framing == "chunked" and name in STOP):
                continue
            else:
                if (rows[0].cost_nanos, rows[0].estimated) != (COST_NANOS, False):
                    wrong[name] = rows
        assert meter.spend().calls == len(WAYS)
    assert wrong == {}


def joined(found: Any) -> bytes:
    """All the bytes in what a way to read gave."""
    if isinstance(found, bytes):
        return found
    return b"".join(map(joined, found)) if isinstance(found, (list, tuple)) else b""


@pytest.mark.parametrize("coding", ["identity", "gzip", "br", "zstd"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_chunk_of_usage_that_was_not_asked_for_is_hidden_however_it_is_read(
    served: Served, coding: str, framing: str
) -> None:
    plain = b"".join(chat_events(usage=False))
    calls = CapturedCalls()
    wrong: dict[str, Any] = {}
    partly = {"json", "text", "said", "data", "readlines-hint", *NOT_READ_OUT}
    partly |= {"continued"} if framing == "chunked" else {"read_chunked", "read_chunked-some"}
    with requests.Session() as client, Meter(recorders=[calls]) as meter:
        meter.wrap(client)
        for name, way in WAYS.items():
            if name in partly:
                continue
            response = client.post(url(served, coding, framing), json=STREAMED, stream=True)
            assert "content-encoding" not in response.headers
            found = joined(outcome(way, response.raw))
            row = calls[-1] if calls else None
            if found != plain or row is None or (row.cost_nanos, row.estimated) != (COST_NANOS, False):
                wrong[name] = found, row
            calls.clear()
    assert wrong == {}


def test_its_data_is_kept_where_a_chunk_was_hidden(served: Served, meter: Meter) -> None:
    client = meter.wrap(requests.Session())
    response = client.post(url(served, "gzip", "chunked"), json=STREAMED, stream=True)
    assert response.raw.data == response.raw.data == b"".join(chat_events(usage=False))


@pytest.mark.parametrize("ask", [ASK, STREAMED, OPTED], ids=["whole", "sse", "usage"])
def test_two_meters_read_it_both(served: Served, meter: Meter, ask: Any) -> None:
    expected = chat_body() if ask is ASK else b"".join(chat_events(usage=ask is OPTED))
    with Meter() as other:
        client = other.wrap(meter.wrap(requests.Session()))
        for way in (list, WAYS["readlines"], WAYS["read-some"], WAYS["stream-some"], lambda raw: raw.data):
            response = client.post(url(served, "identity", "chunked"), json=ask, stream=True)
            assert joined(way(response.raw)) == expected
            assert type(response.raw).__name__ == "RelayBody"
        for each in (meter, other):
            assert (each.spend().calls, each.spend().input_tokens, each.spend().output_tokens) == (
                5,
                5 * INPUT,
                5 * OUTPUT,
            )


def test_what_stops_on_the_way_is_settled_when_it_is_closed(served: Served) -> None:
    for framing in ("length", "chunked"):
        with Meter([Budget("$1", per="total", name="b")]) as meter:
            client = meter.wrap(requests.Session())
            response = client.post(url(served, "identity", framing), json=OPTED, stream=True)
            for _ in response.raw.stream(32):
                break
            gc.collect()
            assert meter.spend().calls == (1 if framing == "chunked" else 0)  # the other may be read on
            response.close()
            assert (meter.spend().calls, meter.spend().estimated_calls) == (1, 1)
            (status,) = meter.remaining()
            assert status.held == 0


def test_ten_megabytes(served: Served, meter: Meter) -> None:
    tail = b'"usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}}'
    body = b'{"model": "gpt-4o-mini", "choices": [{"message": {"content": "' + b"x" * 10_000_000 + b'"}}], ' + tail
    with serving(Says(pieces=[body], framing="chunked")) as found:
        response = meter.wrap(requests.Session()).post(found.url + "/v1/chat/completions", json=ASK)
    assert response.content == body
    assert (meter.spend().input_tokens, meter.spend().output_tokens) == (5, 7)


def test_an_empty_body(meter: Meter) -> None:
    for framing in ("length", "chunked", "close"):
        with serving(Says(framing=framing)) as found:
            assert meter.wrap(requests.Session()).post(found.url + "/v1/chat/completions", json=ASK).content == b""
    assert (meter.spend().calls, meter.spend().estimated_calls) == (3, 3)
