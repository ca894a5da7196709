"""The real SDK of Anthropic against a real server: metered to the exact token, and not noticed."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from tests.sdk.helpers import Books, Kind, Use, each, of, plain, said, within
from tests.support.llama import MODEL, PROMPT_TOKENS, Llama

TEXT = 'A letter: {"ß": [1]} 漢'
BYTES = len(TEXT.encode())
SYSTEM = "Be kind."
SYSTEM_TOKENS = len(SYSTEM) + 10  # what the template puts round it, with the word "system"
ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 7, "messages": said(TEXT)}


async def create(client: Any) -> Any:
    return await of(client.messages.create(**ASK))


async def with_system(client: Any) -> Any:
    return await of(client.messages.create(**ASK, system=SYSTEM))


async def create_streamed(client: Any) -> Any:
    return await each(await of(client.messages.create(**ASK, stream=True)))


async def stream_helper(client: Any) -> Any:
    async with within(client.messages.stream(**ASK)) as stream:
        return await each(stream)


async def stream_text(client: Any) -> Any:
    async with within(client.messages.stream(**ASK)) as stream:
        return [*await each(stream.text_stream), await of(stream.get_final_message())]


async def stream_unread(client: Any) -> Any:
    async with within(client.messages.stream(**ASK)) as stream:
        return await of(stream.get_final_message())


class Case(NamedTuple):
    use: Use
    given: int = BYTES + PROMPT_TOKENS
    made: int = 7


CASES = [
    Case(create),
    Case(with_system, BYTES + PROMPT_TOKENS + SYSTEM_TOKENS),
    Case(create_streamed),
    Case(stream_helper),
    Case(stream_text),
    Case(stream_unread),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.use.__name__)
async def test_to_the_token(case: Case, kind: Kind, books: Books, llama: Llama) -> None:
    bare = kind.anthropic(llama.anthropic_url)
    metered = books.meter.wrap(kind.anthropic(llama.anthropic_url))
    await case.use(bare)  # from now on the prompt is cached
    expected = await case.use(bare)
    found = await case.use(metered)
    assert plain(found, random=True) == plain(expected, random=True)
    row = books.exact(case.given, case.made, case.given - 1)
    assert (row.model, row.response_model, row.http_status) == (MODEL, MODEL, 200)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_cached_tokens_as_the_server_says(streamed: bool, kind: Kind, books: Books, llama: Llama) -> None:
    client = books.meter.wrap(kind.anthropic(llama.anthropic_url))
    ask: dict[str, Any] = ASK | {"messages": said(f"a letter of the {kind.is_async} {streamed} test alone")}
    said_cached = []
    for _ in range(2):
        if streamed:
            async with within(client.messages.stream(**ask)) as stream:
                answer = await of(stream.get_final_message())
        else:
            answer = await of(client.messages.create(**ask))
        said_cached.append(answer.usage.cache_read_input_tokens)
    given = len(ask["messages"][0]["content"].encode()) + PROMPT_TOKENS
    assert said_cached[1] == given - 1
    assert [row.usage and row.usage.cache_read_tokens for row in books.calls] == said_cached
    books.exact(2 * given, 14, sum(said_cached), rows=2)
