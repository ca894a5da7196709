"""What passes by is not kept: a stream costs constant memory, however long it is."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.clients.faces import (
    ASK,
    INPUT,
    OUTPUT,
    URL,
    WORDS,
    Face,
    chat_body,
    chat_events,
    chunk,
    come,
    event,
    on_a_loop,
)
from tokenmeter import Meter
from tokenmeter.pricing import InputBound, PriceBook
from tokenmeter.testing import CapturedCalls

STREAMED = ASK | {"stream": True}
MB = 1_000_000


def endless(face: Face, piece: bytes, times: int, tail: bytes = b"") -> Any:
    """A body that is made while it is read."""

    class Body(face.library.SyncByteStream, face.library.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[bytes]:
            for _ in range(times):
                yield piece
            if tail:
                yield tail

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for one in self:
                yield one

    return Body()


def answering(face: Face, body: Any, content_type: str) -> Any:
    def handler(request: Any) -> Any:
        return face.library.Response(200, headers={"content-type": content_type}, stream=body)

    return face.client(handler)


async def passed(face: Face, client: Any, method: str, url: str, ask: Any) -> int:
    """Streams a body, forgetting it, and says how many bytes there were."""
    response = await come(client.send(client.build_request(method, url, json=ask), stream=True))
    total = 0
    if face.is_async:
        async for piece in response.aiter_bytes():
            total += len(piece)
    else:
        for piece in response.iter_bytes():
            total += len(piece)
    await face.close(response)
    return total


@pytest.fixture(autouse=True, scope="module")
def prices() -> None:
    """Prices are loaded beside the first call: that is not what is measured here."""
    book = PriceBook()
    book.preload()
    InputBound().preload()


async def peak_of(face: Face, client: Any, method: str, url: str, ask: Any) -> tuple[int, int]:
    """Bytes that passed, and bytes of memory that were in use at the same time for it."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        total = await passed(face, client, method, url, ask)
        return total, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@on_a_loop
async def test_50_mb_that_are_no_model_call(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    client = meter.wrap(answering(face, endless(face, b"x" * 65_536, 800), "application/octet-stream"))
    total, peak = await peak_of(face, client, "GET", "https://api.openai.com/v1/files/file-1/content", None)
    assert total == 800 * 65_536
    assert peak < MB
    assert len(calls) == 0


@on_a_loop
async def test_50_mb_at_a_models_address(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    """Whatever it is, it is no answer that could be read."""
    client = meter.wrap(answering(face, endless(face, b"x" * 65_536, 800), "application/octet-stream"))
    total, peak = await peak_of(face, client, "POST", URL, ASK)
    assert total == 800 * 65_536
    assert peak < 4 * MB
    assert calls[0].estimated


@on_a_loop
async def test_a_large_answer_waits_for_nothing(face: Face) -> None:
    """What is told later is kept until then."""
    body = chat_body() + b" " * 70_000
    with Meter() as meter:
        client = meter.wrap(face.client(lambda _: face.library.Response(200, content=body)))
        for _ in range(3):
            await come(client.post(URL, json=ASK))
            assert not meter._later._waiting
        assert meter.spend().calls == 3


@pytest.mark.parametrize(("asked", "events"), [(False, 20_000), (True, 200_000)], ids=["hidden", "asked"])
@on_a_loop
async def test_a_stream_that_goes_on_and_on(
    face: Face, meter: Meter, calls: CapturedCalls, asked: bool, events: int
) -> None:
    ask = STREAMED | ({"stream_options": {"include_usage": True}} if asked else {})
    one = event(chunk({"content": WORDS[0]}) | {"usage": None})
    together = 100  # in one read, as from a fast server
    end = b"".join(chat_events(usage=True)[-3:])
    client = meter.wrap(answering(face, endless(face, one * together, events // together, end), "text/event-stream"))
    total, peak = await peak_of(face, client, "POST", URL, ask)
    shown = event(chunk({"content": WORDS[0]}))
    last = sum(map(len, chat_events(usage=False)[-2:]))
    assert total == (events * len(one) + len(end) if asked else events * len(shown) + last)
    assert peak < MB
    [row] = calls
    assert row.usage is not None
    assert (row.usage.input_tokens, row.usage.output_tokens, row.estimated) == (INPUT, OUTPUT, False)


@on_a_loop
async def test_one_event_of_10_mb(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    start, end = event(chunk({"content": "@"})).split(b"@")
    body = endless(face, b"y" * 50_000, 200, end + b"".join(chat_events(usage=True)[-3:]))

    class Body(face.library.SyncByteStream, face.library.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[bytes]:
            yield start
            yield from body

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield start
            async for piece in body:
                yield piece

    client = meter.wrap(answering(face, Body(), "text/event-stream"))
    total, peak = await peak_of(face, client, "POST", URL, STREAMED)
    assert total == len(start) + 10_000_000 + len(end) + len(chat_events(usage=False)[-2]) + 14
    assert peak < 3 * MB
    [row] = calls
    assert row.usage is not None
    assert (row.usage.input_tokens, row.usage.output_tokens) == (INPUT, OUTPUT)


@on_a_loop
async def test_a_body_that_grows_a_thousandfold_when_it_is_unpacked(
    face: Face, meter: Meter, calls: CapturedCalls
) -> None:
    packed = gzip.compress(b'{"a":"' + b"z" * (60 * MB), mtime=0)

    def handler(request: Any) -> Any:
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        return face.response(200, [packed], headers)

    client = meter.wrap(face.client(handler))
    tracemalloc.start()
    try:
        response = await come(client.send(client.build_request("POST", URL, json=ASK), stream=True))
        await face.pieces(response, "iter_raw")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    await face.close(response)
    assert peak < 8 * MB
    assert len(calls) == 1
