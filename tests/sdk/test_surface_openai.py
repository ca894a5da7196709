"""The surface of OpenAI's SDK: what a metered client gives is what the bare one gives, and is counted once."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pydantic
import pytest

from tests.sdk.helpers import (
    OPENAI_HTTP,
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

HELLO: dict[str, Any] = {"model": "m", "messages": said("Hello wörld")}
INPUT: dict[str, Any] = {"model": "m", "input": "Hello wörld"}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "search",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}},
            "required": ["query"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
TOOL_REPLY = Reply("", tool_calls=[{"name": "search", "arguments": {"query": "tea"}}])
VERDICT_REPLY = Reply(json.dumps({"ok": True, "why": "it is"}))


class Verdict(pydantic.BaseModel):
    ok: bool
    why: str


# Derived clients


async def with_options(client: Any) -> Any:
    derived = client.with_options(timeout=7.0, max_retries=1)
    assert type(derived) is type(client)
    assert (derived.timeout, derived.max_retries) == (7.0, 1)
    return await of(derived.chat.completions.create(**HELLO))


async def with_options_twice(client: Any) -> Any:
    derived = client.with_options(max_retries=1).with_options(timeout=7.0)
    return await each(await of(derived.chat.completions.create(**HELLO, stream=True)))


async def copy(client: Any) -> Any:
    derived = client.copy(default_headers={"x-mine": "1"})
    return await of(derived.chat.completions.create(**HELLO))


# Raw and streaming responses


async def raw(client: Any) -> Any:
    response = await of(client.chat.completions.with_raw_response.create(**HELLO))
    return type(response), head(response), await of(response.parse()), json.loads(response.text)


async def raw_stream(client: Any) -> Any:
    response = await of(client.chat.completions.with_raw_response.create(**HELLO, stream=True))
    return type(response), head(response), await each(await of(response.parse()))


async def raw_responses(client: Any) -> Any:
    response = await of(client.responses.with_raw_response.create(**INPUT))
    return type(response), head(response), await of(response.parse())


async def raw_embeddings(client: Any) -> Any:
    response = await of(client.embeddings.with_raw_response.create(**INPUT))
    return type(response), head(response), await of(response.parse())


async def streaming_parse(client: Any) -> Any:
    async with within(client.chat.completions.with_streaming_response.create(**HELLO)) as response:
        return type(response), head(response), await of(response.parse())


async def streaming_read(client: Any) -> Any:
    async with within(client.chat.completions.with_streaming_response.create(**HELLO)) as response:
        return json.loads(await of(response.read()))


async def streaming_json(client: Any) -> Any:
    async with within(client.chat.completions.with_streaming_response.create(**HELLO)) as response:
        return await of(response.json())


async def streaming_lines(client: Any) -> Any:
    method = client.chat.completions.with_streaming_response.create
    async with within(method(**HELLO, stream=True)) as response:
        return [without_time(line) for line in await each(response.iter_lines())]


async def streaming_text(client: Any) -> Any:
    method = client.chat.completions.with_streaming_response.create
    async with within(method(**HELLO, stream=True)) as response:
        return [without_time(line) for line in "".join(await each(response.iter_text())).split("\n")]


async def streaming_bytes(client: Any) -> Any:
    method = client.chat.completions.with_streaming_response.create
    async with within(method(**HELLO, stream=True)) as response:
        return [without_time(line) for line in b"".join(await each(response.iter_bytes())).decode().split("\n")]


async def streaming_parsed_stream(client: Any) -> Any:
    method = client.chat.completions.with_streaming_response.create
    async with within(method(**HELLO, stream=True)) as response:
        return await each(await of(response.parse()))


# Structured answers and helpers


async def parse(client: Any) -> Any:
    answer = await of(client.chat.completions.parse(**HELLO, response_format=Verdict))
    assert answer.choices[0].message.parsed == Verdict(ok=True, why="it is")
    return answer


async def stream_helper(client: Any) -> Any:
    async with within(client.chat.completions.stream(**HELLO)) as stream:
        events = await each(stream)
        return type(stream), events, await of(stream.get_final_completion())


async def stream_helper_structured(client: Any) -> Any:
    async with within(client.chat.completions.stream(**HELLO, response_format=Verdict)) as stream:
        events = await each(stream)
        final = await of(stream.get_final_completion())
    assert final.choices[0].message.parsed == Verdict(ok=True, why="it is")
    return events, final


async def stream_helper_with_usage(client: Any) -> Any:
    options = {"include_usage": True}
    async with within(client.chat.completions.stream(**HELLO, stream_options=options)) as stream:
        final = await of(stream.get_final_completion())
    assert final.usage.completion_tokens > 0
    return final


async def create_stream(client: Any) -> Any:
    stream = await of(client.chat.completions.create(**HELLO, stream=True))
    return type(stream), head_of_stream(stream), await each(stream)


async def create_stream_within(client: Any) -> Any:
    async with within(await of(client.chat.completions.create(**HELLO, stream=True))) as stream:
        return await each(stream)


async def two_choices(client: Any) -> Any:
    return await of(client.chat.completions.create(**HELLO, n=2))


async def two_choices_streamed(client: Any) -> Any:
    return await each(await of(client.chat.completions.create(**HELLO, n=2, stream=True)))


def head_of_stream(stream: Any) -> Any:
    return stream.response.status_code, stream.response.headers["content-type"], type(stream.response)


async def beta(client: Any) -> Any:
    return await of(client.beta.chat.completions.parse(**HELLO, response_format=Verdict))


async def responses_create(client: Any) -> Any:
    answer = await of(client.responses.create(**INPUT))
    return answer, answer.output_text


async def responses_stream(client: Any) -> Any:
    stream = await of(client.responses.create(**INPUT, stream=True))
    return type(stream), await each(stream)


async def responses_parse(client: Any) -> Any:
    answer = await of(client.responses.parse(**INPUT, text_format=Verdict))
    assert answer.output_parsed == Verdict(ok=True, why="it is")
    return answer


async def responses_helper(client: Any) -> Any:
    async with within(client.responses.stream(**INPUT)) as stream:
        return type(stream), await each(stream), await of(stream.get_final_response())


async def responses_helper_structured(client: Any) -> Any:
    async with within(client.responses.stream(**INPUT, text_format=Verdict)) as stream:
        return await of(stream.get_final_response())


async def tools(client: Any) -> Any:
    answer = await of(client.chat.completions.create(**HELLO, tools=[TOOL]))
    assert answer.choices[0].message.tool_calls[0].function.arguments == '{"query": "tea"}'
    return answer


async def tools_streamed(client: Any) -> Any:
    return await each(await of(client.chat.completions.create(**HELLO, tools=[TOOL], stream=True)))


async def tools_helper(client: Any) -> Any:
    async with within(client.chat.completions.stream(**HELLO, tools=[TOOL])) as stream:
        return await each(stream), await of(stream.get_final_completion())


async def tools_responses(client: Any) -> Any:
    tool = {"type": "function", "name": "search", "parameters": TOOL["function"]["parameters"], "strict": True}
    return await each(await of(client.responses.create(**INPUT, tools=[tool], stream=True)))


async def extras(client: Any) -> Any:
    """Extra headers, query and body reach the server."""
    method = client.chat.completions.create
    return await of(
        method(**HELLO, extra_headers={"x-mine": "1"}, extra_query={"q": "1"}, extra_body={"mine": 1}, timeout=9)
    )


async def low_level_post(client: Any) -> Any:
    return await of(client.post("/chat/completions", body=dict(HELLO), cast_to=object))


PLAIN = Reply()
SURFACE: list[tuple[Use, Reply]] = [
    (with_options, PLAIN),
    (with_options_twice, PLAIN),
    (copy, PLAIN),
    (raw, PLAIN),
    (raw_stream, PLAIN),
    (raw_responses, PLAIN),
    (raw_embeddings, PLAIN),
    (streaming_parse, PLAIN),
    (streaming_read, PLAIN),
    (streaming_json, PLAIN),
    (streaming_lines, PLAIN),
    (streaming_text, PLAIN),
    (streaming_bytes, PLAIN),
    (streaming_parsed_stream, PLAIN),
    (parse, VERDICT_REPLY),
    (stream_helper, PLAIN),
    (stream_helper_structured, VERDICT_REPLY),
    (stream_helper_with_usage, PLAIN),
    (create_stream, PLAIN),
    (create_stream_within, PLAIN),
    (two_choices, PLAIN),
    (two_choices_streamed, PLAIN),
    (beta, VERDICT_REPLY),
    (responses_create, PLAIN),
    (responses_stream, PLAIN),
    (responses_parse, VERDICT_REPLY),
    (responses_helper, PLAIN),
    (responses_helper_structured, VERDICT_REPLY),
    (tools, TOOL_REPLY),
    (tools_streamed, TOOL_REPLY),
    (tools_helper, TOOL_REPLY),
    (tools_responses, TOOL_REPLY),
    (extras, PLAIN),
    (low_level_post, PLAIN),
]


@pytest.mark.parametrize(("use", "reply"), SURFACE, ids=lambda part: getattr(part, "__name__", ""))
async def test_the_same_as_bare_and_counted_once(
    use: Use, reply: Reply, kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    provider.reply = twin.reply = reply
    expected = await use(kind.openai(twin.openai_url))
    found = await use(books.meter.wrap(kind.openai(provider.openai_url)))
    assert plain(found) == plain(expected)
    billed = provider.wait_idle()
    books.exact(billed.input_tokens, billed.output_tokens)
    [request], [bare] = provider.requests, twin.requests
    asked = dict(request.json)
    if asked.get("stream") and use is not stream_helper_with_usage and "/chat/" in request.path:
        assert asked.pop("stream_options") == {"include_usage": True}  # ours, and hidden again
    assert asked == bare.json
    left_out = {"host", "content-length", "x-stainless-read-timeout"}
    assert {k: v for k, v in request.headers.items() if k not in left_out} == {
        k: v for k, v in bare.headers.items() if k not in left_out
    }


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_compressed_answers(
    streamed: bool, kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    provider.reply = twin.reply = Reply(gzip=True)
    use = create_stream if streamed else raw
    expected = await use(kind.openai(twin.openai_url))
    assert plain(await use(books.meter.wrap(kind.openai(provider.openai_url)))) == plain(expected)
    billed = provider.wait_idle()
    books.exact(billed.input_tokens, billed.output_tokens)


async def test_a_server_that_rejects_the_option_is_asked_again_without(
    kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    provider.reply = twin.reply = Reply(reject_stream_options=True)
    expected = await create_stream_within(kind.openai(twin.openai_url))
    client = books.meter.wrap(kind.openai(provider.openai_url))
    found = await create_stream_within(client)
    await create_stream_within(client)
    assert plain(found, random=True) == plain(expected, random=True)
    assert ["stream_options" in request.json for request in provider.requests] == [True, False, False]
    rows = books.balanced(2)
    assert [(row.status, row.estimated) for row in rows] == [("ok", True)] * 2


# Azure


AZURE: list[Use] = [raw, create_stream, parse, streaming_lines, responses_create, with_options, raw_embeddings]


@pytest.mark.parametrize("use", AZURE, ids=lambda use: use.__name__)
async def test_azure(use: Use, kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider) -> None:
    provider.reply = twin.reply = VERDICT_REPLY if use is parse else PLAIN
    expected = await use(kind.azure(twin.url))
    found = await use(books.meter.wrap(kind.azure(provider.url)))
    assert plain(found) == plain(expected)
    billed = provider.wait_idle()
    books.exact(billed.input_tokens, billed.output_tokens)
    assert [request.path for request in provider.requests] == [request.path for request in twin.requests]


async def test_azure_names_the_model_in_its_path(kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    client = books.meter.wrap(kind.azure(provider.url, azure_deployment="my-deployment"))
    await of(client.chat.completions.create(**HELLO))
    [request] = provider.requests
    assert request.path == "/openai/deployments/my-deployment/chat/completions?api-version=2026-01-01"
    row = books.exact(3, 5)
    assert (row.provider, row.operation) == ("azure.ai.openai", "chat")


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_the_state_of_the_response_below(
    streamed: bool, kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    async def state(client: Any) -> list[Any]:
        async with within(client.chat.completions.with_streaming_response.create(**HELLO, stream=streamed)) as response:
            found = [response_state(response)]
            await of(response.read())
            found.append(response_state(response))
        return [*found, response_state(response), type(response.elapsed), response.request_id]

    expected = await state(kind.openai(twin.openai_url))
    assert await state(books.meter.wrap(kind.openai(provider.openai_url))) == expected
    billed = provider.wait_idle()
    books.exact(billed.input_tokens, billed.output_tokens)


# What is no model call


async def test_models_are_listed_unmetered(kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    client = books.meter.wrap(kind.openai(provider.openai_url))
    page = await of(client.models.list())
    assert [model.id for model in page.data] == ["scripted"]
    books.balanced(0)


# Errors


ERROR_USES: list[Use] = [raw, with_options, create_stream, streaming_parse, parse, responses_create, responses_helper]
ERRORS: list[tuple[int, type[Exception]]] = [
    (400, openai.BadRequestError),
    (401, openai.AuthenticationError),
    (403, openai.PermissionDeniedError),
    (404, openai.NotFoundError),
    (422, openai.UnprocessableEntityError),
    (429, openai.RateLimitError),
    (500, openai.InternalServerError),
    (503, openai.InternalServerError),
]
NO_RETRY = {"x-should-retry": "false"}


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
    provider.reply = twin.reply = Reply("No, for a reason.", status=status, headers=NO_RETRY)
    bare, metered = kind.openai(twin.openai_url), books.meter.wrap(kind.openai(provider.openai_url))
    for use in ERROR_USES:
        expected = await error_of(use, bare)
        found = await error_of(use, metered)
        assert found == expected
        assert found["type"] is expected_type
    assert provider.received == twin.received == len(ERROR_USES)
    assert {row.http_status for row in books.failed(*[status] * len(ERROR_USES))} == {status}


async def test_each_retry_is_a_call_of_its_own(
    kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    at_once = {"retry-after-ms": "1"}
    provider.reply = twin.reply = [Reply("Later.", status=429, headers=at_once)] * 2 + [Reply()]
    expected = await of(kind.openai(twin.openai_url, max_retries=3).chat.completions.create(**HELLO))
    client = books.meter.wrap(kind.openai(provider.openai_url, max_retries=3))
    assert plain(await of(client.chat.completions.create(**HELLO))) == plain(expected)
    assert provider.received == twin.received == 3
    rows = books.balanced(3)
    assert [(row.status, row.error_type) for row in rows] == [("error", "429"), ("error", "429"), ("ok", None)]
    assert (books.meter.spend().calls, books.meter.spend().failed) == (1, 2)


async def test_retries_that_come_to_nothing(
    kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    provider.reply = twin.reply = Reply("Later.", status=429, headers={"retry-after-ms": "1"})
    expected = await error_of(create_stream, kind.openai(twin.openai_url, max_retries=2))
    found = await error_of(create_stream, books.meter.wrap(kind.openai(provider.openai_url, max_retries=2)))
    assert found == expected
    assert provider.received == twin.received == 3
    books.failed(429, 429, 429)


async def test_nobody_listens(kind: Kind, books: Books) -> None:
    with ScriptedProvider() as gone:
        url = gone.openai_url
    expected = await error_of(create_stream, kind.openai(url))
    found = await error_of(create_stream, books.meter.wrap(kind.openai(url)))
    assert found == expected
    assert found["type"] is openai.APIConnectionError
    books.failed("ConnectError")


async def test_an_error_within_a_stream(
    kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    provider.reply = twin.reply = Reply(fail_after_chunks=2)
    expected = await error_of(create_stream, kind.openai(twin.openai_url))
    assert await error_of(create_stream, books.meter.wrap(kind.openai(provider.openai_url))) == expected
    assert expected["type"] is openai.APIError
    billed = provider.wait_idle()
    [row] = books.balanced()
    assert row.estimated
    assert row.error_type is not None
    assert row.usage is not None
    assert (row.usage.input_tokens or 0) >= billed.input_tokens
    assert (row.usage.output_tokens or 0) >= billed.output_tokens


async def test_a_body_that_is_no_json(
    kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    provider.reply = twin.reply = Reply(body=b'{"id": "chatcmpl-1", "choices": [')
    expected = await error_of(with_options, kind.openai(twin.openai_url))
    found = await error_of(with_options, books.meter.wrap(kind.openai(provider.openai_url)))
    assert found == expected
    [row] = books.balanced()
    assert row.estimated  # it was answered, so it was paid for


async def test_legacy_http_client(kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    if OPENAI_HTTP is httpx:
        pytest.skip("httpx is the own library of this major version, not a legacy")
    http = kind.http(httpx)
    client = books.meter.wrap(kind.openai(provider.openai_url, http_client=http))
    await of(client.chat.completions.create(**HELLO))
    books.exact(3, 5)
    await create_stream(client)
    books.exact(6, 10, rows=2)
