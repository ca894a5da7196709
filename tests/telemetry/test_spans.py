"""One CLIENT span a call, under the names of the conventions, with values of the right types."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode

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
    WORDS,
    Face,
    Origin,
    come,
    face_id,
    on_a_loop,
)
from tests.telemetry.pipeline import Spying, attributes_of, only, typed
from tokenmeter import Budget, BudgetExceeded, DepthExceeded, LoopPolicy, Meter, Price, UnpricedModel, extract, inject
from tokenmeter.telemetry.spans import Spans
from tokenmeter.testing import CapturedCalls

STREAMED = ASK | {"stream": True}
START = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": MODEL,
    "server.address": "api.openai.com",
    "server.port": 443,
}
USED = {
    "gen_ai.usage.input_tokens": INPUT,
    "gen_ai.usage.output_tokens": OUTPUT,
    "gen_ai.usage.cache_read.input_tokens": CACHED,
    "gen_ai.usage.reasoning.output_tokens": REASONING,
    "gen_ai.usage.cost.amount": COST_NANOS / 1e9,
    "gen_ai.usage.cost.currency": "USD",
}
ANSWERED = {
    "gen_ai.response.model": MODEL,
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.response.finish_reasons": ("stop",),
}

sync = FACES[2]


@pytest.fixture(params=FACES, ids=face_id)
def face(request: pytest.FixtureRequest) -> Face:
    found: Face = request.param
    return found


@pytest.fixture
def origin(face: Face) -> Origin:
    return Origin(face)


def posted(meter: Meter, ask: dict[str, Any], origin: Origin | None = None) -> Origin:
    """One call through a sync client."""
    origin = origin or Origin(sync)
    with meter.wrap(origin.client()) as client:
        client.post(URL, json=ask)
    return origin


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@on_a_loop
async def test_a_call(
    origin: Origin,
    meter: Meter,
    calls: CapturedCalls,
    exporter: InMemorySpanExporter,
    sampler: Spying,
    ask: dict[str, Any],
) -> None:
    await come(meter.wrap(origin.client()).post(URL, json=ask))
    span = only(exporter)
    assert (span.name, span.kind) == (f"chat {MODEL}", SpanKind.CLIENT)
    assert span.status.status_code is StatusCode.UNSET
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "tokenmeter"
    assert span.parent is None
    assert not span.events
    [asked] = sampler.asked
    assert asked[:2] == (f"chat {MODEL}", SpanKind.CLIENT)
    assert typed(asked[2]) == typed(START)

    found = attributes_of(span)
    expected: dict[str, Any] = START | USED | ANSWERED
    source = found.pop("gen_ai.usage.cost.source")
    assert isinstance(source, str)
    assert source
    assert found.pop("tokenmeter.call.id") == calls[0].id
    if ask is STREAMED:
        expected["gen_ai.request.stream"] = True
        first = found.pop("gen_ai.response.time_to_first_chunk")
        assert isinstance(first, float)
        assert first >= 0
    assert typed(found) == typed(expected)


def test_who(meter: Meter, exporter: InMemorySpanExporter) -> None:
    with meter.agent("outer", team="support"), meter.agent("triage", user="alice", run="run-7", ticket="42"):
        posted(meter, ASK)
    found = attributes_of(only(exporter))
    assert typed(
        {name: found[name] for name in found if name.startswith(("user", "tokenmeter", "gen_ai.agent"))}
    ) == typed(
        {
            "gen_ai.agent.name": "triage",
            "user.id": "alice",
            "tokenmeter.team": "support",
            "tokenmeter.run.id": "run-7",
            "tokenmeter.loop.depth": 2,
            "tokenmeter.loop.path": ("outer", "triage"),
            "tokenmeter.tag.ticket": "42",
            "tokenmeter.call.id": found["tokenmeter.call.id"],
        }
    )


def test_a_long_path_is_cut_and_its_depth_is_not(tracing: TracerProvider, exporter: InMemorySpanExporter) -> None:
    with Meter(tracer_provider=tracing, loops=LoopPolicy(max_depth=None)) as meter:
        scopes = [meter.agent(f"agent-{nth}") for nth in range(50)]
        for scope in scopes:
            scope.__enter__()
        posted(meter, ASK)
        for scope in reversed(scopes):
            scope.__exit__(None, None, None)
    found = attributes_of(only(exporter))
    assert found["tokenmeter.loop.depth"] == 50
    assert found["tokenmeter.loop.path"] == tuple(f"agent-{nth}" for nth in range(18, 50))


def test_the_depth_counts_what_a_path_from_elsewhere_had_no_room_for(
    tracing: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    carrier: dict[str, str] = {}
    with Meter(tracer_provider=tracing, loops=LoopPolicy(max_depth=None)) as meter:
        with contextlib.ExitStack() as nested:
            for nth in range(20):
                nested.enter_context(meter.agent(f"agent-{nth}"))
            inject(carrier)
        with extract(carrier), meter.agent("there") as scope:
            assert len(scope.path) < scope.depth == 21
            posted(meter, ASK)
    assert attributes_of(only(exporter))["tokenmeter.loop.depth"] == 21


def test_a_user_can_be_hashed(tracing: TracerProvider, exporter: InMemorySpanExporter) -> None:
    with Meter(tracer_provider=tracing, user_key=b"secret") as meter:
        with meter.agent("triage", user="alice"):
            posted(meter, ASK)
        posted(meter, ASK | {"user": "alice"})
        with meter.agent("triage", user="bob"):
            posted(meter, ASK)
    spans = exporter.get_finished_spans()
    assert all("user.id" not in attributes_of(span) for span in spans)
    hashes = [attributes_of(span)["user.hash"] for span in spans]
    whole = hmac.new(b"secret", b"alice", hashlib.sha256).hexdigest()
    assert whole.startswith(hashes[0])
    assert len(hashes[0]) >= 32
    assert hashes[0] == hashes[1] != hashes[2]
    assert "alice" not in str([span.to_json() for span in spans])


def test_a_user_that_is_no_utf_8_can_be_hashed(tracing: TracerProvider, exporter: InMemorySpanExporter) -> None:
    with Meter(tracer_provider=tracing, user_key=b"secret") as meter, meter.agent("triage", user="al\udc80ice"):
        posted(meter, ASK)
    assert len(attributes_of(only(exporter))["user.hash"]) == 32


def test_a_span_ends_whatever_its_attributes_do(
    meter: Meter, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Spans, "_attributes", broken)
    posted(meter, ASK)
    assert only(exporter).name == f"chat {MODEL}"
    assert "broken" in caplog.text


def test_nothing_private(meter: Meter, exporter: InMemorySpanExporter) -> None:
    posted(meter, ASK)
    posted(meter, STREAMED)
    told = str([span.to_json() for span in exporter.get_finished_spans()])
    assert "Say hello" not in told
    assert WORDS[3].strip() not in told
    assert all(span.name == f"chat {MODEL}" for span in exporter.get_finished_spans())


def test_a_conversation_is_never_named(meter: Meter, exporter: InMemorySpanExporter) -> None:
    with meter.agent("triage", run="run-7"):
        posted(meter, ASK | {"metadata": {"conversation_id": "c-1", "session_id": "s-1"}})
    assert not [name for name in attributes_of(only(exporter)) if "conversation" in name]


def test_what_was_asked_for(meter: Meter, exporter: InMemorySpanExporter) -> None:
    posted(meter, ASK | {"max_tokens": 50, "n": 3})
    found = attributes_of(only(exporter))
    assert typed({name: found[name] for name in ("gen_ai.request.max_tokens", "gen_ai.request.choice.count")}) == typed(
        {"gen_ai.request.max_tokens": 50, "gen_ai.request.choice.count": 3}
    )


# -- budgets -----------------------------------------------------------------------------------------------------


def test_the_state_of_budgets(tracing: TracerProvider, exporter: InMemorySpanExporter) -> None:
    budgets = [Budget("10 calls", name="few"), Budget("$1", scope="agent", name="money")]
    with Meter(budgets, tracer_provider=tracing) as meter, meter.agent("triage"):
        posted(meter, ASK | {"max_tokens": 100})
        posted(meter, ASK | {"max_tokens": 100})
    first, second = (attributes_of(span) for span in exporter.get_finished_spans())
    assert first["tokenmeter.budget.names"] == ("few", "money")
    few, money = first["tokenmeter.budget.remaining"]
    held = first["tokenmeter.budget.held_usd"]
    assert all(type(value) is float for value in (few, money, held))
    assert few == pytest.approx(0.9)
    assert money == pytest.approx(1 - held)
    assert 0 < held < 0.01
    assert second["tokenmeter.budget.remaining"][0] == pytest.approx(0.8)
    assert "tokenmeter.budget.warned" not in first
    assert "tokenmeter.budget.output_cap" not in first


@pytest.mark.parametrize("smaller", [{"hold": "expected"}, {"extend_streams": True}], ids=str)
def test_what_was_held_and_not_the_worst_case(
    tracing: TracerProvider, exporter: InMemorySpanExporter, smaller: dict[str, Any]
) -> None:
    with Meter([Budget("$1", name="money", **smaller)], tracer_provider=tracing) as meter:
        for _ in range(40):  # until it is known what calls use
            posted(meter, STREAMED | {"max_tokens": 8_000})
            meter.flush()
    found: dict[str, Any] = {}
    for nth, span in enumerate(exporter.get_finished_spans()):
        found = attributes_of(span)
        taken = 1 - nth * COST_NANOS / 1e9 - found["tokenmeter.budget.remaining"][0]
        assert found["tokenmeter.budget.held_usd"] == pytest.approx(taken)
    assert 0 < found["tokenmeter.budget.held_usd"] < 0.004


def test_without_a_budget_of_money_none_is_held(tracing: TracerProvider, exporter: InMemorySpanExporter) -> None:
    with Meter([Budget("100000 tokens", name="few")], tracer_provider=tracing) as meter:
        posted(meter, ASK)
    found = attributes_of(only(exporter))
    assert found["tokenmeter.budget.names"] == ("few",)
    assert "tokenmeter.budget.held_usd" not in found


def test_a_cap_that_the_budget_gave(tracing: TracerProvider, exporter: InMemorySpanExporter) -> None:
    with Meter([Budget("$0.002", min_output_tokens=16)], tracer_provider=tracing) as meter:
        origin = posted(meter, ASK)
    found = attributes_of(only(exporter))
    cap = found["tokenmeter.budget.output_cap"]
    assert type(cap) is int
    assert found["gen_ai.request.max_tokens"] == cap == origin.asked["max_completion_tokens"]


def test_a_budget_that_only_warns(tracing: TracerProvider, exporter: InMemorySpanExporter) -> None:
    with Meter([Budget("1 calls", on_exceed="warn", name="soft")], tracer_provider=tracing) as meter:
        posted(meter, ASK)
        posted(meter, ASK)
    first, second = exporter.get_finished_spans()
    assert "tokenmeter.budget.warned" not in attributes_of(first)
    assert attributes_of(second)["tokenmeter.budget.warned"] == ("soft",)
    assert second.status.status_code is StatusCode.UNSET


@on_a_loop
async def test_a_budget_that_refuses(
    origin: Origin, tracing: TracerProvider, exporter: InMemorySpanExporter, sampler: Spying
) -> None:
    with Meter([Budget("1 calls", scope="agent", wait_s=0, name="few")], tracer_provider=tracing) as meter:
        client = meter.wrap(origin.client())
        with meter.agent("triage", user="alice"):
            await come(client.post(URL, json=ASK))
            with pytest.raises(BudgetExceeded) as caught:
                await come(client.post(URL, json=STREAMED))
    assert len(origin.requests) == 1
    span = exporter.get_finished_spans()[-1]
    assert (span.name, span.kind) == (f"chat {MODEL}", SpanKind.CLIENT)
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == str(caught.value)
    found = attributes_of(span)
    assert typed(START).items() <= typed(found).items()
    assert (
        typed(
            {
                "error.type": "BudgetExceeded",
                "tokenmeter.refusal.reason": "budget_exceeded",
                "tokenmeter.refusal.budget": "few",
                "tokenmeter.refusal.scope": "agent=triage",
                "tokenmeter.budget.names": ("few",),
                "gen_ai.agent.name": "triage",
                "user.id": "alice",
            }
        ).items()
        <= typed(found).items()
    )
    assert not [name for name in found if name.startswith(("gen_ai.usage", "gen_ai.response", "http"))]


def test_other_refusals(tracing: TracerProvider, exporter: InMemorySpanExporter) -> None:
    with Meter([Budget("$1")], loops=LoopPolicy(max_depth=1), tracer_provider=tracing) as meter:
        with meter.agent("a"), meter.agent("b"), pytest.raises(DepthExceeded):
            posted(meter, ASK)
        with pytest.raises(UnpricedModel):
            posted(meter, ASK | {"model": "nobody-knows-it"})
    depth, unpriced = exporter.get_finished_spans()
    assert attributes_of(depth)["error.type"] == "DepthExceeded"
    assert attributes_of(depth)["tokenmeter.refusal.reason"] == "depth_exceeded"
    assert attributes_of(depth)["tokenmeter.loop.path"] == ("a", "b")
    assert attributes_of(unpriced)["error.type"] == "UnpricedModel"
    assert attributes_of(unpriced)["tokenmeter.refusal.reason"] == "unpriced_model"
    assert {span.status.status_code for span in (depth, unpriced)} == {StatusCode.ERROR}
    assert "tokenmeter.refusal.budget" not in attributes_of(depth)


# -- what goes wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@on_a_loop
async def test_errors_of_the_provider(
    origin: Origin, meter: Meter, exporter: InMemorySpanExporter, ask: dict[str, Any]
) -> None:
    origin.status = 429
    await come(meter.wrap(origin.client()).post(URL, json=ask))
    span = only(exporter)
    assert span.status.status_code is StatusCode.ERROR
    found = attributes_of(span)
    assert typed({"error.type": "429", "http.response.status_code": 429}).items() <= typed(found).items()
    assert not [name for name in found if name.startswith(("gen_ai.usage", "gen_ai.response"))]


def test_errors_of_the_connection(meter: Meter, exporter: InMemorySpanExporter) -> None:
    def handler(request: Any) -> Any:
        raise sync.library.ConnectError("refused")

    with meter.wrap(sync.client(handler)) as client, pytest.raises(sync.library.ConnectError):
        client.post(URL, json=ASK)
    span = only(exporter)
    assert span.status.status_code is StatusCode.ERROR
    assert attributes_of(span)["error.type"] == "ConnectError"


@on_a_loop
async def test_a_stream_that_is_left_early(
    face: Face, origin: Origin, meter: Meter, exporter: InMemorySpanExporter
) -> None:
    client = meter.wrap(origin.client())
    response = await come(client.send(client.build_request("POST", URL, json=STREAMED), stream=True))
    pieces = response.aiter_bytes() if face.is_async else response.iter_bytes()
    await come(anext(pieces) if face.is_async else next(pieces))
    assert exporter.get_finished_spans() == ()
    await face.close(response)
    span = only(exporter)
    found = attributes_of(span)
    assert found["gen_ai.response.finish_reasons"] == ("error",)
    assert found["tokenmeter.usage.estimated"] is True
    assert type(found["gen_ai.usage.input_tokens"]) is int
    assert type(found["gen_ai.usage.output_tokens"]) is int
    assert type(found["gen_ai.usage.cost.amount"]) is float
    assert "error.type" not in found  # the caller's own will
    assert span.status.status_code is StatusCode.UNSET


@on_a_loop
async def test_a_stream_that_is_cut(face: Face, origin: Origin, meter: Meter, exporter: InMemorySpanExporter) -> None:
    origin.cut_after = 3
    client = meter.wrap(origin.client())
    with pytest.raises(face.library.RemoteProtocolError):
        await come(client.post(URL, json=STREAMED))
    span = only(exporter)
    found = attributes_of(span)
    assert found["gen_ai.response.finish_reasons"] == ("error",)
    assert found["error.type"] == "RemoteProtocolError"
    assert found["tokenmeter.usage.estimated"] is True
    assert span.status.status_code is StatusCode.ERROR


def test_exact_figures_carry_no_mark(meter: Meter, exporter: InMemorySpanExporter) -> None:
    posted(meter, STREAMED)
    assert "tokenmeter.usage.estimated" not in attributes_of(only(exporter))


def test_a_model_without_a_price(meter: Meter, exporter: InMemorySpanExporter) -> None:
    """Unknown is not zero. The answer names a known model, but another host sold it."""

    def handler(request: Any) -> Any:
        return sync.response(200, [b'{"model":"m","usage":{"prompt_tokens":5,"completion_tokens":7}}'], {})

    with meter.wrap(sync.client(handler)) as client:
        client.post("http://llm.internal:8080/v1/chat/completions", json=ASK | {"model": "m"})
    found = attributes_of(only(exporter))
    assert found["gen_ai.usage.input_tokens"] == 5
    assert not [name for name in found if "cost" in name]
    assert (found["server.address"], found["server.port"]) == ("llm.internal", 8080)


def test_a_price_of_ones_own_says_so(tracing: TracerProvider, exporter: InMemorySpanExporter) -> None:
    with Meter(prices={MODEL: Price("1", "2")}, tracer_provider=tracing) as meter:
        posted(meter, ASK)
    found = attributes_of(only(exporter))
    assert found["gen_ai.usage.cost.source"] == "override"
    assert found["gen_ai.usage.cost.amount"] == pytest.approx((INPUT * 1000 + OUTPUT * 2000) / 1e9)


def test_other_operations(meter: Meter, exporter: InMemorySpanExporter) -> None:
    answers = iter(
        [
            b'{"object":"list","model":"text-embedding-3-small","data":[],"usage":{"prompt_tokens":5,"total_tokens":5}}',
            b'{"no":"model"}',
        ]
    )

    def handler(request: Any) -> Any:
        return sync.response(200, [next(answers)], {"content-type": "application/json"})

    with meter.wrap(sync.client(handler)) as client:
        client.post("https://api.openai.com/v1/embeddings", json={"model": "text-embedding-3-small", "input": "x"})
        client.post(URL, json={"messages": []})
    embeddings, unknown = exporter.get_finished_spans()
    assert embeddings.name == "embeddings text-embedding-3-small"
    assert attributes_of(embeddings)["gen_ai.operation.name"] == "embeddings"
    assert "gen_ai.usage.output_tokens" not in attributes_of(embeddings)  # a missing counter is not an empty one
    assert unknown.name == "chat"
    assert "gen_ai.request.model" not in attributes_of(unknown)


# -- parents and children ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@on_a_loop
async def test_it_stands_between_the_callers_span_and_the_http_clients(
    face: Face,
    origin: Origin,
    meter: Meter,
    tracing: TracerProvider,
    exporter: InMemorySpanExporter,
    ask: dict[str, Any],
) -> None:
    tracer = tracing.get_tracer("host")
    below: list[Any] = []

    def handler(request: Any) -> Any:
        below.append(trace.get_current_span())
        with tracer.start_as_current_span("POST", kind=SpanKind.CLIENT):
            return origin(request)

    client = meter.wrap(face.client(handler))
    with tracer.start_as_current_span("work") as work:
        await come(client.post(URL, json=ask))
        assert trace.get_current_span() is work
    http, ours, outer = exporter.get_finished_spans()
    assert (http.name, ours.name, outer.name) == ("POST", f"chat {MODEL}", "work")
    assert ours.parent is not None
    assert outer.context is not None
    assert ours.context is not None
    assert ours.parent.span_id == outer.context.span_id
    assert http.parent is not None
    assert http.parent.span_id == ours.context.span_id
    assert below[0].get_span_context() == ours.context


def test_the_real_http_instrumentation(meter: Meter, tracing: TracerProvider, exporter: InMemorySpanExporter) -> None:
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.httpx")
    httpx = FACES[0].library
    origin = Origin(FACES[0])
    client = origin.client()
    instrumentation.HTTPXClientInstrumentor.instrument_client(client, tracer_provider=tracing)
    try:
        with meter.wrap(client), tracing.get_tracer("host").start_as_current_span("work"):
            assert isinstance(client, httpx.Client)
            client.post(URL, json=STREAMED)
    finally:
        instrumentation.HTTPXClientInstrumentor.uninstrument_client(client)
    http, ours, _ = exporter.get_finished_spans()
    assert http.name.startswith("POST")
    assert http.parent is not None
    assert ours.context is not None
    assert http.context is not None
    assert http.parent.span_id == ours.context.span_id
    assert origin.requests[0].headers["traceparent"].split("-")[2] == f"{http.context.span_id:016x}"


@on_a_loop
async def test_an_open_stream_is_not_the_callers_current_span(
    face: Face, origin: Origin, meter: Meter, exporter: InMemorySpanExporter
) -> None:
    client = meter.wrap(origin.client())
    before = otel_context.get_current()
    response = await come(client.send(client.build_request("POST", URL, json=STREAMED), stream=True))
    assert otel_context.get_current() == before
    assert not trace.get_current_span().get_span_context().is_valid
    await face.read(response)
    assert otel_context.get_current() == before
    assert only(exporter).end_time is not None


# -- without a pipeline ------------------------------------------------------------------------------------------


@on_a_loop
async def test_sampled_out_nothing_is_built(
    origin: Origin,
    meter: Meter,
    calls: CapturedCalls,
    exporter: InMemorySpanExporter,
    sampler: Spying,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*args: object) -> Any:
        raise AssertionError("attributes were built")

    monkeypatch.setattr("tokenmeter.telemetry.spans.Spans._attributes", never)
    sampler.decision = Decision.DROP
    for ask in (ASK, STREAMED):
        await come(meter.wrap(origin.client()).post(URL, json=ask))
    assert exporter.get_finished_spans() == ()
    assert [row.status for row in calls] == ["ok", "ok"]


@on_a_loop
async def test_sampled_out_the_trace_goes_on(
    face: Face, meter: Meter, tracing: TracerProvider, sampler: Spying
) -> None:
    below: list[Any] = []

    def handler(request: Any) -> Any:
        below.append(trace.get_current_span().get_span_context())
        return Origin(face)(request)

    sampler.decision = Decision.DROP
    with tracing.get_tracer("host").start_as_current_span("work") as work:
        await come(meter.wrap(face.client(handler)).post(URL, json=ASK))
    assert below[0].trace_id == work.get_span_context().trace_id
    assert not below[0].trace_flags.sampled


@pytest.mark.parametrize("tracer_provider", [None, NoOpTracerProvider()], ids=["unset", "no-op"])
@on_a_loop
async def test_without_an_sdk(
    origin: Origin, calls: CapturedCalls, monkeypatch: pytest.MonkeyPatch, tracer_provider: NoOpTracerProvider | None
) -> None:
    def never(*args: object) -> Any:
        raise AssertionError("attributes were built")

    monkeypatch.setattr("tokenmeter.telemetry.spans.Spans._attributes", never)
    with Meter(tracer_provider=tracer_provider, recorders=[calls]) as meter:
        for ask in (ASK, STREAMED):
            await come(meter.wrap(origin.client()).post(URL, json=ask))
    assert [row.status for row in calls] == ["ok", "ok"]
