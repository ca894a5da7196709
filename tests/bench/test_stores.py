"""What a call costs on each store: the verbs of one call, alone and from several processes. Times are never asserted.

Run with ``-s`` to see the figures. ``TOKENMETER_BENCH_CALLS`` makes them steadier.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.redis_server import RedisServer, missing

pytestmark = pytest.mark.bench

CALLS = int(os.environ.get("TOKENMETER_BENCH_CALLS", "300"))

WORKER = textwrap.dedent("""
    import json, sys, time
    from tokenmeter.budgets import MemoryStore
    from tokenmeter.budgets import Budget, Need, Policy
    url, calls = sys.argv[1], int(sys.argv[2])
    if url == "memory://":
        store = MemoryStore()
    else:
        from tokenmeter.budgets.assembly import assemble
        store = assemble(url)
    trips = [0]
    room = None
    inner = store
    while not hasattr(inner, "_room") and hasattr(inner, "inner"):
        inner = inner.inner
    if hasattr(inner, "_room"):
        run = inner._room.run
        def counted(*args, **kwargs):
            trips[0] += 1
            return run(*args, **kwargs)
        inner._room.run = counted
    policy = Policy([Budget("$100000", per="day", scope="agent"), Budget("$1000000", per="month", scope="team")])
    facts, need, row = {"agent": "a", "team": "t"}, Need(1_000_000, 1_000, 1), b"x" * 600
    note = lambda: row
    def call(number):
        now_s = time.time()
        hold_id = f"{number:032d}"
        claims = policy.claims(facts, need, now_s)
        store.hold(hold_id, claims, now_s, note)
        if store.keeps_rows:
            store.sent(hold_id)
        store.settle(hold_id, (400_000, 400_000), row if store.keeps_rows else b"")
    import os
    base = os.getpid() * 10**9
    for number in range(50):
        call(base + number)
    print("ready", flush=True)
    sys.stdin.readline()
    trips[0] = 0
    times = []
    begin = time.perf_counter()
    for number in range(50, 50 + calls):
        start = time.perf_counter()
        call(base + number)
        times.append(time.perf_counter() - start)
    took_s = time.perf_counter() - begin
    made = trips[0]
    held = [book.state.held for book in store.books()]
    print(json.dumps({"times": times, "took_s": took_s, "trips": made, "held": held}), flush=True)
    store.close()
""")


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    if reason := missing():
        pytest.skip(f"no Redis server: {reason}")
    with RedisServer() as server:
        yield server.url


def measured(url: str, processes: int) -> list[dict[str, Any]]:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, url, str(CALLS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    found = []
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        out, _ = worker.communicate(timeout=300)
        assert worker.returncode == 0
        found.append(json.loads(out))
    return found


def report(title: str, url: str) -> None:
    for processes in (1, 4):
        found = measured(url, processes)
        times = sorted(t for each in found for t in each["times"])
        rate = sum(len(each["times"]) / each["took_s"] for each in found)
        trips = sum(each["trips"] for each in found) / len(times) * 1_000
        print(
            f"\n{title:26} {processes} process{'es' if processes > 1 else '':2}: "
            f"{statistics.median(times) * 1e6:7.1f} µs a call at the median, "
            f"{times[int(len(times) * 0.99)] * 1e6:8.1f} at the 99th percentile, {rate:9,.0f} calls/s"
            + (f", {trips:,.0f} round trips per 1,000 calls" if trips else "")
        )
        assert len(times) == processes * CALLS


def test_memory() -> None:
    report("memory", "memory://")


@pytest.mark.parametrize("synchronous", ["normal", "full"])
def test_sqlite(tmp_path: Path, synchronous: str) -> None:
    report(
        f"sqlite, {synchronous}",
        f"sqlite:///{tmp_path / 'books.db'}?synchronous={synchronous}&timeout_s=20&lease_s=120",
    )


@pytest.mark.parametrize("leases", ["off", "on"])
def test_redis(redis_url: str, tmp_path: Path, leases: str) -> None:
    report(
        f"redis, leases {leases}",
        f"{redis_url}?leases={leases}&tenant={leases}&timeout_s=20&lease_s=120&state_dir={tmp_path}",
    )


def test_money_stranded_by_leases(redis_url: str, tmp_path: Path) -> None:
    """Four processes that use a budget of 1,000 calls, and stop in the middle without a word."""
    code = textwrap.dedent("""
        import sys, time
        from tokenmeter.budgets import Budget, Need, Policy
        from tokenmeter.budgets.assembly import assemble
        store = assemble(sys.argv[1])
        policy = Policy([Budget("1000 calls")])
        for number in range(int(sys.argv[2])):
            now_s = time.time()
            hold_id = f"{id(store)}-{number}"
            store.hold(hold_id, policy.claims({}, Need(None, 0, 1), now_s), now_s)
            store.sent(hold_id)
            store.settle(hold_id, (1,))
        print("done", flush=True)
        sys.stdin.readline()
    """)
    url = f"{redis_url}?state_dir={tmp_path}&tenant=stranded"
    for each in (20, 100, 200):
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", code, url + str(each), str(each)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for _ in range(4)
        ]  # fmt: skip
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "done\n"
        from tokenmeter.budgets import open_store

        store = open_store(url + str(each))
        stranded = []
        for pause_s in (0.0, 0.5):
            time.sleep(pause_s)
            [book] = store.books()
            stranded.append(book.leased)
        print(
            f"\nof 1,000 calls, 4 processes with {each} each: {stranded[0]} leased and unused right after the last, "
            f"{stranded[1]} half a second later"
        )
        for worker in workers:
            worker.communicate("\n", timeout=60)
        [book] = store.books()
        assert (book.state.posted, book.state.held) == (4 * each, 0)
        store.close()
