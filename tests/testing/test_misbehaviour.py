"""The scripted provider at its worst: each fault is as described, and the bill says what it cost."""

from __future__ import annotations

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import httpx2
import openai
import pytest
from anthropic import Anthropic, APIStatusError
from openai import OpenAI

from tokenmeter.testing import Billed, Reply, ScriptedProvider

HELLO: Any = [{"role": "user", "content": "Hello wörld"}]
FIVE = "one two three four five"
USAGE: Any = {"include_usage": True}


def client_of(provider: ScriptedProvider) -> OpenAI:
    return OpenAI(base_url=provider.openai_url, api_key="none", max_retries=0)


def words(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (529, openai.InternalServerError),
    ],
)
def test_error_statuses_are_not_billed(status: int, error: type[openai.APIStatusError]) -> None:
    reply = Reply("out of luck", status=status, headers={"Retry-After": "7"})
    with ScriptedProvider(reply) as provider, client_of(provider) as client:
        with pytest.raises(error, match="out of luck") as caught:
            client.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert caught.value.response.headers["retry-after"] == "7"
        with Anthropic(base_url=provider.anthropic_url, api_key="none", max_retries=0) as anthropic:
            with pytest.raises(APIStatusError, match="out of luck") as other:
                anthropic.messages.create(model="m", max_tokens=3, messages=HELLO)
            assert other.value.status_code == status
        assert provider.billed == Billed()


def test_the_sdk_retries_through_a_list(provider: ScriptedProvider) -> None:
    provider.reply = [Reply("busy", status=503, headers={"retry-after-ms": "1"}), "fine"]
    with OpenAI(base_url=provider.openai_url, api_key="none", max_retries=1) as client:
        assert client.completions.create(model="m", prompt="x").choices[0].text == "fine"
    assert provider.received == 2
    assert provider.billed.calls == 1


def test_stream_options_are_rejected_by_name() -> None:
    with ScriptedProvider(Reply(FIVE, reject_stream_options=True)) as provider, client_of(provider) as client:
        with pytest.raises(openai.BadRequestError, match="stream_options") as caught:
            client.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options=USAGE)
        assert caught.value.param == "stream_options"
        assert words(client.chat.completions.create(model="m", messages=HELLO, stream=True)) == FIVE
        assert provider.billed.calls == 1


def test_a_cut_stream_breaks_the_connection() -> None:
    with ScriptedProvider(Reply(FIVE, cut_after_chunks=2)) as provider, client_of(provider) as client:
        seen: list[Any] = []
        with pytest.raises(openai.APIConnectionError):
            seen.extend(client.chat.completions.create(model="m", messages=HELLO, stream=True))
        assert words(seen) == "one two"
        assert provider.wait_idle() == Billed(calls=1, input_tokens=3, output_tokens=2)
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(model="m", messages=HELLO)
        assert provider.billed.output_tokens == 2 + 5


def test_anthropics_sdk_gets_a_raw_error_from_a_cut_stream() -> None:
    with (
        ScriptedProvider(Reply(FIVE, cut_after_chunks=2)) as provider,
        Anthropic(base_url=provider.anthropic_url, api_key="none", max_retries=0) as client,
        pytest.raises(httpx2.RemoteProtocolError),
    ):
        list(client.messages.create(model="m", max_tokens=9, messages=HELLO, stream=True))


def test_a_truncated_stream_ends_cleanly_without_its_end() -> None:
    with ScriptedProvider(Reply(FIVE, truncate_after_chunks=3)) as provider, client_of(provider) as client:
        chunks = list(client.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options=USAGE))
        assert words(chunks) == "one two three"
        assert not any(chunk.usage or chunk.choices[0].finish_reason for chunk in chunks)
        raw = httpx.post(f"{provider.openai_url}/chat/completions", json={"stream": True})
        assert b"[DONE]" not in raw.content
        events = list(client.responses.create(model="m", input="Hello", stream=True))
        assert events[-1].type == "response.output_text.delta"
        assert provider.billed.output_tokens == 9


