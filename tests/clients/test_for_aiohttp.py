"""Sessions of aiohttp against a server on this machine: what a metered one gives is what a bare one gives."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import warnings
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from opentelemetry import baggage, context, propagate

from tests.clients.faces import (
    ASK,
    COST_NANOS,
    ENCODINGS,
    chat_body,
    chat_events,
    chunk,
    event,
    on_a_loop,
)
from tokenmeter import Budget, BudgetExceeded, Meter
from tokenmeter.testing import CapturedCalls

aiohttp = pytest.importorskip("aiohttp")

STREAMED = ASK | {"stream": True}
PATH = "/v1/chat/completions"
VERSION = tuple(int(part) for part in aiohttp.__version__.split(".")[:2])


class Asked(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Out:
    """A response on its way out."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.chunked = False

    async def head(self, status: int = 200, kind: str = "application/json", **headers: Any) -> None:
        self.chunked = "content_length" not in headers
        named = {"content-type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}
        if self.chunked:
            named["transfer-encoding"] = "chunked"
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        self._writer.write(f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode())

    async def piece(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)

    async def flush(self) -> None:
        await self._writer.drain()

    async def end(self) -> None:
        if self.chunked:
            self._writer.write(b"0\r\n\r\n")
        await self.flush()

    async def whole(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        await self.head(status, kind, content_length=str(len(body)), **headers)
        await self.piece(body)
        await self.end()

    def cut(self) -> None:
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()


Answer = Callable[[Asked, Out], Awaitable[None]]


class Server:
    """Reads requests, and answers them as a test says."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.url = ""
        self.serving: set[Any] = set()  # nobody else holds the tasks

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self.serving.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                self.asked.append(Asked(method, path, headers, await _body(reader, headers)))
                await self.answer(self.asked[-1], Out(writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.serving.discard(task)
            writer.close()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


async def as_openai(asked: Asked, out: Out) -> None:
    """A chat completion; a stream in chunks, all at once."""
    ask = asked.json
    if not ask.get("stream"):
        await out.whole(200, chat_body())
        return
    await out.head(kind="text/event-stream")
    for piece in chat_events(usage=(ask.get("stream_options") or {}).get("include_usage") is True):
        await out.piece(piece)
    await out.end()


@asynccontextmanager
async def serving(answer: Answer = as_openai) -> AsyncIterator[Server]:
    server = Server(answer)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=1 << 26)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}{PATH}"
    try:
        yield server
    finally:
        listening.close()
        left = list(server.serving)
        for task in left:
            task.cancel()
        await asyncio.gather(*left)


@pytest.fixture
def meter(calls: CapturedCalls) -> Iterator[Meter]:
    limits = [Budget("$10", per="total"), Budget("1000 calls", per="total")]
    with Meter(budgets=limits, unpriced="allow", recorders=[calls]) as meter:
        yield meter


def settled(meter: Meter, calls: CapturedCalls, count: int = 1) -> None:
    """So many calls, each told once, no money held and no stream open."""
    meter.flush()
    assert len(calls) == count
    assert not meter._metering.streams
    assert [left.held for left in meter.remaining()] == [0, 0]


async def both(meter: Meter, server: Server, use: Callable[[Any], Awaitable[Any]], **options: Any) -> None:
    """A bare session and a metered one give the same, or raise it."""
    found = []
    for wraps in (False, True):
        async with aiohttp.ClientSession(**options) as session:
            if wraps:
                meter.wrap(session)
            try:
                found.append(await use(session))
            except Exception as error:
                found.append((type(error), str(error)))
    assert found[0] == found[1]


async def _each(pieces: Any) -> list[Any]:
    return [piece async for piece in pieces]


async def _until_empty(read: Callable[[], Awaitable[bytes]]) -> list[bytes]:
    found = []
    while piece := await read():
        found.append(piece)
    return found


async def _exactly(response: Any) -> Any:
    first = await response.content.readexactly(10)
    try:
        await response.content.readexactly(1 << 30)
    except asyncio.IncompleteReadError as error:
        return first, error.partial, error.expected
    return None


async def _nowait(response: Any) -> Any:
    content = response.content
    await content.wait_eof()
    seen = [content.is_eof(), content.at_eof(), content.total_bytes > 0]
    return seen, content.read_nowait(7), content.read_nowait(), content.read_nowait(), content.at_eof()


async def _told_of_the_end(response: Any) -> Any:
    told: list[int] = []
    response.content.on_eof(lambda: told.append(1))
    body = await response.read()
    response.content.on_eof(lambda: told.append(2))
    return body, told


async def _mixed(response: Any) -> Any:
    content = response.content
    line = await content.readline()
    return line, await content.read(3), await content.readchunk(), b"".join(await _each(content.iter_any()))


WAYS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "read": lambda response: response.read(),
    "text": lambda response: response.text(),
    "json": lambda response: response.json(content_type=None),
    "read(-1)": lambda response: response.content.read(),
    "read(n)": lambda response: _until_empty(lambda: response.content.read(7)),
    "readany": lambda response: _until_empty(response.content.readany),
    "readline": lambda response: _until_empty(response.content.readline),
    "readuntil": lambda response: _until_empty(lambda: response.content.readuntil(b"x")),
    "readexactly": _exactly,
    "readchunk": lambda response: _each(response.content.iter_chunks()),
    "iter_any": lambda response: _each(response.content.iter_any()),
    "iter_chunked": lambda response: _each(response.content.iter_chunked(100)),
    "lines": lambda response: _each(response.content),
    "nowait": _nowait,
    "on_eof": _told_of_the_end,
    "mixed": _mixed,
}


def after(response: Any) -> Any:
    """What can be seen of a response that was read."""
    content = response.content
    seen = content.is_eof(), content.at_eof(), content.total_bytes, content.exception(), response.closed
    return *seen, getattr(content, "total_raw_bytes", None), sorted(response.headers.items()), response.raw_headers


async def use(session: Any, server: Server, way: str, ask: Any = ASK) -> Any:
    async with session.post(server.url, json=ask) as response:
        await response.content.wait_eof()  # what is read at once shall not depend on when it came
        found = await WAYS[way](response)
        return found, after(response)


SHAPES = ("chunks", "length", "gzip", "packed")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", WAYS)
@on_a_loop
async def test_every_way_to_read(meter: Meter, calls: CapturedCalls, way: str, shape: str) -> None:
    name, encode = ENCODINGS["identity" if shape in ("chunks", "length") else "gzip"]
    coding: Any = {} if name is None else {"content_encoding": name}

    async def answer(asked: Asked, out: Out) -> None:
        body = encode(chat_body())
        if shape == "length":
            await out.whole(200, body)
            return
        await out.head(**coding)
        for at in range(0, len(body), 50):
            await out.piece(body[at : at + 50])
        await out.end()

    async with serving(answer) as server:
        await both(meter, server, lambda session: use(session, server, way), auto_decompress=shape != "packed")
    settled(meter, calls)
    assert calls[0].cost_nanos == COST_NANOS


@pytest.mark.parametrize("way", [way for way in WAYS if way != "json"])
@on_a_loop
async def test_the_usage_of_a_stream_is_hidden(meter: Meter, calls: CapturedCalls, way: str) -> None:
    async with serving() as server:
        await both(meter, server, lambda session: use(session, server, way, STREAMED))
        assert "stream_options" not in server.asked[0].json
        assert server.asked[1].json == STREAMED | {"stream_options": {"include_usage": True}}
    settled(meter, calls)
    assert (calls[0].cost_nanos, calls[0].estimated) == (COST_NANOS, False)


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name != "identity"])
@pytest.mark.parametrize("plain", [False, True], ids=["packed", "unpacked"])
@on_a_loop
async def test_a_stream_that_is_encoded(meter: Meter, calls: CapturedCalls, encoding: str, plain: bool) -> None:
    name, encode = ENCODINGS[encoding]

    async def answer(asked: Asked, out: Out) -> None:
        packed = encode(b"".join(chat_events(usage="stream_options" in asked.json)))
        await out.whole(200, packed, "text/event-stream", content_encoding=str(name))

    async with serving(answer) as server, aiohttp.ClientSession(auto_decompress=plain) as session:
        if plain and (encoding == "zstd" and VERSION < (3, 13)):
            pytest.skip("this aiohttp can't")
        async with meter.wrap(session).post(server.url, json=STREAMED) as response:
            assert await response.read() == b"".join(chat_events(usage=False))
            assert "content-length" not in response.headers
            assert ("content-encoding" in response.headers) is plain
    settled(meter, calls)
    assert calls[0].cost_nanos == COST_NANOS


@on_a_loop
async def test_a_coding_that_nobody_knows(meter: Meter, calls: CapturedCalls) -> None:
    async def answer(asked: Asked, out: Out) -> None:
        await out.whole(200, b"\x00\x01secret\n\n\x02" * 50, "text/event-stream", content_encoding="rot13")

    async with serving(answer) as server:
        for plain in (False, True):
            found = []
            for wraps in (False, True):
                async with aiohttp.ClientSession(auto_decompress=plain) as session:
                    if wraps:
                        meter.wrap(session)
                    async with session.post(server.url, json=STREAMED) as response:
                        found.append((await response.read(), response.headers["content-encoding"]))
            assert found[0] == found[1]
    settled(meter, calls, 2)


@on_a_loop
async def test_what_cannot_be_unpacked_fails_as_aiohttp_says_it(meter: Meter, calls: CapturedCalls) -> None:
    async def answer(asked: Asked, out: Out) -> None:
        packed = ENCODINGS["gzip"][1](b"".join(chat_events(usage=True)))
        await out.whole(200, packed[:40] + b"broken" * 20, "text/event-stream", content_encoding="gzip")

    async with serving(answer) as server:
        for plain in (False, True):
            async with aiohttp.ClientSession(auto_decompress=plain) as session:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await (await meter.wrap(session).post(server.url, json=STREAMED)).read()
    settled(meter, calls, 2)


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@pytest.mark.parametrize("status", [200, 204, 400, 500])
@on_a_loop
async def test_no_body(meter: Meter, calls: CapturedCalls, status: int, ask: Any) -> None:
    async def answer(asked: Asked, out: Out) -> None:
        await out.whole(status, b"")

    async with serving(answer) as server:
        for way in ("read", "readany", "readexactly", "on_eof"):
            await both(meter, server, lambda session, way=way: use(session, server, way, ask))  # type: ignore[misc]
    settled(meter, calls, 4)


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@on_a_loop
async def test_a_large_body_in_many_pieces(meter: Meter, calls: CapturedCalls, ask: Any) -> None:
    async def answer(asked: Asked, out: Out) -> None:
        large = b"".join(event(chunk({"content": "word " * 20_000})) for _ in range(100))
        await out.head(kind="text/event-stream")
        for at in range(0, 10_000, 2):
            await out.piece(large[at : at + 2])
        await out.piece(large[10_000:])
        await out.end()

    async def draw(session: Any) -> Any:
        async with session.post(server.url, json=ask) as response:
            few = [await response.content.readany() for _ in range(3)]
            return b"".join([*few, await response.read()]), response.content.total_bytes

    async with serving(answer) as server:
        await both(meter, server, draw)
    settled(meter, calls)


@on_a_loop
async def test_a_server_is_slowed_down_as_by_the_bare_client(meter: Meter, calls: CapturedCalls) -> None:
    sent = 0
    stuck = asyncio.Event()

    async def answer(asked: Asked, out: Out) -> None:
        nonlocal sent
        await out.head(kind="text/event-stream")
        for _ in range(400):
            await out.piece(b"x" * (1 << 16))
            try:
                await asyncio.wait_for(out.flush(), 0.2)
            except TimeoutError:
                stuck.set()
                await out.flush()
            sent += 1
        await out.end()

    async with (
        serving(answer) as server,
        aiohttp.ClientSession() as session,
        meter.wrap(session).post(server.url, json=STREAMED) as response,
    ):
        await response.content.read(10)
        await stuck.wait()
        assert response.content._size < 1 << 20
        assert sent < 300
        assert len(await response.read()) == (400 << 16) - 10


async def rejecting(asked: Asked, out: Out) -> None:
    if "stream_options" in asked.json:
        error = {"error": {"message": "Unknown parameter: 'stream_options'.", "type": "invalid_request_error"}}
        await out.whole(400, json.dumps(error).encode())
        return
    await as_openai(asked, out)


@pytest.mark.parametrize("checks", [None, False, True], ids=["plain", "unchecked", "checked"])
@pytest.mark.parametrize("of_session", [False, True], ids=["of-call", "of-session"])
@on_a_loop
async def test_a_server_that_rejects_the_option(
    meter: Meter, calls: CapturedCalls, checks: bool | None, of_session: bool
) -> None:
    options = {"raise_for_status": bool(checks)} if of_session else {}
    given = {} if of_session else {"raise_for_status": checks}

    async def ask(session: Any) -> Any:
        async with session.post(server.url, json=STREAMED, **given) as response:
            return await response.read(), after(response)

    async with serving(rejecting) as server:
        await both(meter, server, ask, **options)
        assert len(server.asked) == 3
    settled(meter, calls)


@pytest.mark.skipif(not hasattr(aiohttp, "UploadTracker"), reason="this aiohttp has none")
@on_a_loop
async def test_what_watches_an_upload_goes_with_one_try(meter: Meter, calls: CapturedCalls) -> None:
    async def watched(session: Any) -> Any:
        async with session.post(server.url, json=STREAMED, upload_tracker=aiohttp.UploadTracker()) as response:
            return await response.read()

    async with serving(rejecting) as server:
        await both(meter, server, watched)
    settled(meter, calls)


@pytest.mark.parametrize("status", [400, 429, 500])
@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@pytest.mark.parametrize("checks", ["none", "built-in", "own"])
@on_a_loop
async def test_an_error_is_the_bare_clients(
    meter: Meter, calls: CapturedCalls, status: int, ask: Any, checks: str
) -> None:
    async def answer(asked: Asked, out: Out) -> None:
        await out.whole(status, b'{"error": {"message": "no"}}')

    async def own(response: Any) -> None:
        raise LookupError(f"{response.status}: {await response.text()}")

    check = {"none": None, "built-in": True, "own": own}[checks]

    async def post(session: Any) -> Any:
        async with session.post(server.url, json=ask, raise_for_status=check) as response:
            return await response.json(), after(response)

    async with serving(answer) as server:
        await both(meter, server, post)
        assert len(server.asked) == 2
    settled(meter, calls)
    assert not calls[0].cost_nanos


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # to inherit is discouraged

    class Mine(aiohttp.ClientSession):  # type: ignore[misc, name-defined]
        async def _request(self, verb: str, url: Any, **kwargs: Any) -> Any:  # other names
            return await super()._request(verb, url, **kwargs)


def dumps(value: Any) -> str:
    return json.dumps(value, indent=3)


DATA: dict[str, Callable[[], dict[str, Any]]] = {
    "json": lambda: {"json": STREAMED},
    "bytes": lambda: {"data": json.dumps(STREAMED).encode()},
    "str": lambda: {"data": json.dumps(STREAMED)},
    "bytearray": lambda: {"data": bytearray(json.dumps(STREAMED).encode())},
    "payload": lambda: {"data": aiohttp.JsonPayload(STREAMED)},
    "headers": lambda: {"json": STREAMED, "headers": {"content-type": "application/json; x=y", "X-Own": "1"}},
    "list": lambda: {"json": STREAMED, "headers": [("X-Own", "1"), ("X-Own", "2")]},
    "iterator": lambda: {"json": STREAMED, "headers": iter([("X-Own", "1"), ("X-Own", "2")])},
    "skip": lambda: {"json": STREAMED, "skip_auto_headers": ["content-type", "user-agent"]},
    "chunked": lambda: {"data": json.dumps(STREAMED).encode(), "chunked": True},
    "compress": lambda: {"json": STREAMED, "compress": True},
    "cookies": lambda: {"json": STREAMED, "cookies": {"a": "b"}},
    "params": lambda: {"json": STREAMED, "params": {"api-version": "1 2"}},
    "generator": lambda: {"data": _generated(json.dumps(STREAMED).encode())},
    "form": lambda: {"data": aiohttp.FormData({"file": io.BytesIO(b"abc")})},
    "pairs": lambda: {"data": {"a": "b"}},
    "both": lambda: {"data": b"{}", "json": STREAMED},
    "nothing": dict,
}


async def _generated(body: bytes) -> AsyncIterator[bytes]:
    yield body[:10]
    yield body[10:]


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "headers": {"headers": {"Authorization": "Bearer x", "X-Default": "1", "content-type": "application/json"}},
    "dumps": {"json_serialize": dumps},
}


def _same_ask(asked: Asked) -> Any:
    """A request without what the option changes in it."""
    headers = {name: value for name, value in asked.headers.items() if name != "content-length"}
    body = asked.body
    if body.startswith(b"--"):  # a form has a boundary of its own
        return asked.method, body.count(b"\r\n")
    if headers.get("content-encoding") == "deflate":
        body = zlib.decompress(body)
    with suppress(ValueError):
        read = json.loads(body)
        read.pop("stream_options", None)
        return asked.method, asked.path, headers, read
    return asked.method, asked.path, headers, body


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("data", DATA)
@on_a_loop
async def test_what_goes_out(meter: Meter, data: str, option: str) -> None:
    async def answer(asked: Asked, out: Out) -> None:
        await out.whole(200, b"{}")

    found = []
    async with serving(answer) as server:
        for kind, wraps in ((aiohttp.ClientSession, False), (aiohttp.ClientSession, True), (Mine, True)):
            async with kind(**OPTIONS[option]) as session:
                if wraps:
                    meter.wrap(session)
                try:
                    async with session.request(method="post", url=server.url, **DATA[data]()) as response:
                        await response.read()
                    found.append(_same_ask(server.asked[-1]))
                except ValueError as error:
                    found.append(str(error))
    assert found[0] == found[1] == found[2]


@on_a_loop
async def test_the_bodies_of_the_callers_own_serializer(meter: Meter, calls: CapturedCalls) -> None:
    times = 0

    def once(value: Any) -> str:
        nonlocal times
        times += 1
        return json.dumps(value)

    async with serving() as server, aiohttp.ClientSession(json_serialize=once) as session:
        await (await meter.wrap(session).post(server.url, json=STREAMED)).read()
        assert times == 1
        if VERSION >= (3, 14):
            async with aiohttp.ClientSession(json_serialize_bytes=lambda value: once(value | ASK).encode()) as other:
                await (await meter.wrap(other).post(server.url, json={"stream": True})).read()
            assert times == 2
            assert calls[1].model == ASK["model"]


@on_a_loop
async def test_base_urls_and_redirects(meter: Meter, calls: CapturedCalls) -> None:
    async def answer(asked: Asked, out: Out) -> None:
        if asked.path == PATH:
            await out.whole(307, b"", location="/other")
        elif asked.path == "/other":
            await out.whole(308, b"", location="/third" + PATH)
        else:
            await as_openai(asked, out)

    async with serving(answer) as server:
        base = server.url.removesuffix(PATH)

        async def post(session: Any) -> Any:
            async with session.post(PATH, json=STREAMED) as response:
                return await response.read(), response.url, [past.status for past in response.history]

        await both(meter, server, post, base_url=base)
        assert [asked.path for asked in server.asked] == [PATH, "/other", "/third" + PATH] * 2
    settled(meter, calls)
    assert calls[0].cost_nanos == COST_NANOS


@on_a_loop
async def test_traces_and_middlewares(meter: Meter, calls: CapturedCalls) -> None:
    def traced(seen: list[str]) -> Any:
        config = aiohttp.TraceConfig()
        for name in ("request_start", "request_end", "request_exception", "response_chunk_received"):

            async def on(session: Any, ctx: Any, params: Any, name: str = name) -> None:
                seen.append(name)

            getattr(config, "on_" + name).append(on)
        return config

    async def twice(request: Any, handler: Any) -> Any:
        (await handler(request)).release()
        return await handler(request)

    seen: list[list[str]] = [[], []]
    async with serving() as server:
        for found, wraps in zip(seen, (False, True), strict=True):
            options = {"middlewares": [twice]} if VERSION >= (3, 12) else {}
            async with aiohttp.ClientSession(trace_configs=[traced(found)], **options) as session:
                if wraps:
                    meter.wrap(session)
                await (await session.post(server.url, json=STREAMED)).read()
    assert seen[0] == seen[1]
    assert len(seen[0]) > 2
    settled(meter, calls)


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@pytest.mark.parametrize("rejects", [False, True], ids=["takes", "rejects"])
@on_a_loop
async def test_a_body_that_was_read_on_its_way(meter: Meter, calls: CapturedCalls, ask: Any, rejects: bool) -> None:
    async def read(response: Any) -> None:
        await response.read()

    async def ask_for(session: Any) -> Any:
        async with session.post(server.url, json=ask, raise_for_status=read) as response:
            return await response.text(), response.content.at_eof()

    async with serving(rejecting if rejects else as_openai) as server:
        await both(meter, server, ask_for)
    settled(meter, calls)
    assert calls[0].estimated is (rejects and ask is STREAMED)


@on_a_loop
async def test_websockets_are_not_touched(meter: Meter, calls: CapturedCalls) -> None:
    from aiohttp import web
    from aiohttp.test_utils import TestServer

    async def echo(request: Any) -> Any:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/v1/responses", echo)
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession() as session,
        meter.wrap(session).ws_connect(server.make_url("/v1/responses")) as socket,
    ):
        await socket.send_str("hi")
        assert (await socket.receive()).data == "hi"
    settled(meter, calls, 0)


class Paced:
    """A stream whose pieces a test lets go one by one."""

    def __init__(self) -> None:
        self.go = asyncio.Semaphore(0)
        self.cut = False
        self.done = asyncio.Event()

    async def __call__(self, asked: Asked, out: Out) -> None:
        try:
            await out.head(kind="text/event-stream")
            for piece in chat_events(usage="stream_options" in asked.json):
                await self.go.acquire()
                if self.cut:
                    out.cut()
                    return
                await out.piece(piece)
                await out.flush()
            await out.end()
        finally:
            self.done.set()


async def _left(response: Any) -> None:
    async with response:
        async for _ in response.content:
            break


async def _closed(response: Any) -> None:
    await response.content.readany()
    response.close()


async def _released(response: Any) -> None:
    await response.content.readany()
    response.release()


async def _never_read(response: Any) -> None:
    response.release()


async def _cancelled(response: Any) -> None:
    task = asyncio.create_task(response.read())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _timed_out(response: Any) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(response.text(), 0.01)


ENDS = [_left, _closed, _released, _never_read, _cancelled, _timed_out]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("store", ["memory", "sqlite"])
@on_a_loop
async def test_a_stream_that_is_given_up(
    calls: CapturedCalls, tmp_path: Path, end: Callable[[Any], Awaitable[None]], store: str
) -> None:
    limits = [Budget("$10", per="total"), Budget("1000 calls", per="total")]
    at = "memory://" if store == "memory" else f"sqlite:///{tmp_path}/books.db"
    paced = Paced()
    paced.go.release()
    paced.go.release()
    with Meter(budgets=limits, store=at, recorders=[calls]) as meter:
        async with serving(paced) as server, aiohttp.ClientSession() as session:
            response = await meter.wrap(session).post(server.url, json=STREAMED)
            await end(response)
            settled(meter, calls)
            assert calls[0].estimated
            assert calls[0].cost_nanos
            with pytest.raises(aiohttp.ClientConnectionError):
                await response.content.read()
            response.close()
        settled(meter, calls)


@on_a_loop
async def test_a_read_that_is_asked_for_once_more(meter: Meter, calls: CapturedCalls) -> None:
    paced = Paced()
    async with (
        serving(paced) as server,
        aiohttp.ClientSession() as session,
        meter.wrap(session).post(server.url, json=STREAMED) as response,
    ):
        found = b""
        while not response.content.at_eof():
            with suppress(TimeoutError):
                found += await asyncio.wait_for(response.content.readany(), 0.005)
                continue
            paced.go.release()
        assert found == b"".join(chat_events(usage=False))
    settled(meter, calls)
    assert (calls[0].cost_nanos, calls[0].estimated) == (COST_NANOS, False)


@on_a_loop
async def test_two_that_read_at_once(meter: Meter, calls: CapturedCalls) -> None:
    paced = Paced()

    async def clash(session: Any) -> None:
        async with session.post(server.url, json=STREAMED) as response:
            first = asyncio.create_task(response.content.readany())
            await asyncio.sleep(0)
            try:
                await response.content.read(3)
            finally:
                first.cancel()

    async with serving(paced) as server:
        await both(meter, server, clash)
    settled(meter, calls)


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
@on_a_loop
async def test_a_server_that_cuts(meter: Meter, calls: CapturedCalls, pieces: int, reads: bool) -> None:
    async with serving() as server:
        failures: list[Any] = []

        async def cut(session: Any) -> Any:
            server.answer = paced = Paced()
            for _ in range(pieces):
                paced.go.release()
            response = await session.post(server.url, json=STREAMED)
            first = await response.content.readline()
            paced.cut = True
            paced.go.release()
            await paced.done.wait()
            while response.content.exception() is None:
                await asyncio.sleep(0.001)
            if not reads:
                response.release()
                failures.append(response.content.exception())
                return first, type(response.content.exception())
            try:
                return first, await response.content.read()
            finally:
                meter.flush()
                assert len(calls) == len(failures)
                failures.append(response)  # still there, and so is its body
                response.close()

        await both(meter, server, cut)
    settled(meter, calls)
    assert calls[0].estimated
    assert calls[0].error_type == "ClientPayloadError"


@on_a_loop
async def test_a_body_that_ends_early_and_says_nothing(meter: Meter, calls: CapturedCalls) -> None:
    async def answer(asked: Asked, out: Out) -> None:
        await out.head(kind="text/event-stream")
        for piece in chat_events(usage=False)[:3]:
            await out.piece(piece)
        await out.end()

    async with serving(answer) as server:
        await both(meter, server, lambda session: use(session, server, "read", STREAMED))
    settled(meter, calls)
    assert calls[0].estimated


@on_a_loop
async def test_what_came_before_a_cut_is_read(meter: Meter, calls: CapturedCalls) -> None:
    async def answer(asked: Asked, out: Out) -> None:
        await out.head(kind="text/event-stream", content_length="10000")
        await out.piece(b"".join(chat_events(usage="stream_options" in asked.json)[:-1]))
        await out.flush()
        out.close()

    async def read(session: Any) -> Any:
        async with session.post(server.url, json=STREAMED) as response:
            found = b""
            try:
                while True:
                    found += await response.content.readany()
            except aiohttp.ClientPayloadError as error:
                return found, type(error)

    async with serving(answer) as server:
        await both(meter, server, read)
    settled(meter, calls)


async def _read_after_total(session: Any, url: str) -> Any:
    timeout = aiohttp.ClientTimeout(total=0.05)
    async with session.post(url, json=STREAMED, timeout=timeout) as response:
        found = await response.content.readline()
        with pytest.raises(TimeoutError):
            await response.content.read()
        return found


async def _read_slowly(session: Any, url: str) -> Any:
    timeout = aiohttp.ClientTimeout(sock_read=0.05)
    async with session.post(url, json=STREAMED, timeout=timeout) as response:
        return await response.read()


@pytest.mark.parametrize("read", [_read_after_total, _read_slowly])
@on_a_loop
async def test_timeouts_in_a_stream(
    meter: Meter, calls: CapturedCalls, read: Callable[[Any, str], Awaitable[Any]]
) -> None:
    async def answer(asked: Asked, out: Out) -> None:
        paced = Paced()
        paced.go.release()
        await paced(asked, out)

    async with serving(answer) as server:
        await both(meter, server, lambda session: read(session, server.url))
    settled(meter, calls)
    assert calls[0].estimated


@on_a_loop
async def test_a_response_that_is_dropped(meter: Meter, calls: CapturedCalls) -> None:
    paced = Paced()
    paced.go.release()
    async with serving(paced) as server, aiohttp.ClientSession() as session:
        response = await meter.wrap(session).post(server.url, json=STREAMED)
        await response.content.readany()
        del response
        for _ in range(20):
            paced.go.release()
        await paced.done.wait()
        for _ in range(100):
            gc.collect()
            if calls:
                break
            await asyncio.sleep(0.01)
        settled(meter, calls)


def test_a_loop_that_is_closed_in_a_stream(meter: Meter, calls: CapturedCalls) -> None:
    async def leave(wraps: bool) -> Any:
        paced = Paced()
        paced.go.release()
        async with serving(paced) as server, aiohttp.ClientSession() as session:
            if wraps:
                meter.wrap(session)
            response = await session.post(server.url, json=STREAMED)
            await response.content.readany()
            return response

    told = []
    for wraps in (False, True):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            response = asyncio.run(leave(wraps))
            response.close()
            del response
            gc.collect()
        told.append([str(each.message)[:30] for each in warned if each.category is ResourceWarning])
    assert told[0] == told[1]
    settled(meter, calls)


class Nowhere(aiohttp.abc.AbstractResolver):  # type: ignore[misc, name-defined]
    """Knows no name, or doesn't come to an end."""

    def __init__(self, *, waits: bool = False) -> None:
        self._waits = waits

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[Any]:
        if self._waits:
            await asyncio.Event().wait()
        raise OSError(f"no {host}")

    async def close(self) -> None:
        pass


ELSEWHERE = "http://elsewhere.example" + PATH


async def _refused(url: str, **given: Any) -> Any:
    async with aiohttp.ClientSession() as session:
        yield session, "http://127.0.0.1:9" + PATH, given


async def _dns(url: str) -> Any:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=Nowhere())) as session:
        yield session, ELSEWHERE, {}


