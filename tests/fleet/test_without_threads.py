"""A process that gets no more threads, as in a container whose number of them is limited, keeps its limits."""

from __future__ import annotations

import subprocess
import sys

from tests.fleet.conftest import MakeUrl

WITHOUT_THREADS = """
import asyncio, sys, threading
import httpx2, tokenmeter

def start(thread):
    raise RuntimeError("can't start new thread")

threading.Thread.start = start
answer = dict(json={"usage": {"prompt_tokens": 5, "completion_tokens": 7}})
transport = httpx2.MockTransport(lambda _: httpx2.Response(200, **answer))
ask = ("https://api.openai.com/v1/chat/completions",)
body = {"model": "gpt-4o-mini", "messages": []}
budgets = [tokenmeter.Budget("3 calls", scope="agent", thresholds=(), wait_s=0)]

def sync():
    client, sent = meter.wrap(httpx2.Client(transport=transport)), 0
    for _ in range(5):
        try:
            client.post(*ask, json=body)
            sent += 1
        except tokenmeter.BudgetExceeded:
            pass
    return sent

async def asynchronous():
    client = meter.wrap(httpx2.AsyncClient(transport=transport))
    found = await asyncio.gather(*(client.post(*ask, json=body) for _ in range(5)), return_exceptions=True)
    return sum(isinstance(each, httpx2.Response) for each in found)

with tokenmeter.Meter(budgets, store=sys.argv[1]) as meter:
    with meter.agent("sync"):
        print(sync())
    with meter.agent("async"):
        print(asyncio.run(asynchronous()))
    for agent in ("sync", "async"):
        [left] = meter.remaining(agent=agent)
        print(left.spent, left.held, meter.spend(agent=agent).calls)
"""


def test_a_process_that_gets_no_thread_keeps_its_limits(fresh: MakeUrl) -> None:
    program = [sys.executable, "-c", WITHOUT_THREADS, fresh()]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["3", "3", *("3", "0", "3") * 2], done.stderr
    [warning] = done.stderr.splitlines()
    assert "do without the thread" in warning