def test_a_stalled_stream_stands_until_the_client_leaves() -> None:
    with ScriptedProvider(Reply(FIVE, stall_after_chunks=1)) as provider:
        with httpx.stream("POST", f"{provider.openai_url}/completions", json={"stream": True}) as stream:
            body = stream.iter_raw()
            assert b'"one"' in next(body)
            with pytest.raises(TimeoutError, match="1 requests are still being answered"):
                provider.wait_idle(0.05)
        assert provider.wait_idle() == Billed(calls=1, output_tokens=1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{provider.openai_url}/completions", json={}, timeout=0.5)
        assert provider.wait_idle() == Billed(calls=2, output_tokens=1)


def test_a_stream_that_fails_says_so_within_a_200() -> None:
    with ScriptedProvider(Reply(FIVE, fail_after_chunks=2)) as provider, client_of(provider) as client:
        with pytest.raises(openai.APIError, match="scripted provider failed"):
            list(client.chat.completions.create(model="m", messages=HELLO, stream=True))
        events = list(client.responses.create(model="m", input="Hello", stream=True))
        assert events[-1].type == "error"
        assert [event.sequence_number for event in events] == list(range(len(events)))
        anthropic = Anthropic(base_url=provider.anthropic_url, api_key="none", max_retries=0)
        with anthropic, pytest.raises(APIStatusError, match="scripted provider failed"):
            list(anthropic.messages.create(model="m", max_tokens=9, messages=HELLO, stream=True))
        assert provider.wait_idle().output_tokens == 6


def test_hanging_up_is_a_connection_error_and_not_billed() -> None:
    with ScriptedProvider(Reply(hang_up=True)) as provider, client_of(provider) as client:
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(model="m", messages=HELLO)
        assert provider.wait_idle() == Billed()
        assert provider.received == 1


def test_an_abandoned_stream_is_billed_up_to_where_it_was_noticed() -> None:
    reply = Reply(output_tokens=10_000, chunks=10_000, chunk_delay_s=0.01)
    with ScriptedProvider(reply) as provider, client_of(provider) as client:
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        next(stream)
        next(stream)
        stream.close()
        billed = provider.wait_idle()
    assert billed.input_tokens == 3
    assert 1 <= billed.output_tokens < 1000


def test_a_client_that_leaves_while_it_is_held_pays_nothing(provider: ScriptedProvider) -> None:
    provider.hold()
    with httpx.Client(timeout=0.05) as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"{provider.openai_url}/completions", json={"prompt": "abcd"})
    provider.wait_for(1)
    provider.release()
    assert provider.wait_idle() == Billed()


def test_a_client_that_leaves_during_the_delay_pays_its_input() -> None:
    with ScriptedProvider(Reply(delay_s=60)) as provider:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{provider.openai_url}/completions", json={"prompt": "abcd"}, timeout=0.5)
        assert provider.wait_idle() == Billed(calls=1, input_tokens=1)


@pytest.mark.parametrize("piece_bytes", [None, 1, 7])
@pytest.mark.parametrize("gzip", [False, True])
def test_pieces_and_gzip_change_nothing(gzip: bool, piece_bytes: int | None) -> None:
    text = "Größe 漢字 " * 5
    reply = Reply(text, gzip=gzip, piece_bytes=piece_bytes)
    with ScriptedProvider(reply) as provider, client_of(provider) as client:
        chunks = list(client.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options=USAGE))
        assert words(chunks) == text
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 10
        raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
        assert raw.headers.get("content-encoding") == ("gzip" if gzip else None)
        assert raw.parse().choices[0].message.content == text


def test_pieces_have_the_size_that_was_asked_for() -> None:
    with (
        ScriptedProvider(Reply(FIVE, piece_bytes=7)) as provider,
        httpx.stream("POST", f"{provider.openai_url}/completions", json={"stream": True}) as stream,
    ):
        assert max(len(piece) for piece in stream.iter_raw(7)) == 7


def test_usage_can_be_kept_back() -> None:
    with ScriptedProvider(Reply(FIVE, report_usage=False)) as provider, client_of(provider) as client:
        assert client.chat.completions.create(model="m", messages=HELLO).usage is None
        assert client.responses.create(model="m", input="Hello").usage is None
        chunks = list(client.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options=USAGE))
        assert not any(chunk.usage for chunk in chunks)
        assert words(chunks) == FIVE
        message = httpx.post(f"{provider.url}/v1/messages", json={"messages": HELLO})
        assert "usage" not in message.json()
        assert provider.billed.output_tokens == 20


@pytest.mark.parametrize("stream", [False, True])
def test_a_body_of_ones_own_is_sent_as_it_is(stream: bool) -> None:
    with ScriptedProvider(Reply(FIVE, body=b'{"broken')) as provider:
        answer = httpx.post(f"{provider.openai_url}/chat/completions", json={"stream": stream})
        assert answer.content == b'{"broken'
        assert ("event-stream" in answer.headers["content-type"]) == stream
        assert provider.billed.output_tokens == 5
        provider.reply = Reply(body=b"<html>", status=502, headers={"content-type": "text/html"})
        assert httpx.post(f"{provider.openai_url}/chat/completions", json={}).text == "<html>"
        assert provider.billed.calls == 1


def test_delays_do_not_hold_up_others() -> None:
    with ScriptedProvider([Reply("late", delay_s=30), "soon"]) as provider, ThreadPoolExecutor(1) as pool:
        late = pool.submit(httpx.post, f"{provider.openai_url}/completions", json={}, timeout=60)
        provider.wait_for(1)
        soon = httpx.post(f"{provider.openai_url}/completions", json={})
        assert soon.json()["choices"][0]["text"] == "soon"
        provider.close()
        with pytest.raises(httpx.RemoteProtocolError):
            late.result()


def test_what_is_no_http_is_hung_up_on(provider: ScriptedProvider) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(provider.url).port or 0), 10) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        assert raw.recv(1) == b""
    assert httpx.get(f"{provider.url}/models").status_code == 200


def test_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "tokenmeter.testing", "from afar"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        answer = httpx.post(f"{url}/v1/completions", json={})
        process.stdin.close()
        assert process.wait(10) == 0
    assert answer.json()["choices"][0]["text"] == "from afar"
