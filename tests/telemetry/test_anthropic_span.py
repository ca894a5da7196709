"""Anthropic's SDK opens a CLIENT span of its own: it gets our attributes, and we open none."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import SpanKind, StatusCode

from tests.telemetry.pipeline import Spying, attributes_of, metrics_of, only, typed
from tokenmeter import Budget, BudgetExceeded, Meter
from tokenmeter.testing import CapturedCalls, Reply, ScriptedProvider

anthropic = pytest.importorskip("anthropic")
pytest.importorskip("anthropic._tracing", reason="this version of the SDK opens no spans")

MODEL = "claude-priced-here"
INPUT, OUTPUT, CACHED = 120, 14, 20
ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": "Hello."}]}
COST_NANOS = (INPUT - CACHED) * 3_000 + CACHED * 300 + OUTPUT * 15_000


@pytest.fixture
def provider() -> Any:
    with ScriptedProvider(
        Reply("one two", input_tokens=INPUT, output_tokens=OUTPUT, cache_read_tokens=CACHED)
    ) as found:
        yield found


def made(provider: ScriptedProvider, tracing: TracerProvider | None, *, is_async: bool, on: bool = True) -> Any:
    kind = anthropic.AsyncAnthropic if is_async else anthropic.Anthropic
    option: Any = {"tracer_provider": tracing} if on else False
    return kind(base_url=provider.anthropic_url, api_key="none", max_retries=0, open_telemetry=option)


def create(client: Any) -> None:
    assert client.messages.create(**ASK).usage.output_tokens == OUTPUT


def stream(client: Any) -> None:
    with client.messages.create(**ASK, stream=True) as events:
        assert [event.type for event in events][-1] == "message_stop"


def helper(client: Any) -> None:
    with client.messages.stream(**ASK) as events:
        assert "".join(events.text_stream) == "one two"


def raw(client: Any) -> None:
    assert client.messages.with_raw_response.create(**ASK).parse().usage.output_tokens == OUTPUT


def raw_stream(client: Any) -> None:
    with client.messages.with_streaming_response.create(**ASK) as response:
        assert response.parse().usage.output_tokens == OUTPUT


async def create_async(client: Any) -> None:
    assert (await client.messages.create(**ASK)).usage.output_tokens == OUTPUT


async def stream_async(client: Any) -> None:
    async with await client.messages.create(**ASK, stream=True) as events:
        assert [event.type async for event in events][-1] == "message_stop"


async def helper_async(client: Any) -> None:
    async with client.messages.stream(**ASK) as events:
        assert "".join([text async for text in events.text_stream]) == "one two"


async def raw_async(client: Any) -> None:
    response = await client.messages.with_raw_response.create(**ASK)
    assert (await response.parse()).usage.output_tokens == OUTPUT


async def raw_stream_async(client: Any) -> None:
    async with client.messages.with_streaming_response.create(**ASK) as response:
        assert (await response.parse()).usage.output_tokens == OUTPUT


WAYS: dict[str, Callable[[Any], Awaitable[None] | None]] = {
    function.__name__: function
    for function in (
        create,
        stream,
        helper,
        raw,
        raw_stream,
        create_async,
        stream_async,
        helper_async,
        raw_async,
        raw_stream_async,
    )
}


def called(way: str, provider: ScriptedProvider, tracing: TracerProvider, meter: Meter, *, on: bool = True) -> None:
    """One call, and its client closed."""
    is_async = way.endswith("_async")
    client = meter.wrap(made(provider, tracing, is_async=is_async, on=on))

    async def run() -> None:
        async with client:
            found = WAYS[way](client)
            assert found is not None
            await found

    with meter.agent("triage", user="alice"):
        if is_async:
            asyncio.run(run())
        else:
            with client:
                WAYS[way](client)


OURS = {
    "gen_ai.agent.name": "triage",
    "user.id": "alice",
    "tokenmeter.loop.depth": 1,
    "gen_ai.usage.input_tokens": INPUT,
    "gen_ai.usage.output_tokens": OUTPUT,
    "gen_ai.usage.cache_read.input_tokens": CACHED,
    "gen_ai.usage.cost.amount": COST_NANOS / 1e9,
    "gen_ai.usage.cost.currency": "USD",
}
PRICES: dict[str, dict[str, object]] = {MODEL: {"input": "3", "output": "15", "cache_read": "0.3"}}


@pytest.mark.parametrize("way", WAYS)
def test_one_span(
    way: str,
    provider: ScriptedProvider,
    tracing: TracerProvider,
    exporter: InMemorySpanExporter,
    calls: CapturedCalls,
) -> None:
    with Meter(tracer_provider=tracing, recorders=[calls], prices=PRICES) as meter:
        called(way, provider, tracing, meter)
    span = only(exporter)
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "com.anthropic.sdk.python"
    assert span.kind is SpanKind.CLIENT
    found = attributes_of(span)
    assert typed(OURS).items() <= typed(found).items()
    [row] = calls
    assert (row.status, row.estimated) == ("ok", False)
    assert found["tokenmeter.call.id"] == row.id


@pytest.mark.parametrize("way", WAYS)
def test_switched_off_it_is_our_own(
    way: str,
    provider: ScriptedProvider,
    tracing: TracerProvider,
    exporter: InMemorySpanExporter,
) -> None:
    with Meter(tracer_provider=tracing, prices=PRICES) as meter:
        called(way, provider, tracing, meter, on=False)
    span = only(exporter)
    assert span.instrumentation_scope is not None
    assert (span.instrumentation_scope.name, span.name) == ("tokenmeter", f"chat {MODEL}")
    assert typed(OURS).items() <= typed(attributes_of(span)).items()


@pytest.mark.parametrize("way", WAYS)
def test_refused(way: str, provider: ScriptedProvider, tracing: TracerProvider, exporter: InMemorySpanExporter) -> None:
    meter = Meter([Budget("1 tokens", wait_s=0, name="none")], tracer_provider=tracing)
    with meter, pytest.raises(BudgetExceeded):
        called(way, provider, tracing, meter)
    assert provider.received == 0
    span = only(exporter)
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "com.anthropic.sdk.python"
    assert span.status.status_code is StatusCode.ERROR
    found = attributes_of(span)
    assert found["error.type"] == "BudgetExceeded"
    assert found["tokenmeter.refusal.reason"] == "budget_exceeded"
    assert found["tokenmeter.refusal.budget"] == "none"
    assert found["gen_ai.agent.name"] == "triage"


@pytest.mark.parametrize("way", ["create", "stream", "create_async", "stream_async"])
def test_an_error_of_the_provider(
    way: str, provider: ScriptedProvider, tracing: TracerProvider, exporter: InMemorySpanExporter, meter: Meter
) -> None:
    provider.reply = Reply("busy", status=529)
    with pytest.raises(anthropic.APIStatusError):
        called(way, provider, tracing, meter)
    span = only(exporter)
    assert span.status.status_code is StatusCode.ERROR
    assert attributes_of(span)["gen_ai.agent.name"] == "triage"


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_stream_that_is_left_early(
    is_async: bool,
    provider: ScriptedProvider,
    tracing: TracerProvider,
    exporter: InMemorySpanExporter,
    calls: CapturedCalls,
    meter: Meter,
) -> None:
    client = meter.wrap(made(provider, tracing, is_async=is_async))

    async def leave() -> None:
        async with client, await client.messages.create(**ASK, stream=True) as events:
            async for _ in events:
                break

    if is_async:
        asyncio.run(leave())
    else:
        with client, client.messages.create(**ASK, stream=True) as events:
            next(iter(events))
    [row] = calls
    assert row.estimated
    assert attributes_of(only(exporter))["tokenmeter.usage.estimated"] is True


def test_retries_are_calls_of_their_own_under_one_span(
    provider: ScriptedProvider,
    tracing: TracerProvider,
    exporter: InMemorySpanExporter,
    calls: CapturedCalls,
    meter: Meter,
) -> None:
    provider.reply = [
        Reply("busy", status=529, headers={"retry-after-ms": "1"}),
        Reply("one", input_tokens=INPUT, output_tokens=OUTPUT),
    ]
    with meter.wrap(made(provider, tracing, is_async=False).with_options(max_retries=1)) as client:
        create(client)
    assert [row.status for row in calls] == ["error", "ok"]
    found = attributes_of(only(exporter))
    assert found["gen_ai.usage.input_tokens"] == INPUT
    assert found["tokenmeter.call.id"] == calls[1].id


def test_metrics_are_ours_all_the_same(
    provider: ScriptedProvider, tracing: TracerProvider, reader: InMemoryMetricReader, meter: Meter
) -> None:
    called("create", provider, tracing, meter)
    metrics = metrics_of(reader)
    assert {point.sum for point in metrics["gen_ai.client.token.usage"].data.data_points} == {INPUT, OUTPUT}
    assert len(metrics["gen_ai.client.operation.duration"].data.data_points) == 1


def test_sampled_out(
    provider: ScriptedProvider, tracing: TracerProvider, exporter: InMemorySpanExporter, sampler: Spying, meter: Meter
) -> None:
    sampler.decision = Decision.DROP
    for way in WAYS:
        called(way, provider, tracing, meter)
    assert exporter.get_finished_spans() == ()
    assert meter.spend().calls == len(WAYS)


GLOBAL = """
import os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import anthropic, json, tokenmeter
client = anthropic.Anthropic(base_url=os.environ["PROVIDER"], api_key="none")
meter = tokenmeter.Meter()
meter.instrument()
exporter = InMemorySpanExporter()
tracing = TracerProvider()
tracing.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(tracing)
ask = dict(model="claude-priced-here", max_tokens=64, messages=[{"role": "user", "content": "Hello."}])
with client, meter.agent("triage"):
    client.messages.create(**ask)
    with client.messages.stream(**ask) as stream:
        stream.until_done()
meter.close()
print(json.dumps([(span.instrumentation_scope.name, dict(span.attributes)) for span in exporter.get_finished_spans()]))
"""


@pytest.mark.parametrize("on", [True, False])
def test_the_global_pipeline(provider: ScriptedProvider, on: bool) -> None:
    """Set up after the client and the meter were made."""
    env = os.environ | {"PROVIDER": provider.anthropic_url, "ANTHROPIC_OPEN_TELEMETRY": str(on).lower()}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", GLOBAL], capture_output=True, timeout=90, check=False, env=env
    )
    assert done.returncode == 0, done.stderr.decode()
    spans = json.loads(done.stdout)
    assert [name for name, _ in spans] == ["com.anthropic.sdk.python" if on else "tokenmeter"] * 2
    for _, found in spans:
        assert found["gen_ai.agent.name"] == "triage"
        assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (INPUT, OUTPUT)
