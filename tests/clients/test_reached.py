"""A request that never left costs nothing, whatever it was that ended it; one that left is charged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.faces import ASK, FACES, URL, Face, chat_body, come, face_id, on_a_loop
from tokenmeter import Budget, Meter
from tokenmeter.testing import CapturedCalls, Reply, ScriptedProvider


class Mine(Exception):
    """Raised by the caller's own code."""


def fails(face: Face, status: int | None = None) -> Callable[[Any], Any]:
    """A hook that raises; with a status, only where that came, as libraries' own."""

    def hook(found: Any) -> None:
        if status is None:
            raise Mine
        found.raise_for_status()

    async def hook_async(found: Any) -> None:
        hook(found)

    return hook_async if face.is_async else hook


def answer(face: Face, status: int = 200) -> Callable[[Any], Any]:
    return lambda _: face.library.Response(status, content=chat_body(), headers={"location": URL})


async def ends_in(kind: type[BaseException], client: Any, **more: Any) -> BaseException:
    with pytest.raises(kind) as caught:
        await come(client.post(URL, json=ASK, **more))
    return caught.value


def charged(calls: CapturedCalls) -> tuple[str, str | None, bool]:
    [row] = calls
    return row.status, row.error_type, row.cost_nanos is not None


@on_a_loop
async def test_a_closed_client(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    client = meter.wrap(face.client(answer(face)))
    await face.close(client)
    await ends_in(RuntimeError, client)
    assert charged(calls) == ("error", "RuntimeError", False)


@on_a_loop
async def test_a_request_hook_that_raises(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    client = meter.wrap(face.client(answer(face), event_hooks={"request": [fails(face)]}))
    await ends_in(Mine, client)
    assert charged(calls) == ("error", "Mine", False)


@pytest.mark.parametrize("face", [face for face in FACES if not face.is_async], ids=face_id)
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_may_come_when_it_has_left(
    face: Face, meter: Meter, calls: CapturedCalls, kind: type[BaseException]
) -> None:
    """Wherever it seems to be: between two steps the answer that is there has no name yet."""

    def hook(request: Any) -> None:
        raise kind

    client = meter.wrap(face.client(answer(face), event_hooks={"request": [hook]}))
    with pytest.raises(kind):
        client.post(URL, json=ASK)
    assert charged(calls) == ("incomplete", kind.__name__, True)


def auth(face: Face, after: int) -> Any:
    """An auth flow that raises after so many answers."""

    class Auth(face.library.Auth):  # type: ignore[misc, name-defined]
        def auth_flow(self, request: Any) -> Any:
            for _ in range(after):
                yield request
            raise Mine

    return Auth()


@pytest.mark.parametrize(
    ("after", "status", "expected"),
    [
        (0, 200, ("error", "Mine", False)),
        (1, 401, ("error", "401", False)),
        (1, 200, ("incomplete", "Mine", True)),
    ],
)
@on_a_loop
async def test_an_auth_flow_that_raises(
    face: Face, meter: Meter, calls: CapturedCalls, after: int, status: int, expected: tuple[str, str | None, bool]
) -> None:
    client = meter.wrap(face.client(answer(face, status), auth=auth(face, after)))
    await ends_in(Mine, client)
    assert charged(calls) == expected


@on_a_loop
async def test_a_response_hook_that_raises(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    client = meter.wrap(face.client(answer(face), event_hooks={"response": [fails(face)]}))
    await ends_in(Mine, client)
    assert charged(calls) == ("incomplete", "Mine", True)  # the answer had begun


@pytest.mark.parametrize("status", [429, 500])
@on_a_loop
async def test_a_response_hook_that_raises_for_a_status(
    face: Face, meter: Meter, calls: CapturedCalls, status: int
) -> None:
    client = meter.wrap(face.client(answer(face, status), event_hooks={"response": [fails(face, status)]}))
    await ends_in(face.library.HTTPStatusError, client)
    assert charged(calls) == ("error", str(status), False)


@on_a_loop
async def test_redirects_without_end(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    client = meter.wrap(face.client(answer(face, 307), follow_redirects=True))
    await ends_in(face.library.TooManyRedirects, client)
    assert charged(calls) == ("error", "307", False)


@on_a_loop
async def test_a_transport_that_raises_may_have_sent_it(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    def handler(request: Any) -> Any:
        raise Mine

    await ends_in(Mine, meter.wrap(face.client(handler)))
    assert charged(calls) == ("incomplete", "Mine", True)


@on_a_loop
async def test_a_hop_that_broke_after_a_redirect(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    hops: list[Any] = []

    def handler(request: Any) -> Any:
        hops.append(request)
        if len(hops) > 1:
            raise face.library.ReadTimeout("slow")
        return answer(face, 307)(request)

    await ends_in(face.library.ReadTimeout, meter.wrap(face.client(handler, follow_redirects=True)))
    assert charged(calls) == ("incomplete", "ReadTimeout", True)


@on_a_loop
async def test_a_body_that_breaks_off(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    def handler(request: Any) -> Any:
        return face.response(200, [chat_body()[:40]], {}, Mine())

    await ends_in(Mine, meter.wrap(face.client(handler)))
    assert charged(calls) == ("incomplete", "Mine", True)


@pytest.mark.parametrize("face", [face for face in FACES if face.is_async], ids=face_id)
@on_a_loop
async def test_a_task_that_is_cancelled_while_it_waits_for_a_connection(face: Face, calls: CapturedCalls) -> None:
    budget = Budget("$5", name="day")
    with ScriptedProvider(Reply(delay_s=0.5)) as provider, Meter([budget], recorders=[calls]) as meter:
        client = meter.wrap(face.kind(limits=face.library.Limits(max_connections=1), timeout=30.0))
        url = f"{provider.openai_url}/chat/completions"
        first = asyncio.create_task(client.post(url, json=ASK))
        while not provider.received:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(client.post(url, json=ASK))
        await asyncio.sleep(0.1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await first
        await face.close(client)
        assert provider.received == 1
        assert meter.spend().estimated_calls == 0
        [left] = meter.remaining()
        assert left.held == 0
    assert [(row.status, row.error_type, row.cost_nanos is None) for row in calls] == [
        ("error", "CancelledError", True),
        ("ok", None, False),
    ]