async def _closed_session(url: str) -> Any:
    session = aiohttp.ClientSession()
    await session.close()
    yield session, url, {}


async def _connects_too_long(url: str, **timeout: float) -> Any:
    connector = aiohttp.TCPConnector(resolver=Nowhere(waits=True))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session, ELSEWHERE, {"timeout": aiohttp.ClientTimeout(**timeout)}


async def _odd(url: str, **given: Any) -> Any:
    async with aiohttp.ClientSession() as session:
        yield session, url, given


async def _trace_that_raises(url: str) -> Any:
    config = aiohttp.TraceConfig()

    async def fail(session: Any, ctx: Any, params: Any) -> None:
        raise LookupError("mine")

    config.on_request_start.append(fail)
    async with aiohttp.ClientSession(trace_configs=[config]) as session:
        yield session, url, {}


async def _middleware_that_raises(url: str) -> Any:
    async def fail(request: Any, handler: Any) -> Any:
        raise LookupError("mine")

    async with aiohttp.ClientSession(middlewares=[fail]) as session:
        yield session, url, {}


UNSENT: dict[str, Callable[[str], Any]] = {
    "refused": _refused,
    "dns": _dns,
    "closed": _closed_session,
    "connect": lambda url: _connects_too_long(url, connect=0.01),
    "total": lambda url: _connects_too_long(url, total=0.01),
    "proxy": lambda url: _refused(url, proxy="http://127.0.0.1:9"),
    "two logins": lambda url: _odd(url, auth=aiohttp.BasicAuth("a"), headers={"Authorization": "b"}),
    "no such option": lambda url: _odd(url, bogus=1),
    "trace": _trace_that_raises,
    "middleware": _middleware_that_raises,
}


