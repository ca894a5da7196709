"""Clients that talk to an application in the same process, and what else the libraries offer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.clients.faces import ASK, FACES, INPUT, URL, Face, chat_body, chat_events, come, face_id, on_a_loop
from tokenmeter import Meter
from tokenmeter.testing import CapturedCalls, Reply, ScriptedProvider

STREAMED = ASK | {"stream": True}


def answer(body: bytes) -> tuple[bytes, str]:
    ask = json.loads(body)
    if not ask.get("stream"):
        return chat_body(), "application/json"
    asked = "stream_options" in ask
    return b"".join(chat_events(usage=asked)), "text/event-stream"


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    found, content_type = answer(environ["wsgi.input"].read())
    start_response("200 OK", [("content-type", content_type)])
    return [found[:50], found[50:]]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    found, content_type = answer(body)
    headers = [(b"content-type", content_type.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": found[:50], "more_body": True})
    await send({"type": "http.response.body", "body": found[50:]})


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
@on_a_loop
async def test_an_application_in_the_same_process(
    face: Face, meter: Meter, calls: CapturedCalls, ask: dict[str, Any], stream: bool
) -> None:
    library = face.library
    transport = library.ASGITransport(asgi) if face.is_async else library.WSGITransport(wsgi)
    client = meter.wrap(face.kind(transport=transport))
    response = await come(client.send(client.build_request("POST", URL, json=ask), stream=stream))
    expected = chat_body() if ask is ASK else b"".join(chat_events(usage=False))
    assert await face.read(response) == expected
    await face.close(response)
    assert calls[0].usage is not None
    assert calls[0].usage.input_tokens == INPUT


@on_a_loop
async def test_over_a_real_connection(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    reply = Reply("one two three", input_tokens=12, output_tokens=3, gzip=True, piece_bytes=9)
    with ScriptedProvider(reply) as provider:
        client = meter.wrap(face.kind(base_url=provider.openai_url))
        for _ in range(3):
            for ask in (ASK, STREAMED):
                response = await come(client.post("/chat/completions", json=ask))
                assert response.status_code == 200
                assert "network_stream" in response.extensions
        assert provider.received == 6
        assert provider.wait_idle().input_tokens == meter.spend().input_tokens == 6 * 12
        assert provider.billed.output_tokens == meter.spend().output_tokens == 6 * 3
        await face.close(client)
    assert {row.status for row in calls} == {"ok"}


@on_a_loop
async def test_a_server_that_is_not_there(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    with ScriptedProvider() as provider:
        url = f"{provider.openai_url}/chat/completions"
    client = meter.wrap(face.kind())
    with pytest.raises(face.library.ConnectError):
        await come(client.post(url, json=ASK))
    await face.close(client)
    [row] = calls
    assert (row.status, row.error_type, row.usage, row.cost_nanos) == ("error", "ConnectError", None, None)


@on_a_loop
async def test_a_server_that_hangs_up(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    with ScriptedProvider(Reply(hang_up=True)) as provider:
        client = meter.wrap(face.kind())
        with pytest.raises(face.library.RemoteProtocolError):
            await come(client.post(f"{provider.openai_url}/chat/completions", json=ASK))
        await face.close(client)
    [row] = calls
    assert (row.status, row.estimated) == ("incomplete", True)  # it went out, and may have been billed


@pytest.mark.parametrize("face", [face for face in FACES if hasattr(face.kind, "sse")], ids=face_id)
@on_a_loop
async def test_the_librarys_own_event_source(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    with ScriptedProvider(Reply("one two", input_tokens=12, output_tokens=2)) as provider:
        client = meter.wrap(face.kind(base_url=provider.openai_url))
        found = []
        if face.is_async:
            async with client.sse("/chat/completions", method="POST", json=STREAMED) as events:
                async for one in events:
                    found.append(one.data)
        else:
            with client.sse("/chat/completions", method="POST", json=STREAMED) as events:
                found = [one.data for one in events]
        await face.close(client)
    assert found[-1] == "[DONE]"
    assert all(json.loads(data)["choices"] for data in found[:-1])
    assert calls[0].usage is not None
    assert (calls[0].usage.input_tokens, calls[0].usage.output_tokens) == (12, 2)


def test_functions_of_the_library_are_metered_when_instrumented(calls: CapturedCalls) -> None:
    """``httpx.post`` makes a client of its own."""
    with ScriptedProvider() as provider, Meter(recorders=[calls]) as meter:
        meter.instrument()
        for face in FACES[::2]:
            response = face.library.post(f"{provider.openai_url}/chat/completions", json=ASK)
            assert response.status_code == 200
            with face.library.stream("POST", f"{provider.openai_url}/chat/completions", json=STREAMED) as streamed:
                assert streamed.read().endswith(b"data: [DONE]\n\n")
        assert len(calls) == 4
