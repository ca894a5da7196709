"""The host program comes first: whatever fails on our side, the caller gets what the bare client gives."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from opentelemetry.sdk.trace import TracerProvider

from tests.laws.crowd import LONG_S, body
from tokenmeter import Budget, Meter, Price, StoreUnavailable, attribution, call, faults, holding, wire
from tokenmeter.budgets import MemoryStore, Need, Policy
from tokenmeter.clients import library, port
from tokenmeter.ledger import MemoryLedger
from tokenmeter.pricing import InputBound, PriceBook
from tokenmeter.telemetry import Metrics, Spans, spans
from tokenmeter.testing import CapturedCalls, Reply, Request, ScriptedProvider

PRICES = {"scripted": Price("1", "2", max_output_tokens=200)}


def _event(**fields: Any) -> bytes:
    shape = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    return b"data: " + json.dumps(shape | fields).encode() + b"\n\n"


USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
WHOLE = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "all is well"}}],
        "usage": USAGE,
    }
).encode()
EVENTS = b"".join(
    [
        *(
            _event(choices=[{"index": 0, "delta": {"content": w}, "finish_reason": None}])
            for w in ("all", " is", " well")
        ),
        _event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
    ]
)
TAIL = _event(choices=[], usage=USAGE)
DONE = b"data: [DONE]\n\n"


def _reply(request: Request) -> Reply:
    """The same bytes each time, but for what was asked."""
    if not request.stream:
        return Reply(body=WHOLE)
    usage = TAIL if (request.json.get("stream_options") or {}).get("include_usage") else b""
    return Reply(body=EVENTS + usage + DONE, piece_bytes=100)


ASKS: Mapping[str, dict[str, Any]] = {
    "whole": body("hi", "scripted", 20),
    "uncapped": body("hi", "scripted", None),
    "stream": body("hi", "scripted", 20, stream=True) | {"stream_options": {"include_usage": True}},
    "hidden": body("hi", "scripted", 20, stream=True),
    "searching": body("hi", "scripted", 20) | {"web_search_options": {"search_context_size": "low"}},
}
Outcome = tuple[int, Mapping[str, str], bytes]
_OF_THE_MOMENT = {"date", "x-request-id", "request-id"}


def _outcome(response: Any) -> Outcome:
    headers = {name: value for name, value in response.headers.items() if name not in _OF_THE_MOMENT}
    return response.status_code, headers, response.content


def sync_outcome(meter: Meter | None, url: str, ask: Mapping[str, Any], **options: Any) -> Outcome:
    """What a sync client gets, bare or metered."""
    with httpx2.Client(verify=False, timeout=LONG_S, **options) as bare:
        client = bare if meter is None else meter.wrap(bare)
        if not ask.get("stream"):
            return _outcome(client.post(url, json=ask))
        with client.stream("POST", url, json=ask) as response:
            pieces = b"".join(response.iter_bytes())
            response._content = pieces
            return _outcome(response)


def async_outcome(meter: Meter | None, url: str, ask: Mapping[str, Any], **options: Any) -> Outcome:
    """What an async client gets, bare or metered."""

    async def main() -> Outcome:
        async with httpx2.AsyncClient(verify=False, timeout=LONG_S, **options) as bare:
            client = bare if meter is None else meter.wrap(bare)
            if not ask.get("stream"):
                return _outcome(await client.post(url, json=ask))
            async with client.stream("POST", url, json=ask) as response:
                response._content = b"".join([piece async for piece in response.aiter_bytes()])
                return _outcome(response)

    return asyncio.run(main())


KINDS = {"sync": sync_outcome, "async": async_outcome}


@pytest.fixture(params=KINDS)
def outcome_of(request: pytest.FixtureRequest) -> Callable[..., Outcome]:
    return KINDS[request.param]


@pytest.fixture
def url(provider: ScriptedProvider) -> str:
    provider.reply = _reply
    return provider.openai_url + "/chat/completions"


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[logging.LogRecord]]:
    """What is logged by this library; nothing was logged before."""
    monkeypatch.setattr(faults, "_known", set())
    handler = _Kept()
    faults.logger.addHandler(handler)
    yield handler.records
    faults.logger.removeHandler(handler)


class Broken:
    """Breaks one function: a number of times, or for ever."""

    def __init__(self, error: Callable[[], BaseException] = lambda: RuntimeError("broken room")) -> None:
        self.error = error
        self.times = 0

    def at(
        self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, first: int | None = None, raising: bool = True
    ) -> None:
        sound = getattr(owner, name, None)

        def broken(*args: Any, **kwargs: Any) -> Any:
            if first is not None and self.times >= first:
                assert sound is not None
                return sound(*args, **kwargs)
            self.times += 1
            raise self.error()

        monkeypatch.setattr(owner, name, broken, raising=raising)


def _break_readers(broken: Broken, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    make = wire.reader

    class Reader:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def feed(self, chunk: bytes) -> bytes:
            return self._inner.feed(chunk)  # type: ignore[no-any-return]

        def peek(self) -> Any:
            return self._inner.peek()

        def finish(self) -> Any:
            return self._inner.finish()

    broken.at(monkeypatch, Reader, method)
    monkeypatch.setattr(wire, "reader", lambda *args, **kwargs: Reader(make(*args, **kwargs)))


# room: (where it is, its name), and the requests that pass through it
BEFORE = ("whole", "uncapped", "stream", "hidden")
STREAMS = ("stream", "hidden")
ROOMS: Mapping[str, tuple[Any, str, tuple[str, ...]]] = {
    "recognise": (wire, "recognise", BEFORE),
    "attribution": (attribution, "current", BEFORE),
    "is_call": (wire, "is_call", BEFORE),
    "read_request": (wire, "read_request", BEFORE),
    "guard": (call, "judge", BEFORE),
    "rate": (PriceBook, "rate", BEFORE),
    "most output": (holding, "max_output_tokens", ("uncapped",)),
    "bound": (InputBound, "bound", BEFORE),
    "need": (holding, "need_of", BEFORE),
    "tool calls": (InputBound, "tool_calls", ("searching",)),
    "claims": (Policy, "claims", BEFORE),
    "hold": (MemoryStore, "hold", BEFORE),
    "spans.open": (Spans, "open", BEFORE),
    "with_usage_asked": (wire, "with_usage_asked", ("hidden",)),
    "outgoing": (port.Port, "_outgoing", BEFORE),
    "attach": (spans, "attach", BEFORE),
    "read_body": (wire, "read_body", ("whole", "uncapped")),
    "decoder_for": (library, "decoder_for", STREAMS),
    "reader": (wire, "reader", STREAMS),
    "amounts": (Policy, "amounts", BEFORE),
    "spans.close": (Spans, "close", BEFORE),
    "metrics": (Metrics, "record", BEFORE),
    "ledger": (MemoryLedger, "record", BEFORE),
    "learn": (InputBound, "learn", BEFORE),
}
CASES = [(room, ask) for room, (_, _, asks) in ROOMS.items() for ask in asks]
SHOWN = EVENTS + TAIL + DONE  # what was to be hidden, when what hides it is broken


def _meter(calls: CapturedCalls, **options: Any) -> Meter:
    options.setdefault("tracer_provider", TracerProvider())
    return Meter([Budget("9 calls"), Budget("$1")], prices=PRICES, recorders=[calls], **options)


def _nothing_is_held(meter: Meter) -> None:
    store: Any = meter._store
    assert not store._holds
    assert not store._waiters
    assert not any(book.state.held for book in store.books())
    assert not meter._instruments._metering.streams


def _calls_charged(meter: Meter) -> int:
    meter.flush()
    store: Any = meter._store
    return sum(book.state.posted for book in store.books() if book.state.limit == 9)


@pytest.mark.parametrize("ask", ASKS)
def test_a_sound_house_gives_what_the_bare_client_gives(
    provider: ScriptedProvider, url: str, outcome_of: Any, ask: str, logged: list[logging.LogRecord]
) -> None:
    calls = CapturedCalls()
    bare = outcome_of(None, url, ASKS[ask])
    with _meter(calls) as meter:
        assert outcome_of(meter, url, ASKS[ask]) == bare
        _nothing_is_held(meter)
    assert [(row.status, row.cost_nanos) for row in calls] == [("ok", 5 * 1000 + 3 * 2000)]
    assert not logged


@pytest.mark.parametrize(("room", "ask"), CASES)
def test_a_room_fails(
    provider: ScriptedProvider,
    url: str,
    outcome_of: Any,
    room: str,
    ask: str,
    logged: list[logging.LogRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, name, _ = ROOMS[room]
    bare = outcome_of(None, url, ASKS[ask])
    broken = Broken()
    with _meter(CapturedCalls()) as meter:
        with monkeypatch.context() as patched:
            broken.at(patched, owner, name)
            found = [outcome_of(meter, url, ASKS[ask]) for _ in range(2)]
        _nothing_is_held(meter)
        if room in ("amounts", "read_body"):  # what went out and can't be reckoned is charged as it was held
            assert _calls_charged(meter) == 2
    assert broken.times >= 2
    for outcome in found:
        assert outcome == bare or (room in ("decoder_for", "reader") and outcome == (*bare[:2], SHOWN))
    assert provider.received == 3  # nothing was sent twice
    assert [record.levelname for record in logged] == ["ERROR"]
    assert logged[0].exc_info is not None


@pytest.mark.parametrize("method", ["feed", "finish"])
@pytest.mark.parametrize("ask", STREAMS)
def test_a_reader_fails(
    provider: ScriptedProvider,
    url: str,
    outcome_of: Any,
    method: str,
    ask: str,
    logged: list[logging.LogRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bare = outcome_of(None, url, ASKS[ask])
    broken, calls = Broken(), CapturedCalls()
    with _meter(calls) as meter:
        with monkeypatch.context() as patched:
            _break_readers(broken, patched, method)
            found = [outcome_of(meter, url, ASKS[ask]) for _ in range(2)]
        _nothing_is_held(meter)
    assert broken.times >= 2
    for status, headers, content in found:
        assert (status, headers) == bare[:2]
        # What only a sound reader could hide may show.
        assert content in ((bare[2], SHOWN) if ask == "hidden" else (bare[2],))
    assert [record.levelname for record in logged] == ["ERROR"]
    assert len(calls) == 2
    assert all(row.usage is not None for row in calls)  # by the provider's figures or by estimate: charged


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("verb", ["settle", "release"])
def test_a_store_fails_to_settle_once(
    provider: ScriptedProvider,
    url: str,
    outcome_of: Any,
    verb: str,
    ask: str,
    logged: list[logging.LogRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if verb == "release":
        provider.reply = Reply("no", status=400)
    bare = outcome_of(None, url, ASKS[ask])[0]
    broken, calls = Broken(), CapturedCalls()
    with _meter(calls) as meter:
        with monkeypatch.context() as patched:
            broken.at(patched, MemoryStore, verb, first=1)
            assert outcome_of(meter, url, ASKS[ask])[0] == bare
        _nothing_is_held(meter)
        assert _calls_charged(meter) == (1 if verb == "settle" else 0)
    assert broken.times == 1
    assert len(logged) == 1
    assert len(calls) == 1  # the row is written all the same


@pytest.mark.parametrize("ask", ASKS)
def test_recorders_fail(url: str, outcome_of: Any, ask: str, logged: list[logging.LogRecord]) -> None:
    class Bad:
        def record(self, row: Any) -> None:
            raise RuntimeError("bad recorder")

    calls = CapturedCalls()
    bare = outcome_of(None, url, ASKS[ask])
    with Meter([Budget("9 calls")], prices=PRICES, recorders=[Bad(), calls, Bad()]) as meter:
        for _ in range(2):
            assert outcome_of(meter, url, ASKS[ask]) == bare
        _nothing_is_held(meter)
    assert len(calls) == 2
    assert len(logged) == 1


def test_a_clock_fails(url: str, outcome_of: Any, logged: list[logging.LogRecord]) -> None:
    class Stopped:
        def now_s(self) -> float:
            raise RuntimeError("no time")

    bare = outcome_of(None, url, ASKS["whole"])
    with _meter(CapturedCalls(), clock=Stopped()) as meter:
        assert outcome_of(meter, url, ASKS["whole"]) == bare
    assert len(logged) == 1


def test_writing_a_cap_fails(
    provider: ScriptedProvider,
    url: str,
    outcome_of: Any,
    logged: list[logging.LogRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bare = outcome_of(None, url, ASKS["uncapped"])
    broken = Broken()
    with Meter([Budget("$0.0004", min_output_tokens=1)], prices=PRICES) as meter:
        with monkeypatch.context() as patched:
            broken.at(patched, wire, "with_output_cap")
            assert outcome_of(meter, url, ASKS["uncapped"]) == bare
        _nothing_is_held(meter)
    assert broken.times == 1
    assert len(logged) == 1


# -- what the caller's own world raises


def _transport(error: BaseException, *, at_chunk: int | None = None) -> Any:
    """A transport that raises: at once, or in the body after some chunks."""

    class Body(httpx2.SyncByteStream, httpx2.AsyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for _ in range(at_chunk or 0):
                yield EVENTS[:200]
            raise error

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in self:
                yield piece

    def answer(request: Any) -> Any:
        if at_chunk is None:
            raise error
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Body())

    return httpx2.MockTransport(answer)


ERRORS: Mapping[str, Callable[[], BaseException]] = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": SystemExit,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "ReadTimeout": lambda: httpx2.ReadTimeout("slow"),
    "ReadError": lambda: httpx2.ReadError("cut"),
    "RemoteProtocolError": lambda: httpx2.RemoteProtocolError("cut"),
    "RuntimeError": lambda: RuntimeError("the transport's own"),
    "MemoryError": MemoryError,
}
UNSENT: Mapping[str, Callable[[], BaseException]] = {
    "ConnectError": lambda: httpx2.ConnectError("nobody there"),
    "ConnectTimeout": lambda: httpx2.ConnectTimeout("nobody there"),
    "PoolTimeout": lambda: httpx2.PoolTimeout("all busy"),
    "UnsupportedProtocol": lambda: httpx2.UnsupportedProtocol("what?"),
}
URL = "http://127.0.0.1/v1/chat/completions"


@pytest.mark.parametrize("ask", ["whole", "hidden"])
@pytest.mark.parametrize("name", [*ERRORS, *UNSENT])
def test_an_error_of_the_transport_passes_and_is_settled(
    outcome_of: Any, name: str, ask: str, logged: list[logging.LogRecord]
) -> None:
    calls, error = CapturedCalls(), {**ERRORS, **UNSENT}[name]()
    if outcome_of is async_outcome and name in ("KeyboardInterrupt", "SystemExit", "GeneratorExit"):
        pytest.skip("an event loop ends with these")
    with _meter(calls) as meter:
        with pytest.raises(type(error)) as caught:
            outcome_of(meter, URL, ASKS[ask], transport=_transport(error))
        assert caught.value is error
        _nothing_is_held(meter)
        [row] = calls
        spent = {state.budget: state.spent for state in meter.remaining()}
    assert row.error_type == name
    if name in UNSENT:
        assert (row.status, row.usage) == ("error", None)
        assert not any(spent.values())
    else:  # it may have been served: charged, and marked
        assert (row.status, row.estimated) == ("incomplete", True)
        assert row.cost_nanos
        assert all(spent.values())
    assert not logged


@pytest.mark.parametrize("chunks", [0, 1, 3])
@pytest.mark.parametrize("ask", ["whole", "stream", "hidden"])
@pytest.mark.parametrize("name", ERRORS)
def test_an_error_within_a_body_passes_and_is_settled(
    outcome_of: Any, name: str, ask: str, chunks: int, logged: list[logging.LogRecord]
) -> None:
    calls, error = CapturedCalls(), ERRORS[name]()
    if outcome_of is async_outcome and name in ("KeyboardInterrupt", "SystemExit", "GeneratorExit"):
        pytest.skip("an event loop ends with these")
    if name == "GeneratorExit":
        pytest.skip("this is how a body is closed")
    with _meter(calls) as meter:
        with pytest.raises(type(error)) as caught:
            outcome_of(meter, URL, ASKS[ask], transport=_transport(error, at_chunk=chunks))
        assert caught.value is error
        _nothing_is_held(meter)
    [row] = calls
    assert (row.status, row.estimated, row.error_type) == ("incomplete", True, name)
    assert not logged


OWN = {
    "hold": (MemoryStore, "hold"),
    "settle": (MemoryStore, "settle"),
    "rate": (PriceBook, "rate"),
    "guard": (call, "judge"),
    "ledger": (MemoryLedger, "record"),
    "spans.close": (Spans, "close"),
}


@pytest.mark.parametrize("room", OWN)
def test_an_interrupt_within_our_own_rooms_passes(url: str, room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = OWN[room]
    interrupt = KeyboardInterrupt()
    broken = Broken(lambda: interrupt)
    with _meter(CapturedCalls()) as meter:
        with monkeypatch.context() as patched:
            broken.at(patched, owner, name, first=1)
            with pytest.raises(KeyboardInterrupt) as caught:
                sync_outcome(meter, url, ASKS["whole"])
        assert caught.value is interrupt
        _nothing_is_held(meter)


@pytest.mark.parametrize("verb", ["hold", "queue"])
def test_an_interrupt_right_after_the_hold_was_made_leaves_none(
    provider: ScriptedProvider, url: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = CapturedCalls()
    with Meter([Budget("1 call")], prices=PRICES, recorders=[calls]) as meter:
        store: Any = meter._store
        first = Policy([Budget("1 call")]).claims({}, Need(0, 0, 1), 0)
        if verb == "queue":
            store.hold("somebody", first, 0)
        make = getattr(store, verb)

        def interrupted(*args: Any) -> Any:
            make(*args)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(store, verb, interrupted)
            with pytest.raises(KeyboardInterrupt):
                sync_outcome(meter, url, ASKS["whole"])
        store.release("somebody")
        _nothing_is_held(meter)
        assert not provider.received
        assert [(row.status, row.error_type) for row in calls] == [("error", "KeyboardInterrupt")]
        sync_outcome(meter, url, ASKS["whole"])


@pytest.mark.parametrize("ask", ASKS)
def test_a_store_that_goes_away_meanwhile_costs_no_answer(
    url: str, outcome_of: Any, ask: str, logged: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the request leaves, a policy may refuse for the store's sake; what was answered is the caller's."""
    calls = CapturedCalls()
    bare = outcome_of(None, url, ASKS[ask])
    broken = Broken(lambda: StoreUnavailable("away"))
    with _meter(calls) as meter, monkeypatch.context() as patched:
        broken.at(patched, MemoryStore, "settle")
        assert outcome_of(meter, url, ASKS[ask]) == bare
    assert broken.times
    assert [row.status for row in calls] == ["ok"]
    assert logged


