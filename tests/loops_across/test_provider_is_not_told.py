"""No lineage reaches a model provider, however it came to be in a request or in a context."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
from opentelemetry import baggage, propagate
from opentelemetry import context as otel_context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import tokenmeter
from tests.clients.faces import ASK, FACES, URL, Face, Origin, come, face_id, on_a_loop
from tokenmeter import Meter
from tokenmeter.testing import ScriptedProvider

LINEAGE = "tokenmeter.lineage"
STALE = "1.old-root.old-run.1.1790000000.caller"  # as OpenTelemetry has read it from the caller's request
SERVICE = "https://intranet.example/step"
ASKS = [ASK, ASK | {"stream": True}]


@pytest.fixture(autouse=True)
def propagator(monkeypatch: pytest.MonkeyPatch) -> None:
    both = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
    monkeypatch.setattr(propagate, "propagator", both)


@pytest.fixture
def carried() -> Iterator[None]:
    """A context that has a lineage in its baggage, and something else."""
    token = otel_context.attach(baggage.set_baggage("a", "b", baggage.set_baggage(LINEAGE, STALE)))
    yield
    otel_context.detach(token)


@pytest.fixture(params=FACES, ids=face_id)
def face(request: pytest.FixtureRequest) -> Face:
    found: Face = request.param
    return found


class Instrumented(Origin):
    """An instrumentation of the transport injects what the context has, over what the request has."""

    def __call__(self, request: Any) -> Any:
        propagate.inject(request.headers)
        return super().__call__(request)


@pytest.mark.parametrize("ask", ASKS, ids=["whole", "sse"])
@pytest.mark.parametrize("propagate_baggage", [False, True])
@pytest.mark.parametrize("how", ["wrap", "instrument"])
@pytest.mark.parametrize("kind", [Origin, Instrumented])
@on_a_loop
async def test_a_model_call(
    face: Face, ask: dict[str, Any], propagate_baggage: bool, how: str, kind: type[Origin], carried: None
) -> None:
    origin = kind(face)
    headers: dict[str, str] = {"x-a": "1"}
    with Meter(propagate_baggage=propagate_baggage) as meter, meter.agent("agent-x", run="run-x"):
        client = tokenmeter.injecting(origin.client())
        if how == "wrap":
            meter.wrap(client)
        else:
            meter.instrument()
        tokenmeter.inject(headers)
        assert "run-2Dx" in headers["baggage"]
        await come(client.post(URL, json=ask))
        await come(client.post(URL, json=ask, headers=headers))
        assert meter.spend().calls == 2
    for sent in origin.requests:
        told = (sent.headers.raw, sent.content, str(sent.url), sent.extensions)
        assert not [mark for mark in (LINEAGE, "agent-x", "run-x", "old-root") if mark in str(told)]
    if propagate_baggage and kind is Instrumented:
        assert origin.requests[0].headers["baggage"] == "a=b"


@on_a_loop
async def test_an_injecting_client_that_is_not_metered(face: Face, carried: None) -> None:
    origin = Origin(face)
    client = tokenmeter.injecting(origin.client())
    headers: dict[str, str] = {"baggage": "a=b"}
    tokenmeter.inject(headers)
    await come(client.post(URL, json=ASK, headers=headers))
    await come(client.get("https://api.openai.com/v1/models"))
    await come(client.post("https://api.anthropic.com/v1/messages/batches", json={}))
    await come(client.get(SERVICE))
    assert [sent.headers.get("baggage", "") for sent in origin.requests[:3]] == ["a=b", "", ""]
    assert LINEAGE in origin.requests[3].headers["baggage"]


@on_a_loop
async def test_a_redirect_that_leads_to_a_provider(face: Face) -> None:
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request)
        if request.url.host == "intranet.example":
            return face.library.Response(307, headers={"location": URL})
        return face.library.Response(200, json={})

    client = tokenmeter.injecting(face.client(answer, follow_redirects=True))
    await come(client.post(SERVICE, json=ASK, headers={"baggage": "a=b"}))
    assert [LINEAGE in sent.headers["baggage"] for sent in seen] == [True, False]
    assert seen[1].headers["baggage"] == "a=b"


@on_a_loop
async def test_a_service_of_ones_own_is_told_beside_the_baggage_of_a_context(face: Face, carried: None) -> None:
    origin = Instrumented(face)
    with Meter() as meter, meter.agent("agent-x", run="run-x"):
        for client in (
            tokenmeter.injecting(origin.client()),
            tokenmeter.injecting(meter.wrap(origin.client())),
            meter.wrap(tokenmeter.injecting(origin.client())),
        ):
            await come(client.get(SERVICE))
            assert baggage.get_baggage(LINEAGE) == STALE  # the caller's context is as it was
            sent = origin.requests[-1]
            with tokenmeter.extract(sent.headers.multi_items()) as scope:
                assert (scope.root, scope.path) == ("run-x", ("agent-x",))
            assert "a=b" in sent.headers["baggage"]


@on_a_loop
async def test_a_meter_that_comes_and_goes_later(face: Face, carried: None) -> None:
    origin = Instrumented(face)
    client = tokenmeter.injecting(origin.client())
    with Meter() as meter:
        meter.instrument()
        await come(client.post(URL, json=ASK))
        assert meter.spend().calls == 1
        meter.wrap(client)
        await come(client.post(URL, json=ASK))
        assert meter.spend().calls == 2
    await come(client.get(SERVICE))
    assert LINEAGE in origin.requests[-1].headers["baggage"]


def test_what_goes_on_here_is_not_what_opentelemetry_read(carried: None) -> None:
    with tokenmeter.extract({"baggage": f"{LINEAGE}=1.r.r.1.{2**40}.a"}):
        assert dict(baggage.get_all()) == {"a": "b"}
    with tokenmeter.extract({}):
        assert dict(baggage.get_all()) == {"a": "b"}
    assert baggage.get_baggage(LINEAGE) == STALE


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("propagate_baggage", [False, True])
def test_the_real_instrumentation(
    library: ModuleType, propagate_baggage: bool, provider: ScriptedProvider, carried: None
) -> None:
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.httpx")
    kind = getattr(instrumentation, f"{library.__name__.upper()}ClientInstrumentor", None)
    if kind is None:
        pytest.skip("it has none for this library")
    instrumentor = kind()
    instrumentor.instrument(tracer_provider=TracerProvider())
    try:
        with (
            Meter(propagate_baggage=propagate_baggage) as meter,
            library.Client(base_url=provider.openai_url) as client,
            meter.agent("agent-x", run="run-x"),
        ):
            meter.wrap(tokenmeter.injecting(client))
            client.post("/chat/completions", json=ASK).raise_for_status()
            client.get(f"{provider.url}/step")
    finally:
        instrumentor.uninstrument()
    model_call, own = provider.requests
    assert "traceparent" in model_call.headers
    assert model_call.headers.get("baggage", "") == ("a=b" if propagate_baggage else "")
    with tokenmeter.extract(own.headers) as scope:
        assert (scope.root, scope.path) == ("run-x", ("agent-x",))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("propagate_baggage", [False, True])
@on_a_loop
async def test_the_sdk_on_an_injecting_client(
    provider: ScriptedProvider, asynchronous: bool, propagate_baggage: bool
) -> None:
    from openai import AsyncOpenAI, OpenAI

    options: Any = {"base_url": provider.openai_url, "api_key": "none", "max_retries": 0}
    library = httpx2 if issubclass(type(OpenAI(**options)._client), httpx2.Client) else httpx
    kind: Any = library.AsyncClient if asynchronous else library.Client
    options["http_client"] = tokenmeter.injecting(kind())
    with Meter(propagate_baggage=propagate_baggage) as meter, meter.agent("agent-x", run="run-x"):
        client: Any = meter.wrap((AsyncOpenAI if asynchronous else OpenAI)(**options))
        messages = [{"role": "user", "content": "Hello"}]
        await come(client.chat.completions.create(model="gpt-5-mini", messages=messages))
        await come(client.close())
    assert "baggage" not in provider.requests[0].headers
