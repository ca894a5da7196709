"""Libraries of another shape than httpx's: whatever fails in here, their callers get what they always get."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from opentelemetry import baggage, context, propagate

from tests.clients.faces import ASK
from tests.sdk.other_makes import INPUT, OUTPUT, serving
from tokenmeter import Budget, BudgetExceeded, ConfigError, Meter, faults, wire
from tokenmeter.budgets import MemoryStore
from tokenmeter.clients import foreign, port
from tokenmeter.clients.foreign import ForeignRequest, Headers, url_of
from tokenmeter.clients.instruments import _library
from tokenmeter.ledger import MemoryLedger
from tokenmeter.pricing import InputBound
from tokenmeter.telemetry import Spans, spans


def _asked(stream: bool) -> dict[str, Any]:
    return ASK | {"stream": True, "stream_options": {"include_usage": True}} if stream else ASK


def by_requests(meter: Meter | None, url: str, stream: bool) -> bytes:
    requests = pytest.importorskip("requests")
    with requests.Session() as session:
        if meter is not None:
            meter.wrap(session)
        body: bytes = session.post(f"{url}/chat/completions", json=_asked(stream), stream=stream).content
        return body


def by_aiohttp(meter: Meter | None, url: str, stream: bool) -> bytes:
    aiohttp = pytest.importorskip("aiohttp")

    async def ask() -> bytes:
        async with aiohttp.ClientSession() as session:
            if meter is not None:
                meter.wrap(session)
            async with session.post(f"{url}/chat/completions", json=_asked(stream)) as response:
                body: bytes = await response.read()
                return body

    return asyncio.run(ask())


def by_boto3(meter: Meter | None, url: str, stream: bool) -> bytes:
    client = pytest.importorskip("boto3").client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    if meter is not None:
        meter.wrap(client)
    asked = {"modelId": "m", "messages": [{"role": "user", "content": [{"text": "hi"}]}]}
    found = list(client.converse_stream(**asked)["stream"]) if stream else client.converse(**asked)["output"]
    client.close()
    return json.dumps(found).encode()


def by_lm15(meter: Meter | None, url: str, stream: bool) -> bytes:
    transports = pytest.importorskip("lm15.transports")
    with transports.StdlibTransport(trust_env=False) as transport:
        if meter is not None:
            meter.wrap(transport)
        with transport.stream(_transport_request(transports, url, stream)) as response:
            body: bytes = response.read()
            return body


def by_lm15_async(meter: Meter | None, url: str, stream: bool) -> bytes:
    transports = pytest.importorskip("lm15.transports")

    async def ask() -> bytes:
        async with transports.StdlibAsyncTransport(trust_env=False) as transport:
            if meter is not None:
                meter.wrap(transport)
            async with transport.stream(_transport_request(transports, url, stream)) as response:
                body: bytes = await response.read()
                return body

    return asyncio.run(ask())


def _transport_request(transports: Any, url: str, stream: bool) -> Any:
    return transports.TransportRequest(
        "POST", f"{url}/chat/completions", [("Content-Type", "application/json")], json.dumps(_asked(stream)).encode()
    )


WAYS = [by_requests, by_aiohttp, by_boto3, by_lm15, by_lm15_async]
ROOMS: dict[str, tuple[Any, str]] = {
    "bound": (InputBound, "bound"),
    "hold": (MemoryStore, "hold"),
    "settle": (MemoryStore, "settle"),
    "reader": (wire, "reader"),
    "decoder_for": (foreign, "decoder_for"),
    "spans.open": (Spans, "open"),
    "spans.close": (Spans, "close"),
    "attach": (spans, "attach"),
    "outgoing": (port.Port, "_outgoing"),
    "ledger": (MemoryLedger, "record"),
    "headers": (Headers, "of"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("room", ROOMS)
def test_a_room_fails(
    room: str,
    way: Callable[[Meter | None, str, bool], bytes],
    stream: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(faults, "_known", set())
    with serving() as (url, arrived), Meter([Budget("1M tokens")]) as meter:
        bare = way(None, url, stream)
        monkeypatch.setattr(*ROOMS[room], broken)
        with caplog.at_level(logging.CRITICAL):
            assert way(meter, url, stream) == bare
        monkeypatch.undo()
        [left] = meter.remaining()
    assert left.held == 0 or room == "settle"  # a store that can't settle keeps it
    assert len(arrived) == 2


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("way", WAYS)
def test_counted_once_and_refused_before_it_is_sent(way: Any, stream: bool) -> None:
    with serving() as (url, arrived), Meter([Budget("1 calls", wait_s=0)]) as meter:
        meter.instrument()
        way(meter, url, stream)
        spend = meter.spend()
        with pytest.raises(BudgetExceeded):
            way(meter, url, stream)
    assert (spend.calls, spend.input_tokens, spend.output_tokens) == (1, INPUT, OUTPUT)
    assert len(arrived) == 1


def test_a_request_that_cant_be_read_is_told_without_what_it_says(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Any:
        raise ValueError("my secret prompt")

    monkeypatch.setattr(faults, "_known", set())
    monkeypatch.setattr(Headers, "of", broken)
    with serving() as (url, arrived), Meter() as meter, caplog.at_level(logging.ERROR, "tokenmeter"):
        by_requests(meter, url, False)
    assert len(arrived) == 1
    assert "reading a request to 127.0.0.1" in caplog.text
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_headers_are_looked_up_without_regard_to_case() -> None:
    headers = Headers.of([(b"Content-Type", b"a"), ("X-Y", "\u00e9")])
    assert (headers["CONTENT-type"], headers.get("x-y"), headers.get("z", "-")) == ("a", "\u00e9", "-")
    assert "content-TYPE" in headers
    assert "z" not in headers


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("way", [by_requests, by_boto3])
def test_whoever_writes_headers_below_finds_no_baggage(way: Any, keeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    urllib3 = pytest.importorskip("urllib3")
    real, carried = urllib3.HTTPConnectionPool.urlopen, dict[str, str]()

    def urlopen(*args: Any, **kwargs: Any) -> Any:
        propagate.inject(carried)
        return real(*args, **kwargs)

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", urlopen)
    token = context.attach(baggage.set_baggage("who", "alice"))
    try:
        with serving() as (url, _), Meter(propagate_baggage=keeps) as meter:
            way(meter, url, False)
    finally:
        context.detach(token)
    assert carried.get("baggage") == ("who=alice" if keeps else None)


def test_for_a_client_of_one_library_no_other_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is at its import may wait for the turn in which this happens."""
    pytest.importorskip("aiohttp")
    monkeypatch.delitem(sys.modules, "tokenmeter.clients.for_aiohttp", raising=False)
    _library.cache_clear()
    try:
        with Meter() as meter, pytest.raises(ConfigError, match="can't wrap a"):
            meter.wrap("https://api.openai.com")
        assert "tokenmeter.clients.for_aiohttp" not in sys.modules
    finally:
        _library.cache_clear()


