"""The real server counts as the tests rely on: bytes in, letters out."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, OpenAI

from tests.support.llama import DEFAULT_OUTPUT_TOKENS, MODEL, PROMPT_TOKENS, Llama


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def client(llama: Llama) -> Any:
    with OpenAI(base_url=llama.openai_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize(
    "text", ["a", "Hello wörld", "漢字かな交じり文", '{"key": [1, 2]}', "def f(x):\n    return x\n", "🙂"]
)
def test_tokens_are_bytes(client: OpenAI, text: str) -> None:
    answer = client.chat.completions.create(model="m", messages=said(text), max_tokens=9)
    assert answer.model == MODEL
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(text.encode()) + PROMPT_TOKENS
    assert answer.usage.completion_tokens == 9 == len(answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "length"


def test_it_stops_by_default(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=said("x"))
    assert answer.usage is not None
    assert answer.usage.completion_tokens == DEFAULT_OUTPUT_TOKENS


def test_a_repeated_prompt_is_cached_but_for_its_last_token(client: OpenAI) -> None:
    answers = [client.chat.completions.create(model="m", messages=said("again and again"), max_tokens=4) for _ in "12"]
    assert answers[0].choices[0].message == answers[1].choices[0].message
    usage = answers[1].usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_a_stream_reports_usage_on_request(client: OpenAI) -> None:
    plain = list(client.chat.completions.create(model="m", messages=said("abc"), max_tokens=6, stream=True))
    assert not any(chunk.usage for chunk in plain)
    assert len("".join(chunk.choices[0].delta.content or "" for chunk in plain)) == 6
    asked = list(
        client.chat.completions.create(
            model="m", messages=said("abc"), max_tokens=6, stream=True, stream_options={"include_usage": True}
        )
    )
    assert asked[-1].choices == []
    assert asked[-1].usage is not None
    assert (asked[-1].usage.prompt_tokens, asked[-1].usage.completion_tokens) == (3 + PROMPT_TOKENS, 6)


def test_completions_have_no_template(client: OpenAI) -> None:
    answer = client.completions.create(model="m", prompt="abc", max_tokens=4)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4)


def test_responses(client: OpenAI) -> None:
    answer = client.responses.create(model="m", input="abc", max_output_tokens=4)
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3 + PROMPT_TOKENS, 4)
    last = list(client.responses.create(model="m", input="abc", max_output_tokens=4, stream=True))[-1]
    assert last.type == "response.completed"
    assert last.response.usage is not None
    assert (last.response.usage.input_tokens, last.response.usage.output_tokens) == (3 + PROMPT_TOKENS, 4)


def test_embeddings(client: OpenAI) -> None:
    answer = client.embeddings.create(model="m", input=["abc", "wörld"])
    assert answer.usage.prompt_tokens == 9
    assert len(answer.data) == 2


def test_messages(llama: Llama) -> None:
    with Anthropic(base_url=llama.anthropic_url, api_key="none", max_retries=0) as client:
        answer = client.messages.create(model="m", max_tokens=5, messages=said("to a messenger"))
        assert answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0) == 14 + PROMPT_TOKENS
        assert answer.usage.output_tokens == 5
        with client.messages.stream(model="m", max_tokens=5, messages=said("to a messenger")) as stream:
            assert len(stream.get_final_text()) == 5
            usage = stream.get_final_message().usage
        assert (usage.input_tokens, usage.cache_read_input_tokens) == (1, 13 + PROMPT_TOKENS)
        assert usage.output_tokens == 5


def test_fifty_at_once_are_served_in_turn(client: OpenAI) -> None:
    def ask(i: int) -> tuple[int, int]:
        usage = client.chat.completions.create(model="m", messages=said("z" * i), max_tokens=8).usage
        assert usage is not None
        return usage.prompt_tokens, usage.completion_tokens

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(ask, range(50))) == [(i + PROMPT_TOKENS, 8) for i in range(50)]


async def _ask_async(llama: Llama) -> None:
    async with AsyncOpenAI(base_url=llama.openai_url, api_key="none", max_retries=0) as client:
        answers = await asyncio.gather(
            *(client.chat.completions.create(model="m", messages=said("q"), max_tokens=3) for _ in range(50))
        )
        assert {answer.usage.completion_tokens for answer in answers if answer.usage} == {3}
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="m", messages=said("q"), max_tokens=3, stream=True
            )
        ]
        assert len("".join(chunk.choices[0].delta.content or "" for chunk in chunks)) == 3
    async with AsyncAnthropic(base_url=llama.anthropic_url, api_key="none", max_retries=0) as client_a:
        message = await client_a.messages.create(model="m", max_tokens=3, messages=said("q"))
        assert message.usage.output_tokens == 3


def test_async(llama: Llama) -> None:
    asyncio.run(_ask_async(llama))


def test_a_schema_is_kept(client: OpenAI) -> None:
    schema: Any = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    kind: Any = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}}
    answer = client.chat.completions.create(model="m", messages=said("Good?"), response_format=kind)
    assert answer.choices[0].finish_reason == "stop"
    assert "true" in (answer.choices[0].message.content or "") or "false" in (answer.choices[0].message.content or "")


def test_a_prompt_too_long_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="exceeds the available context"):
        client.chat.completions.create(model="m", messages=said("x" * 9000))


def test_the_process_ends_with_its_fixture() -> None:
    with Llama() as server:
        assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")
