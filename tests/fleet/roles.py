"""What a child of a fleet does. Each role is told its options, and speaks with the test over its link."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

# What the children need is imported before they are born.
import genai_prices  # noqa: F401
import httpx
import httpx2
import redis  # noqa: F401

import tokenmeter.budgets.redis
import tokenmeter.budgets.redis_room
import tokenmeter.budgets.sqlite  # noqa: F401
from tests.fleet.fleet import Gone, Link
from tests.laws.crowd import LONG_S, MODEL, AsyncClients, Clients, Line, body
from tokenmeter import Budget, BudgetExceeded, Meter, Price, StoreUnavailable


def a_meter(store: str, budgets: list[list[Any]], price: list[str], per_request: str | None = None) -> Meter:
    """A meter with these budgets, each a limit and its options, and a price for the scripted model."""
    made = [Budget(limit, **{"thresholds": (), **options}) for limit, options in budgets]
    return Meter(made, store=store, prices={MODEL: Price(price[0], price[1], per_request=per_request)})


def _name_of(error: BaseException) -> str:
    return type(error).__name__ if isinstance(error, BudgetExceeded | StoreUnavailable) else repr(error)


# -- a crowd that is let go at once


def crowd(
    link: Link, *, url: str, meter: dict[str, Any], name: str, threads: int, tasks: int, streams: int, before: int
) -> None:
    """Make ``before`` calls to get warm; then, at a word, all the others at once."""
    metered = a_meter(**meter)
    clients = Clients(metered, url)
    with metered.agent("crowd"):
        for number in range(before):
            with contextlib.suppress(BudgetExceeded):  # others may hold the rest, where nobody waits
                clients.callers[number % 3](f"{name} before {number}")
    metered.spend()
    go = threading.Event()
    found: Counter[str] = Counter()
    lock = threading.Lock()
    ready = threading.Semaphore(0)
    slowest_s = 0.0

    def note(said: str, began_s: float) -> None:
        nonlocal slowest_s
        with lock:
            found[said] += 1
            slowest_s = max(slowest_s, time.monotonic() - began_s)

    def in_thread(call: Callable[[], Any]) -> None:
        ready.release()
        go.wait()
        began_s = time.monotonic()
        try:
            with metered.agent("crowd"):
                call()
        except BaseException as error:
            note(_name_of(error), began_s)
        else:
            note("ok", began_s)

    def loop() -> None:
        async def in_task(call: Callable[[], Any]) -> None:
            began_s = time.monotonic()
            try:
                async with metered.agent("crowd"):
                    await call()
            except BaseException as error:
                note(_name_of(error), began_s)
            else:
                note("ok", began_s)

        async def main() -> None:
            many = AsyncClients(metered, url)
            calls: list[Any] = [partial(many.callers[n % 3], f"{name} task {n}") for n in range(tasks)]
            calls += [partial(many.streams[n % 3], f"{name} async stream {n}") for n in range(streams)]
            ready.release()
            await asyncio.to_thread(go.wait)
            await asyncio.gather(*(in_task(call) for call in many.closing(calls)))

        asyncio.run(main())

    calls: list[Callable[[], Any]] = [partial(clients.callers[n % 3], f"{name} thread {n}") for n in range(threads)]
    calls += [partial(clients.streams[n % 3], f"{name} stream {n}") for n in range(streams)]
    running = [threading.Thread(target=in_thread, args=(call,)) for call in calls]
    running += [threading.Thread(target=loop)] if tasks or streams else []
    for each in running:
        each.start()
    for _ in running:
        ready.acquire()
    link.send("ready")
    link.receive()
    go.set()
    for each in running:
        each.join()
    link.send({"found": found, "slowest_s": slowest_s, "spent": metered.spend().calls})
    link.receive()
    clients.close()
    metered.close()


# -- calls without end


def load(
    link: Link,
    *,
    url: str,
    meter: dict[str, Any],
    name: str,
    threads: int,
    tasks: int,
    agents: list[str],
    seed: int,
    cap: int = 16,
    pause_s: float = 0.0,
) -> None:
    """Call and call. Where an agent has spent its budget, go on as the next; a budget named ``*`` has no end.

    Each call names itself in the request's field ``user``. Asked for ``report``, tell what came of the calls since
    the last report.
    """
    metered = a_meter(**meter)
    running = _Running(agents)
    chance = random.Random(seed)

    def thread(number: int, library: Any) -> None:
        with library.Client(verify=False, timeout=LONG_S) as client:
            metered.wrap(client)
            for turn in running.turns():
                asked = body("x" * chance.randrange(1, 400), MODEL, cap, stream=turn % 4 == 0)
                asked["user"] = f"{name} {number} {turn}"
                agent = running.agent(number)
                began_s = time.monotonic()
                try:
                    with metered.agent(agent):
                        client.post(url + "/chat/completions", json=asked).raise_for_status()
                except Exception as error:
                    running.note(agent, error, began_s)
                else:
                    running.note(agent, None, began_s)
                if pause_s:
                    time.sleep(pause_s)

    async def task(number: int, client: Any) -> None:
        for turn in running.turns():
            asked = body("x" * chance.randrange(1, 400), MODEL, cap, stream=turn % 4 == 0)
            asked["user"] = f"{name} {number} {turn}"
            agent = running.agent(number)
            began_s = time.monotonic()
            try:
                async with metered.agent(agent):
                    (await client.post(url + "/chat/completions", json=asked)).raise_for_status()
            except Exception as error:
                running.note(agent, error, began_s)
            else:
                running.note(agent, None, began_s)
            if pause_s:
                await asyncio.sleep(pause_s)

    def loop() -> None:
        async def main() -> None:
            async with httpx2.AsyncClient(verify=False, timeout=LONG_S) as client:
                metered.wrap(client)
                await asyncio.gather(*(task(threads + n, client) for n in range(tasks)))

        asyncio.run(main())

    made = [threading.Thread(target=thread, args=(n, (httpx, httpx2)[n % 2])) for n in range(threads)]
    made += [threading.Thread(target=loop)] if tasks else []
    for each in made:
        each.start()
    try:
        while (asked := link.receive(3600))["do"] != "end":
            if asked["do"] == "pid":
                link.send(os.getpid())
            elif asked["do"] == "report":
                link.send(running.report())
            elif asked["do"] == "stop":
                running.stop = True
                for each in made:
                    each.join()
                link.send({**running.report(), "flushed": _flushed(metered)})
    except Gone:
        os._exit(1)
    running.stop = True
    for each in made:
        each.join()
    metered.close()


def _flushed(meter: Meter) -> bool:
    meter._later.flush()
    store: Any = meter._store
    return bool(store.flush(100.0))


class _Running:
    """What the callers of a load share."""

    def __init__(self, agents: list[str]) -> None:
        self.stop = False
        self._agents = agents
        self._at = 0
        self._lock = threading.Lock()
        self._found: dict[str, Counter[str]] = {}
        self._slowest_s: dict[str, float] = {}

    def turns(self) -> Any:
        """Numbers, until it is over."""
        turn = 0
        while not self.stop:
            yield turn
            turn += 1

    def agent(self, number: int) -> str:
        """Who calls now; where several go at once, each caller is one of them."""
        if self._agents[0].startswith("+"):
            return self._agents[number % len(self._agents)][1:]
        return self._agents[self._at % len(self._agents)]

    def note(self, agent: str, error: Exception | None, began_s: float) -> None:
        """What came of a call."""
        took_s = time.monotonic() - began_s
        said = "ok" if error is None else _name_of(error)
        with self._lock:
            self._found.setdefault(agent, Counter())[said] += 1
            self._slowest_s[agent] = max(self._slowest_s.get(agent, 0.0), took_s)
            if isinstance(error, BudgetExceeded) and agent == self._agents[self._at % len(self._agents)]:
                self._at += 1

    def report(self) -> dict[str, Any]:
        """What came of the calls since the last report, and how long the longest took, by agent."""
        with self._lock:
            found, self._found = self._found, {}
            slowest_s, self._slowest_s = self._slowest_s, {}
        return {"found": found, "slowest_s": slowest_s}


# -- calls one by one, as the test says


def caller(link: Link, *, url: str, meter: dict[str, Any]) -> None:
    """Begin calls, cancel them, and tell what came of them, as the test says."""
    metered = a_meter(**meter)
    line = Line(metered)
    asyncio.run(_caller(link, url, metered, line))
    metered.close()


async def _caller(link: Link, url: str, metered: Meter, line: Line) -> None:
    loop = asyncio.get_running_loop()
    client = metered.wrap(httpx2.AsyncClient(verify=False, timeout=LONG_S))
    sync = metered.wrap(httpx.Client(verify=False, timeout=LONG_S))
    running: dict[str, asyncio.Future[str]] = {}
    begun = 0

    def posted(name: str, agent: str) -> str:
        try:
            with metered.agent(agent):
                sync.post(url + "/chat/completions", json=body(name, MODEL, 1000)).raise_for_status()
        except Exception as error:
            return _name_of(error)
        return "ok"

    async def awaited(name: str, agent: str) -> str:
        try:
            async with metered.agent(agent):
                (await client.post(url + "/chat/completions", json=body(name, MODEL, 1000))).raise_for_status()
        except Exception as error:
            return _name_of(error)
        return "ok"

    with contextlib.suppress(Gone):
        while (asked := await asyncio.to_thread(link.receive, 3600.0))["do"] != "end":
            names = asked.get("names", [])
            answer: Any = "done"
            if asked["do"] == "begin":
                for name in names:
                    if asked["how"] == "task":
                        running[name] = asyncio.ensure_future(awaited(name, asked["agent"]))
                    else:
                        running[name] = loop.run_in_executor(None, posted, name, asked["agent"])
                    if asked["in_line"]:
                        begun += 1
                        await asyncio.to_thread(line.wait_for, begun)
            elif asked["do"] == "cancel":
                for name in names:
                    running[name].cancel()
            elif asked["do"] == "ended":
                ended = await asyncio.gather(*(running.pop(name) for name in names), return_exceptions=True)
                answer = [each if isinstance(each, str) else type(each).__name__ for each in ended]
            elif asked["do"] == "pause":
                from tokenmeter.budgets.store import Pause

                await asyncio.to_thread(metered._store.pause, Pause(asked["target"], time.time(), "a test", "the test"))
            elif asked["do"] == "resume":
                answer = await asyncio.to_thread(metered._store.resume, asked["target"])
            link.send(answer)
    await client.aclose()
    sync.close()


# -- real workloads


def replay(link: Link, *, url: str, meter: dict[str, Any], calls: list[list[int]], threads: int, tokens: str) -> None:
    """Make the calls of a trace, each of so many input and output tokens, as fast as they go."""
    metered = a_meter(**meter)
    waiting = iter(calls)
    found: Counter[str] = Counter()
    lock = threading.Lock()

    def thread(library: Any) -> None:
        with library.Client(verify=False, timeout=LONG_S) as client:
            metered.wrap(client)
            while True:
                with lock:
                    call = next(waiting, None)
                if call is None:
                    return
                tokens_in, tokens_out, cap = call
                asked = body(tokens * tokens_in, MODEL, cap)
                asked["user"] = f"{tokens_in} {tokens_out}"
                try:
                    with metered.agent("trace"):
                        client.post(url + "/chat/completions", json=asked).raise_for_status()
                    said = "ok"
                except Exception as error:
                    said = _name_of(error)
                with lock:
                    found[said] += 1

    link.send("ready")
    link.receive()
    made = [threading.Thread(target=thread, args=((httpx, httpx2)[n % 2],)) for n in range(threads)]
    for each in made:
        each.start()
    for each in made:
        each.join()
    link.send(found)
    link.receive()
    metered.close()


ROLES: dict[str, Callable[..., None]] = {
    "crowd": crowd,
    "load": load,
    "caller": caller,
    "replay": replay,
}
