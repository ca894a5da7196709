"""The metrics: names, units, boundaries, labels and value types; never lost, never in the way."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader, Sum
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.clients.faces import (
    ASK,
    COST_NANOS,
    FACES,
    INPUT,
    MODEL,
    OUTPUT,
    URL,
    Face,
    Origin,
    come,
    face_id,
    on_a_loop,
)
from tests.telemetry.pipeline import attributes_of, metrics_of, only, points_of, typed
from tokenmeter import Budget, BudgetExceeded, ConfigError, Meter
from tokenmeter.telemetry import metrics as metrics_module
from tokenmeter.telemetry.metrics import Metrics
from tokenmeter.testing import CapturedCalls

STREAMED = ASK | {"stream": True}
BASE = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": MODEL,
    "gen_ai.response.model": MODEL,
    "server.address": "api.openai.com",
    "server.port": 443,
}
sync = FACES[2]


@pytest.fixture(params=FACES, ids=face_id)
def face(request: pytest.FixtureRequest) -> Face:
    found: Face = request.param
    return found


def posted(meter: Meter, ask: dict[str, Any] = ASK, *, times: int = 1, origin: Origin | None = None) -> None:
    client = meter.wrap((origin or Origin(sync)).client())
    for _ in range(times):
        client.post(URL, json=ask)


def labels_of(metric: Any) -> list[dict[str, Any]]:
    return [dict(point.attributes) for point in metric.data.data_points]


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@on_a_loop
async def test_a_call(face: Face, meter: Meter, reader: InMemoryMetricReader, ask: dict[str, Any]) -> None:
    await come(meter.wrap(Origin(face).client()).post(URL, json=ask))
    metrics = metrics_of(reader)  # at once, without a flush
    names = {
        "gen_ai.client.token.usage": ("{token}", Histogram),
        "gen_ai.client.operation.duration": ("s", Histogram),
        "tokenmeter.cost": ("USD", Sum),
    }
    if ask is STREAMED:
        names["gen_ai.client.operation.time_to_first_chunk"] = ("s", Histogram)
    found = {name: (metric.unit, type(metric.data)) for name, metric in metrics.items()}
    found.pop("tokenmeter.telemetry.dropped", None)
    assert found == names
    assert all(metric.description for metric in metrics.values())

    points = points_of(metrics["gen_ai.client.token.usage"])
    assert {frozenset((BASE | {"gen_ai.token.type": kind}).items()) for kind in ("input", "output")} == set(points)
    for labels, point in points.items():
        count = INPUT if dict(labels)["gen_ai.token.type"] == "input" else OUTPUT
        assert (point.count, point.sum, point.min, point.max) == (1, count, count, count)
        assert type(point.sum) is int
        assert list(point.explicit_bounds) == [4**power for power in range(14)]
        assert point.explicit_bounds[-1] == 67_108_864

    for name in names.keys() - {"gen_ai.client.token.usage", "tokenmeter.cost"}:
        [(labels, point)] = points_of(metrics[name]).items()
        assert typed(dict(labels)) == typed(BASE)
        assert type(point.sum) is float
        assert point.count == 1
        assert point.sum > 0
        bounds = list(point.explicit_bounds)
        assert bounds == pytest.approx([0.01 * 2**power for power in range(14)])
        assert bounds[-1] == pytest.approx(81.92)

    [(labels, point)] = points_of(metrics["tokenmeter.cost"]).items()
    assert typed(dict(labels)) == typed(BASE)
    assert type(point.value) is float
    assert point.value == pytest.approx(COST_NANOS / 1e9)
    assert metrics["tokenmeter.cost"].data.is_monotonic


def test_calls_add_up(meter: Meter, reader: InMemoryMetricReader) -> None:
    posted(meter, times=20)
    metrics = metrics_of(reader)
    assert [point.count for point in points_of(metrics["gen_ai.client.token.usage"]).values()] == [20, 20]
    assert sum(point.sum for point in points_of(metrics["gen_ai.client.token.usage"]).values()) == 20 * (INPUT + OUTPUT)
    [cost] = points_of(metrics["tokenmeter.cost"]).values()
    assert cost.value == pytest.approx(20 * COST_NANOS / 1e9)
    posted(meter)
    assert [point.count for point in points_of(metrics_of(reader)["gen_ai.client.token.usage"]).values()] == [21, 21]


def test_refusals(metering: MeterProvider, reader: InMemoryMetricReader) -> None:
    with Meter([Budget("1 calls", wait_s=0)], meter_provider=metering) as meter:
        posted(meter)
        for _ in range(3):
            with pytest.raises(BudgetExceeded):
                posted(meter)
        metrics = metrics_of(reader)
    [(labels, point)] = points_of(metrics["tokenmeter.refusals"]).items()
    expected = {name: value for name, value in BASE.items() if name != "gen_ai.response.model"}
    assert typed(dict(labels)) == typed(expected | {"error.type": "BudgetExceeded"})
    assert (type(point.value), point.value) == (int, 3)
    assert metrics["tokenmeter.refusals"].unit == "{call}"
    [duration] = points_of(metrics["gen_ai.client.operation.duration"]).values()
    assert duration.count == 1  # a refused call was no operation of a client


def test_errors(meter: Meter, reader: InMemoryMetricReader) -> None:
    posted(meter, origin=Origin(sync, status=500))
    metrics = metrics_of(reader)
    [labels] = labels_of(metrics["gen_ai.client.operation.duration"])
    assert labels["error.type"] == "500"
    assert "gen_ai.client.token.usage" not in metrics
    assert "tokenmeter.cost" not in metrics


def test_a_missing_counter_is_not_an_empty_one(meter: Meter, reader: InMemoryMetricReader) -> None:
    def handler(request: Any) -> Any:
        body = (
            b'{"object":"list","model":"text-embedding-3-small","data":[],"usage":{"prompt_tokens":5,"total_tokens":5}}'
        )
        return sync.response(200, [body], {"content-type": "application/json"})

    meter.wrap(sync.client(handler)).post("https://api.openai.com/v1/embeddings", json={"model": "x", "input": "y"})
    [labels] = labels_of(metrics_of(reader)["gen_ai.client.token.usage"])
    assert labels["gen_ai.token.type"] == "input"


# -- labels ------------------------------------------------------------------------------------------------------


def test_nobody_is_named_by_default(meter: Meter, reader: InMemoryMetricReader) -> None:
    with meter.agent("triage", user="alice", team="support", run="run-7", ticket="42"):
        posted(meter)
        posted(meter, STREAMED)
    for metric in metrics_of(reader).values():
        for labels in labels_of(metric):
            assert labels.keys() <= BASE.keys() | {"gen_ai.token.type"}


def test_labels_by_choice(metering: MeterProvider, reader: InMemoryMetricReader) -> None:
    with Meter(meter_provider=metering, metric_labels=["agent", "user", "team", "run"]) as meter:
        with meter.agent("triage", user="alice", team="support", run="run-7"):
            posted(meter)
        metrics = metrics_of(reader)
    chosen = {
        "gen_ai.agent.name": "triage",
        "user.id": "alice",
        "tokenmeter.team": "support",
        "tokenmeter.run.id": "run-7",
    }
    for name in ("gen_ai.client.token.usage", "gen_ai.client.operation.duration", "tokenmeter.cost"):
        for labels in labels_of(metrics[name]):
            labels.pop("gen_ai.token.type", None)
            assert labels == BASE | chosen


def test_a_user_is_hashed_as_in_spans(
    tracing: TracerProvider, exporter: InMemorySpanExporter, metering: MeterProvider, reader: InMemoryMetricReader
) -> None:
    with Meter(tracer_provider=tracing, meter_provider=metering, metric_labels=["user"], user_key=b"secret") as meter:
        with meter.agent("triage", user="alice"):
            posted(meter)
        metrics = metrics_of(reader)
    hashed = attributes_of(only(exporter))["user.hash"]
    for metric in metrics.values():
        for labels in labels_of(metric):
            assert "user.id" not in labels
            assert metric.name == "tokenmeter.telemetry.dropped" or labels["user.hash"] == hashed
            assert "alice" not in str(labels)


def test_labels_are_bounded(metering: MeterProvider, reader: InMemoryMetricReader) -> None:
    with Meter(meter_provider=metering, metric_labels=["agent"], max_label_values=3) as meter:
        for nth in range(10):
            with meter.agent(f"agent-{nth}"):
                posted(meter)
        with meter.agent("agent-1"):
            posted(meter)  # was there before the bound
        posted(meter)  # has no agent
        metrics = metrics_of(reader)
    points = points_of(metrics["gen_ai.client.operation.duration"])
    counts = {dict(labels).get("gen_ai.agent.name"): point.count for labels, point in points.items()}
    assert counts == {"agent-0": 1, "agent-1": 2, "agent-2": 1, "(other)": 7, None: 1}


def test_models_and_hosts_are_bounded_too(meter: Meter, reader: InMemoryMetricReader, calls: CapturedCalls) -> None:
    """What a caller or an answer names is anybody's text."""
    posted(meter)
    for field in ("model", "response_model", "host"):
        for nth in range(2_500):
            changed: Any = {field: f"made-up-{nth}"}
            meter._metrics.record(replace(calls[0], **changed), elsewhere=False)
    duration = metrics_of(reader)["gen_ai.client.operation.duration"]
    assert sum(point.count for point in duration.data.data_points) == 7_501
    assert len(duration.data.data_points) <= 4_000
    for name in ("gen_ai.request.model", "gen_ai.response.model", "server.address"):
        assert "(other)" in {labels.get(name) for labels in labels_of(duration)}


