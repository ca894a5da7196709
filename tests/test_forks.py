"""Forks, signals and the end of a program: nobody waits for what never comes, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tokenmeter import Budget, Meter, ending
from tokenmeter.clients.aside import _Pool
from tokenmeter.ledger import MemoryLedger
from tokenmeter.outcomes.sink import MemorySink
from tokenmeter.pricing import ExpectedCost, InputBound, PriceBook
from tokenmeter.pricing.tokenizers import TokenCounter
from tokenmeter.testing import ScriptedProvider

OWNERS: list[Callable[[], Any]] = [
    MemoryLedger,
    MemorySink,
    ExpectedCost,
    InputBound,
    PriceBook,
    TokenCounter,
    Meter,
    _Pool,
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("make", OWNERS)
def test_a_turn_that_was_taken_is_free_in_the_child(make: Callable[[], Any]) -> None:
    owner = make()
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        let_go.wait(30)

    holder = threading.Thread(target=owner._turn.run, args=(hold,))
    holder.start()
    assert held.wait(30)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        owner._turn.run(os._exit, 0)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        let_go.set()
        holder.join()


RIGHT_AFTER_WRAP = """
import os, signal, sys, time
import httpx2, tokenmeter
answer = dict(json={"usage": {"prompt_tokens": 5, "completion_tokens": 7}})
client = httpx2.Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, **answer)))
meter = tokenmeter.Meter([tokenmeter.Budget("$5")])
meter.wrap(client)
time.sleep(float(sys.argv[1]))
child = os.fork()
if child == 0:
    signal.alarm(20)
    client.post("https://api.openai.com/v1/chat/completions", json={"model": "gpt-4o-mini", "messages": []})
    os._exit(0 if meter.spend().calls == 1 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("pause_s", [0.0, 0.05, 0.15, 0.3])
def test_a_fork_while_the_prices_load(pause_s: float) -> None:
    """As gunicorn with --preload, and multiprocessing."""
    program = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", RIGHT_AFTER_WRAP, str(pause_s)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


LOOKED_AT = """
import signal, sys
import httpx2, tokenmeter
answer = dict(json={"usage": {"prompt_tokens": 5, "completion_tokens": 7}})
client = httpx2.Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, **answer)))
meter = tokenmeter.Meter([tokenmeter.Budget("$500", scope="agent")])
meter.wrap(client)
looked = 0
def look(*_):
    global looked
    looked += 1
    getattr(meter, sys.argv[1])()
    if looked < 200:  # only now: on a busy machine they would pile up in each other
        signal.setitimer(signal.ITIMER_REAL, 0.003)
signal.signal(signal.SIGALRM, look)
signal.setitimer(signal.ITIMER_REAL, 0.003)
made = 0
while looked < 200:
    made += 1
    with meter.agent(f"a{made % 50}"):
        client.post("https://api.openai.com/v1/chat/completions", json={"model": "gpt-4o-mini", "messages": []})
    meter.spend()
assert meter.spend().calls == made, (meter.spend().calls, made)
"""


WHILE_IT_LOADS = """
import os, signal, sys, time
from tokenmeter.forks import load_aside
sys.path.insert(0, sys.argv[1])
def load():
    import slow
load_aside(load)
time.sleep(0.2)
child = os.fork()
if child == 0:
    signal.alarm(20)
    import slow
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_waits_for_an_import_on_a_machine_that_has_much_to_do(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(3)\n")
    program = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", WHILE_IT_LOADS, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
@pytest.mark.parametrize("verb", ["spend", "flush", "unattributed"])
def test_a_signal_handler_may_look_at_the_meter(verb: str) -> None:
    program = [sys.executable, "-c", LOOKED_AT, verb]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


AT_THE_END = """
import threading, asyncio, sys, time
import httpx2, tokenmeter
answer = dict(json={"usage": {"prompt_tokens": 5, "completion_tokens": 7}})
HOST = "api.openai.com"
meter = tokenmeter.Meter([tokenmeter.Budget("2 calls", thresholds=())], store=f"sqlite:///{sys.argv[1]}")

async def work():
    client = meter.wrap(httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, **answer))))
    sent = refused = 0
    for number in range(6):
        if number == 1:
            await asyncio.sleep(0.3)  # by now the main thread has ended
        try:
            await client.post(f"https://{HOST}/v1/chat/completions", json={"model": "gpt-4o-mini", "messages": []})
            sent += 1
        except tokenmeter.BudgetExceeded:
            refused += 1
    print(sent, refused, flush=True)

threading.Thread(target=lambda: asyncio.run(work())).start()
"""


def test_a_loop_that_outlives_the_main_thread_keeps_its_limits(tmp_path: Path) -> None:
    program = [sys.executable, "-c", AT_THE_END, str(tmp_path / "books.db")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["2", "4"], done.stderr


LEFT_OPEN = """
import httpx2, tokenmeter
from tokenmeter.testing import ScriptedProvider

class Told:
    def record(self, row):
        print(row.status, row.estimated, row.cost_nanos > 0, flush=True)

provider = ScriptedProvider("word " * 200).__enter__()
meter = tokenmeter.Meter(recorders=[Told()])
client = meter.wrap(httpx2.Client(base_url=provider.openai_url))
body = {"model": "gpt-4o-mini", "messages": [], "stream": True}
streamed = client.send(client.build_request("POST", "/chat/completions", json=body), stream=True)
lines = streamed.iter_lines()
next(lines)
"""


def test_a_stream_that_is_open_when_the_program_ends_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, timeout=60, check=False)
    # Without a meter, too, Python 3.13.0 dies in its `datetime` when httpx2 closes a stream so late.
    assert done.returncode == 0 or sys.version_info[:3] == (3, 13, 0), done.stderr
    assert done.stdout.split() == ["incomplete", "True", "True"], done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("ends", ["it ends as multiprocessing does", "it closes what it inherited"])
def test_a_stream_that_is_open_at_a_fork_is_told_by_the_parent(tmp_path: Path, ends: str) -> None:
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with (
        ScriptedProvider("word " * 200) as provider,
        Meter([Budget("1M tokens")], store=f"sqlite:///{tmp_path}/books.db") as meter,
        meter.wrap(httpx2.Client(base_url=provider.openai_url)) as client,
    ):
        with client.stream("POST", "/chat/completions", json=body) as streamed:
            lines = streamed.iter_lines()
            next(lines)
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                try:
                    streamed.close() if "closes" in ends else ending.end()
                finally:
                    os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            [left] = meter.remaining()
            assert left.held > 0
            for _ in lines:
                pass
        meter.flush()
        [left] = meter.remaining()
        billed = provider.billed
        assert (left.spent, left.held) == (billed.input_tokens + billed.output_tokens, 0)