def test_the_same_request_further_out() -> None:
    url = url_of("http://127.0.0.1:1/v1/a%20b?x=1")
    request = ForeignRequest(object(), "POST", url, Headers(), b"{}")
    assert httpx2.Request("POST", "http://127.0.0.1:1/v1/a b?x=1", content=b"{}") == request
    assert httpx2.Request("POST", "http://127.0.0.1:1/v1/a b", content=b"[]") == request, "written otherwise"
    assert httpx2.Request("POST", "http://127.0.0.1:1/v1/c", content=b"{}") == request, "redirected"
    assert httpx2.Request("POST", "http://127.0.0.1:1/v1/c", content=b"[]") != request
    assert httpx2.Request("PUT", "http://127.0.0.1:1/v1/a b", content=b"{}") != request


@pytest.mark.parametrize(
    ("kind", "name"), [("StreamReader", "_wait"), ("ClientSession", "_build_url"), ("Payload", "_value")]
)
def test_a_version_that_lacks_what_is_needed_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str, name: str
) -> None:
    """It isn't metered; the clients of others are."""
    aiohttp = pytest.importorskip("aiohttp")
    monkeypatch.delitem(sys.modules, "tokenmeter.clients.for_aiohttp", raising=False)
    if kind == "ClientSession":
        monkeypatch.delattr(aiohttp.ClientSession, name)
    else:
        module = {"StreamReader": "streams", "Payload": "payload"}[kind]
        monkeypatch.setattr(f"aiohttp.{module}.{kind}", type(kind, (), {"__init__": lambda self: None}))
    _library.cache_clear()
    try:
        with Meter() as meter, caplog.at_level(logging.WARNING, "tokenmeter"):
            meter.instrument()
            assert f"aiohttp is NOT METERED: its {kind} has no " in caplog.text
            assert name in caplog.text
            assert "wrapt" not in type(vars(aiohttp.ClientSession)["_request"]).__module__
            meter.wrap(httpx2.Client()).close()
    finally:
        _library.cache_clear()