@pytest.mark.parametrize("labels", [["agents"], ["model"], ["agent", "tag:x"], "agent", [""], [3]])
def test_labels_that_make_no_sense(labels: Any) -> None:
    with pytest.raises(ConfigError, match="metric label"):
        Meter(metric_labels=labels)


# -- a pipeline, or none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", [None, NoOpMeterProvider()], ids=["unset", "no-op"])
def test_without_a_pipeline_nothing_is_queued(provider: Any) -> None:
    before = threading.active_count()
    with Meter(meter_provider=provider) as meter:
        posted(meter, times=50)
        assert len(meter._metrics._queue) == 0
        assert meter._metrics._thread is None
        names = [thread.name for thread in threading.enumerate()]
        assert "tokenmeter-metrics" not in names
    until_s = time.monotonic() + 10  # what settles later ends a moment after the meter
    while threading.active_count() > before + 1 and time.monotonic() < until_s:
        time.sleep(0.01)
    assert threading.active_count() <= before + 1  # the prices may still be loading


def test_two_meters_on_one_pipeline(metering: MeterProvider, reader: InMemoryMetricReader) -> None:
    with Meter(meter_provider=metering) as one, Meter(meter_provider=metering) as other:
        posted(one, times=2)
        posted(other, times=3)
        [duration] = points_of(metrics_of(reader)["gen_ai.client.operation.duration"]).values()
        assert duration.count == 5


