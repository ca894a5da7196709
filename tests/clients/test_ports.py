"""What the ports do for a story: an event loop waits for no store, and an error is the bare client's own."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.clients.faces import ASK, FACES, URL, Face, come, face_id, on_a_loop
from tokenmeter import Budget, BudgetExceeded, Meter
from tokenmeter.budgets.sqlite import SqliteStore
from tokenmeter.testing import ScriptedProvider


@pytest.mark.parametrize("verb", ["release", "write"])
@pytest.mark.parametrize("face", [face for face in FACES if face.is_async], ids=face_id)
@on_a_loop
async def test_a_loop_waits_for_no_store(
    face: Face, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error that costs nothing, and after a refusal."""
    goes_on = threading.Event()
    waited: list[tuple[bool, bool]] = []
    real = getattr(SqliteStore, verb)

    def slow(store: SqliteStore, *args: Any) -> Any:
        waited.append((goes_on.wait(10), threading.current_thread() is threading.main_thread()))
        return real(store, *args)

    monkeypatch.setattr(SqliteStore, verb, slow)
    limit = "$5" if verb == "release" else "$0.0000001"
    with Meter([Budget(limit, name="day")], store=f"sqlite:///{tmp_path / 'books.db'}") as meter:
        client = meter.wrap(face.client(lambda _: face.library.Response(429, json={})))
        asyncio.get_running_loop().call_later(0.05, goes_on.set)
        if verb == "release":
            assert (await client.post(URL, json=ASK)).status_code == 429
        else:
            with pytest.raises(BudgetExceeded):
                await client.post(URL, json=ASK)
        await face.close(client)
    assert waited
    assert set(waited) == {(True, False)}


@pytest.mark.parametrize("unsent", [False, True], ids=["refused", "unsent"])
@pytest.mark.parametrize("face", [face for face in FACES if face.is_async], ids=face_id)
@on_a_loop
async def test_who_is_cancelled_again_and_again_pays_for_no_failure(
    face: Face, unsent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a thread has come to the end of its call, and once more while that is cleaned up."""
    begun = asyncio.Event()

    async def aside(work: Any, undo: Any = None) -> Any:
        if getattr(work, "func", None) is not None and work.func.__name__ == "keep_books":
            begun.set()
            await asyncio.Event().wait()
        return work()

    with Meter([Budget("100k tokens", name="day")], store=f"sqlite:///{tmp_path / 'books.db'}") as meter:

        def answer(request: Any) -> Any:
            if unsent:
                raise face.library.ConnectError("refused")
            return face.library.Response(429, json={})

        client = meter.wrap(face.client(answer))
        monkeypatch.setattr("tokenmeter.clients.ports.aside", aside)
        task = asyncio.create_task(client.post(URL, json=ASK))
        await begun.wait()
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        await face.close(client)
        [left] = meter.remaining()
    assert (left.spent, left.held) == (0, 0)


@on_a_loop
async def test_an_error_has_the_context_that_the_bare_client_gives_it(face: Face, meter: Meter) -> None:
    def handler(request: Any) -> Any:
        try:
            raise OSError("below")
        except OSError:
            raise face.library.ReadTimeout("slow")  # noqa: B904

    found: list[list[str]] = []
    for metered in (False, True):
        client = meter.wrap(face.client(handler)) if metered else face.client(handler)
        with pytest.raises(face.library.ReadTimeout) as caught:
            await come(client.post(URL, json=ASK))
        error: BaseException | None = caught.value
        found.append([])
        while error is not None:
            found[-1].append(type(error).__name__)
            error = error.__context__
    assert found[0] == found[1]


def test_garbage_is_collected_for_those_who_wait_now_and_then_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each collection stops all threads; for twenty who wait one is enough."""
    collected: list[float] = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(time.monotonic()))
    with ScriptedProvider() as provider, Meter([Budget("1 calls", wait_s=0.1)]) as meter:
        client = meter.wrap(httpx2.Client(base_url=provider.openai_url))
        with client.stream("POST", "/chat/completions", json=ASK | {"stream": True}) as streamed:
            with ThreadPoolExecutor(20) as pool:
                waiting = [pool.submit(client.post, "/chat/completions", json=ASK) for _ in range(20)]
            assert all(isinstance(each.exception(), BudgetExceeded) for each in waiting)
            streamed.read()
        client.close()
    assert all(later - earlier >= 1 for earlier, later in pairwise(collected))
