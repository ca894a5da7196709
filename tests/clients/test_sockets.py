"""Responses over websockets, through the real SDK and the real library: metered and held like any other call."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConcurrencyError, ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import serve

from tests.clients.responder import (
    CACHED,
    INPUT,
    MODEL,
    OUTPUT,
    WORDS,
    Event,
    Responder,
    created,
    cut,
    delta,
    ended,
    rejected,
    whole,
)
from tests.support.redis_server import RedisServer, missing
from tokenmeter import Budget, BudgetExceeded, Meter, UnpricedModel
from tokenmeter.clients import sockets
from tokenmeter.testing import CapturedCalls
from tokenmeter.wire import sockets as messages

# The SDK's own, with versions of websockets that it doesn't know yet.
pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")

ASK = {"type": "response.create", "model": MODEL, "input": "Say hello.", "max_output_tokens": 60}
# gpt-5-mini: $0.25 in, $0.025 cached, $2 out for a million tokens
COST_NANOS = (INPUT - CACHED) * 250 + CACHED * 25 + OUTPUT * 2_000
_LONG_S = 30.0


@pytest.fixture
def responder() -> Iterator[Responder]:
    found = Responder()
    yield found
    found.close()


@pytest.fixture
def meter(calls: CapturedCalls) -> Iterator[Meter]:
    with Meter([Budget("$5", per="day")], recorders=[calls]) as meter:
        meter.instrument()
        yield meter


def events_sync(url: str, asked: Event, stop: str = "response.completed") -> list[Any]:
    """All events of one response, through the SDK."""
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=url, api_key="none").responses.connect() as connection:
        connection.send(asked)
        found = []
        for event in connection:
            found.append(event)
            if event.type == stop:
                break
        return found


def events_async(url: str, asked: Event, stop: str = "response.completed") -> list[Any]:
    openai = pytest.importorskip("openai")

    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none").responses.connect() as connection:
            await connection.send(asked)
            found = []
            async for event in connection:
                found.append(event)
                if event.type == stop:
                    break
            return found

    return asyncio.run(asyncio.wait_for(ask(), _LONG_S))


BOTH = pytest.mark.parametrize("events", [events_sync, events_async])
Events = Callable[..., list[Any]]


def held(meter: Meter) -> list[Any]:
    return [each.held for each in meter.remaining()]


@BOTH
def test_a_response_is_counted_once_and_to_the_token(
    events: Events, responder: Responder, calls: CapturedCalls
) -> None:
    bare = events(responder.url, ASK)
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with Meter([Budget("$5", per="day")], recorders=[calls], tracer_provider=provider) as meter:
        meter.instrument()
        with meter.agent("sea", user="ann", team="shore"):
            metered = events(responder.url, ASK)
        assert [type(event) for event in metered] == [type(event) for event in bare]
        assert [event.to_dict() for event in metered[1:-1]] == [event.to_dict() for event in bare[1:-1]]
        assert responder.raw[0] == responder.raw[1]
        (row,) = calls
        assert (row.agent, row.user, row.team, row.model, row.provider) == ("sea", "ann", "shore", MODEL, "openai")
        assert row.usage is not None
        assert row.usage.counts["input_tokens"] == INPUT
        assert row.usage.counts["cache_read_tokens"] == CACHED
        assert row.usage.counts["output_tokens"] == OUTPUT
        assert not row.estimated
        assert row.cost_nanos == COST_NANOS
        assert row.response_id == "resp_2"
        assert held(meter) == [0]
    (span,) = spans.get_finished_spans()
    assert span.name == f"chat {MODEL}"
    assert span.attributes is not None
    assert span.attributes["gen_ai.usage.output_tokens"] == OUTPUT
    assert span.attributes["gen_ai.agent.name"] == "sea"
    provider.shutdown()


@BOTH
def test_a_refused_message_never_goes_out(events: Events, responder: Responder) -> None:
    with Meter([Budget("1 call", per="total", wait_s=0)]) as meter:
        meter.instrument()
        events(responder.url, ASK)
        with pytest.raises(BudgetExceeded):
            events(responder.url, ASK)
        assert len(responder.arrived) == 1
    assert len(responder.arrived) == 1


@BOTH
def test_a_model_without_a_price_never_goes_out(events: Events, responder: Responder, meter: Meter) -> None:
    with pytest.raises(UnpricedModel):
        events(responder.url, ASK | {"model": "nobody-knows"})
    assert not responder.arrived


def test_a_refusal_leaves_the_connection_as_it_was(responder: Responder) -> None:
    with Meter([Budget("2 calls", per="total", wait_s=0)]) as meter, connect(responder.socket_url) as connection:
        meter.instrument()
        for _ in range(2):
            connection.send(json.dumps(ASK))
            assert [json.loads(connection.recv())["type"] for _ in range(5)][-1] == "response.completed"
        with pytest.raises(BudgetExceeded):
            connection.send(json.dumps(ASK))
        meter.uninstrument()
        connection.send(json.dumps(ASK))
        assert json.loads(connection.recv())["type"] == "response.created"
        assert meter.spend().calls == 2


def one_by_threads(responder: Responder, number: int) -> list[str]:
    def ask(_: int) -> str:
        try:
            return str(events_sync(responder.url, ASK)[-1].type)
        except BudgetExceeded:
            return "refused"

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(ask, range(number)))


def one_by_tasks(responder: Responder, number: int) -> list[str]:
    async def ask() -> str:
        async with connect_async(responder.socket_url) as connection:
            try:
                await connection.send(json.dumps(ASK))
            except BudgetExceeded:
                return "refused"
            kind = ""
            while kind != "response.completed":
                kind = json.loads(await connection.recv())["type"]
            return kind

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(ask() for _ in range(number)))

    return asyncio.run(asyncio.wait_for(all_of_them(), 2 * _LONG_S))


@pytest.mark.parametrize("crowd", [one_by_threads, one_by_tasks])
@pytest.mark.parametrize("store", ["memory", "sqlite", "redis"])
def test_fifty_at_once_on_ten_calls(
    crowd: Callable[[Responder, int], list[str]],
    store: str,
    responder: Responder,
    request: pytest.FixtureRequest,
    tmp_path: Any,
) -> None:
    if store == "redis":
        if (why := missing()) is not None:
            pytest.skip(why)
        server = RedisServer()
        request.addfinalizer(server.close)
        url = server.url
    else:
        url = f"sqlite:///{tmp_path}/books.db" if store == "sqlite" else "memory://"
    with Meter([Budget("10 calls", per="total"), Budget("$5", per="day")], store=url) as meter:
        meter.instrument()
        found = crowd(responder, 50)
        assert found.count("response.completed") == len(responder.arrived) == 10
        meter.flush()
        assert meter.spend().calls == 10
        assert meter.spend().usd * 10**9 == 10 * COST_NANOS
        assert held(meter) == [0, 0]


@BOTH
def test_a_connection_that_ends_too_early_is_estimated(
    events: Events, responder: Responder, meter: Meter, calls: CapturedCalls
) -> None:
    responder.answer = cut
    events(responder.url, ASK)
    (row,) = calls
    assert row.estimated
    assert row.status == "incomplete"
    assert row.usage is not None
    assert row.usage.counts["output_tokens"] == len(WORDS[0])
    assert held(meter) == [0]


@BOTH
def test_a_response_that_its_caller_leaves_is_estimated(
    events: Events, responder: Responder, meter: Meter, calls: CapturedCalls
) -> None:
    events(responder.url, ASK, "response.output_text.delta")
    (row,) = calls
    assert row.estimated
    assert held(meter) == [0]


def test_a_connection_that_is_dropped_is_settled(responder: Responder, meter: Meter, calls: CapturedCalls) -> None:
    async def ask() -> None:
        connection = await connect_async(responder.socket_url)
        await connection.send(json.dumps(ASK))
        await connection.recv()
        assert held(meter) != [0]
        connection.transport.abort()

    asyncio.run(ask())
    gc.collect()
    meter.flush()
    (row,) = calls
    assert row.estimated
    assert held(meter) == [0]


def test_a_response_of_which_nothing_was_heard_is_charged_as_what_it_may_have_come_to(
    responder: Responder, meter: Meter, calls: CapturedCalls
) -> None:
    """Over HTTP nothing more is generated once nobody reads; here all of it may lie in the buffers."""
    with connect(responder.socket_url) as connection:
        connection.send(json.dumps(ASK))
    (row,) = calls
    assert (row.status, row.estimated) == ("incomplete", True)
    assert row.usage is not None
    assert row.usage.counts["output_tokens"] == ASK["max_output_tokens"]
    assert held(meter) == [0]


@BOTH
def test_what_the_provider_rejects_costs_nothing(
    events: Events, responder: Responder, meter: Meter, calls: CapturedCalls
) -> None:
    responder.answer = rejected
    events(responder.url, ASK, "error")
    (row,) = calls
    assert row.status == "error"
    assert row.error_type == "previous_response_not_found"
    assert row.usage is None
    assert meter.spend().usd == 0
    assert held(meter) == [0]


def test_a_response_that_failed_with_its_usage_is_charged(
    responder: Responder, meter: Meter, calls: CapturedCalls
) -> None:
    def failing(asked: Event, response_id: str) -> Iterator[Event | None]:
        yield created(asked, response_id)
        yield ended(asked, response_id, kind="failed")

    responder.answer = failing
    events_sync(responder.url, ASK, "response.failed")
    (row,) = calls
    assert (row.status, row.cost_nanos) == ("error", COST_NANOS)


def test_lanes_side_by_side(responder: Responder, meter: Meter, calls: CapturedCalls) -> None:
    """Each conversation of a connection is answered at its own pace: the messages alternate."""
    with serve(_alternating, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with connect(f"ws://127.0.0.1:{server.socket.getsockname()[1]}/v1/responses") as connection:
            for lane in range(5):
                with meter.agent(f"agent-{lane}"):
                    connection.send(json.dumps(ASK | {"stream_id": f"lane-{lane}"}))
            for _ in range(5 * 3):
                connection.recv()
        server.shutdown()
    found = {row.agent: row.usage.counts["output_tokens"] for row in calls if row.usage is not None}
    assert found == {f"agent-{lane}": 10 + lane for lane in range(5)}
    assert held(meter) == [0]


def _alternating(connection: Any) -> None:
    asked = [json.loads(connection.recv()) for _ in range(5)]
    lanes = [{"stream_id": each["stream_id"]} for each in asked]
    for lane in reversed(range(5)):
        connection.send(json.dumps(created(asked[lane], f"resp_{lane}") | lanes[lane]))
    for lane in range(5):
        connection.send(json.dumps(delta("x" * lane) | lanes[lane]))
    for lane in (3, 1, 4, 0, 2):
        last = ended(asked[lane], f"resp_{lane}", tokens=(100, 10 + lane))
        connection.send(json.dumps(last | lanes[lane]))
    connection.recv()


def test_steering_is_a_call_of_its_own(responder: Responder, meter: Meter, calls: CapturedCalls) -> None:
    steer = {"type": "response.steer", "previous_response_id": "resp_1", "input": "Shorter, please."}
    with serve(_steered, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with connect(f"ws://127.0.0.1:{server.socket.getsockname()[1]}/v1/responses") as connection:
            connection.send(json.dumps(ASK))
            connection.recv()
            with meter.agent("helm"):
                connection.send(json.dumps(steer))
                connection.send(json.dumps(steer))  # one too many
            kinds = [json.loads(connection.recv())["type"] for _ in range(5)]
            assert len(calls) == 3
            assert held(meter) == [0]
        server.shutdown()
    assert kinds[-1] == "response.completed"
    first, refused, second = sorted(calls, key=lambda row: (row.agent is not None, row.cost_nanos or 0))
    assert (first.agent, first.usage and first.usage.counts["output_tokens"]) == (None, 5)
    assert (refused.status, refused.error_type, refused.usage) == ("error", "steering_not_followed", None)
    assert (second.agent, second.model, second.usage and second.usage.counts["output_tokens"]) == ("helm", MODEL, 9)


def _steered(connection: Any) -> None:
    asked = json.loads(connection.recv())
    connection.send(json.dumps(created(asked, "resp_1")))
    steer = [json.loads(connection.recv()) for _ in range(2)]
    named = {"id": "steer_1", "previous_response_id": "resp_1"}
    assert "model" not in steer[0]
    connection.send(json.dumps({"type": "response.steer.accepted", "sequence_number": 2, "steer": named}))
    failed = {"type": "response.steer.failed", "sequence_number": 3, "steer": named, "error": {"code": "too_many"}}
    connection.send(json.dumps(failed))
    for number, event in enumerate(("resp_1", "resp_2")):
        if number:
            connection.send(json.dumps(created(asked, event)))
        kind = "completed" if number else "incomplete"
        connection.send(json.dumps(ended(asked, event, tokens=(100, 5 + 4 * number), kind=kind)))
    connection.recv()


def test_steering_that_nothing_follows_costs_nothing(meter: Meter, calls: CapturedCalls) -> None:
    """What waits for the caller's own tools is part of its next request."""

    def serving(connection: Any) -> None:
        asked = json.loads(connection.recv())
        connection.send(json.dumps(created(asked, "resp_1")))
        connection.recv()
        connection.send(json.dumps(ended(asked, "resp_1")))
        asked = json.loads(connection.recv())
        for event in whole(asked, "resp_2"):
            connection.send(json.dumps(event))
        connection.recv()

    with serve(serving, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with connect(f"ws://127.0.0.1:{server.socket.getsockname()[1]}/v1/responses") as connection:
            connection.send(json.dumps(ASK))
            connection.recv()
            connection.send(json.dumps({"type": "response.steer", "previous_response_id": "resp_1", "input": "no"}))
            connection.recv()
            connection.send(json.dumps(ASK | {"previous_response_id": "resp_1"}))
            while json.loads(connection.recv())["type"] != "response.completed":
                pass
            assert sorted(row.cost_nanos or 0 for row in calls) == [0, COST_NANOS, COST_NANOS]
            assert held(meter) == [0]
        server.shutdown()


def test_several_meters_count_it_each(responder: Responder) -> None:
    with Meter() as one, Meter() as other:
        one.instrument()
        other.instrument()
        events_sync(responder.url, ASK)
        events_async(responder.url, ASK)
        for meter in (one, other):
            assert (meter.spend().calls, meter.spend().output_tokens) == (2, 2 * OUTPUT)


def test_one_connection_and_all_of_them_count_once(responder: Responder) -> None:
    before = set(map(id, vars(ClientConnection).values()))
    with Meter() as meter, connect(responder.socket_url) as connection:
        assert meter.wrap(connection) is connection
        meter.instrument()
        connection.send(json.dumps(ASK))
        for _ in range(5):
            connection.recv()
        assert (meter.spend().calls, meter.spend().output_tokens) == (1, OUTPUT)
    assert set(map(id, vars(ClientConnection).values())) == before
    assert "send" not in vars(connection)


def in_pieces(responder: Responder) -> None:
    with connect(responder.socket_url) as connection:
        connection.send(json.dumps(ASK))
        for _ in range(5):
            assert list(connection.recv_streaming())


def in_pieces_async(responder: Responder) -> None:
    async def ask() -> None:
        async with connect_async(responder.socket_url) as connection:
            await connection.send(json.dumps(ASK))
            for _ in range(5):
                assert [piece async for piece in connection.recv_streaming()]

    asyncio.run(asyncio.wait_for(ask(), _LONG_S))


@pytest.mark.parametrize("ask", [in_pieces, in_pieces_async])
def test_messages_that_are_received_in_pieces(
    ask: Callable[[Responder], None], responder: Responder, meter: Meter, calls: CapturedCalls
) -> None:
    with Meter() as other:
        other.instrument()
        ask(responder)
        assert other.spend().calls == 1
    (row,) = calls
    assert (row.cost_nanos, row.estimated) == (COST_NANOS, False)
    assert held(meter) == [0]


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_under_way_while_the_patches_are_undone_is_heard_out(
    wrapped: bool, responder: Responder, calls: CapturedCalls
) -> None:
    meter = Meter([Budget("$5", per="day")], recorders=[calls])
    with connect(responder.socket_url) as connection, connect(responder.socket_url) as idle:
        meter.wrap(connection) if wrapped else meter.instrument()
        connection.send(json.dumps(ASK))
        connection.recv()
        meter.close() if wrapped else meter.uninstrument()
        while json.loads(connection.recv())["type"] != "response.completed":
            pass
        (row,) = calls
        assert (row.cost_nanos, row.estimated) == (COST_NANOS, False)
        connection.send(json.dumps(ASK))
        assert json.loads(connection.recv())["type"] == "response.created"
        assert not {"send", "recv", "close"} & vars(idle).keys()
    meter.close()
    assert len(calls) == 1


def test_a_response_that_never_ended_is_over_when_another_begins(
    responder: Responder, meter: Meter, calls: CapturedCalls
) -> None:
    def odd(asked: Event, response_id: str) -> Iterator[Event | None]:
        yield created(asked, response_id)
        yield delta(WORDS[0])
        yield {"type": "response.nobody_knows", "response": {"id": response_id}}

    with connect(responder.socket_url) as connection:
        responder.answer = odd
        connection.send(json.dumps(ASK))
        for _ in range(3):
            connection.recv()
        responder.answer = whole
        connection.send(json.dumps(ASK))
        for _ in range(5):
            connection.recv()
        assert [row.estimated for row in calls] == [True, False]
        assert held(meter) == [0]


def test_the_answer_to_a_message_whose_sender_was_cancelled_is_of_no_other_call(
    responder: Responder, meter: Meter, calls: CapturedCalls
) -> None:
    async def ask() -> None:
        async with connect_async(responder.socket_url) as connection:
            drain, connection.drain = connection.drain, lambda: asyncio.sleep(_LONG_S)  # type: ignore[method-assign]
            sending = asyncio.create_task(connection.send(json.dumps(ASK)))
            while not responder.arrived:
                await asyncio.sleep(0.01)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            connection.drain = drain  # type: ignore[method-assign]
            await connection.send(json.dumps(ASK))
            for _ in range(10):
                await connection.recv()

    asyncio.run(asyncio.wait_for(ask(), _LONG_S))
    assert [(row.estimated, row.response_id) for row in calls] == [(True, None), (False, "resp_2")]
    assert held(meter) == [0]


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_that_goes_on_unread_is_held_as_a_whole(stream: bool, responder: Responder) -> None:
    """A budget that holds streams bit by bit ends them where it can't pay more; here the provider would go on."""
    asked = json.dumps(ASK | {"max_output_tokens": 1_900, "stream": stream})
    with Meter([Budget("$1", per="total", extend_streams=True)]) as meter, connect(responder.socket_url) as connection:
        meter.instrument()
        connection.send(asked)
        connection.recv()
        assert held(meter)[0] * 10**9 >= 1_900 * 2_000


def test_one_connection_alone(responder: Responder) -> None:
    async def ask(meter: Meter) -> None:
        async with connect_async(responder.socket_url) as mine, connect_async(responder.socket_url) as other:
            meter.wrap(mine)
            for connection in (mine, other):
                await connection.send(json.dumps(ASK))
                for _ in range(5):
                    await connection.recv()

    with Meter() as meter:
        asyncio.run(asyncio.wait_for(ask(meter), _LONG_S))
        assert meter.spend().calls == 1


def by_wrapped(client: Any) -> None:
    """One response of a client of the SDK, whatever its kind."""

    async def ask() -> None:
        async with client.responses.connect() as connection:
            await connection.send(ASK)
            async for event in connection:
                if event.type == "response.completed":
                    return

    if type(client).__name__.startswith("Async"):
        asyncio.run(asyncio.wait_for(ask(), _LONG_S))
        return
    with client.responses.connect() as connection:
        connection.send(ASK)
        for event in connection:
            if event.type == "response.completed":
                return


@pytest.mark.parametrize("kind", ["OpenAI", "AsyncOpenAI"])
def test_a_wrapped_client_and_what_is_derived_from_it(kind: str, responder: Responder) -> None:
    openai = pytest.importorskip("openai")
    if not hasattr(openai.OpenAI, "_websocket_query_params"):
        pytest.skip("this version opens its connections otherwise")
    before = dict(vars(ClientConnection))
    bare = getattr(openai, kind)(base_url=responder.url, api_key="none")
    with Meter([Budget("3 calls", per="total")]) as meter, Meter() as other:
        client = meter.wrap(getattr(openai, kind)(base_url=responder.url, api_key="none"))
        for each, calls in ((client, 1), (bare, 1), (client.with_options(timeout=9), 2), (client.copy(), 3)):
            by_wrapped(each)
            assert meter.spend().calls == calls
        with pytest.raises(BudgetExceeded):
            by_wrapped(client)
        other.wrap(bare)
        by_wrapped(bare)
        assert (meter.spend().calls, other.spend().calls) == (3, 1)
        assert meter.spend().output_tokens == 3 * OUTPUT
    by_wrapped(client)
    assert (meter.spend().calls, other.spend().calls) == (3, 1)
    after = dict(vars(ClientConnection))
    assert before.keys() == after.keys()
    assert all(after[name] is value for name, value in before.items())


def test_a_wrapped_client_that_finds_nobody_adopts_no_connection(responder: Responder) -> None:
    openai = pytest.importorskip("openai")
    with Meter() as meter:
        client = meter.wrap(openai.OpenAI(base_url="http://localhost:9/v1", api_key="none"))
        with pytest.raises(OSError), client.responses.connect():  # noqa: PT011 - the system's own words
            pass
        by_wrapped(openai.OpenAI(base_url=responder.url, api_key="none"))
        assert meter.spend().calls == 0


def test_whoever_connects_where_a_wrapped_client_could_not_is_not_adopted(responder: Responder) -> None:
    openai = pytest.importorskip("openai")
    if not hasattr(openai.OpenAI, "_websocket_query_params"):
        pytest.skip("this version opens its connections otherwise")
    with Meter() as meter:
        client = meter.wrap(openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="none"))
        with pytest.raises(OSError), client.responses.connect():  # noqa: PT011 - the system's own words
            pass
        by_wrapped(openai.OpenAI(base_url=responder.url, api_key="none"))
        assert meter.spend().calls == 0


