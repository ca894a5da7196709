"""The surface of Anthropic's SDK: what a metered client gives is what the bare one gives, and is counted once."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pydantic
import pytest

from tests.sdk.helpers import (
    ANTHROPIC_HTTP,
    Books,
    Kind,
    Use,
    each,
    error_of,
    head,
    of,
    plain,
    response_state,
    said,
    within,
    without_time,
)
from tokenmeter.testing import Reply, ScriptedProvider

ASK: dict[str, Any] = {"model": "m", "max_tokens": 64, "messages": said("Hello wörld")}
TOOL: dict[str, Any] = {
    "name": "search",
    "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
}
TOOL_REPLY = Reply("Let me see.", tool_calls=[{"name": "search", "arguments": {"query": "tea"}}])
VERDICT_REPLY = Reply(json.dumps({"ok": True, "why": "it is"}))


class Verdict(pydantic.BaseModel):
    ok: bool
    why: str


async def create(client: Any) -> Any:
    return await of(client.messages.create(**ASK))


async def with_options(client: Any) -> Any:
    derived = client.with_options(timeout=7.0, max_retries=1)
    assert type(derived) is type(client)
    assert (derived.timeout, derived.max_retries) == (7.0, 1)
    return await of(derived.messages.create(**ASK))


async def with_options_twice(client: Any) -> Any:
    derived = client.with_options(max_retries=1).with_options(timeout=7.0)
    return await each(await of(derived.messages.create(**ASK, stream=True)))


async def copy(client: Any) -> Any:
    return await of(client.copy(default_headers={"x-mine": "1"}).messages.create(**ASK))


async def raw(client: Any) -> Any:
    response = await of(client.messages.with_raw_response.create(**ASK))
    return type(response), head(response), await of(response.parse()), json.loads(await of(response.text()))


async def raw_stream(client: Any) -> Any:
    response = await of(client.messages.with_raw_response.create(**ASK, stream=True))
    return type(response), head(response), await each(await of(response.parse()))


async def streaming_parse(client: Any) -> Any:
    async with within(client.messages.with_streaming_response.create(**ASK)) as response:
        return type(response), head(response), await of(response.parse())


async def streaming_json(client: Any) -> Any:
    async with within(client.messages.with_streaming_response.create(**ASK)) as response:
        return await of(response.json())


async def streaming_lines(client: Any) -> Any:
    async with within(client.messages.with_streaming_response.create(**ASK, stream=True)) as response:
        return [without_time(line) for line in await each(response.iter_lines())]


async def streaming_text(client: Any) -> Any:
    async with within(client.messages.with_streaming_response.create(**ASK, stream=True)) as response:
        return [without_time(line) for line in "".join(await each(response.iter_text())).split("\n")]


async def streaming_bytes(client: Any) -> Any:
    async with within(client.messages.with_streaming_response.create(**ASK, stream=True)) as response:
        return [without_time(line) for line in b"".join(await each(response.iter_bytes())).decode().split("\n")]


async def create_stream(client: Any) -> Any:
    stream = await of(client.messages.create(**ASK, stream=True))
    return type(stream), type(stream.response), await each(stream)


async def create_stream_within(client: Any) -> Any:
    async with within(await of(client.messages.create(**ASK, stream=True))) as stream:
        return await each(stream)


async def helper_events(client: Any) -> Any:
    async with within(client.messages.stream(**ASK)) as stream:
        return type(stream), await each(stream), stream.current_message_snapshot


async def helper_text(client: Any) -> Any:
    async with within(client.messages.stream(**ASK)) as stream:
        return await each(stream.text_stream), await of(stream.get_final_text())


async def helper_final_message(client: Any) -> Any:
    async with within(client.messages.stream(**ASK)) as stream:
        return await of(stream.get_final_message()), stream.request_id


async def helper_until_done(client: Any) -> Any:
    async with within(client.messages.stream(**ASK)) as stream:
        await of(stream.until_done())
        return stream.current_message_snapshot


async def parse(client: Any) -> Any:
    answer = await of(client.messages.parse(**ASK, output_format=Verdict))
    assert answer.parsed_output == Verdict(ok=True, why="it is")
    return answer


async def tools(client: Any) -> Any:
    answer = await of(client.messages.create(**ASK, tools=[TOOL]))
    assert answer.content[1].input == {"query": "tea"}
    return answer


async def tools_streamed(client: Any) -> Any:
    async with within(client.messages.stream(**ASK, tools=[TOOL])) as stream:
        return await each(stream), await of(stream.get_final_message())


async def beta(client: Any) -> Any:
    return await of(client.beta.messages.create(**ASK))


async def beta_streamed(client: Any) -> Any:
    async with within(client.beta.messages.stream(**ASK)) as stream:
        return await each(stream)


async def extras(client: Any) -> Any:
    """Extra headers, query and body reach the server."""
    given: dict[str, Any] = {"extra_headers": {"x-mine": "1"}, "extra_query": {"q": "1"}, "extra_body": {"mine": 1}}
    return await of(client.messages.create(**ASK, **given, timeout=9))


PLAIN = Reply(cache_read_tokens=2, cache_write_tokens=3, input_tokens=40)
SURFACE: list[tuple[Use, Reply]] = [
    (create, PLAIN),
    (with_options, PLAIN),
    (with_options_twice, PLAIN),
    (copy, PLAIN),
    (raw, PLAIN),
    (raw_stream, PLAIN),
    (streaming_parse, PLAIN),
    (streaming_json, PLAIN),
    (streaming_lines, PLAIN),
    (streaming_text, PLAIN),
    (streaming_bytes, PLAIN),
    (create_stream, PLAIN),
    (create_stream_within, PLAIN),
    (helper_events, PLAIN),
    (helper_text, PLAIN),
    (helper_final_message, PLAIN),
    (helper_until_done, PLAIN),
    (parse, VERDICT_REPLY),
    (tools, TOOL_REPLY),
    (tools_streamed, TOOL_REPLY),
    (beta, PLAIN),
    (beta_streamed, PLAIN),
    (extras, PLAIN),
]


@pytest.mark.parametrize(("use", "reply"), SURFACE, ids=lambda part: getattr(part, "__name__", ""))
async def test_the_same_as_bare_and_counted_once(
    use: Use, reply: Reply, kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    provider.reply = twin.reply = reply
    bare = kind.anthropic(twin.anthropic_url)
    if use is parse and not hasattr(bare.messages, "parse"):
        pytest.skip(f"anthropic {anthropic.__version__} has no messages.parse")
    expected = await use(bare)
    found = await use(books.meter.wrap(kind.anthropic(provider.anthropic_url)))
    assert plain(found) == plain(expected)
    billed = provider.wait_idle()
    books.exact(billed.input_tokens, billed.output_tokens, billed.cache_read_tokens)
    assert books.meter.spend().cache_write_tokens == billed.cache_write_tokens
    [request], [untouched] = provider.requests, twin.requests
    assert request.body == untouched.body
    assert {**request.headers, "host": ""} == {**untouched.headers, "host": ""}


@pytest.mark.parametrize("use", [raw, create_stream, helper_events], ids=lambda use: use.__name__)
async def test_compressed_answers(
    use: Use, kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    provider.reply = twin.reply = Reply(gzip=True)
    expected = await use(kind.anthropic(twin.anthropic_url))
    assert plain(await use(books.meter.wrap(kind.anthropic(provider.anthropic_url)))) == plain(expected)
    billed = provider.wait_idle()
    books.exact(billed.input_tokens, billed.output_tokens)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_the_state_of_the_response_below(
    streamed: bool, kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    async def state(client: Any) -> list[Any]:
        async with within(client.messages.with_streaming_response.create(**ASK, stream=streamed)) as response:
            found = [response_state(response)]
            await of(response.read())
            found.append(response_state(response))
        return [*found, response_state(response), type(response.elapsed), response.request_id]

    expected = await state(kind.anthropic(twin.anthropic_url))
    assert await state(books.meter.wrap(kind.anthropic(provider.anthropic_url))) == expected
    billed = provider.wait_idle()
    books.exact(billed.input_tokens, billed.output_tokens)


# What is no model call


async def test_counting_tokens_is_neither_metered_nor_refused(
    kind: Kind, books: Books, provider: ScriptedProvider
) -> None:
    client = books.meter.wrap(kind.anthropic(provider.anthropic_url))
    counted = await of(client.messages.count_tokens(model="m", messages=ASK["messages"]))
    assert counted.input_tokens == 3
    books.balanced(0)


async def test_counting_tokens_is_free_when_the_budget_is_spent(kind: Kind, provider: ScriptedProvider) -> None:
    books = Books(calls_limit=1)
    client = books.meter.wrap(kind.anthropic(provider.anthropic_url))
    await create(client)
    error, found = (
        await error_of(create, client),
        await of(client.messages.count_tokens(model="m", messages=ASK["messages"])),
    )
    assert error["type"].__name__ == "BudgetExceeded"
    assert found.input_tokens == 3
    assert len(books.calls) == 2
    books.meter.close()


async def test_models_are_listed_unmetered(kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    client = books.meter.wrap(kind.anthropic(provider.anthropic_url))
    page = await of(client.models.list())
    assert [model.id for model in page.data] == ["scripted"]
    books.balanced(0)


# Errors

ERROR_USES: list[Use] = [create, raw, with_options, create_stream, streaming_parse, helper_events, helper_text]
ERRORS: list[tuple[int, type[Exception]]] = [
    (400, anthropic.BadRequestError),
    (401, anthropic.AuthenticationError),
    (403, anthropic.PermissionDeniedError),
    (404, anthropic.NotFoundError),
    (413, anthropic.APIStatusError),
    (429, anthropic.RateLimitError),
    (500, anthropic.InternalServerError),
    (529, anthropic.APIStatusError),
]


@pytest.mark.parametrize(
    ("status", "expected_type"), ERRORS, ids=lambda part: str(part) if isinstance(part, int) else ""
)
async def test_errors_are_the_sdks_own(
    status: int,
    expected_type: type[Exception],
    kind: Kind,
    books: Books,
    provider: ScriptedProvider,
    twin: ScriptedProvider,
) -> None:
    provider.reply = twin.reply = Reply("No, for a reason.", status=status, headers={"x-should-retry": "false"})
    bare, metered = kind.anthropic(twin.anthropic_url), books.meter.wrap(kind.anthropic(provider.anthropic_url))
    for use in ERROR_USES:
        expected = await error_of(use, bare)
        found = await error_of(use, metered)
        assert found == expected
        assert issubclass(found["type"], expected_type)
    assert provider.received == twin.received == len(ERROR_USES)
    assert {row.http_status for row in books.failed(*[status] * len(ERROR_USES))} == {status}


async def test_each_retry_is_a_call_of_its_own(
    kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    at_once = {"retry-after-ms": "1"}
    provider.reply = twin.reply = [Reply("Later.", status=529, headers=at_once)] * 2 + [Reply()]
    expected = await create(kind.anthropic(twin.anthropic_url, max_retries=3))
    client = books.meter.wrap(kind.anthropic(provider.anthropic_url, max_retries=3))
    assert plain(await create(client)) == plain(expected)
    assert provider.received == twin.received == 3
    rows = books.balanced(3)
    assert [(row.status, row.error_type) for row in rows] == [("error", "529"), ("error", "529"), ("ok", None)]
    assert (books.meter.spend().calls, books.meter.spend().failed) == (1, 2)


async def test_retries_that_come_to_nothing(
    kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    provider.reply = twin.reply = Reply("Later.", status=429, headers={"retry-after-ms": "1"})
    expected = await error_of(create_stream, kind.anthropic(twin.anthropic_url, max_retries=2))
    metered = books.meter.wrap(kind.anthropic(provider.anthropic_url, max_retries=2))
    assert await error_of(create_stream, metered) == expected
    assert provider.received == twin.received == 3
    books.failed(429, 429, 429)


async def test_nobody_listens(kind: Kind, books: Books) -> None:
    with ScriptedProvider() as gone:
        url = gone.anthropic_url
    expected = await error_of(create_stream, kind.anthropic(url))
    found = await error_of(create_stream, books.meter.wrap(kind.anthropic(url)))
    assert found == expected
    assert found["type"] is anthropic.APIConnectionError
    books.failed("ConnectError")


@pytest.mark.parametrize("use", [create_stream, helper_events], ids=lambda use: use.__name__)
async def test_an_error_within_a_stream(
    use: Use, kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    provider.reply = twin.reply = Reply(fail_after_chunks=2)
    expected = await error_of(use, kind.anthropic(twin.anthropic_url))
    assert await error_of(use, books.meter.wrap(kind.anthropic(provider.anthropic_url))) == expected
    assert issubclass(expected["type"], anthropic.APIStatusError)
    billed = provider.wait_idle()
    [row] = books.balanced()
    assert row.estimated
    assert row.error_type is not None
    assert row.usage is not None
    assert row.usage.input_tokens == billed.input_tokens  # it was said at the start
    assert (row.usage.output_tokens or 0) >= billed.output_tokens


async def test_a_body_that_is_no_json(
    kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    provider.reply = twin.reply = Reply(body=b'{"id": "msg_1", "content": [')
    expected = await error_of(create, kind.anthropic(twin.anthropic_url))
    assert await error_of(create, books.meter.wrap(kind.anthropic(provider.anthropic_url))) == expected
    [row] = books.balanced()
    assert row.estimated  # it was answered, so it was paid for


async def test_a_client_of_the_callers_own(kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    http = kind.http(ANTHROPIC_HTTP, headers={"x-mine": "1"})
    client = books.meter.wrap(kind.anthropic(provider.anthropic_url, http_client=http))
    assert client._client is http
    await create(client)
    assert provider.requests[0].headers["x-mine"] == "1"
    books.exact(3, 5)
