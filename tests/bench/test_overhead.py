"""What metering costs: figures beside the bare SDK's, in alternating blocks of one process. Times are never asserted.

Beside them stand floors: the least code that could do a part of it, in one function and with nothing else
(``floors.py``). What a floor costs on a machine, no meter undercuts there.

Run with ``-s`` to see them. ``TOKENMETER_BENCH_ROUNDS`` makes them steadier; the default only shows that they can be
taken.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import tokenmeter
from tests.bench import floors
from tokenmeter.budgets import MemoryStore, Need, Policy
from tokenmeter.pricing import PriceBook

OpenAI = pytest.importorskip("openai").OpenAI
pytestmark = pytest.mark.bench

ROUNDS = int(os.environ.get("TOKENMETER_BENCH_ROUNDS", "3"))
BLOCK = 20
MESSAGES: Any = [
    {"role": "system", "content": "You are a helpful assistant. " * 8},
    {"role": "user", "content": "Tell me of the sea. " * 10},
]
BUDGETS = [
    tokenmeter.Budget("$100000", per="day", scope="agent"),
    tokenmeter.Budget("$1000000", per="month", scope="team"),
]


class Nowhere(SpanExporter):
    """Exports nothing."""

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The scripted provider, in a process of its own so that its CPU is not ours."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tokenmeter.testing", "word " * 200],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    yield process.stdout.readline().strip() + "/v1"
    process.stdin.close()
    process.wait(10)
    process.stdout.close()


@pytest.fixture
def pipeline() -> Iterator[tuple[TracerProvider, MeterProvider]]:
    spans, metrics = TracerProvider(), MeterProvider(metric_readers=[InMemoryMetricReader()])
    spans.add_span_processor(BatchSpanProcessor(Nowhere()))
    yield spans, metrics
    spans.shutdown()
    metrics.shutdown()


@pytest.fixture
def meters(pipeline: tuple[TracerProvider, MeterProvider]) -> Iterator[dict[str, tokenmeter.Meter | None]]:
    spans, metrics = pipeline
    unsampled = TracerProvider(sampler=ALWAYS_OFF)
    found: dict[str, tokenmeter.Meter | None] = {
        "bare": None,
        "no pipeline": tokenmeter.Meter(BUDGETS),
        "sampled out": tokenmeter.Meter(BUDGETS, tracer_provider=unsampled),
        "spans and metrics": tokenmeter.Meter(BUDGETS, tracer_provider=spans, meter_provider=metrics),
    }
    yield found
    for meter in found.values():
        if meter is not None:
            meter.close()
    unsampled.shutdown()


def compare(
    title: str,
    meters: dict[str, tokenmeter.Meter | None],
    url: str,
    act: Callable[[Any], int],
    *,
    floors: Mapping[str, Callable[[Any], None]],
    block_size: int = BLOCK,
) -> None:
    clients: dict[str, Any] = {}
    for name, meter in meters.items():
        client = OpenAI(base_url=url, api_key="none")
        clients[name] = client if meter is None else meter.wrap(client)
        if meter is not None:
            meter._prices.preload()
    for name, lay in floors.items():
        clients[name] = OpenAI(base_url=url, api_key="none")
        lay(clients[name])
    clocks = (time.perf_counter, time.thread_time)
    single: dict[str, list[tuple[float, ...]]] = {name: [] for name in clients}  # µs of each call, by both clocks
    block: dict[str, list[float]] = {name: [] for name in clients}  # µs of the process, over a block of calls
    scope = tokenmeter.Meter()
    with scope.agent("bench", user="u", team="t"):
        for client in clients.values():
            for _ in range(5):
                act(client)
        for number in range(ROUNDS):
            names = list(clients) if number % 2 else list(reversed(clients))
            for name in names:
                done, before = 0, time.process_time()
                for _ in range(block_size):
                    starts = [clock() for clock in clocks]
                    units = act(clients[name])
                    ends = [clock() for clock in clocks]
                    done += units
                    single[name].append(tuple((e - s) / units * 1e6 for s, e in zip(starts, ends, strict=True)))
                block[name].append((time.process_time() - before) / done * 1e6)
    for client in clients.values():
        client.close()
    print(
        f"\n{title}: µs of wall and of the thread's CPU, medians of {ROUNDS * block_size}; "
        "CPU of the process, medians of blocks"
    )
    found = {
        name: [*(statistics.median(each) for each in zip(*single[name], strict=True)), statistics.median(block[name])]
        for name in clients
    }
    for name, figures in found.items():
        over = [figure - bare for figure, bare in zip(figures, found["bare"], strict=True)]
        shares = [100 * each / bare for each, bare in zip(over, found["bare"], strict=True)]
        more = "   over bare: " + "  ".join(f"{o:+.1f} ({s:+.1f} %)" for o, s in zip(over, shares, strict=True))
        print(f"  {name:28} " + " ".join(f"{figure:8.1f}" for figure in figures) + ("" if name == "bare" else more))
    for meter in meters.values():
        assert meter is None or meter.spend().calls == ROUNDS * block_size + 5


def test_a_call(
    server: str, meters: dict[str, tokenmeter.Meter | None], pipeline: tuple[TracerProvider, MeterProvider]
) -> None:
    def act(client: Any) -> int:
        client.chat.completions.create(model="gpt-5-mini", messages=MESSAGES, max_completion_tokens=50)
        return 1

    compare("one call", meters, server, act, floors=floors.of_a_call(*pipeline))


def test_a_chunk(server: str, meters: dict[str, tokenmeter.Meter | None]) -> None:
    def act(client: Any) -> int:
        stream = client.chat.completions.create(
            model="gpt-5-mini",
            messages=MESSAGES,
            max_completion_tokens=500,
            stream=True,
        )
        return sum(1 for _ in stream)

    title = "one streamed chunk (the call spread over 202 chunks)"
    compare(title, meters, server, act, floors=floors.OF_A_CHUNK, block_size=5)


def test_pricing_and_holding_alone() -> None:
    book = PriceBook()
    at = datetime(2026, 11, 1, tzinfo=UTC)
    rate = book.rate("openai", "gpt-5-mini", at=at)
    assert rate is not None
    counts = {"input_tokens": 900, "cache_read_tokens": 100, "output_tokens": 300}
    policy, store = Policy(BUDGETS), MemoryStore()
    facts = {"agent": "a", "team": "t"}
    numbers = iter(range(10**9))

    def hold_and_settle() -> None:
        hold_id = str(next(numbers))
        claims = policy.claims(facts, Need(1_000, 10, 1), 1_790_000_000.0)
        store.hold(hold_id, claims, 1_790_000_000.0)
        assert store.settle(hold_id, (900, 900))

    for name, function in {
        "price look-up": lambda: book.rate("openai", "gpt-5-mini", at=at),
        "cost of a call": lambda: rate.cost_nanos(counts),
        "claims, hold and settle on two budgets": hold_and_settle,
    }.items():
        best = min(timeit.repeat(function, number=500, repeat=5)) / 500 * 1e6
        print(f"\n{name}: {best:.2f} µs")
    assert rate.cost_nanos(counts) > 0


def test_the_import() -> None:
    code = (
        "import time, json, sys, resource; begin = time.perf_counter()\n"
        "import httpx2, opentelemetry.context, opentelemetry.trace, opentelemetry.metrics, opentelemetry.baggage\n"
        "kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; start = time.perf_counter()\n"
        "import tokenmeter\n"
        "print(json.dumps([(time.perf_counter() - start) * 1e3, (start - begin) * 1e3, "
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - kb]))\n"
    )
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
        for _ in range(ROUNDS)
    ]
    millis, theirs, kilobytes = (statistics.median(column) for column in zip(*runs, strict=True))
    print(
        f"\nimport tokenmeter beyond httpx2 and opentelemetry-api: {millis:.0f} ms, {kilobytes / 1024:.1f} MB; "
        f"theirs: {theirs:.0f} ms"
    )
    assert len(runs) == ROUNDS