def test_a_meter_that_is_dropped_is_not_kept_by_what_it_watches(responder: Responder) -> None:
    openai = pytest.importorskip("openai")
    meter = Meter()
    meter.wrap(openai.OpenAI(base_url=responder.url, api_key="none"))
    instruments = weakref.ref(meter._instruments)
    del meter
    deadline = time.monotonic() + _LONG_S
    while instruments() is not None and time.monotonic() < deadline:  # its prices are still being loaded
        time.sleep(0.05)
        gc.collect()
    assert instruments() is None


@pytest.mark.parametrize("form", [str, bytes, list, tuple])
def test_a_lowered_cap_goes_out_in_the_same_kind_of_message(form: Any, responder: Responder) -> None:
    asked = json.dumps({name: value for name, value in ASK.items() if name != "max_output_tokens"})
    message: Any = {
        str: asked,
        bytes: asked.encode(),
        list: [asked[:9], asked[9:]],
        tuple: (asked[:9].encode(), asked[9:].encode()),
    }[form]
    with Meter([Budget("$0.01", per="total", min_output_tokens=16)]) as meter, connect(responder.socket_url) as socket:
        meter.instrument()
        socket.send(message)
        assert json.loads(socket.recv())["type"] == "response.created"
    (arrived,) = responder.arrived
    assert 16 <= arrived["max_output_tokens"] < 128_000
    assert {name: arrived[name] for name in ("type", "model", "input")} == {
        name: ASK[name] for name in arrived if name in ASK and name != "max_output_tokens"
    }
    assert isinstance(responder.raw[0], str if form in (str, list) else bytes)


