"""lm15's transports over real connections: the bare answers and errors, and each call counted once."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.clients.faces import ASK, COST_NANOS, chat_body, chat_events
from tests.clients.loopback import Asked, Says, Served, closed_port, serving
from tests.clients.test_for_urllib3 import OPTED, STREAMED, chat
from tokenmeter import Budget, BudgetExceeded, Meter
from tokenmeter.testing import CapturedCalls

transports = pytest.importorskip("lm15.transports", reason="lm15 is not installed")

PATH = "/v1/chat/completions"
PLAIN = b"".join(chat_events(usage=False))


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(chat) as found:
        yield found


@pytest.fixture
def budgeted(calls: CapturedCalls) -> Iterator[Meter]:
    with Meter([Budget("$1", per="total")], recorders=[calls]) as meter:
        meter.instrument()
        yield meter


def asks(url: str, body: Any = ASK, **headers: str) -> Any:
    named = [("Content-Type", "application/json"), *headers.items()]
    return transports.TransportRequest("POST", url + PATH, named, json.dumps(body).encode())


def whole(request: Any) -> tuple[int, list[bytes]]:
    with transports.StdlibTransport() as transport, transport.stream(request) as response:
        return response.status, list(response)


def whole_async(request: Any) -> tuple[int, list[bytes]]:
    async def ask() -> tuple[int, list[bytes]]:
        async with transports.StdlibAsyncTransport() as transport:
            response = await transport.stream(request)
            try:
                return response.status, [piece async for piece in response]
            finally:
                await response.aclose()

    return asyncio.run(asyncio.wait_for(ask(), 60))


BOTH = pytest.mark.parametrize("way", [whole, whole_async])
Way = Callable[[Any], tuple[int, list[bytes]]]


def held(meter: Meter) -> list[Any]:
    return [state.held for state in meter.remaining()]


@BOTH
@pytest.mark.parametrize("ask", [ASK, STREAMED, OPTED], ids=["whole", "sse", "usage"])
def test_the_bare_answer(way: Way, served: Served, calls: CapturedCalls, ask: Any) -> None:
    bare = way(asks(served.url, ask))
    with Meter([Budget("$1", per="total")], recorders=[calls]) as meter:
        meter.instrument()
        status, pieces = way(asks(served.url, ask))
        assert (status, b"".join(pieces)) == (bare[0], b"".join(bare[1]))
        meter.flush()
        assert held(meter) == [0]
    assert [(row.cost_nanos, row.estimated) for row in calls] == [(COST_NANOS, False)]
    assert len(served.arrived) == 2


@BOTH
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_coding_that_the_transport_undoes(way: Way, coding: str, budgeted: Meter, calls: CapturedCalls) -> None:
    with serving(lambda asked: chat(asked, coding, "chunked")) as found:
        _, pieces = way(asks(found.url, STREAMED))
    assert b"".join(pieces) == PLAIN
    assert [(row.cost_nanos, row.estimated) for row in calls] == [(COST_NANOS, False)]


@BOTH
def test_a_server_that_rejects_the_option_is_asked_without_it(way: Way, budgeted: Meter, calls: CapturedCalls) -> None:
    with serving(rejecting) as found:
        status, pieces = way(asks(found.url, STREAMED))
    assert (status, b"".join(pieces)) == (200, PLAIN)
    assert [b"stream_options" in body for body in found.bodies()] == [True, False]
    assert len(calls) == 1


def rejecting(asked: Asked) -> Says:
    if b"stream_options" not in asked.body:
        return chat(asked)
    error = {"error": {"message": "Unknown parameter: 'stream_options'", "param": "stream_options"}}
    return Says(status=400, pieces=[json.dumps(error).encode()])


def again(first: str, then: str, *, is_async: bool) -> tuple[bytes, bytes, dict[str, int]]:
    """One stream after another over the only connection there may be; what a budget cuts is kept as far as it came."""

    async def ask() -> tuple[bytes, bytes, dict[str, int]]:
        found = []
        async with transports.StdlibAsyncTransport(max_connections=1, pool_timeout=5) as transport:
            for url in (first, then):
                pieces: list[bytes] = []
                with suppress(BudgetExceeded):
                    async with transport.stream(asks(url, STREAMED)) as response:
                        async for piece in response:
                            pieces.append(piece)
                found.append(b"".join(pieces))
            return found[0], found[1], transport.pool_stats()

    if is_async:
        return asyncio.run(asyncio.wait_for(ask(), 60))
    found = []
    with transports.StdlibTransport(max_connections=1, pool_timeout=5) as transport:
        for url in (first, then):
            pieces: list[bytes] = []
            with suppress(BudgetExceeded), transport.stream(asks(url, STREAMED)) as response:
                for piece in response:
                    pieces.append(piece)
            found.append(b"".join(pieces))
        return found[0], found[1], transport.pool_stats()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_rejection_gives_back_its_connection(is_async: bool, budgeted: Meter) -> None:
    with serving(rejecting) as found:
        *plain, stats = again(found.url, found.url, is_async=is_async)
    assert plain == [PLAIN, PLAIN]
    assert stats == {"idle": 1, "in_use": 0, "total_opened": 1}


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_that_a_budget_ends_gives_back_its_place(is_async: bool, served: Served) -> None:
    long = Says(kind="text/event-stream", pieces=[chat_events(usage=False)[1]] * 2_000)
    with Meter([Budget("$0.001", per="total", extend_streams=True, wait_s=0)]) as meter, serving(long) as found:
        meter.instrument()
        cut, _, stats = again(found.url, served.url, is_async=is_async)
    assert len(cut) < len(b"".join(long.pieces))
    assert stats["in_use"] == 0


@BOTH
@pytest.mark.parametrize("status", [400, 401, 422, 429, 500])
def test_errors_are_the_servers_own_and_cost_nothing(
    way: Way, status: int, budgeted: Meter, calls: CapturedCalls
) -> None:
    with serving(Says(status=status, pieces=[b'{"error":', b'"no"}'])) as found:
        for ask in (ASK, STREAMED):
            got, pieces = way(asks(found.url, ask))
            assert (got, b"".join(pieces)) == (status, b'{"error":"no"}')
    assert [(row.error_type, row.usage) for row in calls] == [(str(status), None)] * 2
    assert held(budgeted) == [0]


@BOTH
def test_what_never_left_is_not_charged(way: Way, budgeted: Meter, calls: CapturedCalls) -> None:
    with pytest.raises(transports.ConnectError):
        way(asks(f"http://127.0.0.1:{closed_port()}"))
    with pytest.raises(ValueError, match="URL"):
        way(transports.TransportRequest("POST", "nonsense", [], b"{}"))
    assert [(row.status, row.usage) for row in calls] == [("error", None)]
    assert held(budgeted) == [0]


@BOTH
def test_a_key_with_a_line_too_many_is_not_charged(
    way: Way, served: Served, budgeted: Meter, calls: CapturedCalls
) -> None:
    request = asks(served.url)
    request.headers.append(("Authorization", "Bearer from-a-file\n"))
    with pytest.raises(transports.ProtocolError):
        way(request)
    assert [(row.status, row.usage) for row in calls] == [("error", None)]
    assert not served.arrived
    assert held(budgeted) == [0]


def test_whoever_is_cancelled_while_it_waits_for_a_connection_is_not_charged(
    budgeted: Meter, calls: CapturedCalls
) -> None:
    async def ask(url: str) -> None:
        transport = transports.StdlibAsyncTransport(max_connections=1)
        async with transport, transport.stream(asks(url, STREAMED)):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(transport._do_stream(asks(url, STREAMED)), 0.1)
            assert [(row.status, row.usage) for row in calls] == [("error", None)]

    with stalling() as found:
        asyncio.run(asyncio.wait_for(ask(found.url), 30))
    assert len(found.arrived) == 1


def test_a_closed_transport_is_not_charged(served: Served, budgeted: Meter, calls: CapturedCalls) -> None:
    transport = transports.StdlibTransport()
    transport.close()
    with pytest.raises(transports.TransportError, match="closed"):
        transport.stream(asks(served.url))
    assert [(row.status, row.usage) for row in calls] == [("error", None)]
    assert held(budgeted) == [0]


@BOTH
@pytest.mark.parametrize("cut", [Says(pieces=[chat_body()[:60]], cut=True), None], ids=["body", "head"])
def test_what_is_cut_is_estimated(way: Way, cut: Says | None, budgeted: Meter, calls: CapturedCalls) -> None:
    with serving(lambda asked: cut) as found, pytest.raises(transports.TransportError):
        way(asks(found.url))
    (row,) = calls
    assert row.estimated
    assert held(budgeted) == [0]


def left_early(response: Any) -> None:
    with response:
        next(iter(response))


def closed_unread(response: Any) -> None:
    response.close()


def dropped(response: Any) -> None:
    del response


@contextmanager
def stalling() -> Iterator[Served]:
    """The middle of a stream, and no more until the end of the test."""
    until, events = threading.Event(), chat_events(usage=False)
    pieces = [b"".join(events[:2]), b"".join(events[2:])]
    with serving(Says(kind="text/event-stream", pieces=pieces, until=until)) as found:
        yield found
        until.set()


@pytest.mark.parametrize("end", [left_early, closed_unread, dropped])
def test_a_stream_that_is_left_is_estimated(
    end: Callable[[Any], None], served: Served, budgeted: Meter, calls: CapturedCalls
) -> None:
    with stalling() as found, transports.StdlibTransport() as transport:
        end(transport.stream(asks(found.url, STREAMED)))
        gc.collect()
        budgeted.flush()
        (row,) = calls
        assert row.estimated
        assert held(budgeted) == [0]
        with transport.stream(asks(served.url, STREAMED)) as response:
            assert response.read() == PLAIN


@pytest.mark.parametrize("cancelled", [False, True], ids=["left", "cancelled"])
def test_an_async_stream_that_is_left_is_estimated(cancelled: bool, budgeted: Meter, calls: CapturedCalls) -> None:
    async def read(transport: Any, url: str) -> None:
        async with transport.stream(asks(url, STREAMED)) as response:
            async for _ in response:
                if not cancelled:
                    return

    async def ask(url: str) -> None:
        async with transports.StdlibAsyncTransport() as transport:
            task = asyncio.create_task(read(transport, url))
            if cancelled:
                await asyncio.sleep(0.2)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                await task

    with stalling() as found:
        asyncio.run(asyncio.wait_for(ask(found.url), 30))
    gc.collect()
    budgeted.flush()
    (row,) = calls
    assert row.estimated
    assert held(budgeted) == [0]


@BOTH
def test_a_stream_that_is_closed_unread_is_settled_then(way: Way, budgeted: Meter, calls: CapturedCalls) -> None:
    """Not only once its response is dropped."""

    async def ask(url: str) -> Any:
        async with transports.StdlibAsyncTransport() as transport:
            response = await transport.stream(asks(url, STREAMED))
            await response.aclose()
            return response

    with stalling() as found, transports.StdlibTransport() as transport:
        if way is whole:
            response = transport.stream(asks(found.url, STREAMED))
            response.close()
        else:
            response = asyncio.run(asyncio.wait_for(ask(found.url), 30))
        budgeted.flush()
        assert response.status == 200
        assert [row.estimated for row in calls] == [True]
        assert held(budgeted) == [0]


def test_fifty_threads_on_ten_calls(served: Served) -> None:
    def ask(_: int) -> bool:
        try:
            return whole(asks(served.url, STREAMED))[0] == 200
        except BudgetExceeded:
            return False

    with Meter([Budget("10 calls", per="total")]) as meter, ThreadPoolExecutor(50) as pool:
        meter.instrument()
        assert sum(pool.map(ask, range(50))) == len(served.arrived) == 10
        assert meter.spend().calls == 10
        assert meter.spend().usd * 10**9 == 10 * COST_NANOS
        assert held(meter) == [0]


def test_fifty_tasks_on_ten_calls(served: Served) -> None:
    async def ask(transport: Any) -> bool:
        try:
            async with transport.stream(asks(served.url)) as response:
                return bool(await response.read() == chat_body())
        except BudgetExceeded:
            return False

    async def all_of_them() -> AsyncIterator[bool]:
        async with transports.StdlibAsyncTransport() as transport:
            for found in await asyncio.gather(*(ask(transport) for _ in range(50))):
                yield found

    async def count() -> int:
        return sum([found async for found in all_of_them()])

    with Meter([Budget("10 calls", per="total")]) as meter:
        meter.instrument()
        assert asyncio.run(asyncio.wait_for(count(), 60)) == len(served.arrived) == 10
        assert meter.spend().usd * 10**9 == 10 * COST_NANOS
        assert held(meter) == [0]


def test_a_lowered_cap_goes_out(served: Served) -> None:
    with Meter([Budget("$0.001", per="total")]) as meter:
        meter.instrument()
        whole(asks(served.url))
    (asked,) = served.arrived
    assert json.loads(asked.body)["max_tokens"] > 0
    assert int(asked.headers["content-length"]) == len(asked.body)


def test_a_copy_of_a_wrapped_transport_is_metered(served: Served) -> None:
    with Meter() as meter:
        transport = meter.wrap(transports.StdlibTransport())
        with transport.copy() as copied, copied.stream(asks(served.url)) as response:
            assert response.read() == chat_body()
        assert meter.spend().calls == 1
    assert vars(transport).keys() == vars(transports.StdlibTransport()).keys()


def test_instrument_is_undone() -> None:
    kinds = transports.StdlibTransport, transports.StdlibAsyncTransport
    before = [set(map(id, vars(kind).values())) for kind in kinds]
    with Meter() as meter:
        meter.instrument()
        assert all(set(map(id, vars(kind).values())) != then for kind, then in zip(kinds, before, strict=True))
    assert [set(map(id, vars(kind).values())) for kind in kinds] == before
