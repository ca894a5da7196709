"""Redis is killed, paused and flushed in mid load: nothing hangs, closed budgets stay closed, and nothing gets lost.

Callers of three agents go on all the time, each held to a budget that says something else of a store that is gone.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.fleet.fleet import FULL, Fleet, size, until
from tests.fleet.ledgers import Ledger, look
from tests.support.redis_server import RedisServer, missing
from tokenmeter.budgets.assembly import assemble
from tokenmeter.budgets.redis import open_redis
from tokenmeter.errors import StoreUnavailable
from tokenmeter.testing import Reply, Request, ScriptedProvider

AGENTS = ("closed", "open", "local")
PROCESSES, THREADS, TASKS = 3, 3, 3
TIMEOUT_S = 0.25
SLACK_S = 5.0  # for a machine that has other things to do as well
OUTAGE_S = size(1, 30)
INPUT, OUTPUT = Decimal("123.457"), Decimal("1700.003")  # nanodollars a token
LOCAL_CALLS = 5
# What a call holds at the most, and so the calls that the local limit pays.
CALL_NANOS = 90_000


class Bill:
    """What arrived, by agent and by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.arrived: Counter[str] = Counter()
        self.by_agent: Counter[str] = Counter()

    def reply(self, request: Request) -> Reply:
        name = request.json["user"]
        with self._lock:
            self.arrived[name] += 1
            self.by_agent[AGENTS[int(name.split()[1]) % 3]] += 1
        return Reply("four words in all", delay_s=0.005)

    def within(self, seconds: float) -> Counter[str]:
        """How many arrived from now on, by agent."""
        before = Counter(self.by_agent)
        time.sleep(seconds)
        return self.by_agent - before


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis that keeps what it is told over its death."""
    if reason := missing():
        pytest.skip(f"no Redis server: {reason}")
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as found:
        yield found


class Scene:
    """A load on one Redis."""

    def __init__(self, server: RedisServer, fleet: Fleet, folder: Path, leases: str, limit: str = "$1000") -> None:
        self.server = server
        self.fleet = fleet
        self.plain = f"{server.url}/0?state_dir={quote(str(folder))}&timeout_s={TIMEOUT_S}"
        self.store = f"{self.plain}&leases={leases}"
        self.bill = Bill()
        self.provider = ScriptedProvider(self.bill.reply)
        self.slowest_s: Counter[str] = Counter()
        self.found: dict[str, Counter[str]] = {agent: Counter() for agent in AGENTS}
        local = f"${Decimal(LOCAL_CALLS * CALL_NANOS) / 10**9}"
        budgets: list[list[Any]] = [
            [limit, {"match": {"agent": "closed"}, "name": "closed", "wait_s": 0}],
            ["$1000", {"match": {"agent": "open"}, "on_store_error": "open", "name": "open"}],
            ["$1000", {"match": {"agent": "local"}, "on_store_error": "local", "local_limit": local, "name": "local"}],
        ]
        for number in range(PROCESSES):
            fleet.start(
                "load",
                url=self.provider.openai_url,
                meter={"store": self.store, "budgets": budgets, "price": ["0.123457", "1.700003"]},
                name=f"p{number}",
                threads=THREADS,
                tasks=TASKS,
                agents=[f"+{agent}" for agent in AGENTS],
                seed=number,
                pause_s=0.02,
            )
        until(lambda: all(self.bill.by_agent[agent] > 20 for agent in AGENTS))

    def report(self, what: str = "report") -> None:
        """Have all tell what came of their calls up to now."""
        for worker in self.fleet.workers:
            told = worker.ask({"do": what})
            assert told.get("flushed", True)
            for agent, found in told["found"].items():
                self.found[agent].update(found)
                self.slowest_s[agent] = max(self.slowest_s[agent], told["slowest_s"][agent])

    def during(self, seconds: float) -> tuple[Counter[str], dict[str, Counter[str]]]:
        """What arrived in this time, and what came of the calls."""
        self.report()
        self.found = {agent: Counter() for agent in AGENTS}
        arrived = self.bill.within(seconds)
        self.report()
        return arrived, self.found

    def passes_again(self) -> None:
        """Wait until closed budgets let calls pass."""
        before = self.bill.by_agent["closed"]
        until(lambda: self.bill.by_agent["closed"] > before + 20)

    def end(self) -> Ledger:
        """The ledger when all has ended well."""
        began_s = time.monotonic()
        self.report("stop")
        self.flushed_s = time.monotonic() - began_s
        self.fleet.dismiss()
        self.billed = self.provider.wait_idle()
        self.provider.close()
        store = assemble(self.store)
        store.recover()
        ledger = look(store)
        store.close()
        return ledger

    def must_be_whole(self, ledger: Ledger) -> None:
        """Each call that arrived is charged once, with what it cost."""
        ledger.must_balance()
        ledger.must_hold_nothing()
        assert set(self.bill.arrived.values()) == {1}
        charged = Counter(row.told["user"] for row in ledger.charged if row.told)
        assert charged == self.bill.arrived
        assert not any(row.estimated for row in ledger.rows)
        exact = self.billed.input_tokens * INPUT + self.billed.output_tokens * OUTPUT
        assert abs(sum(ledger.spent_on(agent) for agent in AGENTS) - exact) <= Decimal("0.5") * self.billed.calls

    def must_not_hang(self) -> None:
        """No call took longer than its store may, three times over: to hold, to note that it goes out, to settle."""
        longest_s = max(self.slowest_s.values())
        assert longest_s < 3 * TIMEOUT_S + SLACK_S, self.slowest_s


def _kill(server: RedisServer) -> None:
    server.kill()


def _pause(server: RedisServer) -> None:
    server.pause()


def _back(server: RedisServer, harm: Callable[[RedisServer], None]) -> None:
    server.resume() if harm is _pause else server.start()


HARMS = [(_kill, "on"), (_pause, "off"), *([(_kill, "off"), (_pause, "on")] if FULL else [])]


@pytest.mark.parametrize(("harm", "leases"), HARMS)
def test_redis_is_gone_for_a_while(
    server: RedisServer, fleet: Fleet, tmp_path: Path, leases: str, harm: Callable[[RedisServer], None]
) -> None:
    scene = Scene(server, fleet, tmp_path, leases)
    scene.report()
    usual_s = max(scene.slowest_s.values())
    assert {said for found in scene.found.values() for said in found} == {"ok"}, scene.found
    scene.slowest_s.clear()
    began = Counter(scene.bill.by_agent)
    harm(server)
    time.sleep(4 * TIMEOUT_S + 0.5)  # a call that held its money before it may still go out, and does
    gone_s = time.time()
    arrived, found = scene.during(OUTAGE_S)
    back_s = time.time()
    passed = scene.bill.by_agent - began
    assert arrived["closed"] == 0
    assert set(found["closed"]) == {"StoreUnavailable"}
    assert arrived["open"] > 20
    assert set(found["open"]) == {"ok"}
    local = passed["local"]
    assert set(found["local"]) <= {"ok", "BudgetExceeded"}
    assert found["local"]["BudgetExceeded"] > 0
    outage_s = dict(scene.slowest_s)
    scene.slowest_s.clear()
    _back(server, harm)
    scene.passes_again()
    ledger = scene.end()
    print(
        f"\n### leases {leases}, {harm.__name__[1:]} for {OUTAGE_S} s: longest call before {usual_s:.2f} s, "
        f"while gone { {agent: round(s, 2) for agent, s in outage_s.items()} } s, "
        f"after { {agent: round(s, 2) for agent, s in scene.slowest_s.items()} } s; "
        f"all told {scene.flushed_s:.1f} s after the end; passed while gone {dict(arrived)}, "
        f"local since the outage began {local}; "
        f"{sum(scene.bill.arrived.values())} calls in all"
    )
    scene.must_be_whole(ledger)
    alone = [row for row in ledger.charged if row.told.get("agent") == "local" and gone_s < row.told["at_s"] < back_s]
    assert sum(row.told["cost_nanos"] for row in alone) <= PROCESSES * LOCAL_CALLS * CALL_NANOS
    scene.must_not_hang()
    for agent, took_s in outage_s.items():
        scene.slowest_s[agent] = max(scene.slowest_s[agent], took_s)
    scene.must_not_hang()


@pytest.mark.parametrize("leases", ["off", "on"] if FULL else ["on"])
def test_redis_is_flushed(server: RedisServer, fleet: Fleet, tmp_path: Path, leases: str) -> None:
    """What was spent out stays spent out, until somebody says that the loss is accepted."""
    scene = Scene(server, fleet, tmp_path, leases, limit="200 calls")
    until(lambda: scene.bill.by_agent["closed"] >= 200)
    time.sleep(0.5)
    arrived, found = scene.during(2.0)  # on a busy machine half a second may be nothing
    assert arrived["closed"] == 0
    assert set(found["closed"]) == {"BudgetExceeded"}
    server.flush()
    time.sleep(4 * TIMEOUT_S)
    arrived, found = scene.during(OUTAGE_S)
    assert arrived["closed"] == 0
    assert set(found["closed"]) == {"StoreUnavailable"}
    assert arrived["open"] > 20
    assert set(found["open"]) == {"ok"}
    assert set(found["local"]) <= {"ok", "BudgetExceeded"}
    books = open_redis(scene.plain)
    with pytest.raises(StoreUnavailable, match=r"no longer has the budgets .* accept_loss"):
        books.books()
    after_flush = Counter(scene.bill.arrived)
    books.accept_loss()
    books.close()
    scene.passes_again()
    ledger = scene.end()
    longest_s = {agent: round(took_s, 2) for agent, took_s in scene.slowest_s.items()}
    print(f"\n### leases {leases}, flushed: longest calls {longest_s} s")
    ledger.must_balance()
    ledger.must_hold_nothing()
    charged = Counter(row.told["user"] for row in ledger.charged if row.told)
    assert max(charged.values()) == 1
    assert set(scene.bill.arrived) - set(after_flush) <= set(charged)
    assert scene.bill.by_agent["closed"] <= 400
    scene.must_not_hang()