@pytest.mark.parametrize("way", UNSENT)
@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@pytest.mark.filterwarnings("ignore:.*auth.*:DeprecationWarning")
@on_a_loop
async def test_what_was_never_sent_costs_nothing(meter: Meter, calls: CapturedCalls, way: str, ask: Any) -> None:
    if way == "middleware" and VERSION < (3, 12):
        pytest.skip("this aiohttp has none")
    found = []
    async with serving() as server:
        for wraps in (False, True):
            async for session, url, given in UNSENT[way](server.url):
                if wraps:
                    meter.wrap(session)
                with pytest.raises(Exception) as caught:  # noqa: PT011 - the bare client's
                    await session.post(url, json=ask, **given)
                found.append((caught.type, str(caught.value)))
        assert not server.asked
    assert found[0] == found[1]
    settled(meter, calls)
    assert calls[0].cost_nanos is None
    assert [left.spent for left in meter.remaining()] == [0, 0]


@on_a_loop
async def test_cancelled_before_it_was_sent(meter: Meter, calls: CapturedCalls) -> None:
    paced = Paced()
    connector = aiohttp.TCPConnector(limit=1)
    async with serving(paced) as server, aiohttp.ClientSession(connector=connector) as session:
        first = await meter.wrap(session).post(server.url, json=STREAMED)
        with pytest.raises(TimeoutError):  # there is no connection left
            await asyncio.wait_for(session.post(server.url, json=STREAMED), 0.01)
        assert len(server.asked) == 1
        first.close()
    connector = aiohttp.TCPConnector(resolver=Nowhere(waits=True))
    async with aiohttp.ClientSession(connector=connector) as session:
        task = asyncio.create_task(meter.wrap(session)._request("POST", ELSEWHERE, json=ASK))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    settled(meter, calls, 3)
    assert [bool(row.cost_nanos) for row in calls] == [False, True, False]