@BOTH
def test_a_message_that_could_not_go_out_is_not_charged(
    events: Events, responder: Responder, meter: Meter, calls: CapturedCalls
) -> None:
    if events is events_sync:
        with connect(responder.socket_url) as connection:
            connection.close()
            with pytest.raises(ConnectionClosed):
                connection.send(json.dumps(ASK))
    else:

        async def ask() -> None:
            connection = await connect_async(responder.socket_url)
            await connection.close()
            with pytest.raises(ConnectionClosed):
                await connection.send(json.dumps(ASK))

        asyncio.run(ask())
    (row,) = calls
    assert (row.status, row.usage) == ("error", None)
    assert held(meter) == [0]


def test_a_message_while_another_goes_out_in_fragments_is_not_charged(
    responder: Responder, meter: Meter, calls: CapturedCalls
) -> None:
    def fragments() -> Iterator[str]:
        yield "{"
        with pytest.raises(ConcurrencyError):
            connection.send(json.dumps(ASK))
        yield "}"

    async def slowly() -> AsyncIterator[str]:
        yield "{"
        await asyncio.sleep(_LONG_S)

    async def ask() -> None:
        async with connect_async(responder.socket_url) as connection:
            other = asyncio.create_task(connection.send(slowly()))
            await asyncio.sleep(0.05)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(connection.send(json.dumps(ASK)), 0.05)
            other.cancel()

    with connect(responder.socket_url) as connection:
        connection.send(fragments())
    asyncio.run(asyncio.wait_for(ask(), _LONG_S))
    assert [(row.status, row.usage) for row in calls] == [("error", None)] * 2
    assert held(meter) == [0]