def test_closing_loses_nothing(metering: MeterProvider, reader: InMemoryMetricReader, calls: CapturedCalls) -> None:
    meter = Meter(meter_provider=metering, recorders=[calls])
    client = meter.wrap(Origin(sync).client())
    response = client.send(client.build_request("POST", URL, json=STREAMED), stream=True)
    posted(meter, times=7)
    meter.close()
    assert len(meter._metrics._queue) == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "tokenmeter-metrics"]
    response.read()  # what was under way is still settled, and told
    assert len(calls) == 8
    counts = [point.count for point in points_of(metrics_of(reader)["gen_ai.client.operation.duration"]).values()]
    assert sum(counts) == 8
    meter.close()
    meter.flush()
    assert not [thread for thread in threading.enumerate() if thread.name == "tokenmeter-metrics"]


def test_a_meter_that_nobody_closes_leaves_nothing_behind(
    metering: MeterProvider, reader: InMemoryMetricReader
) -> None:
    def dropped() -> tuple[threading.Thread, weakref.ref[Metrics]]:
        meter = Meter(meter_provider=metering)
        posted(meter, times=3)
        meter._later.flush()
        assert meter._metrics._thread is not None
        return meter._metrics._thread, weakref.ref(meter._metrics)

    def soon(done: Callable[[], bool]) -> bool:
        until_s = time.monotonic() + 20
        while not done() and time.monotonic() < until_s:
            gc.collect()
            time.sleep(0.05)
        return done()

    found = [dropped() for _ in range(3)]
    assert soon(lambda: not any(thread.is_alive() for thread, _ in found))
    assert not any(ref() for _, ref in found)
    [duration] = points_of(metrics_of(reader)["gen_ai.client.operation.duration"]).values()
    assert duration.count == 9  # what was queued is written


