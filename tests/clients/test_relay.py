"""However a body ends, the story of its call goes on exactly once."""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.clients.faces import ASK, INPUT, MODEL, OUTPUT, URL, Face, Origin, chat_events, come, on_a_loop
from tokenmeter import Budget, Meter
from tokenmeter.clients import dropped
from tokenmeter.testing import CapturedCalls

STREAMED = ASK | {"stream": True}


@pytest.fixture
def meter(calls: CapturedCalls) -> Iterator[Meter]:
    with Meter([Budget("100 calls")], recorders=[calls]) as meter:
        yield meter
        [left] = meter.remaining()
        assert left.held == 0
        assert left.spent == len(calls)


async def opened(meter: Meter, origin: Origin, ask: dict[str, Any] = STREAMED) -> Any:
    client = meter.wrap(origin.client())
    return await come(client.send(client.build_request("POST", URL, json=ask), stream=True))


def left_early(calls: CapturedCalls, error_type: str | None = None) -> None:
    [row] = calls
    assert (row.status, row.error_type, row.estimated) == ("incomplete", error_type, True)
    assert row.usage is not None
    assert row.cost_nanos


@on_a_loop
async def test_closed_without_a_look(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls) -> None:
    response = await opened(meter, origin)
    assert len(calls) == 0
    await face.close(response)
    await face.close(response)
    left_early(calls)


@on_a_loop
async def test_closed_half_way(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls) -> None:
    response = await opened(meter, origin)
    pieces = response.aiter_raw() if face.is_async else response.iter_raw()
    for _ in range(3):
        await come(anext(pieces) if face.is_async else next(pieces))
    await face.close(response)
    left_early(calls)
    await come(pieces.aclose() if face.is_async else pieces.close())
    assert len(calls) == 1


@on_a_loop
async def test_left_by_break(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls) -> None:
    client = meter.wrap(origin.client())
    if face.is_async:
        async with client.stream("POST", URL, json=STREAMED) as response:
            async for _ in response.aiter_lines():
                break
    else:
        with client.stream("POST", URL, json=STREAMED) as response:
            for _ in response.iter_lines():
                break
    left_early(calls)


@on_a_loop
async def test_dropped(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls) -> None:
    response = await opened(meter, origin)
    del response
    gc.collect()
    left_early(calls)


@on_a_loop
async def test_dropped_half_way(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls) -> None:
    response = await opened(meter, origin)
    pieces = response.aiter_raw() if face.is_async else response.iter_raw()
    await come(anext(pieces) if face.is_async else next(pieces))
    del response, pieces
    gc.collect()
    for _ in range(20):  # each of the nested generators is closed by a task of its own
        await asyncio.sleep(0)
        if not calls:
            gc.collect()
    left_early(calls)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, RuntimeError])
@on_a_loop
async def test_an_error_of_the_callers_own(
    face: Face, origin: Origin, meter: Meter, calls: CapturedCalls, kind: type[BaseException]
) -> None:
    client = meter.wrap(origin.client())
    mine = kind("mine")

    async def fail() -> None:
        if face.is_async:
            async with client.stream("POST", URL, json=STREAMED) as response:
                async for _ in response.aiter_raw():
                    raise mine
        else:
            with client.stream("POST", URL, json=STREAMED) as response:
                for _ in response.iter_raw():
                    raise mine

    caught: BaseException | None = None
    try:
        await fail()
    except BaseException as error:
        caught = error
    assert caught is mine
    left_early(calls)


class Pausing(Origin):
    """Stops for ever after its first event."""

    def answer(self, status: int, pieces: list[bytes], content_type: str) -> Any:
        class Body(self.face.library.AsyncByteStream):  # type: ignore[misc, name-defined]
            async def __aiter__(self) -> AsyncIterator[bytes]:
                yield pieces[0]
                await asyncio.Event().wait()

        return self.face.library.Response(status, headers={"content-type": content_type}, stream=Body())


@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
@on_a_loop
async def test_a_cancelled_task(face: Face, meter: Meter, calls: CapturedCalls, stream: bool) -> None:
    if not face.is_async:
        pytest.skip("tasks are of async clients")
    origin = Pausing(face)
    client = meter.wrap(origin.client())
    got: list[bytes] = []

    async def work() -> None:
        if stream:
            async with client.stream("POST", URL, json=STREAMED) as response:
                async for piece in response.aiter_raw():
                    got.append(piece)
        else:
            await client.post(URL, json=STREAMED)

    task = asyncio.create_task(work())
    while not (origin.requests and (got or not stream)):
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left_early(calls, "CancelledError")


@on_a_loop
async def test_truncated_in_silence(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    events = chat_events(usage=True)[:4]

    def handler(request: Any) -> Any:
        return face.response(200, events, {"content-type": "text/event-stream"})

    response = await come(meter.wrap(face.client(handler)).post(URL, json=STREAMED))
    assert response.status_code == 200
    [row] = calls
    assert (row.status, row.estimated, row.finish_reasons) == ("incomplete", True, ())


@on_a_loop
async def test_left_after_all_was_told(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls) -> None:
    """OpenAI's SDK stops at ``[DONE]`` and never reads to the end."""
    response = await opened(meter, origin)
    lines = response.aiter_lines() if face.is_async else response.iter_lines()
    while (await come(anext(lines) if face.is_async else next(lines))) != "data: [DONE]":
        pass
    assert len(calls) == 1, "not every SDK closes it, and what is over holds no money"
    [left] = meter.remaining()
    assert left.held == 0
    await face.close(response)
    [row] = calls
    assert row.usage is not None
    assert (row.status, row.estimated, row.model) == ("ok", False, MODEL)
    assert (row.usage.input_tokens, row.usage.output_tokens) == (INPUT, OUTPUT)


@on_a_loop
async def test_many_open_streams_know_their_own(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls) -> None:
    responses = []
    for nth in range(10):
        with meter.agent(f"agent-{nth}"):
            responses.append(await opened(meter, origin))
    with meter.agent("another"):
        for response in reversed(responses):
            await face.read(response)
            await face.close(response)
    assert [row.agent for row in calls] == [f"agent-{nth}" for nth in reversed(range(10))]
    assert len(meter._instruments._metering.streams) == 0


@pytest.fixture
def no_collection(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a program in which all wait: nothing makes Python look for garbage. It is a small one."""
    monkeypatch.setattr(dropped, "_not_before", [-math.inf])
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


@pytest.mark.usefixtures("no_collection")
@on_a_loop
async def test_dropped_while_others_wait_for_what_it_holds(face: Face, origin: Origin, calls: CapturedCalls) -> None:
    with Meter([Budget("1000 tokens", per="total", wait_s=50)], recorders=[calls]) as meter:
        ring = [await opened(meter, origin, STREAMED | {"max_completion_tokens": 700})]
        ring.append(ring)
        client, ask = meter.wrap(origin.client()), ASK | {"max_completion_tokens": 500}
        post = client.post(URL, json=ask) if face.is_async else asyncio.to_thread(client.post, URL, json=ask)
        waiting = asyncio.create_task(post)
        while not meter._later.awaited:
            await asyncio.sleep(0.01)
        assert len(calls) == 0
        del ring
        assert (await waiting).status_code == 200
        assert [(row.status, row.estimated) for row in calls] == [("incomplete", True), ("ok", False)]
        assert meter.remaining()[0].held == 0