def test_an_answer_that_comes_before_the_message_is_known_to_be_out(
    responder: Responder, meter: Meter, calls: CapturedCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may read the whole answer while the one that sent it is held up."""
    heard = threading.Event()
    attach = sockets._Attach.__init__

    def late(self: Any, inner: Any, passage: Any) -> None:
        assert heard.wait(_LONG_S)
        attach(self, inner, passage)

    monkeypatch.setattr(sockets._Attach, "__init__", late)
    with connect(responder.socket_url) as connection:

        def hear() -> None:
            while json.loads(connection.recv())["type"] != "response.completed":
                pass
            heard.set()

        thread = threading.Thread(target=hear)
        thread.start()
        deadline = time.monotonic() + _LONG_S
        while not responder.arrived and time.monotonic() < deadline:
            if not thread.is_alive():
                break
            if not responder.arrived:
                connection.send(json.dumps(ASK))
        thread.join(_LONG_S)
    (row,) = calls
    assert (row.cost_nanos, row.estimated) == (COST_NANOS, False)
    assert held(meter) == [0]


def test_whoever_listens_before_anything_went_out_hears_all(
    responder: Responder, meter: Meter, calls: CapturedCalls
) -> None:
    responder.answer = rejected
    with Meter() as other, connect(responder.socket_url) as connection:
        other.instrument()
        heard: list[Any] = []
        thread = threading.Thread(target=lambda: heard.append(connection.recv()))
        thread.start()
        while not connection.recv_messages.get_in_progress:
            time.sleep(0.001)
        connection.send(json.dumps(ASK))
        thread.join(_LONG_S)
        assert heard
        assert held(meter) == [0]
        assert (meter.spend().failed, other.spend().failed) == (1, 1)


def test_a_caller_that_is_cancelled_while_it_waits_leaves_nothing(responder: Responder) -> None:
    async def ask(meter: Meter) -> None:
        async with connect_async(responder.socket_url) as one, connect_async(responder.socket_url) as other:
            await one.send(json.dumps(ASK))
            waiting = asyncio.create_task(other.send(json.dumps(ASK)))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            for _ in range(5):
                await one.recv()
            await other.send(json.dumps(ASK))
            assert json.loads(await other.recv())["type"] == "response.created"

    with Meter([Budget("1 call", per="total"), Budget("2 calls", per="day")]) as meter:
        meter.instrument()
        with pytest.raises(BudgetExceeded):
            asyncio.run(asyncio.wait_for(ask(meter), _LONG_S))
        assert meter.spend().calls == 1
        assert held(meter) == [0, 0]
    assert len(responder.arrived) == 1


def test_other_websockets_pass_untouched(meter: Meter, calls: CapturedCalls) -> None:
    def echo(connection: Any) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.socket.getsockname()[1]
        for path in ("/", "/chat", "/v1/responses"):
            with connect(f"ws://127.0.0.1:{port}{path}") as connection:
                for message in ("hello", b"\x00\xff", '{"type":"response.cancel"}', "{", '"response.create"', "[]"):
                    connection.send(message)
                    assert connection.recv() == message
                connection.send(iter(["in ", "pieces"]))
                assert connection.recv() == "in pieces"
                with pytest.raises(TypeError):
                    connection.send(7)  # type: ignore[arg-type]
        server.shutdown()
    assert not calls


def test_what_is_not_read_is_said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_told", set())

    def deaf(connection: Any) -> None:
        connection.recv()

    with serve(deaf, "127.0.0.1", 0) as server, Meter() as meter:
        meter.instrument()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.socket.getsockname()[1]
        with caplog.at_level(logging.WARNING, "tokenmeter"):
            for _ in range(2):
                with connect(f"ws://127.0.0.1:{port}/v1/realtime?model=gpt-realtime") as connection:
                    connection.send(json.dumps({"type": "response.create"}))
        server.shutdown()
        assert meter.spend().calls == 0
    (told,) = [each.getMessage() for each in caplog.records if "NOT METERED" in each.getMessage()]
    assert "/v1/realtime" in told
    assert "gpt-realtime" not in told


@pytest.mark.parametrize("broken", ["read_heard", "as_event"])
def test_a_fault_of_our_own_costs_the_caller_nothing(
    broken: str, responder: Responder, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(messages, broken, fail)
    assert events_sync(responder.url, ASK)[-1].type == "response.completed"
    assert held(meter) == [0]
    assert meter.spend().estimated_calls == 1
