"""The scripted provider through the real SDKs, as it behaves when all goes well."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, OpenAI

from tokenmeter.testing import Billed, Reply, Request, ScriptedProvider

HELLO: Any = [{"role": "user", "content": "Hello wörld"}]  # 12 bytes: 3 tokens
TEXT = "Hello from the scripted provider."  # 5 words
TOOL: Any = {"name": "search", "arguments": {"query": "tea"}}


@pytest.fixture
def openai(provider: ScriptedProvider) -> Any:
    with OpenAI(base_url=provider.openai_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic(provider: ScriptedProvider) -> Any:
    with Anthropic(base_url=provider.anthropic_url, api_key="none", max_retries=0) as client:
        yield client


def test_chat(provider: ScriptedProvider, openai: OpenAI) -> None:
    answer = openai.chat.completions.create(model="gpt-5-mini", messages=HELLO)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "gpt-5-mini"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        3,
        5,
        8,
    )
    assert provider.billed == Billed(calls=1, input_tokens=3, output_tokens=5)
    [request] = provider.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.json == {"model": "gpt-5-mini", "messages": HELLO}
    assert request.headers["authorization"] == "Bearer none"


def test_chat_streams_usage_only_on_request(provider: ScriptedProvider, openai: OpenAI) -> None:
    plain = list(openai.chat.completions.create(model="m", messages=HELLO, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in plain) == TEXT
    assert not any("usage" in chunk.model_fields_set for chunk in plain)
    assert plain[-1].choices[0].finish_reason == "stop"
    asked = list(
        openai.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options={"include_usage": True})
    )
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in asked[:-1])
    assert asked[-1].choices == []
    assert asked[-1].usage is not None
    assert asked[-1].usage.completion_tokens == 5
    assert provider.billed == Billed(calls=2, input_tokens=6, output_tokens=10)


def test_completions(provider: ScriptedProvider, openai: OpenAI) -> None:
    answer = openai.completions.create(model="m", prompt="abcde", max_tokens=2)
    assert answer.choices[0].text == "Hello from"
    assert answer.choices[0].finish_reason == "length"
    chunks = list(
        openai.completions.create(
            model="m", prompt=["abcd", "efgh"], stream=True, stream_options={"include_usage": True}
        )
    )
    for i in (0, 1):
        assert "".join(c.text for chunk in chunks for c in chunk.choices if c.index == i) == TEXT
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (2, 10)
    assert provider.billed == Billed(calls=2, input_tokens=4, output_tokens=12)


def test_responses(provider: ScriptedProvider, openai: OpenAI) -> None:
    provider.reply = Reply(TEXT, cache_read_tokens=4, reasoning_tokens=2)
    answer = openai.responses.create(model="m", input="Hello", instructions="Be kind")
    assert answer.output_text == TEXT
    assert answer.status == "completed"
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (
        4,
        7,
    )  # 12 bytes, but 4 of it are cached
    assert answer.usage.input_tokens_details.cached_tokens == 4
    assert answer.usage.output_tokens_details.reasoning_tokens == 2
    events = list(openai.responses.create(model="m", input="Hello", stream=True))
    assert [event.type for event in events][:2] == ["response.created", "response.in_progress"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage == answer.usage
    with openai.responses.stream(model="m", input="Hello") as stream:
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == TEXT
        assert stream.get_final_response().output_text == TEXT


def test_responses_that_are_capped_end_incomplete(openai: OpenAI) -> None:
    answer = openai.responses.create(model="m", input="Hello", max_output_tokens=2)
    assert (answer.status, answer.output_text) == ("incomplete", "Hello from")
    last = list(openai.responses.create(model="m", input="Hello", max_output_tokens=2, stream=True))[-1]
    assert last.type == "response.incomplete"
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == 2


def test_embeddings(provider: ScriptedProvider, openai: OpenAI) -> None:
    coded = openai.embeddings.create(model="m", input=["abcd", "efghi"], dimensions=3)
    plain = openai.embeddings.create(model="m", input="abcd", dimensions=3, encoding_format="float")
    assert [entry.index for entry in coded.data] == [0, 1]
    assert coded.data[0].embedding == pytest.approx(plain.data[0].embedding)
    assert coded.usage.prompt_tokens == 3
    assert openai.embeddings.create(model="m", input=[1, 2, 3]).usage.total_tokens == 3
    assert provider.billed == Billed(calls=3, input_tokens=7)


def test_messages(provider: ScriptedProvider, anthropic: Anthropic) -> None:
    provider.reply = Reply(TEXT, input_tokens=100, cache_read_tokens=60, cache_write_tokens=30)
    answer = anthropic.messages.create(model="m", max_tokens=3, messages=HELLO)
    assert answer.content[0].type == "text"
    assert answer.content[0].text == "Hello from the"
    assert answer.stop_reason == "max_tokens"
    used = answer.usage
    assert (used.input_tokens, used.cache_read_input_tokens, used.cache_creation_input_tokens) == (10, 60, 30)
    assert used.output_tokens == 3
    with anthropic.messages.stream(model="m", max_tokens=50, messages=HELLO) as stream:
        assert "".join(stream.text_stream) == TEXT
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (10, 5)
    kinds = [event.type for event in anthropic.messages.create(model="m", max_tokens=50, messages=HELLO, stream=True)]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert provider.billed.input_tokens == 300
    assert provider.billed.output_tokens == 13
    assert anthropic.messages.count_tokens(model="m", messages=HELLO).input_tokens == 3
    assert provider.billed.calls == 3


async def _talk_async(provider: ScriptedProvider) -> None:
    async with AsyncOpenAI(base_url=provider.openai_url, api_key="none", max_retries=0) as openai:
        answer = await openai.chat.completions.create(model="m", messages=HELLO)
        assert answer.choices[0].message.content == TEXT
        chunks = [c async for c in await openai.chat.completions.create(model="m", messages=HELLO, stream=True)]
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == TEXT
    async with AsyncAnthropic(base_url=provider.anthropic_url, api_key="none", max_retries=0) as anthropic:
        message = await anthropic.messages.create(model="m", max_tokens=9, messages=HELLO)
        assert message.usage.output_tokens == 5
        async with anthropic.messages.stream(model="m", max_tokens=9, messages=HELLO) as stream:
            assert await stream.get_final_text() == TEXT


def test_async(provider: ScriptedProvider) -> None:
    asyncio.run(_talk_async(provider))
    assert provider.billed == Billed(calls=4, input_tokens=12, output_tokens=20)


def test_tool_calls(provider: ScriptedProvider, openai: OpenAI, anthropic: Anthropic) -> None:
    provider.reply = Reply("", tool_calls=[TOOL])
    choice = openai.chat.completions.create(model="m", messages=HELLO).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].type == "function"
    assert choice.message.tool_calls[0].function.arguments == '{"query": "tea"}'
    with openai.chat.completions.stream(model="m", messages=HELLO) as chat:
        calls = chat.get_final_completion().choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.name == "search"
    with openai.responses.stream(model="m", input="Hello") as response:
        [item] = response.get_final_response().output
    assert item.type == "function_call"
    assert item.arguments == '{"query": "tea"}'
    with anthropic.messages.stream(model="m", max_tokens=50, messages=HELLO) as message:
        [block] = message.get_final_message().content
    assert block.type == "tool_use"
    assert block.input == {"query": "tea"}
    assert provider.billed.output_tokens == 4 * 3  # the name and two words of arguments


def test_choices_are_billed_each(provider: ScriptedProvider, openai: OpenAI) -> None:
    answer = openai.chat.completions.create(model="m", messages=HELLO, n=3, max_completion_tokens=4)
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens == provider.billed.output_tokens == 12


def test_given_counts_and_model_are_reported(provider: ScriptedProvider, openai: OpenAI) -> None:
    counts: dict[str, Any] = {
        "input_tokens": 1000,
        "output_tokens": 70,
        "reasoning_tokens": 50,
        "cache_read_tokens": 900,
    }
    provider.reply = Reply("ok", model="m-2026-01-01", chunks=3, **counts)
    chunks = list(
        openai.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options={"include_usage": True})
    )
    used = chunks[-1].usage
    assert used is not None
    assert used.prompt_tokens_details is not None
    assert used.completion_tokens_details is not None
    assert (used.prompt_tokens, used.prompt_tokens_details.cached_tokens) == (1000, 900)
    assert (used.completion_tokens, used.completion_tokens_details.reasoning_tokens) == (70, 50)
    assert {chunk.model for chunk in chunks} == {"m-2026-01-01"}
    assert sum(bool(c.choices and c.choices[0].delta.content is not None) for c in chunks) == 1 + 3
    assert provider.billed == Billed(calls=1, **counts)


def test_replies_in_order_the_last_one_repeats(provider: ScriptedProvider, openai: OpenAI) -> None:
    def say() -> str | None:
        return openai.chat.completions.create(model="m", messages=HELLO).choices[0].message.content

    provider.reply = ["one", Reply("two")]
    assert [say() for _ in range(3)] == ["one", "two", "two"]
    provider.reply = ["three"]
    assert say() == "three"


def test_a_function_of_the_request(provider: ScriptedProvider, openai: OpenAI) -> None:
    def echo(request: Request) -> str:
        return f"{request.model} {request.stream} {request.json['messages'][0]['content']}"

    provider.reply = echo
    answer = openai.chat.completions.create(model="m", messages=HELLO)
    assert answer.choices[0].message.content == "m False Hello wörld"


def test_a_function_that_raises_is_not_overlooked() -> None:
    def broken(request: Request) -> str:
        raise LookupError("no such script")

    with pytest.raises(LookupError, match="no such script"), ScriptedProvider(broken) as provider:
        assert httpx.post(f"{provider.url}/v1/chat/completions", json={}).status_code == 500


def test_paths_without_a_prefix_and_what_is_no_model_call(provider: ScriptedProvider) -> None:
    azure = "/openai/deployments/gpt/chat/completions?api-version=1"
    assert httpx.post(provider.url + azure, json={"messages": HELLO}).json()["usage"]["prompt_tokens"] == 3
    assert httpx.post(f"{provider.url}/chat/completions", json={"messages": HELLO}).status_code == 200
    assert httpx.get(f"{provider.url}/v1/models").json()["data"][0]["id"] == "scripted"
    assert httpx.post(f"{provider.url}/v1/moderations", json={}).status_code == 404
    assert httpx.post(f"{provider.url}/v1/messages", content=b"{nonsense").json()["type"] == "error"
    assert provider.billed.calls == 2
    assert provider.received == 5


def test_a_request_body_may_come_in_chunks(provider: ScriptedProvider) -> None:
    parts = iter([b'{"prompt": ', b'"abcd"}'])
    answer = httpx.post(f"{provider.openai_url}/completions", content=parts)
    assert answer.json()["usage"]["prompt_tokens"] == 1
    assert provider.requests[0].json == {"prompt": "abcd"}


def test_sixty_stand_inside_at_once(provider: ScriptedProvider) -> None:
    provider.hold()
    with (
        OpenAI(base_url=provider.openai_url, api_key="none", max_retries=0) as client,
        ThreadPoolExecutor(60) as pool,
    ):
        try:
            calls = [pool.submit(client.completions.create, model="m", prompt=f"{i}") for i in range(60)]
            assert len(provider.wait_for(60)) == 60
            assert provider.billed.calls == 0
            provider.release(1)
            assert next(as_completed(calls)).result().usage is not None
            with pytest.raises(TimeoutError, match="59 requests"):
                provider.wait_idle(0.05)
        finally:
            provider.release()
        assert provider.wait_idle().calls == 60
        assert {call.result().choices[0].text for call in calls} == {TEXT}
    assert {request.json["prompt"] for request in provider.requests} == {str(i) for i in range(60)}


def test_requests_are_bounded() -> None:
    with ScriptedProvider(max_requests=2) as provider:
        for i in range(3):
            httpx.get(f"{provider.url}/{i}")
        assert [request.path for request in provider.requests] == ["/1", "/2"]
        assert provider.received == 3
        with pytest.raises(TimeoutError, match="3 of 4 requests"):
            provider.wait_for(4, 0.01)


def test_closing_ends_everything_even_what_is_held() -> None:
    before = set(threading.enumerate())
    provider = ScriptedProvider(Reply(stall_after_chunks=1))
    url = f"{provider.openai_url}/completions"
    with ThreadPoolExecutor(1) as pool, httpx.stream("POST", url, json={"stream": True}) as stalled:
        assert stalled.status_code == 200
        provider.hold()
        held = pool.submit(httpx.post, url, json={})
        provider.wait_for(2)
        provider.close()
        with pytest.raises(httpx.RemoteProtocolError):
            stalled.read()
        with pytest.raises(httpx.RemoteProtocolError):
            held.result()
    provider.close()
    assert set(threading.enumerate()) == before
    with pytest.raises(httpx.ConnectError):
        httpx.get(provider.url)


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="output_tokens is -1"):
        Reply("x", output_tokens=-1)