def test_rows_are_written_after_a_rest(
    metering: MeterProvider, reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "INTERVAL_S", 0.01)
    with Meter(meter_provider=metering) as meter:
        for _ in range(3):
            posted(meter)
            meter._later.flush()
            until_s = time.monotonic() + 20
            while (meter._metrics._queue or meter._metrics._ring_at != 1) and time.monotonic() < until_s:
                time.sleep(0.01)
            assert not meter._metrics._queue
            assert meter._metrics._ring_at == 1


def test_flush(metering: MeterProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Metrics, "_start", lambda self: None)
    meter = Meter(meter_provider=metering)
    posted(meter, times=3)
    meter._later.flush()
    assert len(meter._metrics._queue) == 3
    meter.flush()
    assert len(meter._metrics._queue) == 0
    meter.close()


def test_where_no_thread_is_to_be_had_it_is_written_at_once(
    metering: MeterProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with Meter(meter_provider=metering) as meter:
        posted(meter, times=3)  # nor is there one for what comes after an answer
        assert len(meter._later._waiting) == 0
        assert len(meter._metrics._queue) == 0
        assert meter._ledger.spend().calls == 3


def test_the_queue_is_bounded_and_says_what_it_dropped(
    metering: MeterProvider, reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Metrics, "_start", lambda self: None)
    monkeypatch.setattr(metrics_module, "MAX_QUEUED", 4)
    with Meter(meter_provider=metering) as meter:
        posted(meter, times=10)
        meter._later.flush()
        assert len(meter._metrics._queue) == 4
        metrics = metrics_of(reader)
        [duration] = points_of(metrics["gen_ai.client.operation.duration"]).values()
        [dropped] = points_of(metrics["tokenmeter.telemetry.dropped"]).values()
        assert (duration.count, dropped.value) == (4, 6)
        assert meter.spend().calls == 10  # the books know all


def test_many_threads(metering: MeterProvider, reader: InMemoryMetricReader) -> None:
    with Meter(meter_provider=metering) as meter:
        client = meter.wrap(Origin(sync).client())
        stop = threading.Event()

        def collect() -> None:
            while not stop.is_set():
                reader.get_metrics_data()

        def post() -> None:
            for _ in range(25):
                client.post(URL, json=ASK)

        collector = threading.Thread(target=collect)
        threads = [threading.Thread(target=post) for _ in range(8)]
        for thread in (collector, *threads):
            thread.start()
        for thread in threads:
            thread.join(60)
        stop.set()
        collector.join(60)
        [duration] = points_of(metrics_of(reader)["gen_ai.client.operation.duration"]).values()
        assert duration.count == 200


def test_a_row_that_cant_be_written_does_not_stop_the_rest(
    meter: Meter, reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = Metrics._write
    seen: list[Any] = []

    def failing(self: Metrics, row: Any, costs: Any) -> None:
        seen.append(row)
        if len(seen) == 1:
            raise RuntimeError("broken")
        write(self, row, costs)

    monkeypatch.setattr(Metrics, "_start", lambda self: None)
    monkeypatch.setattr(Metrics, "_write", failing)
    posted(meter, times=3)
    [duration] = points_of(metrics_of(reader)["gen_ai.client.operation.duration"]).values()
    assert duration.count == 2
    assert "broken" in caplog.text


def test_who_interrupts_the_writing_on_its_own_thread_waits_for_nobody(
    meter: Meter, reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler does that flushes."""
    write = Metrics._write

    def interrupted(self: Metrics, row: Any, costs: Any) -> None:
        meter.flush()
        write(self, row, costs)

    monkeypatch.setattr(Metrics, "_start", lambda self: None)
    monkeypatch.setattr(Metrics, "_write", interrupted)
    posted(meter, times=3)
    flushing = threading.Thread(target=meter.flush, daemon=True)
    flushing.start()
    flushing.join(60)
    assert not flushing.is_alive()
    [duration] = points_of(metrics_of(reader)["gen_ai.client.operation.duration"]).values()
    assert duration.count == 3


# -- other processes ---------------------------------------------------------------------------------------------

SETUP = """
import json, os, sys
import httpx2
import tokenmeter
BODY = b'{"model":"gpt-4o-mini","usage":{"prompt_tokens":5,"completion_tokens":7}}'
def answer(request):
    return httpx2.Response(200, headers={"content-type": "application/json"}, content=BODY)
def post(meter, times=1):
    client = meter.wrap(httpx2.Client(transport=httpx2.MockTransport(answer)))
    for _ in range(times):
        client.post("https://api.openai.com/v1/chat/completions", json={"model": "gpt-4o-mini", "messages": []})
def counted(reader):
    data = reader.get_metrics_data()
    return sum(
        point.count
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "gen_ai.client.operation.duration"
        for point in metric.data.data_points
    )
"""


def run(code: str) -> Any:
    warnings = ["-W", "error", "-W", "ignore::DeprecationWarning:__main__"]  # of forks, which are what is tested
    done = subprocess.run([sys.executable, *warnings, "-c", SETUP + code], capture_output=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert not done.stderr, done.stderr.decode()
    return json.loads(done.stdout)


def test_a_global_pipeline_that_is_set_up_later() -> None:
    found = run("""
from opentelemetry import metrics, trace
meter = tokenmeter.Meter()
post(meter, 2)
meter.flush()
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()
metrics.set_meter_provider(MeterProvider([reader]))
tracing = TracerProvider()
tracing.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(tracing)
post(meter, 3)
print(json.dumps([counted(reader), [span.name for span in exporter.get_finished_spans()]]))
meter.close()
""")
    assert found == [3, ["chat gpt-4o-mini"] * 3]


def test_nothing_is_lost_at_the_end_of_a_program() -> None:
    """Nobody closes the meter, and the pipeline exports as the SDK does it by default."""
    found = run("""
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, PeriodicExportingMetricReader
class Printing(MetricExporter):
    total = 0
    def export(self, data, timeout_millis=0, **kwargs):
        for resource in data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == "gen_ai.client.operation.duration":
                        Printing.total = max(Printing.total, sum(point.count for point in metric.data.data_points))
        return MetricExportResult.SUCCESS
    def force_flush(self, timeout_millis=0):
        return True
    def shutdown(self, timeout_millis=0, **kwargs):
        print(Printing.total)
metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(Printing(), 3_600_000)]))
meter = tokenmeter.Meter()
post(meter, 5)
""")
    assert found == 5


def test_after_a_fork() -> None:
    found = run("""
