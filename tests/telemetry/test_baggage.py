"""Nothing of ours, and nobody's baggage, reaches a provider."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import baggage, propagate
from opentelemetry import context as otel_context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tests.clients.faces import ASK, FACES, URL, Face, Origin, come, face_id, on_a_loop
from tokenmeter import Meter

STREAMED = ASK | {"stream": True}
ASKS = [ASK, STREAMED]
IDS = ["whole", "sse"]


@pytest.fixture(params=FACES, ids=face_id)
def face(request: pytest.FixtureRequest) -> Face:
    found: Face = request.param
    return found


@pytest.fixture(autouse=True)
def propagator(monkeypatch: pytest.MonkeyPatch) -> None:
    both = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
    monkeypatch.setattr(propagate, "propagator", both)


@pytest.fixture
def carried() -> Iterator[None]:
    """Baggage in the caller's context."""
    token = otel_context.attach(baggage.set_baggage("secret", "of-the-host"))
    yield
    otel_context.detach(token)


PROVIDERS = ["sdk", "none"]


@pytest.fixture(params=PROVIDERS)
def tracer_provider(request: pytest.FixtureRequest, tracing: TracerProvider) -> TracerProvider | None:
    return tracing if request.param == "sdk" else None


class Injecting(Origin):
    """As an instrumentation of the transport does it."""

    def __call__(self, request: Any) -> Any:
        propagate.inject(request.headers)
        return super().__call__(request)


@pytest.mark.parametrize("ask", ASKS, ids=IDS)
@on_a_loop
async def test_what_an_instrumentation_injects(
    face: Face, tracer_provider: TracerProvider | None, ask: dict[str, Any], carried: None
) -> None:
    origin = Injecting(face)
    with Meter(tracer_provider=tracer_provider) as meter:
        for client in (origin.client(), meter.wrap(origin.client())):
            await come(client.post(URL, json=ask))
            assert baggage.get_baggage("secret") == "of-the-host"
    bare, metered = origin.requests
    assert bare.headers["baggage"] == "secret=of-the-host"  # so it would have been
    assert "baggage" not in metered.headers
    assert ("traceparent" in metered.headers) == (tracer_provider is not None)


@pytest.mark.parametrize("ask", ASKS, ids=IDS)
@on_a_loop
async def test_what_the_request_has_already(
    face: Face, tracer_provider: TracerProvider | None, ask: dict[str, Any]
) -> None:
    origin = Origin(face)
    with Meter(tracer_provider=tracer_provider) as meter:
        client = meter.wrap(origin.client())
        request = client.build_request(
            "POST", URL, json=ask, headers={"baggage": "a=b", "traceparent": "00-1", "x-a": "1"}
        )
        response = await come(client.send(request))
    sent = origin.requests[0]
    assert "baggage" not in sent.headers
    assert (sent.headers["traceparent"], sent.headers["x-a"]) == ("00-1", "1")
    assert response.request is request
    assert request.headers["baggage"] == "a=b"  # the caller's own stays as it is


@pytest.mark.parametrize("ask", ASKS, ids=IDS)
@on_a_loop
async def test_a_generator_that_has_baggage(face: Face, ask: dict[str, Any]) -> None:
    origin = Origin(face)

    async def pieces_async() -> Any:
        yield json.dumps(ask).encode()

    def pieces() -> Any:
        yield json.dumps(ask).encode()

    with Meter() as meter:
        client = meter.wrap(origin.client())
        for headers in ({"baggage": "a=b"}, {"baggage": "a=b", "content-type": "application/json"}):
            content = pieces_async() if face.is_async else pieces()
            response = await come(client.post(URL, content=content, headers=headers))
            assert response.status_code == 200
    assert not [sent for sent in origin.requests if "baggage" in sent.headers]
    assert all(json.loads(sent.content)["model"] == ask["model"] for sent in origin.requests)


@pytest.mark.parametrize("ask", ASKS, ids=IDS)
@on_a_loop
async def test_it_passes_when_asked_for(
    face: Face, tracer_provider: TracerProvider | None, ask: dict[str, Any], carried: None
) -> None:
    origin = Injecting(face)
    with Meter(tracer_provider=tracer_provider, propagate_baggage=True) as meter:
        client = meter.wrap(origin.client())
        await come(client.post(URL, json=ask))
        otel_context_token = otel_context.attach(otel_context.Context())
        await come(client.post(URL, json=ask, headers={"baggage": "a=b"}))
        otel_context.detach(otel_context_token)
    assert [sent.headers["baggage"] for sent in origin.requests] == ["secret=of-the-host", "a=b"]


@on_a_loop
async def test_other_requests_keep_their_baggage(face: Face, carried: None) -> None:
    origin = Injecting(face)
    with Meter() as meter:
        client = meter.wrap(origin.client())
        await come(client.get("https://intranet.example/v1/models"))
        await come(client.get("https://intranet.example/v1/models", headers={"baggage": "a=b"}))
    assert all("baggage" in sent.headers for sent in origin.requests)


def test_the_real_http_instrumentation(tracing: TracerProvider, carried: None) -> None:
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.httpx")
    origin = Origin(FACES[0])
    client = origin.client()
    instrumentation.HTTPXClientInstrumentor.instrument_client(client, tracer_provider=tracing)
    try:
        client.post(URL, json=ASK)
        with Meter(tracer_provider=tracing) as meter:
            meter.wrap(client).post(URL, json=STREAMED)
    finally:
        instrumentation.HTTPXClientInstrumentor.uninstrument_client(client)
    bare, metered = origin.requests
    assert bare.headers["baggage"] == "secret=of-the-host"
    assert "baggage" not in metered.headers
    assert "traceparent" in metered.headers


@pytest.mark.parametrize("ask", ASKS, ids=IDS)
@pytest.mark.parametrize("propagate_baggage", [False, True])
@on_a_loop
async def test_our_attribution_never_leaves(
    face: Face, tracing: TracerProvider, ask: dict[str, Any], propagate_baggage: bool, carried: None
) -> None:
    origin = Injecting(face)
    with Meter(tracer_provider=tracing, propagate_baggage=propagate_baggage) as meter:
        client = meter.wrap(origin.client())
        with meter.agent("agent-x", user="user-x", team="team-x", run="run-x", tag="tag-x"):
            assert set(baggage.get_all()) == {"secret"}
            await come(client.post(URL, json=ask))
    sent = origin.requests[0]
    told = (sent.headers.raw, sent.content, str(sent.url), sent.extensions)
    for mark in ("-x", "tokenmeter"):
        assert mark not in str(told).replace("x-request", "")