async def _cancelled_while_it_waits(session: Any, url: str) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(session.post(url, json=ASK), 0.1)


async def _too_late(session: Any, url: str) -> None:
    with pytest.raises(TimeoutError):
        await session.post(url, json=ASK, timeout=aiohttp.ClientTimeout(total=0.1))


async def _silent(session: Any, url: str) -> None:
    with pytest.raises(aiohttp.ServerTimeoutError):
        await session.post(url, json=ASK, timeout=aiohttp.ClientTimeout(sock_read=0.1))


async def _own_check(session: Any, url: str) -> None:
    async def check(response: Any) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError):
        await session.post(url.replace(PATH, "/answers" + PATH), json=ASK, raise_for_status=check)


async def _cut(session: Any, url: str) -> None:
    with pytest.raises(aiohttp.ClientError):
        await session.post(url.replace(PATH, "/cuts" + PATH), json=ASK)


async def _nonsense(session: Any, url: str) -> None:
    with pytest.raises(aiohttp.ClientResponseError):
        await session.post(url.replace(PATH, "/garbles" + PATH), json=ASK)


async def _redirected(session: Any, url: str) -> None:
    with pytest.raises(aiohttp.ClientError):
        await session.post(url.replace(PATH, "/leads" + PATH), json=ASK)


