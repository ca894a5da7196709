"""A budget of 10 calls and 50 callers at once, cold: exactly 10 arrive at the server, and the books balance."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.laws.crowd import LONG_S, AsyncClients, Clients, Crowd, Line, Outcome
from tests.support.llama import MODEL as LLAMA_MODEL
from tests.support.llama import Llama
from tokenmeter import Budget, BudgetExceeded, Meter, Price
from tokenmeter.testing import CapturedCalls, FakeClock, Reply, Request, ScriptedProvider

RUNS = 20
CALLERS, ADMITTED = 50, 10
PRICE = Price("0.123457", "1.700003")  # odd figures: a rounding would show
INPUT_NANOS, OUTPUT_NANOS = Decimal("123.457"), Decimal("1700.003")

# threads, tasks, sync streams, async streams
CROWDS = {
    "threads": (50, 0, 0, 0),
    "tasks": (0, 50, 0, 0),
    "streams": (0, 0, 25, 25),
    "mixed": (13, 13, 12, 12),
}


def _callers(callers: Sequence[Callable[[str], Any]], n: int, name: str) -> list[Callable[[], Any]]:
    return [partial(callers[i % len(callers)], f"{name} {i}") for i in range(n)]


def _run(provider: ScriptedProvider, crowd: tuple[int, int, int, int], wait_s: float | None) -> None:
    threads, tasks, sync_streams, async_streams = crowd
    calls = CapturedCalls()
    options: Any = {} if wait_s is None else {"wait_s": wait_s}
    meter = Meter(
        [Budget("10 calls", **options), Budget("$1", **options)], prices={"scripted": PRICE}, recorders=[calls]
    )
    line = Line(meter)
    sync = Clients(meter, provider.openai_url)
    before, billed_before = provider.received, provider.billed
    provider.hold()
    in_threads = _callers(sync.callers, threads, "t") + _callers(sync.streams, sync_streams, "s")
    in_tasks: list[Any] = []
    if tasks or async_streams:
        many = AsyncClients(meter, provider.openai_url)
        in_tasks = many.closing(_callers(many.callers, tasks, "t") + _callers(many.streams, async_streams, "s"))
    running = Crowd(in_threads, in_tasks)

    provider.wait_for(before + ADMITTED)
    if wait_s == 0:
        calls.wait_for(CALLERS - ADMITTED)  # refused while the ten are still under way
        assert {row.status for row in calls} == {"refused"}
    else:
        line.wait_for(CALLERS - ADMITTED)  # none is refused while a call might still be given back
        assert not calls
    provider.release()
    outcome = running.join()
    billed = provider.wait_idle()
    sync.close()
    meter.close()

    assert provider.received - before == ADMITTED
    _check(outcome, meter, calls)
    inputs, outputs = (
        billed.input_tokens - billed_before.input_tokens,
        billed.output_tokens - billed_before.output_tokens,
    )
    exact = inputs * INPUT_NANOS + outputs * OUTPUT_NANOS
    assert abs(calls.cost_nanos - exact) <= Decimal("0.5") * ADMITTED  # each call is rounded once


def _check(outcome: Outcome, meter: Meter, calls: CapturedCalls) -> None:
    assert len(outcome.answers) == ADMITTED
    assert len(outcome.errors) == CALLERS - ADMITTED
    for error in outcome.errors:
        assert type(error) is BudgetExceeded, error
        assert (error.limit, error.budget) == (10, "10 calls in total")
        assert error.spent + error.held == 10
        assert error.needed == 1
    paid = [row for row in calls if row.status != "refused"]
    assert [row.status for row in paid] == ["ok"] * ADMITTED
    assert not any(row.estimated for row in paid)
    assert len(calls.where(status="refused")) == CALLERS - ADMITTED
    for_calls, for_money = meter.remaining()
    assert (for_calls.spent, for_calls.held, for_calls.left) == (10, 0, 0)
    assert for_money.held == 0
    cost = Decimal(calls.cost_nanos).scaleb(-9)
    assert cost > 0
    assert for_money.spent == meter.spend().usd == cost
    assert for_money.left == Decimal(1) - cost
    assert meter.spend().calls == ADMITTED
    assert meter.spend().refused == CALLERS - ADMITTED
    store: Any = meter._store
    assert not store._holds
    assert not store._waiters


@pytest.mark.parametrize("wait_s", [None, 0], ids=["waiting", "not waiting"])
@pytest.mark.parametrize("kind", CROWDS)
def test_exactly_ten_arrive_every_time(provider: ScriptedProvider, kind: str, wait_s: float | None) -> None:
    for _ in range(RUNS):
        _run(provider, CROWDS[kind], wait_s)


FRESH = """
    import threading
    import httpx2
    import tokenmeter
    from tokenmeter.testing import CapturedCalls, FakeClock, Reply, Request, ScriptedProvider

    found = []
    def call(client, url, start):
        start.wait(60)
        try:
            body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 16}
            found.append(client.post(url, json=body).status_code)
        except tokenmeter.BudgetExceeded as error:
            found.append("refused")

    with ScriptedProvider() as provider, httpx2.Client(verify=False, timeout=60) as client:
        meter = tokenmeter.Meter([tokenmeter.Budget("10 calls", thresholds=())])
        start = threading.Barrier(50)
        args = client, provider.openai_url + "/chat/completions", start
        threads = [threading.Thread(target=call, args=args) for _ in range(50)]
        HOW
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        print(found.count(200), found.count("refused"), provider.received, meter.spend().calls)
"""


@pytest.mark.parametrize("how", ["meter.wrap(client)", "meter.instrument()"])
def test_the_first_calls_ever_of_a_process(how: str) -> None:
    source = Path(__file__).parents[2] / "src"
    script = textwrap.dedent(FRESH).replace("HOW", how)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (["10", "40", "10", "10"], "")


@pytest.mark.parametrize("wait_s", [None, 0], ids=["waiting", "not waiting"])
def test_a_real_server_gets_ten_too(llama: Llama, wait_s: float | None) -> None:
    calls = CapturedCalls()
    options: Any = {} if wait_s is None else {"wait_s": wait_s}
    meter = Meter(
        [Budget("10 calls", **options), Budget("$1", **options)], prices={LLAMA_MODEL: PRICE}, recorders=[calls]
    )
    clients = Clients(meter, llama.openai_url, model=LLAMA_MODEL, cap=8)
    many = AsyncClients(meter, llama.openai_url, model=LLAMA_MODEL, cap=8)
    lock, sent = threading.Lock(), []

    def out(request: Any) -> None:
        with lock:
            sent.append(request)

    async def out_async(request: Any) -> None:
        out(request)

    for client in (clients.new, clients.old, clients.sdk._client):
        client.event_hooks = {"request": [out], "response": []}
    for client in (many.new, many.old, many.sdk._client):
        client.event_hooks = {"request": [out_async], "response": []}
    in_threads = _callers(clients.callers, 13, "t") + _callers(clients.streams, 12, "s")
    in_tasks = many.closing(_callers(many.callers, 13, "a") + _callers(many.streams, 12, "b"))
    outcome = Crowd(in_threads, in_tasks).join()
    clients.close()
    meter.close()
    assert len(sent) == ADMITTED
    _check(outcome, meter, calls)
    assert all(row.usage is not None and row.usage.output_tokens == 8 for row in calls if row.status == "ok")


class NearTheEnd:
    """A clock that goes on as the real one does, from shortly before the end of an hour."""

    def __init__(self) -> None:
        self._begun_s = time.monotonic()

    def now_s(self) -> float:
        return 1_800_000_000.0 - 1.0 + time.monotonic() - self._begun_s


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("kind", ["thread", "task"])
def test_who_waits_goes_on_when_the_next_window_begins(tmp_path: Path, store: str, kind: str) -> None:
    """The first call holds the old window until long after its end. In the new one nobody is in the way."""
    go_on = threading.Event()
    arrived = threading.Event()

    def reply(request: Request) -> Reply:
        if not arrived.is_set():
            arrived.set()
            go_on.wait(LONG_S)
        return Reply("hi")

    url = f"sqlite:///{tmp_path}/books.db" if store == "sqlite" else "memory://"
    with ScriptedProvider(reply) as provider:
        meter = Meter([Budget("1 calls", per="hour"), Budget("5 calls", per="day")], store=url, clock=NearTheEnd())
        clients, tasks = Clients(meter, provider.openai_url), AsyncClients(meter, provider.openai_url)
        first = Crowd([partial(clients.callers[0], "first")])
        assert arrived.wait(LONG_S)
        if kind == "thread":
            outcome = Crowd([partial(clients.callers[0], "second")]).join()
        else:
            outcome = Crowd([], tasks.closing([partial(tasks.callers[0], "second")])).join()
        assert (len(outcome.answers), outcome.errors) == (1, [])
        assert not first.outcome.answers
        go_on.set()
        first.join()
        [now, _] = meter.remaining()
        clients.close()
        meter.close()
    assert (now.spent, now.held) == (1, 0)


def test_ten_more_in_the_next_window(provider: ScriptedProvider, clock: FakeClock) -> None:
    """What was refused is not counted: the crowd comes again after the window and ten pass again."""
    meter = Meter([Budget("10 calls", per="hour", wait_s=0)], clock=clock)
    client = meter.wrap(httpx2.Client(verify=False, timeout=LONG_S))
    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}

    def call() -> Any:
        return client.post(provider.openai_url + "/chat/completions", json=asked).status_code

    for hour in (1, 2, 3):
        outcome = Crowd([call] * CALLERS).join()
        assert len(outcome.answers) == ADMITTED
        assert {type(error) for error in outcome.errors} == {BudgetExceeded}
        assert provider.received == hour * ADMITTED
        clock.advance(3600)
    client.close()
    meter.close()
