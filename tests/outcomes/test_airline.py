"""A hundred real runs of an agent, metered by replay: what a solved task costs, the failed ones included."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.outcomes.parts import KINDS
from tests.support.shared import SHARED
from tokenmeter import Meter, Price
from tokenmeter.outcomes import judge, link, new_outcome, report
from tokenmeter.testing import CapturedCalls, FakeClock, Reply, Request, ScriptedProvider

TRACE = SHARED / "traces" / "tau_airline.jsonl.gz"
IN_NANOS, OUT_NANOS = 2_500, 10_000


def tokens(message: dict[str, Any]) -> int:
    """A count that a hand can do: a word is a token, and so is each that a tool is given."""
    calls = message.get("tool_calls") or []
    texts = [message.get("content") or "", *(call["function"]["arguments"] for call in calls)]
    return 1 + sum(len(text.split()) for text in texts)


def test_the_cost_of_a_solved_task_is_that_of_a_hand_computation(tmp_path: Path) -> None:
    if not TRACE.is_file():
        pytest.skip(f"{TRACE} is not there")
    httpx = pytest.importorskip("httpx")
    open_ledger = pytest.importorskip("tokenmeter.ledger").open_ledger
    pytest.importorskip("sqlalchemy")
    with gzip.open(TRACE, "rt", encoding="utf-8") as file:
        every = [json.loads(line) for line in file]
    assert len(every) == 100
    clock, calls = FakeClock(), CapturedCalls(10_000)
    expected: dict[str, int] = {"solver-0": 0, "solver-1": 0}
    solved: dict[str, int] = dict.fromkeys(expected, 0)
    failed_nanos = 0
    outcomes = []
    with (
        ScriptedProvider(_reply) as provider,
        Meter(prices={"gpt-4o": Price("2.5", 10)}, clock=clock, recorders=[calls]) as meter,
        meter.wrap(httpx.Client()) as client,
    ):
        for number, task in enumerate(every):
            agent, run = f"solver-{number % 2}", f"{task['task_id']}-{task['trial']}-{number}"
            nanos = before = 0
            with meter.agent(agent, user="desk", team="airline", run=run):
                for message in task["traj"]:
                    if message["role"] == "assistant":
                        out = tokens(message)
                        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": f"{before} {out}"}]}
                        client.post(f"{provider.openai_url}/chat/completions", json=body).raise_for_status()
                        nanos += before * IN_NANOS + out * OUT_NANOS
                    before += tokens(message)
            clock.advance(600)
            expected[agent] += nanos
            if task["reward"] == 1:
                solved[agent] += 1
                done = new_outcome(
                    "solved", run, clock.now_s(), run=run, accepted_by="checker", source="http:bench", kinds=KINDS
                )
                outcomes.append(done)
            else:
                failed_nanos += nanos
        billed = provider.wait_idle()
        metered = meter.spend()
    with open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        ledger.add((row.id, row) for row in calls)
        for outcome in outcomes:
            ledger.put_outcome(outcome)
        kept = list(ledger.outcomes())
        runs, hours = list(ledger.runs()), list(ledger.hours())

    found = report(hours, runs, judge(kept, runs, link(kept, runs), kinds=KINDS))

    assert billed.calls == metered.calls == 1229
    assert found.total_nanos == sum(expected.values()) == int(metered.usd * 10**9)
    rows = {row.name: row for row in found.by_agent}
    for agent, nanos in expected.items():
        assert (rows[agent].nanos, rows[agent].micros) == (nanos, solved[agent] * 1_000_000)
        assert rows[agent].unit_nanos == (2 * nanos + solved[agent]) // (2 * solved[agent])
    assert found.fruitless_nanos == failed_nanos > 0
    assert sum(solved.values()) == 43
    print(f"a solved task cost ${(found.unit_nanos or 0) / 1e9:.4f}, ${failed_nanos / 1e9:.2f} of failed runs in it")


def _reply(request: Request) -> Reply:
    before, out = request.json["messages"][0]["content"].split()
    return Reply("done", input_tokens=int(before), output_tokens=int(out))
