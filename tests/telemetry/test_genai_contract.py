"""The contract of opentelemetry-util-genai, both ways: one span a call, whoever opened it first."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import get_value
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.util.genai.handler import TelemetryHandler
from opentelemetry.util.genai.invocation import (
    CLIENT_EMBEDDING_CONTEXT_KEY,
    CLIENT_INFERENCE_CONTEXT_KEY,
    EmbeddingData,
    InferenceData,
)

from tests.clients.faces import (
    ASK,
    CACHED,
    COST_NANOS,
    FACES,
    INPUT,
    MODEL,
    OUTPUT,
    REASONING,
    URL,
    Face,
    Origin,
    come,
    face_id,
    on_a_loop,
)
from tests.telemetry.pipeline import attributes_of, metrics_of, only, typed
from tokenmeter import Budget, BudgetExceeded, Meter
from tokenmeter.testing import CapturedCalls

STREAMED = ASK | {"stream": True}
ASKS = [ASK, STREAMED]
IDS = ["whole", "sse"]
EMBEDDINGS = "https://api.openai.com/v1/embeddings"


@pytest.fixture(params=FACES, ids=face_id)
def face(request: pytest.FixtureRequest) -> Face:
    found: Face = request.param
    return found


@pytest.fixture
def origin(face: Face) -> Origin:
    return Origin(face)


@pytest.fixture
def handler(tracing: TracerProvider, metering: MeterProvider) -> TelemetryHandler:
    return TelemetryHandler(tracer_provider=tracing, meter_provider=metering)


def all_metrics(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    """All points of all scopes, by the name of the metric."""
    data = reader.get_metrics_data()
    found: dict[str, list[Any]] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                found.setdefault(metric.name, []).extend(metric.data.data_points)
    return found


@pytest.mark.parametrize("ask", ASKS, ids=IDS)
@on_a_loop
async def test_under_an_outer_inference(
    origin: Origin,
    meter: Meter,
    handler: TelemetryHandler,
    exporter: InMemorySpanExporter,
    reader: InMemoryMetricReader,
    calls: CapturedCalls,
    ask: dict[str, Any],
) -> None:
    client = meter.wrap(origin.client())
    with meter.agent("triage", user="alice", team="support"), handler.inference("openai", request_model=MODEL) as outer:
        await come(client.post(URL, json=ask))
    span = only(exporter)
    assert span.context == outer.span.get_span_context()
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": MODEL,
        "gen_ai.response.model": MODEL,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": INPUT,
        "gen_ai.usage.output_tokens": OUTPUT,
        "gen_ai.usage.cache_read.input_tokens": CACHED,
        "gen_ai.usage.reasoning.output_tokens": REASONING,
        "gen_ai.usage.cost.amount": COST_NANOS / 1e9,
        "gen_ai.usage.cost.currency": "USD",
        "gen_ai.agent.name": "triage",
        "user.id": "alice",
        "tokenmeter.team": "support",
        "tokenmeter.loop.depth": 1,
        "tokenmeter.call.id": calls[0].id,
    }
    assert typed(expected).items() <= typed(attributes_of(span)).items()
    assert calls[0].status == "ok"

    metrics = all_metrics(reader)
    counts = {point.attributes["gen_ai.token.type"]: point.sum for point in metrics["gen_ai.client.token.usage"]}
    assert counts == {"input": INPUT, "output": OUTPUT}
    assert len(metrics["gen_ai.client.token.usage"]) == 2
    [duration] = metrics["gen_ai.client.operation.duration"]
    assert duration.count == 1
    [cost] = metrics["tokenmeter.cost"]
    assert cost.value == pytest.approx(COST_NANOS / 1e9)


@pytest.mark.parametrize("ask", ASKS, ids=IDS)
def test_what_the_outer_one_knows_itself_wins(
    meter: Meter, handler: TelemetryHandler, exporter: InMemorySpanExporter, ask: dict[str, Any]
) -> None:
    face = FACES[2]
    with handler.inference("openai", request_model=MODEL) as outer:
        outer.attributes["user.id"] = "as the application says"
        with meter.agent("triage", user="alice"):
            meter.wrap(Origin(face).client()).post(URL, json=ask)
        outer.response_id = "their-id"
    found = attributes_of(only(exporter))
    assert found["user.id"] == "as the application says"
    assert found["gen_ai.response.id"] == "their-id"


def test_a_refusal_under_an_outer_inference(
    tracing: TracerProvider, handler: TelemetryHandler, exporter: InMemorySpanExporter
) -> None:
    face = FACES[2]
    with Meter([Budget("1 calls", wait_s=0, name="few")], tracer_provider=tracing) as meter:
        client = meter.wrap(Origin(face).client())
        client.post(URL, json=ASK)
        exporter.clear()
        with pytest.raises(BudgetExceeded), handler.inference("openai", request_model=MODEL):
            client.post(URL, json=ASK)
    span = only(exporter)
    assert span.status.status_code is StatusCode.ERROR
    found = attributes_of(span)
    assert found["error.type"].endswith("BudgetExceeded")
    assert found["tokenmeter.refusal.budget"] == "few"


@pytest.mark.parametrize("ask", ASKS, ids=IDS)
@on_a_loop
async def test_above_an_inner_inference(
    face: Face,
    meter: Meter,
    handler: TelemetryHandler,
    exporter: InMemorySpanExporter,
    reader: InMemoryMetricReader,
    ask: dict[str, Any],
) -> None:
    origin = Origin(face)
    seen: list[Any] = []

    def instrumented(request: Any) -> Any:
        data = get_value(CLIENT_INFERENCE_CONTEXT_KEY)
        with handler.inference("openai", request_model=MODEL) as inner:
            seen.append((data, type(inner).__name__, trace.get_current_span()))
            inner.input_tokens = 1
            inner.attributes["their.own"] = "attribute"
            return origin(request)

    await come(meter.wrap(face.client(instrumented)).post(URL, json=ask))
    [(data, kind, current)] = seen
    assert isinstance(data, InferenceData)
    assert kind == "SuppressedInferenceInvocation"
    span = only(exporter)
    assert current.get_span_context() == span.context
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "tokenmeter"
    assert data.usage_input_tokens == 1  # it published to us
    assert data.attributes["their.own"] == "attribute"
    assert attributes_of(span)["gen_ai.usage.input_tokens"] == INPUT  # what the provider says stays
    metrics = all_metrics(reader)
    [duration] = metrics["gen_ai.client.operation.duration"]
    assert duration.count == 1
    assert {point.count for point in metrics["gen_ai.client.token.usage"]} == {1}


@on_a_loop
async def test_each_call_has_data_of_its_own(face: Face, meter: Meter) -> None:
    seen: list[Any] = []
    origin = Origin(face)

    def handler(request: Any) -> Any:
        seen.append(get_value(CLIENT_INFERENCE_CONTEXT_KEY))
        return origin(request)

    client = meter.wrap(face.client(handler))
    for _ in range(2):
        await come(client.post(URL, json=ASK))
    assert seen[0] is not seen[1]
    assert get_value(CLIENT_INFERENCE_CONTEXT_KEY) is None


def test_two_meters_have_a_span_each(
    tracing: TracerProvider, exporter: InMemorySpanExporter, metering: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """As they have without util-genai: a meter is no instrumentation that the other would repeat."""
    origin = Origin(FACES[2])
    with Meter(tracer_provider=tracing, meter_provider=metering) as one, Meter(tracer_provider=tracing) as other:
        one.wrap(other.wrap(origin.client())).post(URL, json=ASK)
        assert one.spend().calls == other.spend().calls == 1
    spans = exporter.get_finished_spans()
    assert [attributes_of(span)["gen_ai.usage.input_tokens"] for span in spans] == [INPUT, INPUT]
    assert "gen_ai.client.token.usage" in metrics_of(reader)


# -- embeddings have a key of their own --------------------------------------------------------------------------


def embedding(request: Any) -> Any:
    body = b'{"object":"list","model":"text-embedding-3-small","data":[],"usage":{"prompt_tokens":5,"total_tokens":5}}'
    return FACES[2].response(200, [body], {"content-type": "application/json"})


def test_under_an_outer_embedding(
    meter: Meter, handler: TelemetryHandler, exporter: InMemorySpanExporter, reader: InMemoryMetricReader
) -> None:
    client = meter.wrap(FACES[2].client(embedding))
    with meter.agent("indexer"), handler.embedding("openai", request_model="text-embedding-3-small"):
        client.post(EMBEDDINGS, json={"model": "text-embedding-3-small", "input": "x"})
    found = attributes_of(only(exporter))
    assert found["gen_ai.usage.input_tokens"] == 5
    assert found["gen_ai.agent.name"] == "indexer"
    assert found["gen_ai.usage.cost.amount"] > 0
    [duration] = all_metrics(reader)["gen_ai.client.operation.duration"]
    assert duration.count == 1


def test_above_an_inner_embedding(meter: Meter, handler: TelemetryHandler, exporter: InMemorySpanExporter) -> None:
    seen: list[Any] = []

    def instrumented(request: Any) -> Any:
        seen.append(get_value(CLIENT_EMBEDDING_CONTEXT_KEY))
        with handler.embedding("openai", request_model="text-embedding-3-small"):
            return embedding(request)

    client = meter.wrap(FACES[2].client(instrumented))
    client.post(EMBEDDINGS, json={"model": "text-embedding-3-small", "input": "x"})
    assert isinstance(seen[0], EmbeddingData)
    span = only(exporter)
    assert (span.name, span.kind) == ("embeddings text-embedding-3-small", SpanKind.CLIENT)


def test_a_chat_under_an_outer_embedding_is_a_call_of_its_own(
    meter: Meter, handler: TelemetryHandler, exporter: InMemorySpanExporter
) -> None:
    with handler.embedding("openai", request_model="text-embedding-3-small"):
        meter.wrap(Origin(FACES[2]).client()).post(URL, json=ASK)
    assert [span.name for span in exporter.get_finished_spans()] == [
        f"chat {MODEL}",
        "embeddings text-embedding-3-small",
    ]