@pytest.mark.parametrize(
    "way", [_cancelled_while_it_waits, _too_late, _silent, _own_check, _cut, _nonsense, _redirected]
)
@on_a_loop
async def test_what_was_sent_is_charged(
    meter: Meter, calls: CapturedCalls, way: Callable[[Any, str], Awaitable[None]]
) -> None:
    async def answer(asked: Asked, out: Out) -> None:
        if asked.path.startswith("/answers"):
            await as_openai(asked, out)
        elif asked.path.startswith("/leads"):
            await out.whole(307, b"", location="/cuts" + PATH)
        elif asked.path.startswith("/cuts"):
            out.cut()
        elif asked.path.startswith("/garbles"):
            await out.head(status=20_000)
            await out.flush()
        else:
            await asyncio.Event().wait()

    async with serving(answer) as server, aiohttp.ClientSession() as session:
        await way(meter.wrap(session), server.url)
        assert server.asked
    settled(meter, calls)
    assert calls[0].estimated
    assert calls[0].cost_nanos


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@on_a_loop
async def test_many_at_once_through_a_narrow_budget(tmp_path: Path, store: str, ask: Any) -> None:
    at = "memory://" if store == "memory" else f"sqlite:///{tmp_path}/books.db"
    with Meter(budgets=[Budget("10 calls", per="total", wait_s=0)], store=at) as meter:
        async with serving() as server, aiohttp.ClientSession() as session:
            meter.wrap(session)

            async def post() -> bool:
                try:
                    async with session.post(server.url, json=ask) as response:
                        await response.read()
                except BudgetExceeded:
                    return False
                return True

            assert sum(await asyncio.gather(*[post() for _ in range(50)])) == 10
            assert len(server.asked) == 10
        left = meter.remaining()[0]
        assert (left.spent, left.held, left.left) == (10, 0, 0)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("flows", [True, False], ids=["flows", "at-once"])
