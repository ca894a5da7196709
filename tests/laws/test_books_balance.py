"""After a storm of every kind of answer and every kind of reader, the books balance to the nanodollar."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from tests.laws.crowd import LONG_S, Crowd, body
from tokenmeter import Budget, BudgetExceeded, CallRecord, Meter, Price
from tokenmeter.testing import CapturedCalls, Reply, Request, ScriptedProvider

TEXT = "one two three four five six seven eight"
PRICE = Price("0.123457", "1.700003", cache_read="0.0310001", cache_write="0.15432", max_output_tokens=500)

# The prompt names how the server shall behave.
SERVERS: Mapping[str, Reply] = {
    "plain": Reply(TEXT),
    "cached": Reply(TEXT, input_tokens=40, cache_read_tokens=17, cache_write_tokens=5),
    "reasoning": Reply(TEXT, reasoning_tokens=11),
    "silent": Reply(TEXT, report_usage=False),
    "400": Reply("no", status=400),
    "429": Reply("slow down", status=429),
    "500": Reply("oh", status=500),
    "hangs up": Reply(hang_up=True),
    "cut": Reply(TEXT, cut_after_chunks=3),
    "truncated": Reply(TEXT, truncate_after_chunks=3),
    "fails late": Reply(TEXT, fail_after_chunks=3),
    "in pieces": Reply(TEXT, piece_bytes=7),
    "packed": Reply(TEXT, gzip=True),
}
READERS = ("whole", "stream", "left early", "dropped", "unread")
AGENTS = (None, "a", "b")


def _script(request: Request) -> Reply:
    content = request.json["messages"][0]["content"]
    return SERVERS[content.partition(":")[0]]


def _sync_call(meter: Meter, client: Any, url: str, server: str, reader: str, agent: str | None) -> None:
    asked = body(f"{server}: hello", "scripted", 100, stream=reader != "whole")
    scope = meter.agent(agent or "x", user="u")
    if agent is not None:
        scope.__enter__()
    try:
        if reader == "whole":
            client.post(url, json=asked)
        elif reader == "dropped":
            response = client.send(client.build_request("POST", url, json=asked), stream=True)
            next(response.iter_raw(), None)
            del response
        else:
            with client.stream("POST", url, json=asked) as response:
                if reader != "unread":
                    for number, _ in enumerate(response.iter_lines()):
                        if reader == "left early" and number == 4:
                            break
    finally:
        if agent is not None:
            scope.__exit__(None, None, None)


async def _async_call(meter: Meter, client: Any, url: str, server: str, reader: str, agent: str | None) -> None:
    asked = body(f"{server}: hello", "scripted", 100, stream=reader != "whole")
    scope = meter.agent(agent or "x", user="u")
    if agent is not None:
        await scope.__aenter__()
    try:
        if reader == "whole":
            await client.post(url, json=asked)
        else:
            async with client.stream("POST", url, json=asked) as response:
                if reader != "unread":
                    number = 0
                    async for _ in response.aiter_lines():
                        number += 1
                        if reader in ("left early", "dropped") and number == 4:
                            break
    finally:
        if agent is not None:
            await scope.__aexit__(None, None, None)


def _storm(meter: Meter, url: str, chance: random.Random, calls: int) -> list[BaseException]:
    """Half of the calls from threads, half from tasks."""
    sync = meter.wrap(httpx2.Client(verify=False, timeout=LONG_S))
    many = meter.wrap(httpx2.AsyncClient(verify=False, timeout=LONG_S))
    left = calls - calls // 2

    def in_thread(server: str, reader: str, agent: str | None) -> Callable[[], None]:
        return lambda: _sync_call(meter, sync, url, server, reader, agent)

    def in_task(server: str, reader: str, agent: str | None) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            nonlocal left
            try:
                await _async_call(meter, many, url, server, reader, agent)
            finally:
                left -= 1
                if not left:
                    await many.aclose()

        return run

    def draw() -> tuple[str, str, str | None]:
        return chance.choice(list(SERVERS)), chance.choice(READERS), chance.choice(AGENTS)

    threads = [in_thread(*draw()) for _ in range(calls // 2)]
    tasks = [in_task(*draw()) for _ in range(calls - calls // 2)]
    outcome = Crowd(threads, tasks).join()
    gc.collect()  # the dropped streams stand in cycles
    sync.close()
    return outcome.errors


def _balanced(meter: Meter, calls: CapturedCalls) -> None:
    store: Any = meter._store
    assert not store._holds
    assert not store._waiters
    assert not any(book.state.held for book in store.books())
    rows = list(calls)
    charged = [row for row in rows if row.usage is not None]

    def tokens(some: list[CallRecord]) -> int:
        return sum((row.usage.input_tokens or 0) + (row.usage.output_tokens or 0) for row in some if row.usage)

    def cost(some: list[CallRecord]) -> Decimal:
        assert all(row.cost_nanos is not None for row in some)
        return Decimal(sum(row.cost_nanos or 0 for row in some)).scaleb(-9)

    for agent in AGENTS:
        own = [row for row in charged if row.agent == agent]
        dollars, of_agent, for_tokens, for_calls, soft = meter.remaining(agent=agent, user="u" if agent else None)
        assert dollars.spent == cost(charged) == meter.spend().usd
        assert of_agent.spent == cost(own) == meter.spend(agent=agent).usd
        assert for_tokens.spent == tokens(charged)
        assert for_calls.spent == len(charged) == meter.spend().calls
        assert soft.spent == len([row for row in charged if row.user == ("u" if agent else None)])
        for budget in (dollars, of_agent, for_tokens, for_calls):
            assert budget.held == 0
            assert budget.spent <= budget.limit
            assert budget.left == budget.limit - budget.spent
    spend = meter.spend()
    assert spend.refused == len([row for row in rows if row.status == "refused"])
    assert spend.failed == len([row for row in rows if row.usage is None and row.status != "refused"])
    assert spend.estimated_usd == cost([row for row in charged if row.estimated])
    for row in rows:
        if row.http_status is not None and row.http_status >= 400:
            assert (row.status, row.usage, row.error_type) == ("error", None, str(row.http_status))


@pytest.mark.parametrize("wait_s", [30, 0], ids=["waiting", "not waiting"])
@pytest.mark.parametrize("seed", range(4))
def test_the_books_balance_after_a_storm(provider: ScriptedProvider, seed: int, wait_s: float) -> None:
    provider.reply = _script
    calls = CapturedCalls()
    meter = Meter(
        [
            Budget("$0.05", wait_s=wait_s),
            Budget("$0.02", scope="agent", wait_s=wait_s),
            Budget("20k tokens", wait_s=wait_s),
            Budget("60 calls", wait_s=wait_s),
            Budget("3 calls", scope="user", on_exceed="warn", name="soft"),
        ],
        prices={"scripted": PRICE},
        recorders=[calls],
    )
    errors = _storm(meter, provider.openai_url + "/chat/completions", random.Random(seed), 120)
    kinds = Counter(type(error).__name__ for error in errors)
    assert set(kinds) <= {"BudgetExceeded", "RemoteProtocolError", "ReadError"}, kinds
    calls.wait_for(120)
    assert len(calls) == 120  # one row a call
    assert len({row.id for row in calls}) == 120
    assert kinds["BudgetExceeded"] == len(calls.where(status="refused"))
    assert provider.received == 120 - kinds["BudgetExceeded"]
    statuses = Counter(row.status for row in calls)
    assert {"ok", "error", "incomplete", "refused"} == set(statuses)
    _balanced(meter, calls)
    meter.close()


def test_the_sum_is_exact_however_many(provider: ScriptedProvider) -> None:
    """Each call is rounded once, half to even; the sum is the sum of the rows."""
    provider.reply = Reply(input_tokens=7, output_tokens=3)
    calls = CapturedCalls()
    meter = Meter([Budget("$1")], prices={"scripted": PRICE}, recorders=[calls])
    with httpx2.Client(verify=False, timeout=LONG_S) as bare:
        client = meter.wrap(bare)
        for _ in range(100):
            client.post(provider.openai_url + "/chat/completions", json=body("hi", "scripted", 10))
    each = round(7 * Decimal("123.457") + 3 * Decimal("1700.003"))
    assert {row.cost_nanos for row in calls} == {each}
    [state] = meter.remaining()
    assert state.spent == meter.spend().usd == Decimal(100 * each).scaleb(-9)
    meter.close()


async def _cancelled_anywhere(provider: ScriptedProvider, chance: random.Random) -> None:
    """Tasks that are cancelled at any point: in line, under way, within a body."""
    provider.reply = Reply(TEXT, piece_bytes=20)
    calls = CapturedCalls()
    meter = Meter([Budget("8 calls"), Budget("$1")], prices={"scripted": PRICE}, recorders=[calls])
    url = provider.openai_url + "/chat/completions"
    async with httpx2.AsyncClient(verify=False, timeout=LONG_S) as bare:
        client = meter.wrap(bare)

        async def ask(stream: bool) -> None:
            asked = body("hi", "scripted", 20, stream=stream)
            if not stream:
                await client.post(url, json=asked)
                return
            async with client.stream("POST", url, json=asked) as response:
                async for _ in response.aiter_lines():
                    pass

        tasks = [asyncio.create_task(ask(chance.random() < 0.5)) for _ in range(40)]
        for task in chance.sample(tasks, 30):
            for _ in range(chance.randrange(40)):
                await asyncio.sleep(0)
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
    started = list(calls)
    assert len(started) <= 40  # a task that was cancelled before it began made no call
    kinds = Counter(type(error) for error in found if isinstance(error, BaseException))
    assert set(kinds) <= {asyncio.CancelledError, BudgetExceeded}
    for_calls, money = meter.remaining()
    charged = [row for row in started if row.usage is not None]
    assert (for_calls.spent, for_calls.held) == (len(charged), 0)
    assert len(charged) <= 8
    assert money.spent == Decimal(calls.cost_nanos).scaleb(-9) == meter.spend().usd
    assert money.held == 0
    store: Any = meter._store
    assert not store._holds
    assert not store._waiters
    meter.close()


@pytest.mark.parametrize("seed", range(6))
def test_the_books_balance_when_tasks_are_cancelled(provider: ScriptedProvider, seed: int) -> None:
    asyncio.run(_cancelled_anywhere(provider, random.Random(seed)))
