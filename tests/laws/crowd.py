"""Many callers at once, through many clients: threads, tasks and streams."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import httpx2
import openai

from tokenmeter import Meter

MODEL = "scripted"
LONG_S = 60.0  # a deadline that only a hang reaches

Caller = Callable[[str], Any]  # given its prompt, gives the usage that the server reported
AsyncCaller = Callable[[str], Awaitable[Any]]


@dataclass
class Outcome:
    """What became of each caller."""

    answers: list[Any] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)


class Crowd:
    """Starts callers at the same moment; the event loop of the tasks has a thread of its own."""

    def __init__(
        self, threads: Sequence[Callable[[], Any]], tasks: Sequence[Callable[[], Awaitable[Any]]] = ()
    ) -> None:
        self.outcome = Outcome()
        self._start = threading.Barrier(len(threads) + (1 if tasks else 0))
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(call,), daemon=True) for call in threads]
        if tasks:
            self._threads.append(threading.Thread(target=self._loop, args=(tasks,), daemon=True))
        for thread in self._threads:
            thread.start()

    def join(self) -> Outcome:
        """Wait for all of them."""
        deadline = time.monotonic() + LONG_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), "a caller hangs"
        return self.outcome

    def _run(self, call: Callable[[], Any]) -> None:
        self._start.wait(LONG_S)
        try:
            answer = call()
        except BaseException as error:
            with self._lock:
                self.outcome.errors.append(error)
        else:
            with self._lock:
                self.outcome.answers.append(answer)

    def _loop(self, tasks: Sequence[Callable[[], Awaitable[Any]]]) -> None:
        async def main() -> list[Any]:
            await asyncio.to_thread(self._start.wait, LONG_S)
            return await asyncio.gather(*(task() for task in tasks), return_exceptions=True)

        for found in asyncio.run(main()):
            with self._lock:
                (self.outcome.errors if isinstance(found, BaseException) else self.outcome.answers).append(found)


class Line:
    """Tells how many callers stand in line for a meter's budgets."""

    def __init__(self, meter: Meter) -> None:
        self._joined = 0
        self._changed = threading.Condition()
        store: Any = meter._store
        queue = store.queue

        def counted(*args: Any) -> Any:
            found = queue(*args)
            with self._changed:
                self._joined += 1
                self._changed.notify_all()
            return found

        store.queue = counted

    def wait_for(self, n: int) -> None:
        """Wait until ``n`` callers came to the line."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._joined >= n, LONG_S), f"{self._joined} of {n} in line"


def body(prompt: str, model: str, cap: int | None, *, stream: bool = False) -> dict[str, Any]:
    """A chat request."""
    found: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    if cap is not None:
        found["max_tokens"] = cap
    if stream:
        found["stream"] = True
    return found


def detour(library: Any, port: int) -> Any:
    """A transport that brings every request to a port of this machine, whatever host it names."""

    class Detour(library.HTTPTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            there = request.url.copy_with(scheme="http", host="127.0.0.1", port=port)
            headers = request.headers.copy()
            moved = library.Request(
                request.method, there, headers=headers, stream=request.stream, extensions=request.extensions
            )
            return super().handle_request(moved)

    return Detour(verify=False)


class Clients:
    """Three sync clients, metered: raw httpx2, raw httpx, and the OpenAI SDK. ``port``: see `detour`."""

    def __init__(
        self, meter: Meter, url: str, *, model: str = MODEL, cap: int | None = 16, port: int | None = None
    ) -> None:
        self._url, self._model, self._cap = url + "/chat/completions", model, cap

        def client(library: Any) -> Any:
            return library.Client(
                verify=False, timeout=LONG_S, transport=None if port is None else detour(library, port)
            )

        self.new: Any = meter.wrap(client(httpx2))
        self.old: Any = meter.wrap(client(httpx))
        http = client(httpx2 if issubclass(openai.DefaultHttpxClient, httpx2.Client) else httpx)
        self.sdk = meter.wrap(openai.OpenAI(base_url=url, api_key="none", http_client=http))
        self.callers: tuple[Caller, ...] = (self._new, self._old, self._sdk)
        self.streams: tuple[Caller, ...] = (self._new_stream, self._old_stream, self._sdk_stream)

    def close(self) -> None:
        """Close all three."""
        for client in (self.new, self.old, self.sdk):
            client.close()

    def _new(self, prompt: str) -> Any:
        return self._posted(self.new, prompt)

    def _old(self, prompt: str) -> Any:
        return self._posted(self.old, prompt)

    def _posted(self, client: Any, prompt: str) -> Any:
        response = client.post(self._url, json=body(prompt, self._model, self._cap))
        response.raise_for_status()
        return response.json()["usage"]

    def _sdk(self, prompt: str) -> Any:
        answer = self.sdk.chat.completions.create(**body(prompt, self._model, self._cap))
        return answer.usage.model_dump()

    def _new_stream(self, prompt: str) -> Any:
        return self._streamed(self.new, prompt)

    def _old_stream(self, prompt: str) -> Any:
        return self._streamed(self.old, prompt)

    def _streamed(self, client: Any, prompt: str) -> Any:
        asked = body(prompt, self._model, self._cap, stream=True)
        with client.stream("POST", self._url, json=asked) as response:
            response.raise_for_status()
            assert "data: [DONE]" in list(response.iter_lines())

    def _sdk_stream(self, prompt: str) -> Any:
        chunks = list(self.sdk.chat.completions.create(**body(prompt, self._model, self._cap, stream=True)))
        assert all(chunk.choices for chunk in chunks)


class AsyncClients:
    """Three async clients, metered; made and closed inside the loop that uses them."""

    def __init__(self, meter: Meter, url: str, *, model: str = MODEL, cap: int | None = 16) -> None:
        self._url, self._model, self._cap = url + "/chat/completions", model, cap
        self.new: Any = meter.wrap(httpx2.AsyncClient(verify=False, timeout=LONG_S))
        self.old: Any = meter.wrap(httpx.AsyncClient(verify=False, timeout=LONG_S))
        http = openai.DefaultAsyncHttpxClient(verify=False, timeout=LONG_S)
        self.sdk = meter.wrap(openai.AsyncOpenAI(base_url=url, api_key="none", http_client=http))
        self.callers: tuple[AsyncCaller, ...] = (self._new, self._old, self._sdk)
        self.streams: tuple[AsyncCaller, ...] = (self._new_stream, self._old_stream, self._sdk_stream)
        self._left = 0

    def closing(self, calls: Sequence[Callable[[], Awaitable[Any]]]) -> list[Callable[[], Awaitable[Any]]]:
        """The same calls; the last of them to end closes the clients, in the loop they belong to."""
        self._left = len(calls)

        def last_closes(call: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
            async def run() -> Any:
                try:
                    return await call()
                finally:
                    self._left -= 1
                    if not self._left:
                        await self.new.aclose()
                        await self.old.aclose()
                        await self.sdk.close()

            return run

        return [last_closes(call) for call in calls]

    async def _new(self, prompt: str) -> Any:
        return await self._posted(self.new, prompt)

    async def _old(self, prompt: str) -> Any:
        return await self._posted(self.old, prompt)

    async def _posted(self, client: Any, prompt: str) -> Any:
        response = await client.post(self._url, json=body(prompt, self._model, self._cap))
        response.raise_for_status()
        return response.json()["usage"]

    async def _sdk(self, prompt: str) -> Any:
        answer = await self.sdk.chat.completions.create(**body(prompt, self._model, self._cap))
        return answer.usage.model_dump()

    async def _new_stream(self, prompt: str) -> Any:
        return await self._streamed(self.new, prompt)

    async def _old_stream(self, prompt: str) -> Any:
        return await self._streamed(self.old, prompt)

    async def _streamed(self, client: Any, prompt: str) -> Any:
        asked = body(prompt, self._model, self._cap, stream=True)
        async with client.stream("POST", self._url, json=asked) as response:
            response.raise_for_status()
            assert "data: [DONE]" in [line async for line in response.aiter_lines()]

    async def _sdk_stream(self, prompt: str) -> Any:
        stream = await self.sdk.chat.completions.create(**body(prompt, self._model, self._cap, stream=True))
        assert all([chunk.choices async for chunk in stream])
