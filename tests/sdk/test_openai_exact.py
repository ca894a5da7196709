"""The real SDK of OpenAI against a real server: metered to the exact token, and not noticed."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from tests.sdk.helpers import Books, Kind, Use, each, of, plain, said
from tests.support.llama import DEFAULT_OUTPUT_TOKENS, MODEL, PROMPT_TOKENS, Llama
from tokenmeter.testing import ScriptedProvider

TEXT = 'Grüße: {"a": [1, 2]} 漢字'
BYTES = len(TEXT.encode())
CHAT: dict[str, Any] = {"model": MODEL, "messages": said(TEXT), "max_tokens": 9}


async def chat(client: Any) -> Any:
    return await of(client.chat.completions.create(**CHAT))


async def chat_uncapped(client: Any) -> Any:
    return await of(client.chat.completions.create(model=MODEL, messages=said(TEXT)))


async def chat_stream(client: Any) -> Any:
    return await each(await of(client.chat.completions.create(**CHAT, stream=True)))


async def chat_stream_with_usage(client: Any) -> Any:
    options = {"include_usage": True}
    return await each(await of(client.chat.completions.create(**CHAT, stream=True, stream_options=options)))


async def completions(client: Any) -> Any:
    return await of(client.completions.create(model=MODEL, prompt=TEXT, max_tokens=7))


async def completions_stream(client: Any) -> Any:
    return await each(await of(client.completions.create(model=MODEL, prompt=TEXT, max_tokens=7, stream=True)))


async def responses(client: Any) -> Any:
    return await of(client.responses.create(model=MODEL, input=TEXT, max_output_tokens=6))


async def responses_stream(client: Any) -> Any:
    return await each(await of(client.responses.create(model=MODEL, input=TEXT, max_output_tokens=6, stream=True)))


async def embeddings(client: Any) -> Any:
    return await of(client.embeddings.create(model=MODEL, input=[TEXT, "wörld"]))


class Case(NamedTuple):
    use: Use
    given: int
    made: int
    cached: int  # when asked again: all but the last token


CASES = [
    Case(chat, BYTES + PROMPT_TOKENS, 9, BYTES + PROMPT_TOKENS - 1),
    Case(chat_uncapped, BYTES + PROMPT_TOKENS, DEFAULT_OUTPUT_TOKENS, BYTES + PROMPT_TOKENS - 1),
    Case(chat_stream, BYTES + PROMPT_TOKENS, 9, BYTES + PROMPT_TOKENS - 1),
    Case(chat_stream_with_usage, BYTES + PROMPT_TOKENS, 9, BYTES + PROMPT_TOKENS - 1),
    Case(completions, BYTES, 7, BYTES - 1),
    Case(completions_stream, BYTES, 7, BYTES - 1),
    Case(responses, BYTES + PROMPT_TOKENS, 6, BYTES + PROMPT_TOKENS - 1),
    Case(responses_stream, BYTES + PROMPT_TOKENS, 6, BYTES + PROMPT_TOKENS - 1),
    Case(embeddings, BYTES + 6, 0, 0),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.use.__name__)
async def test_to_the_token(case: Case, kind: Kind, books: Books, llama: Llama) -> None:
    bare = kind.openai(llama.openai_url)
    metered = books.meter.wrap(kind.openai(llama.openai_url))
    await case.use(bare)  # from now on the prompt is cached
    expected = await case.use(bare)
    found = await case.use(metered)
    assert plain(found, random=True) == plain(expected, random=True)
    row = books.exact(case.given, case.made, case.cached)
    assert (row.model, row.response_model, row.http_status) == (MODEL, MODEL, 200)


async def test_the_caller_who_asks_for_usage_sees_its_chunk(kind: Kind, books: Books, llama: Llama) -> None:
    client = books.meter.wrap(kind.openai(llama.openai_url))
    *before, last = await chat_stream_with_usage(client)
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (BYTES + PROMPT_TOKENS, 9)
    assert all(chunk.choices for chunk in before)
    books.exact(BYTES + PROMPT_TOKENS, 9)


async def test_the_caller_who_does_not_sees_none(kind: Kind, books: Books, llama: Llama) -> None:
    client = books.meter.wrap(kind.openai(llama.openai_url))
    chunks = await chat_stream(client)
    assert not any("usage" in chunk.model_fields_set for chunk in chunks)
    assert len("".join(chunk.choices[0].delta.content or "" for chunk in chunks)) == 9
    books.exact(BYTES + PROMPT_TOKENS, 9)


@pytest.mark.parametrize("own", [{"include_usage": False}, {"include_obfuscation": False}], ids=str)
async def test_the_callers_own_options_win(own: Any, kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    client = books.meter.wrap(kind.openai(provider.openai_url))
    await each(await of(client.chat.completions.create(**CHAT, stream=True, stream_options=own)))
    [request] = provider.requests
    assert request.json["stream_options"].items() >= own.items()


async def test_usage_that_the_caller_declines_is_estimated(kind: Kind, books: Books, llama: Llama) -> None:
    options: Any = {"include_usage": False}
    bare, metered = kind.openai(llama.openai_url), books.meter.wrap(kind.openai(llama.openai_url))
    expected = await each(await of(bare.chat.completions.create(**CHAT, stream=True, stream_options=options)))
    found = await each(await of(metered.chat.completions.create(**CHAT, stream=True, stream_options=options)))
    assert plain(found, random=True) == plain(expected, random=True)
    [row] = books.balanced()
    assert (row.status, row.estimated) == ("ok", True)
    assert row.usage is not None
    assert row.usage.input_tokens is not None
    assert row.usage.input_tokens >= BYTES + PROMPT_TOKENS
    assert row.usage.output_tokens == 9  # a token a byte, as it is here
    assert [span["tokenmeter.usage.estimated"] for span in books.spans] == [True]
    assert books.meter.spend().estimated_usd == books.meter.spend().usd > 0


async def test_asking_for_usage_can_be_switched_off(kind: Kind, llama: Llama) -> None:
    books = Books(ask_stream_usage=False)
    await chat_stream(books.meter.wrap(kind.openai(llama.openai_url)))
    [row] = books.balanced()
    assert (row.status, row.estimated) == ("ok", True)
    books.meter.close()


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_cached_tokens_as_the_server_says(streamed: bool, kind: Kind, books: Books, llama: Llama) -> None:
    client = books.meter.wrap(kind.openai(llama.openai_url))
    ask: dict[str, Any] = CHAT | {"messages": said(f"a prompt of the {kind.is_async} {streamed} test alone")}
    said_cached = []
    for _ in range(2):
        if streamed:
            options = {"include_usage": True}
            answer = (await each(await of(client.chat.completions.create(**ask, stream=True, stream_options=options))))[
                -1
            ]
        else:
            answer = await of(client.chat.completions.create(**ask))
        said_cached.append(answer.usage.prompt_tokens_details.cached_tokens)
    given = len(ask["messages"][0]["content"].encode()) + PROMPT_TOKENS
    assert said_cached[1] == given - 1
    assert [row.usage and row.usage.cache_read_tokens for row in books.calls] == said_cached
    books.exact(2 * given, 18, sum(said_cached), rows=2)


async def test_two_calls_of_one_conversation_on_the_server(kind: Kind, books: Books, llama: Llama) -> None:
    """Chat with a system message and several turns: every byte of every message counts."""
    client = books.meter.wrap(kind.openai(llama.openai_url))
    first = await of(client.chat.completions.create(**CHAT))
    turns = [*said(TEXT), {"role": "assistant", "content": first.choices[0].message.content}, *said("and then?")]
    second = await of(client.chat.completions.create(model=MODEL, messages=turns, max_tokens=5))
    assert second.usage.completion_tokens == 5
    books.exact(first.usage.prompt_tokens + second.usage.prompt_tokens, 14, rows=2)
