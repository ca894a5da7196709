"""A pause in one process stops the others within a second, and its end lets them go on."""

from __future__ import annotations

import time
from typing import Any

from tests.fleet.conftest import MakeUrl
from tests.fleet.fleet import FULL, Fleet, size, until
from tokenmeter.testing import Reply, ScriptedProvider

OBEYS_S = 1.0
SLACK_S = 5.0  # for a machine that has other things to do as well
PROCESSES = size(2, 7)


def test_a_pause_is_obeyed_by_all(fleet: Fleet, fresh: MakeUrl) -> None:
    store = fresh()
    meter: dict[str, Any] = {"store": store, "budgets": [["1000000 calls", {}]], "price": ["1", "1"]}
    late: list[float] = []
    with ScriptedProvider(Reply("One.")) as provider:
        for number in range(PROCESSES):
            fleet.start(
                "load",
                url=provider.openai_url,
                meter=meter,
                name=str(number),
                threads=1,
                tasks=1,
                agents=["bot"],
                seed=number,
                pause_s=0.02,
            )
        boss = fleet.start("caller", url=provider.openai_url, meter=meter)
        until(lambda: provider.received > 50)
        for target in ("all", "agent=bot") if FULL else ("agent=bot",):
            paused_s = time.time()
            assert boss.ask({"do": "pause", "target": target}) == "done"
            last_s = paused_s
            while time.time() < last_s + 1.5:
                time.sleep(0.1)
                last_s = max(last_s, provider.requests[-1].at_s)
                assert last_s < paused_s + OBEYS_S + SLACK_S, "a pause is not obeyed"
            late.append(last_s - paused_s)
            for worker in fleet.workers[:-1]:
                worker.ask({"do": "report"})
            time.sleep(0.2)
            for worker in fleet.workers[:-1]:
                [said] = worker.ask({"do": "report"})["found"].values()
                assert len(said) == 1
                assert next(iter(said)).startswith("Paused(")
            before = provider.received
            assert boss.ask({"do": "resume", "target": target})
            until(lambda before=before: provider.received > before + 50)
        fleet.dismiss()
    print(f"\n### the last call went out {max(late):.2f} s after the pause was asked for")
