"""Recorded exchanges through aiohttp, requests and botocore: they ask a proxy on loopback, which answers for all."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.clients.test_corpus import (
    Passed,
    Row,
    Split,
    counted,
    faults,
    in_pieces,
    rows,
    whole,
)
from tokenmeter import Meter
from tokenmeter.testing import CapturedCalls

__all__ = ["rows"]

_FRAMING = {"content-length", "transfer-encoding", "connection", "host"}
_LONG_S = 60


class _Replays(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    row: Row
    split: Split
    arrived: bytes

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_POST(self) -> None:
        state, row = type(self), type(self).row
        if hasattr(socket, "TCP_QUICKACK"):  # urllib3 sends a head alone to a proxy, and waits until it was noted
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        state.arrived = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(row.exchange.status)
        for name, value in row.response_headers.items():
            if name not in _FRAMING:
                self.send_header(name, value)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in state.split(row.exchange.response, random.Random(len(state.arrived))):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b"")
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_DELETE = do_PUT = do_PATCH = do_POST


@pytest.fixture(params=[whole, in_pieces], ids=["whole", "in-pieces"])
def replays(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any]]:
    state = type("Replays", (_Replays,), {"split": staticmethod(request.param)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), state)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", state
    server.shutdown()
    server.server_close()
    thread.join(10)


def by_requests(meter: Meter, proxy: str) -> Callable[[Row, str], bytes]:
    requests = pytest.importorskip("requests")
    session = meter.wrap(requests.Session())
    session.trust_env = False
    session.headers.clear()

    def send(row: Row, url: str) -> bytes:
        streams = len(row.exchange.response) % 2 == 0
        with session.request(
            row.exchange.method,
            url,
            data=row.exchange.request,
            headers=_headers(row),
            proxies={"http": proxy},
            stream=streams,
            allow_redirects=False,
            timeout=_LONG_S,
        ) as response:
            return b"".join(response.iter_content(700)) if streams else bytes(response.content)

    return send


def by_botocore(meter: Meter, proxy: str) -> Callable[[Row, str], bytes]:
    """Its session takes what has been prepared, whoever has done that."""
    pytest.importorskip("boto3")
    from botocore.awsrequest import AWSPreparedRequest, HeadersDict
    from botocore.httpsession import URLLib3Session

    meter.instrument()
    session = URLLib3Session(proxies={"http": proxy})

    def send(row: Row, url: str) -> bytes:
        streams = len(row.exchange.response) % 2 == 0
        request = AWSPreparedRequest(
            row.exchange.method, url, HeadersDict(_headers(row)), row.exchange.request, stream_output=streams
        )
        response = session.send(request)
        return b"".join(response.raw.stream()) if streams else bytes(response.content)

    return send


def by_lm15(meter: Meter, proxy: str) -> Callable[[Row, str], bytes]:
    transports = pytest.importorskip("lm15.transports")
    transport = meter.wrap(transports.StdlibTransport(proxy=proxy))

    def send(row: Row, url: str) -> bytes:
        request = transports.TransportRequest(
            row.exchange.method, url, list(_headers(row).items()), row.exchange.request
        )
        with transport.stream(request) as response:
            return b"".join(response)

    return send


@pytest.mark.parametrize("way", [by_requests, by_botocore, by_lm15])
def test_sync(meter: Meter, calls: CapturedCalls, rows: list[Row], replays: tuple[str, Any], way: Any) -> None:
    proxy, state = replays
    send = way(meter, proxy)
    passed = []
    for row in rows:
        calls.clear()
        state.row = row
        seen = send(row, _plain(row))
        passed.append(Passed(row, seen, state.arrived, _settled(meter, calls)))
    _check(passed)


def test_aiohttp(meter: Meter, calls: CapturedCalls, rows: list[Row], replays: tuple[str, Any]) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    yarl = pytest.importorskip("yarl")
    proxy, state = replays

    async def play() -> AsyncIterator[Passed]:
        async with aiohttp.ClientSession(skip_auto_headers=["User-Agent"]) as session:
            meter.wrap(session)
            for row in rows:
                calls.clear()
                state.row = row
                async with session.request(
                    row.exchange.method,
                    yarl.URL(_plain(row), encoded=True),
                    data=row.exchange.request,
                    headers=_headers(row),
                    proxy=proxy,
                    allow_redirects=False,
                ) as response:
                    if len(row.exchange.response) % 2:
                        seen = await response.read()
                    else:
                        seen = b"".join([piece async for piece in response.content.iter_any()])
                yield Passed(row, seen, state.arrived, _settled(meter, calls))

    async def all_of_them() -> list[Passed]:
        return [passed async for passed in play()]

    _check(asyncio.run(all_of_them()))


def test_lm15_async(meter: Meter, calls: CapturedCalls, rows: list[Row], replays: tuple[str, Any]) -> None:
    transports = pytest.importorskip("lm15.transports")
    proxy, state = replays

    async def all_of_them() -> list[Passed]:
        passed = []
        async with meter.wrap(transports.StdlibAsyncTransport(proxy=proxy)) as transport:
            for row in rows:
                calls.clear()
                state.row = row
                request = transports.TransportRequest(
                    row.exchange.method, _plain(row), list(_headers(row).items()), row.exchange.request
                )
                async with transport.stream(request) as response:
                    seen = await response.read()
                passed.append(Passed(row, seen, state.arrived, _settled(meter, calls)))
        return passed

    _check(asyncio.run(all_of_them()))


def _plain(row: Row) -> str:
    return row.url.replace("https://", "http://", 1)


def _headers(row: Row) -> dict[str, str]:
    kept = {name: value for name, value in row.request_headers.items() if name.lower() not in _FRAMING}
    return kept | {"Accept-Encoding": "identity"}


def _settled(meter: Meter, calls: CapturedCalls) -> list[Any]:
    meter.spend()
    return list(calls)


def _check(passed: list[Passed]) -> None:
    assert faults(passed) == []
    assert counted(passed) > 1_000
    assert sum(one.sent != one.row.exchange.request for one in passed) > 40