@on_a_loop
async def test_a_stream_whose_hold_cannot_grow(calls: CapturedCalls, tmp_path: Path, store: str, flows: bool) -> None:
    pieces = [*[event(chunk({"content": "word " * 200})) for _ in range(100)], b"data: [DONE]\n\n"]

    async def answer(asked: Asked, out: Out) -> None:
        await out.head(kind="text/event-stream")
        for piece in pieces:
            await out.piece(piece)
            if flows:
                await out.flush()
                await asyncio.sleep(0.001)
        await out.end()

    at = "memory://" if store == "memory" else f"sqlite:///{tmp_path}/books.db"
    limit = Budget("8000 tokens", per="total", hold="expected", extend_streams=True, wait_s=0)
    with Meter(budgets=[limit], store=at, recorders=[calls]) as meter:
        async with serving(answer) as server, aiohttp.ClientSession() as session:
            meter.wrap(session)
            async with session.post(server.url, json=STREAMED | {"max_tokens": 2_000_000}) as response:
                if not flows:
                    await response.content.wait_eof()
                found = b""
                with suppress(BudgetExceeded):
                    while piece := await response.content.readany():
                        found += piece
                assert bool(found) is flows
                assert found != b"".join(pieces)
                assert b"".join(pieces).startswith(found)
                with pytest.raises(BudgetExceeded):
                    await response.content.readany()
        meter.flush()
        assert len(calls) == 1
        assert meter.remaining()[0].held == 0