def test_a_store_that_is_away_says_so(url: str, outcome_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    away = StoreUnavailable("the budgets can't be reached")
    broken = Broken(lambda: away)
    with _meter(CapturedCalls()) as meter:
        broken.at(monkeypatch, MemoryStore, "hold")
        with pytest.raises(StoreUnavailable) as caught:
            outcome_of(meter, url, ASKS["whole"])
        assert caught.value is away


async def _cancelled(provider: ScriptedProvider, stream: bool) -> None:
    calls = CapturedCalls()
    meter = _meter(calls)
    if stream:
        provider.reply = Reply("one two three four", stall_after_chunks=2)
    else:
        provider.hold()
    url = provider.openai_url + "/chat/completions"
    seen = asyncio.Event()
    async with httpx2.AsyncClient(verify=False, timeout=LONG_S) as bare:
        client = meter.wrap(bare)

        async def ask() -> None:
            if not stream:
                await client.post(url, json=ASKS["whole"])
                return
            async with client.stream("POST", url, json=ASKS["hidden"]) as response:
                async for line in response.aiter_lines():
                    if "two" in line:
                        seen.set()

        task = asyncio.create_task(ask())
        await asyncio.to_thread(provider.wait_for, 1)
        if stream:
            await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    [row] = calls
    assert (row.status, row.estimated, row.error_type) == ("incomplete", True, "CancelledError")
    assert row.cost_nanos
    _nothing_is_held(meter)
    provider.release()
    meter.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_cancelled_task_is_settled(provider: ScriptedProvider, stream: bool) -> None:
    asyncio.run(_cancelled(provider, stream))


# -- what a broken provider sends: the bare client's own behaviour, and a row

GARBAGE: Mapping[str, Reply] = {
    "broken JSON": Reply(body=b'{"id": "c", "choices": ['),
    "not JSON": Reply(body=b"certainly!"),
    "HTML": Reply(body=b"<html><body>502</body></html>", headers={"content-type": "text/html"}),
    "empty": Reply(body=b""),
    "a list": Reply(body=b"[1, 2, 3]"),
    "null": Reply(body=b"null"),
    "wrong shapes": Reply(body=b'{"id": 7, "choices": "none", "usage": "much", "model": ["m"]}'),
    "negative usage": Reply(
        body=b'{"id": "c", "choices": [], "usage": {"prompt_tokens": -5, "completion_tokens": 1e99}}'
    ),
    "no UTF-8": Reply(body=b'{"id": "\xff\xfe", "choices": []}'),
    "wrong content type": Reply(body=WHOLE, headers={"content-type": "application/octet-stream"}),
    "HTML error": Reply(body=b"<html>bad gateway</html>", status=502, headers={"content-type": "text/html"}),
    "empty error": Reply(body=b"", status=500),
    "hang up": Reply(hang_up=True),
    "cut": Reply(cut_after_chunks=0),
}


def _attempt(call: Callable[[], Any]) -> tuple[str, Any]:
    try:
        found = call()
    except Exception as error:
        return "raised", (type(error), getattr(error, "status_code", None))
    return "gave", (type(found), found if isinstance(found, str | list) else repr(found))


def _sdk_calls(provider: ScriptedProvider) -> Mapping[str, tuple[Any, Callable[[Any], Any]]]:
    chat = openai.OpenAI(base_url=provider.openai_url, api_key="none", max_retries=0)
    messages = anthropic.Anthropic(base_url=provider.anthropic_url, api_key="none", max_retries=0)
    said: Any = [{"role": "user", "content": "hi"}]
    return {
        "chat": (chat, lambda c: c.chat.completions.create(model="scripted", messages=said)),
        "chat streamed": (
            chat,
            lambda c: list(c.chat.completions.create(model="scripted", messages=said, stream=True)),
        ),
        "responses": (chat, lambda c: c.responses.create(model="scripted", input="hi")),
        "embeddings": (chat, lambda c: c.embeddings.create(model="scripted", input="hi")),
        "messages": (messages, lambda c: c.messages.create(model="scripted", messages=said, max_tokens=9)),
        "messages streamed": (
            messages,
            lambda c: list(c.messages.create(model="scripted", messages=said, max_tokens=9, stream=True)),
        ),
    }


@pytest.mark.parametrize("way", ["chat", "chat streamed", "responses", "embeddings", "messages", "messages streamed"])
@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_the_bare_client_s_affair(
    provider: ScriptedProvider, name: str, way: str, logged: list[logging.LogRecord]
) -> None:
    provider.reply = GARBAGE[name]
    client, call = _sdk_calls(provider)[way]
    with client:
        bare = _attempt(lambda: call(client))
        calls = CapturedCalls()
        with _meter(calls) as meter:
            meter.wrap(client)
            assert _attempt(lambda: call(client)) == bare
            _nothing_is_held(meter)
            [row] = calls
            state = {state.budget: state for state in meter.remaining()}
    assert row.status in ("ok", "error", "incomplete")
    if row.http_status is not None and row.http_status >= 400:
        assert (row.status, row.usage) == ("error", None)
    else:  # answered, or lost on the way: charged, at an estimate unless it could be read
        assert row.usage is not None
        assert row.cost_nanos is not None
        assert row.cost_nanos > 0
    assert not any(remaining.held for remaining in state.values())
    assert not logged