import warnings
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
meter = tokenmeter.Meter(meter_provider=MeterProvider([reader], shutdown_on_exit=False))
post(meter, 3)
meter.flush()
assert meter._metrics._thread is not None
assert counted(reader) == 3
out, into = os.pipe()
child = os.fork()
if child == 0:
    try:
        post(meter, 4)
        meter._later.flush()
        from tokenmeter.telemetry import metrics
        alive = meter._metrics._thread.is_alive()
        post(meter, metrics.WAKE_AT)
        told = [counted(reader), alive, len(meter._metrics._queue)]
        meter.close()
        os.write(into, json.dumps(told).encode())
    finally:
        os._exit(0)
os.close(into)
_, status = os.waitpid(child, 0)
post(meter, 2)
print(json.dumps([counted(reader), json.loads(os.read(out, 1000))]))
meter.close()
""")
    assert found == [5, [3 + 4 + 512, True, 0]]


def test_a_fork_while_metrics_are_being_written() -> None:
    """The lock of the writer is held by a thread that the child doesn't have."""
    found = run("""
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
meter = tokenmeter.Meter(meter_provider=MeterProvider([reader], shutdown_on_exit=False))
post(meter, 3)
meter.flush()
import faulthandler, signal
meter._metrics._writing.begin(60.0)
child = os.fork()
if child == 0:
    signal.alarm(5)  # kills a child that hangs
    post(meter, 1)
    meter.flush()
    os._exit(0 if counted(reader) == 4 else 1)
meter._metrics._writing.end()
_, status = os.waitpid(child, 0)
print(json.dumps(status))
meter.close()
""")
    assert found == 0
