"""Raw httpx and httpx2 clients, sync and async, give what they give unmetered, and are counted."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.clients.faces import (
    ASK,
    COST_NANOS,
    INPUT,
    MODEL,
    OUTPUT,
    URL,
    Face,
    Origin,
    chat_body,
    chat_events,
    come,
    on_a_loop,
)
from tokenmeter import Budget, BudgetExceeded, Meter
from tokenmeter.clients.metering import Metering
from tokenmeter.testing import CapturedCalls

STREAMED = ASK | {"stream": True}


def told(response: Any) -> dict[str, Any]:
    """What a caller can see of a response."""
    return {
        "type": type(response),
        "status": response.status_code,
        "reason": response.reason_phrase,
        "headers": response.headers.multi_items(),
        "content": response.content,
        "text": response.text,
        "version": response.http_version,
        "encoding": response.encoding,
        "closed": response.is_closed,
        "consumed": response.is_stream_consumed,
        "cookies": dict(response.cookies),
        "history": [(past.status_code, str(past.url)) for past in response.history],
        "url": str(response.url),
        "extensions": set(response.extensions),
        "elapsed": type(response.elapsed),
        "links": response.links,
    }


def check_counted(calls: CapturedCalls, *, stream: bool = False) -> None:
    [row] = calls
    assert (row.status, row.model, row.stream, row.estimated) == ("ok", MODEL, stream, False)
    assert row.usage is not None
    assert (row.usage.input_tokens, row.usage.output_tokens) == (INPUT, OUTPUT)
    assert row.cost_nanos == COST_NANOS


SENDERS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "post": lambda client, ask: client.post(URL, json=ask),
    "request": lambda client, ask: client.request("POST", URL, json=ask),
    "send": lambda client, ask: client.send(client.build_request("POST", URL, json=ask)),
    "send by keyword": lambda client, ask: client.send(request=client.build_request("POST", URL, json=ask)),
    "send, all by keyword": lambda client, ask: client.send(
        request=client.build_request("POST", URL, json=ask), stream=False, auth=None, follow_redirects=True
    ),
    "content": lambda client, ask: client.post(
        URL, content=json.dumps(ask), headers={"content-type": "application/json"}
    ),
}


@pytest.mark.parametrize("how", SENDERS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "sse"])
@on_a_loop
async def test_every_way_to_send(
    face: Face, origin: Origin, meter: Meter, calls: CapturedCalls, how: str, stream: bool
) -> None:
    send, ask = SENDERS[how], STREAMED if stream else ASK
    bare, metered = origin.client(), meter.wrap(origin.client())
    expected = told(await come(send(bare, ask)))
    got = told(await come(send(metered, ask)))
    assert got == expected
    assert len(calls) == 1
    check_counted(calls, stream=stream)
    await face.close(bare)
    await face.close(metered)


@on_a_loop
async def test_json_request_and_elapsed(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls) -> None:
    client = meter.wrap(origin.client())
    for ask in (ASK, STREAMED):
        request = client.build_request("POST", URL, json=ask)
        response = await come(client.send(request))
        assert response.request is request
        assert isinstance(response.elapsed, timedelta)
        assert request.content == face.library.Request("POST", URL, json=ask).content
        if ask is ASK:
            assert response.json()["usage"]["prompt_tokens"] == INPUT
    assert len(calls) == 2


@on_a_loop
async def test_a_metered_request_goes_out_as_it_is(origin: Origin, meter: Meter) -> None:
    bare, metered = origin.client(), meter.wrap(origin.client())
    for client in (bare, metered):
        await come(client.post(URL, json=ASK, headers={"x-mine": "1"}))
    one, other = origin.requests
    assert other.headers.raw == one.headers.raw
    assert other.content == one.content
    assert other.url == one.url


HOWS = ["iter_raw", "iter_bytes", "iter_lines", "iter_text"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("sends", ["stream()", "send(stream=True)"])
@on_a_loop
async def test_streams(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls, how: str, sends: str) -> None:
    async def taken(client: Any) -> tuple[list[Any], Any]:
        if sends == "send(stream=True)":
            response = await come(client.send(client.build_request("POST", URL, json=STREAMED), stream=True))
            assert not response.is_closed
            found = await face.pieces(response, how)
            await face.close(response)
        elif face.is_async:
            async with client.stream("POST", URL, json=STREAMED) as response:
                found = await face.pieces(response, how)
        else:
            with client.stream("POST", URL, json=STREAMED) as response:
                found = await face.pieces(response, how)
        return found, response

    expected, bare = await taken(origin.client())
    client = meter.wrap(origin.client())
    got, metered = await taken(client)
    assert got == expected
    assert metered.is_closed
    assert metered.is_stream_consumed == bare.is_stream_consumed
    assert metered.num_bytes_downloaded == bare.num_bytes_downloaded
    assert isinstance(metered.elapsed, timedelta)
    with pytest.raises(face.library.StreamConsumed):
        await face.pieces(metered, "iter_raw")
    check_counted(calls, stream=True)


@on_a_loop
async def test_a_stream_that_is_read_at_once(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls) -> None:
    client = meter.wrap(origin.client())
    response = await come(client.send(client.build_request("POST", URL, json=STREAMED), stream=True))
    with pytest.raises(face.library.ResponseNotRead):
        _ = response.content
    assert await face.read(response) == b"".join(chat_events(usage=False))
    assert await face.read(response) == response.content  # again
    check_counted(calls, stream=True)


@on_a_loop
async def test_a_whole_answer_that_is_streamed(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls) -> None:
    origin.piece_bytes = 7
    client = meter.wrap(origin.client())
    response = await come(client.send(client.build_request("POST", URL, json=ASK), stream=True))
    pieces = await face.pieces(response, "iter_raw")
    assert {len(piece) for piece in pieces[:-1]} == {7}
    assert b"".join(pieces) == chat_body()
    check_counted(calls)


@pytest.mark.parametrize("stream", [False, True])
@on_a_loop
async def test_what_only_the_headers_count(face: Face, meter: Meter, calls: CapturedCalls, stream: bool) -> None:
    headers = {"content-type": "application/json", "x-amzn-bedrock-input-token-count": "4"}
    client = meter.wrap(face.client(lambda request: face.response(200, [b'{"embeddings":', b"[[0.1]]}"], headers)))
    url = "https://bedrock-runtime.us-east-1.amazonaws.com/model/cohere.embed-english-v3/invoke"
    response = await come(client.send(client.build_request("POST", url, json={"texts": ["hi"]}), stream=stream))
    assert await face.read(response) == b'{"embeddings":[[0.1]]}'
    [row] = calls
    assert row.usage is not None
    assert (row.status, row.estimated, row.usage.counts) == ("ok", False, {"input_tokens": 4})


@on_a_loop
async def test_sse_as_a_whole_asks_for_usage_and_hides_it(origin: Origin, meter: Meter, calls: CapturedCalls) -> None:
    response = await come(meter.wrap(origin.client()).post(URL, json=STREAMED))
    assert origin.asked["stream_options"] == {"include_usage": True}
    assert response.content == b"".join(chat_events(usage=False))
    assert response.text == response.content.decode()
    assert "usage" not in response.text
    check_counted(calls, stream=True)


@on_a_loop
async def test_the_callers_own_options_win(origin: Origin, meter: Meter, calls: CapturedCalls) -> None:
    client = meter.wrap(origin.client())
    asked = STREAMED | {"stream_options": {"include_usage": True}}
    response = await come(client.post(URL, json=asked))
    assert response.content == b"".join(chat_events(usage=True))
    check_counted(calls, stream=True)
    unasked = STREAMED | {"stream_options": {"include_usage": False}}
    response = await come(client.post(URL, json=unasked))
    assert origin.asked == unasked
    assert response.content == b"".join(chat_events(usage=False))
    assert calls[1].estimated


@on_a_loop
async def test_switched_off_nothing_is_asked(origin: Origin, calls: CapturedCalls) -> None:
    with Meter(recorders=[calls], ask_stream_usage=False) as meter:
        response = await come(meter.wrap(origin.client()).post(URL, json=STREAMED))
    assert origin.asked == STREAMED
    assert response.content == b"".join(chat_events(usage=False))
    assert calls[0].estimated


@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
@on_a_loop
async def test_a_server_that_rejects_the_option(
    face: Face, origin: Origin, meter: Meter, calls: CapturedCalls, stream: bool
) -> None:
    origin.rejects_options = True
    client = meter.wrap(origin.client())
    for nth in (1, 2):
        request = client.build_request("POST", URL, json=STREAMED)
        response = await come(client.send(request, stream=stream))
        assert response.status_code == 200
        assert await face.read(response) == b"".join(chat_events(usage=False))
        assert response.request is request
        assert len(calls) == nth
    asked = ["stream_options" in json.loads(sent.content) for sent in origin.requests]
    assert asked == [True, False, False]
    assert all(row.estimated and row.status == "ok" for row in calls)


@on_a_loop
async def test_a_rejection_for_another_reason_is_the_callers(
    origin: Origin, meter: Meter, calls: CapturedCalls
) -> None:
    origin.status = 400
    response = await come(meter.wrap(origin.client()).post(URL, json=STREAMED))
    assert (response.status_code, response.json()) == (400, {"error": {"message": "no"}})
    assert len(origin.requests) == 1
    assert (calls[0].status, calls[0].error_type, calls[0].cost_nanos) == ("error", "400", None)


@on_a_loop
async def test_an_error_that_is_streamed(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls) -> None:
    origin.status = 529
    client = meter.wrap(origin.client())
    for ask in (ASK, STREAMED):
        response = await come(client.send(client.build_request("POST", URL, json=ask), stream=True))
        assert await face.read(response) == b'{"error":{"message":"no"}}'
    assert [row.http_status for row in calls] == [529, 529]


# -- what surrounds a request ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@on_a_loop
async def test_redirects(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls, ask: dict[str, Any]) -> None:
    def handler(request: Any) -> Any:
        if request.url.path.startswith("/old"):
            return face.response(307, [b""], {"location": URL})
        return origin(request)

    old = "https://api.openai.com/old/v1/chat/completions"
    bare = await come(face.client(handler, follow_redirects=True).post(old, json=ask))
    metered = await come(meter.wrap(face.client(handler, follow_redirects=True)).post(old, json=ask))
    assert told(metered) == told(bare)
    assert [past.status_code for past in metered.history] == [307]
    assert str(metered.request.url) == URL == str(bare.request.url)
    check_counted(calls, stream="stream" in ask)

    calls.clear()
    unfollowed = await come(meter.wrap(face.client(handler)).post(old, json=ask))
    assert unfollowed.status_code == 307
    assert unfollowed.next_request is not None
    assert (calls[0].status, calls[0].cost_nanos) == ("error", None)


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@on_a_loop
async def test_auth_flows(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls, ask: dict[str, Any]) -> None:
    class TwoSteps(face.library.Auth):  # type: ignore[misc, name-defined]
        def auth_flow(self, request: Any) -> Generator[Any, Any, None]:
            response = yield request
            assert response.status_code == 401
            request.headers["authorization"] = "Bearer second"
            yield request

    def handler(request: Any) -> Any:
        if request.headers.get("authorization") != "Bearer second":
            return face.response(401, [b"who?"], {})
        return origin(request)

    bare = await come(face.client(handler, auth=TwoSteps()).post(URL, json=ask))
    client = meter.wrap(face.client(handler))
    metered = await come(client.post(URL, json=ask, auth=TwoSteps()))
    assert told(metered) == told(bare)
    assert metered.request.headers["authorization"] == bare.request.headers["authorization"]
    basic = await come(client.post(URL, json=ask, auth=("user", "secret")))
    assert basic.status_code == 401
    assert [row.http_status for row in calls] == [200, 401]


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@on_a_loop
async def test_event_hooks(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls, ask: dict[str, Any]) -> None:
    def hooks(seen: list[Any]) -> dict[str, list[Any]]:
        def on_request(request: Any) -> None:
            request.headers["x-hook"] = "here"
            seen.append((request.method, str(request.url)))

        async def on_request_async(request: Any) -> None:
            on_request(request)

        def on_response(response: Any) -> None:
            response.read()
            seen.append((response.status_code, response.request.headers["x-hook"]))

        async def on_response_async(response: Any) -> None:
            await response.aread()
            seen.append((response.status_code, response.request.headers["x-hook"]))

        if face.is_async:
            return {"request": [on_request_async], "response": [on_response_async]}
        return {"request": [on_request], "response": [on_response]}

    seen_bare: list[Any] = []
    bare = await come(origin.client(event_hooks=hooks(seen_bare)).post(URL, json=ask))
    seen: list[Any] = []
    metered = await come(meter.wrap(origin.client(event_hooks=hooks(seen))).post(URL, json=ask))
    assert seen == seen_bare
    assert told(metered) == told(bare)
    assert origin.requests[-1].headers["x-hook"] == "here"
    assert metered.request.headers["x-hook"] == "here"
    check_counted(calls, stream="stream" in ask)


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@on_a_loop
async def test_extensions_cookies_and_timeouts(face: Face, origin: Origin, meter: Meter, ask: dict[str, Any]) -> None:
    client = meter.wrap(origin.client(cookies={"a": "1"}))
    response = await come(
        client.post(URL, json=ask, extensions={"mine": "yes"}, timeout=7.0, params={"p": "q"}, headers={"x-mine": "1"})
    )
    sent = origin.requests[0]
    assert sent.extensions["mine"] == "yes"
    assert "mine" not in response.extensions
    assert sent.headers["cookie"] == "a=1"
    assert sent.url.query == b"p=q"
    assert response.cookies["seen"] == client.cookies["seen"] == "1"
    await come(client.post(URL, json=ask))
    assert "seen=1" in origin.requests[1].headers["cookie"]
    timed = await come(client.post(URL, json=ask, timeout=7.0))
    assert timed.status_code == 200
    assert origin.requests[2].extensions["timeout"] == {"connect": 7.0, "read": 7.0, "write": 7.0, "pool": 7.0}


@on_a_loop
async def test_errors_of_the_connection_are_the_bare_clients(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    failure = face.library.ReadTimeout("too slow")

    def handler(request: Any) -> Any:
        raise failure

    client = meter.wrap(face.client(handler))
    with pytest.raises(face.library.ReadTimeout) as caught:
        await come(client.post(URL, json=ASK))
    assert caught.value is failure
    assert caught.value.request.url == URL
    assert (calls[0].status, calls[0].error_type, calls[0].estimated) == ("incomplete", "ReadTimeout", True)


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
@on_a_loop
async def test_a_body_that_breaks_off(
    face: Face, origin: Origin, meter: Meter, calls: CapturedCalls, ask: dict[str, Any], stream: bool
) -> None:
    origin.piece_bytes, origin.cut_after = 50, 4
    client = meter.wrap(origin.client())

    async def whole() -> None:
        response = await come(client.send(client.build_request("POST", URL, json=ask), stream=stream))
        await face.read(response)

    with pytest.raises(face.library.RemoteProtocolError, match="peer closed"):
        await whole()
    [row] = calls
    assert (row.status, row.error_type, row.estimated) == ("incomplete", "RemoteProtocolError", True)
    assert row.cost_nanos


# -- bodies of requests ------------------------------------------------------------------------------------------


def pieces_of(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), 10):
        yield data[at : at + 10]


async def async_pieces_of(data: bytes) -> AsyncIterator[bytes]:
    for piece in pieces_of(data):
        yield piece


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@on_a_loop
async def test_json_from_a_generator(
    face: Face, origin: Origin, meter: Meter, calls: CapturedCalls, ask: dict[str, Any]
) -> None:
    data = json.dumps(ask).encode()
    client = meter.wrap(origin.client())
    content = async_pieces_of(data) if face.is_async else pieces_of(data)
    response = await come(client.post(URL, content=content, headers={"content-type": "application/json"}))
    assert response.status_code == 200
    sent = json.loads(origin.requests[0].content)
    sent.pop("stream_options", None)
    assert sent == ask
    check_counted(calls, stream="stream" in ask)


@on_a_loop
async def test_a_generator_that_fails_raises_its_own_error(
    face: Face, origin: Origin, meter: Meter, calls: CapturedCalls
) -> None:
    class Mine(Exception):
        pass

    def failing() -> Iterator[bytes]:
        yield b'{"model":'
        raise Mine

    async def failing_async() -> AsyncIterator[bytes]:
        yield b'{"model":'
        raise Mine

    client = meter.wrap(origin.client())
    with pytest.raises(Mine):
        await come(
            client.post(
                URL,
                content=failing_async() if face.is_async else failing(),
                headers={"content-type": "application/json"},
            )
        )
    assert origin.requests == []
    assert all(row.cost_nanos is None for row in calls)


@on_a_loop
async def test_a_generator_of_another_type_is_not_touched(
    face: Face, origin: Origin, meter: Meter, calls: CapturedCalls
) -> None:
    data = json.dumps(ASK).encode()
    client = meter.wrap(origin.client())
    content = async_pieces_of(data) if face.is_async else pieces_of(data)
    response = await come(client.post(URL, content=content))
    assert response.content == chat_body()
    assert origin.requests[0].headers["transfer-encoding"] == "chunked"
    [row] = calls
    assert (row.status, row.model) == ("ok", None)
    assert row.usage is not None
    assert row.usage.input_tokens == INPUT


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": 3, "stream": "maybe"}'])
@on_a_loop
async def test_requests_that_make_no_sense_go_out_as_they_are(
    face: Face, meter: Meter, calls: CapturedCalls, body: bytes
) -> None:
    sent: list[bytes] = []

    def handler(request: Any) -> Any:
        sent.append(request.content)
        return face.response(400, [b"what?"], {})

    client = meter.wrap(face.client(handler))
    response = await come(client.post(URL, content=body, headers={"content-type": "application/json"}))
    assert response.text == "what?"
    assert sent == [body]
    assert calls[0].error_type == "400"


@on_a_loop
async def test_a_huge_request(face: Face, origin: Origin, meter: Meter, calls: CapturedCalls) -> None:
    ask = ASK | {"messages": [{"role": "user", "content": "x" * 20_000_000}], "stream": True}
    response = await come(meter.wrap(origin.client()).post(URL, json=ask))
    assert response.status_code == 200
    assert len(origin.asked["messages"][0]["content"]) == 20_000_000
    check_counted(calls, stream=True)


# -- what is no model call ---------------------------------------------------------------------------------------


@on_a_loop
async def test_other_requests_pass_untouched(
    face: Face, origin: Origin, meter: Meter, calls: CapturedCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_story(self: Metering, *args: object) -> None:
        raise AssertionError("a story was told")

    monkeypatch.setattr(Metering, "open", no_story)
    client = meter.wrap(origin.client())
    answers: list[Any] = []

    def handler(request: Any) -> Any:
        answers.append(origin(request))
        return answers[-1]

    client._transport = face.library.MockTransport(handler)
    for method, path in [
        ("GET", "/v1/models"),
        ("GET", "/v1/chat/completions/chatcmpl-1"),
        ("DELETE", "/v1/files/file-1"),
        ("POST", "/v1/files"),
        ("POST", "/v1/messages/count_tokens"),
        ("POST", "/"),
        ("HEAD", "/v1"),
    ]:
        request = client.build_request(method, f"https://api.openai.com{path}")
        response = await come(client.send(request, stream=True))
        assert response is answers[-1]  # the very object that the transport gave
        assert response.request is request
        await face.read(response)
    assert len(calls) == 0
    assert all(sent is not None for sent in origin.requests)


@on_a_loop
async def test_what_is_no_request_fails_as_on_the_bare_client(face: Face, origin: Origin, meter: Meter) -> None:
    bare, metered = origin.client(), meter.wrap(origin.client())
    for wrong in ((), ("no request",), (None,)):
        with pytest.raises(Exception) as expected:  # noqa: PT011
            await come(bare.send(*wrong))
        with pytest.raises(type(expected.value)):
            await come(metered.send(*wrong))
    await face.close(metered)
    with pytest.raises(RuntimeError, match="closed"):
        await come(metered.post(URL, json=ASK))


@pytest.mark.parametrize("verb", ["get", "put", "patch", "delete", "options", "head"])
@on_a_loop
async def test_other_methods_at_a_models_address(origin: Origin, meter: Meter, calls: CapturedCalls, verb: str) -> None:
    client = meter.wrap(origin.client())
    response = await come(client.request(verb.upper(), "https://api.openai.com/v1/models/chat/completionsx"))
    assert response.status_code == 200
    assert len(calls) == 0


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@on_a_loop
async def test_raw_bytes_are_what_the_headers_say(face: Face, meter: Meter, status: int, packed: bool) -> None:
    """A gateway hands on both."""
    body = b"".join(chat_events(usage=True)) if status == 200 else b'{"error": "no such model"}'
    raw = gzip.compress(body) if packed else body
    headers = {"content-type": "text/event-stream" if status == 200 else "application/json", "x-more": "kept"}
    headers |= {"content-length": str(len(raw))} | ({"content-encoding": "gzip"} if packed else {})
    client = meter.wrap(face.client(lambda _: face.response(status, [raw[:20], raw[20:]], headers)))
    response = await come(client.send(client.build_request("POST", URL, json=STREAMED), stream=True))
    found = b"".join(await face.pieces(response, "iter_raw"))
    assert response.headers["x-more"] == "kept"
    assert int(response.headers.get("content-length", len(found))) == len(found)
    plain = gzip.decompress(found) if response.headers.get("content-encoding") == "gzip" else found
    assert plain == (b"".join(chat_events(usage=False)) if status == 200 else body)


@on_a_loop
async def test_a_redirect_that_is_followed_by_hand(face: Face, origin: Origin, meter: Meter) -> None:
    answers = iter([face.library.Response(307, headers={"location": URL}), None])
    client = meter.wrap(face.client(lambda request: next(answers) or origin(request)))
    response = await come(client.post(URL, json=STREAMED))
    assert json.loads(response.next_request.content) == STREAMED
    response = await come(client.send(response.next_request))
    assert response.content == b"".join(chat_events(usage=False))


@on_a_loop
async def test_a_form_is_read(face: Face, calls: CapturedCalls) -> None:
    """As that of a transcription: a budget of its model holds it, and its price is known."""
    usage = {"type": "tokens", "input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    budget = Budget("1 calls", match={"model": "gpt-4o-transcribe"}, wait_s=0)
    with Meter([budget], recorders=[calls]) as meter:
        client = meter.wrap(face.client(lambda _: face.library.Response(200, json={"text": "hi", "usage": usage})))
        form = {"data": {"model": "gpt-4o-transcribe"}, "files": {"file": ("a.wav", b"x" * 5_000)}}
        address = "https://api.openai.com/v1/audio/transcriptions"
        assert (await come(client.post(address, **form))).json()["text"] == "hi"
        with pytest.raises(BudgetExceeded):
            await come(client.post(address, **form))
    assert [(row.model, row.status) for row in calls] == [("gpt-4o-transcribe", "ok"), ("gpt-4o-transcribe", "refused")]
    assert calls[0].cost_nanos


@pytest.mark.parametrize("tokens", [2**63, 10**30])
@on_a_loop
async def test_a_count_beyond_all_reason_is_none(face: Face, meter: Meter, calls: CapturedCalls, tokens: int) -> None:
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens, "total_tokens": 2 * tokens}
    client = meter.wrap(face.client(lambda _: face.library.Response(200, json={"choices": [], "usage": usage})))
    await come(client.post(URL, json=ASK))
    assert [(row.status, row.estimated) for row in calls] == [("ok", True)]