@on_a_loop
async def test_counted_once(meter: Meter, calls: CapturedCalls) -> None:
    before = vars(aiohttp.ClientSession)["_request"]
    async with serving() as server:
        with Meter(budgets=[Budget("1000 calls", per="total")]) as other:
            early = aiohttp.ClientSession()
            meter.instrument()
            meter.wrap(early)
            meter.wrap(early)
            other.wrap(early)
            for session in (early, aiohttp.ClientSession()):
                async with session, session.post(server.url, json=STREAMED) as response:
                    assert await response.read() == b"".join(chat_events(usage=False))
            async with aiohttp.request("POST", server.url, json=ASK) as response:
                assert await response.json() == json.loads(chat_body())
            meter.uninstrument()
            assert vars(aiohttp.ClientSession)["_request"] is before
            settled(meter, calls, 3)
            assert [row.cost_nanos for row in calls] == [COST_NANOS] * 3
            other.flush()
            assert other.spend().calls == 1
            assert other.remaining()[0].held == 0


class OverAiohttp(httpx.AsyncBaseTransport):
    """As the transports that some SDKs bring along."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            data: Any = request.content
        except httpx.RequestNotRead:
            data = request.stream
        url = str(request.url)
        async with self._session.post(url, data=data, headers=request.headers, allow_redirects=False) as response:
            body = await response.read()
            return httpx.Response(response.status, headers=response.headers, content=body, request=request)


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@pytest.mark.parametrize("path", [PATH, "/moved", "/model/a.b%3A0/invoke"])
@on_a_loop
async def test_counted_once_below_httpx(meter: Meter, calls: CapturedCalls, ask: Any, path: str) -> None:
    async def answer(asked: Asked, out: Out) -> None:
        if asked.path == PATH and path == "/moved":
            await out.whole(307, b"", location=path + PATH)
        else:
            await as_openai(asked, out)

    meter.instrument()
    async with serving(answer) as server, aiohttp.ClientSession() as session:
        url = server.url if path == "/moved" else server.url.replace(PATH, path)
        async with httpx.AsyncClient(transport=OverAiohttp(session), follow_redirects=True) as client:
            response = await client.post(url, json=ask)
            assert response.status_code == 200
    settled(meter, calls)


@pytest.mark.parametrize("read", ["read", "readchunk", "nowait", "iter_chunked"])
@on_a_loop
async def test_through_two_meters(meter: Meter, calls: CapturedCalls, read: str) -> None:
    with Meter() as other:
        async with serving() as server, aiohttp.ClientSession() as bare, aiohttp.ClientSession() as session:
            expected = await use(bare, server, read, STREAMED)
            assert await use(other.wrap(meter.wrap(session)), server, read, STREAMED) == expected
        other.flush()
        assert other.spend().calls == 1
        assert int(other.spend().usd * 10**9) == COST_NANOS
    settled(meter, calls)
    assert calls[0].cost_nanos == COST_NANOS


@pytest.mark.parametrize("of_session", [False, True], ids=["of-call", "of-session"])
@pytest.mark.parametrize("keeps", [False, True], ids=["kept-back", "propagated"])
@on_a_loop
async def test_baggage_stays_here(calls: CapturedCalls, keeps: bool, of_session: bool) -> None:
    config = aiohttp.TraceConfig()

    async def inject(session: Any, ctx: Any, params: Any) -> None:  # as the instrumentation of OpenTelemetry does
        carried: dict[str, str] = {}
        propagate.inject(carried)
        if found := carried.get("baggage"):
            params.headers["x-injected"] = found

    config.on_request_start.append(inject)
    headers = {"baggage": "who=alice"}
    options = {"headers": headers} if of_session else {}
    given = {} if of_session else {"headers": headers}
    token = context.attach(baggage.set_baggage("who", "alice"))
    try:
        with Meter(recorders=[calls], propagate_baggage=keeps) as meter:
            async with serving() as server, aiohttp.ClientSession(trace_configs=[config], **options) as session:
                await (await meter.wrap(session).post(server.url, json=STREAMED, **given)).read()
                sent = server.asked[0].headers
    finally:
        context.detach(token)
    assert len(calls) == 1
    assert (sent.get("baggage") or None) == ("who=alice" if keeps else None)
    assert sent.get("x-injected") == ("who=alice" if keeps else None)


@on_a_loop
async def test_a_session_that_lets_nobody_set_anything(meter: Meter) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)

        class Strict(aiohttp.ClientSession):  # type: ignore[misc, name-defined]
            def __setattr__(self, name: str, value: Any) -> None:  # in Python's development mode all warn
                assert name in self.ATTRS
                object.__setattr__(self, name, value)

    async with Strict() as session:
        meter.wrap(session)
        assert "_request" in vars(session)
        meter.close()
        assert "_request" not in vars(session)
