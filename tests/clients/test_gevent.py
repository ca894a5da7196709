"""Greenlets in place of threads: they wait for budgets, and what is killed holds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tokenmeter.testing import ScriptedProvider

pytest.importorskip("gevent")

GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gc, sys
import gevent, httpx2, tokenmeter

url, store = sys.argv[1:]
found = []

def send(number):
    ask = {"model": "gpt-5-mini", "messages": [], "max_completion_tokens": 200, "stream": number % 2 == 0}
    try:
        with meter.agent("a"), client.stream("POST", "/chat/completions", json=ask) as response:
            for _ in response.iter_lines():
                if number % 6 == 0:
                    break
        found.append("ok")
    except tokenmeter.BudgetExceeded:
        found.append("refused")

with tokenmeter.Meter([tokenmeter.Budget("$0.002")], store=store) as meter:
    client = meter.wrap(httpx2.Client(base_url=url, limits=httpx2.Limits(max_connections=100)))
    greenlets = [gevent.spawn(send, number) for number in range(40)]
    gevent.sleep(0.1)
    for greenlet in greenlets[::4]:
        greenlet.kill(block=False)
    gevent.joinall(greenlets, timeout=60)
    assert all(greenlet.dead for greenlet in greenlets)
    del greenlets
    gc.collect()
    meter.flush()
    gevent.sleep(0.2)
    [left], spent = meter.remaining(), meter.spend()
    assert "ok" in found
    assert (left.held, left.spent, left.spent <= left.limit) == (0, spent.usd, True), (left, spent)
"""


@pytest.mark.parametrize("store", ["memory://", "sqlite:///{file}"])
def test_greenlets_share_a_budget(store: str, provider: ScriptedProvider, tmp_path: Path) -> None:
    program = [sys.executable, "-c", GREENLETS, provider.openai_url, store.format(file=tmp_path / "books.db")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
