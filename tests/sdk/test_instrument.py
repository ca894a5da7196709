"""What is metered, and how it is undone: one client or all of them, counted once however they are reached."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import anthropic
import anthropic._base_client
import httpx
import httpx2
import openai
import openai._base_client
import pytest

from tests.sdk.helpers import ANTHROPIC_HTTP, OPENAI_HTTP, Books, Kind, each, of, plain, said
from tokenmeter import ConfigError
from tokenmeter.testing import ScriptedProvider

CHAT: dict[str, Any] = {"model": "m", "messages": said("Hello wörld")}
MESSAGES: dict[str, Any] = CHAT | {"max_tokens": 64}
GIVEN, MADE = 3, 5  # what one such call comes to at the scripted provider

# Every function of the process that is patched
PLACES: list[tuple[type[Any], str]] = [
    (httpx.Client, "send"),
    (httpx.AsyncClient, "send"),
    (httpx2.Client, "send"),
    (httpx2.AsyncClient, "send"),
    (openai._base_client.SyncAPIClient, "request"),
    (openai._base_client.AsyncAPIClient, "request"),
    (anthropic._base_client.SyncAPIClient, "request"),
    (anthropic._base_client.AsyncAPIClient, "request"),
]


async def chat(client: Any) -> None:
    """One call of OpenAI's SDK, and one streamed."""
    await of(client.chat.completions.create(**CHAT))
    await each(await of(client.chat.completions.create(**CHAT, stream=True)))


async def letter(client: Any) -> None:
    """One call of Anthropic's SDK, and one streamed."""
    await of(client.messages.create(**MESSAGES))
    await each(await of(client.messages.create(**MESSAGES, stream=True)))


def counted(books: Books, calls: int) -> None:
    books.exact(GIVEN * calls, MADE * calls, rows=calls)


# Counted once


async def test_wrapped_twice(kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    client, letters = kind.openai(provider.openai_url), kind.anthropic(provider.anthropic_url)
    for made in (client, letters):
        assert books.meter.wrap(made) is made
        assert books.meter.wrap(made) is made
    await chat(client)
    await letter(letters)
    counted(books, 4)


@pytest.mark.parametrize("first", ["wrap", "instrument"])
async def test_wrapped_and_instrumented(first: str, kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    client, letters = kind.openai(provider.openai_url), kind.anthropic(provider.anthropic_url)
    if first == "instrument":
        books.meter.instrument()
    books.meter.wrap(client)
    books.meter.wrap(letters)
    books.meter.instrument()
    books.meter.instrument()
    await chat(client)
    await letter(letters)
    counted(books, 4)
    books.meter.uninstrument()
    await chat(client)  # the wraps stay
    counted(books, 6)


async def test_a_derived_client_is_wrapped(kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    client, letters = kind.openai(provider.openai_url), kind.anthropic(provider.anthropic_url)
    await chat(books.meter.wrap(client.with_options(timeout=5)))
    await letter(books.meter.wrap(letters.copy(timeout=5)))
    counted(books, 4)


async def test_a_wrapped_client_and_its_copy_are_wrapped(kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    client = kind.openai(provider.openai_url)
    derived = client.with_options(timeout=5)
    again = books.meter.wrap(client).with_options(max_retries=1)
    for made in (derived, again, again.copy(timeout=3)):
        await chat(books.meter.wrap(made))
    await chat(client)
    counted(books, 8)


async def test_a_derived_client_with_another_http_client(kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    client = books.meter.wrap(kind.openai(provider.openai_url))
    await chat(client.with_options(http_client=kind.http(OPENAI_HTTP)))
    await chat(client)
    counted(books, 4)


async def test_two_clients_share_one_http_client(kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    http = kind.http(OPENAI_HTTP)
    one, two = (kind.openai(provider.openai_url, http_client=http) for _ in range(2))
    books.meter.wrap(http)
    await chat(books.meter.wrap(one))
    await chat(books.meter.wrap(two))
    counted(books, 4)


async def test_two_meters_count_once_each(kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    others = Books()
    client = others.meter.wrap(books.meter.wrap(kind.openai(provider.openai_url)))
    await chat(client)
    counted(books, 2)
    counted(others, 2)
    others.meter.close()
    await chat(client)
    counted(books, 4)
    counted(others, 2)


async def test_methods_taken_before_the_client_was_wrapped(
    kind: Kind, books: Books, provider: ScriptedProvider
) -> None:
    client, letters = kind.openai(provider.openai_url), kind.anthropic(provider.anthropic_url)
    create, raw, write = (
        client.chat.completions.create,
        client.chat.completions.with_raw_response.create,
        letters.messages.create,
    )
    books.meter.wrap(client)
    books.meter.wrap(letters)
    await of(create(**CHAT))
    await of(raw(**CHAT))
    await of(write(**MESSAGES))
    counted(books, 3)


# The whole process


async def test_clients_made_before_and_after(kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    before, letters = kind.openai(provider.openai_url), kind.anthropic(provider.anthropic_url)
    create = before.chat.completions.create
    books.meter.instrument()
    await chat(before)
    await letter(letters)
    await chat(kind.openai(provider.openai_url))
    await chat(kind.azure(provider.url))
    await of(create(**CHAT))
    counted(books, 9)


async def test_the_same_answers_when_instrumented(
    kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    ask: Callable[[Any], Any] = lambda client: client.chat.completions.create(**CHAT, stream=True)  # noqa: E731
    expected = await each(await of(ask(kind.openai(twin.openai_url))))
    books.meter.instrument()
    assert plain(await each(await of(ask(kind.openai(provider.openai_url))))) == plain(expected)
    counted(books, 1)


async def test_undone_to_the_very_same_functions(kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    originals = [vars(owner)[name] for owner, name in PLACES]
    client, letters = kind.openai(provider.openai_url), kind.anthropic(provider.anthropic_url)
    calls = 0
    for _ in range(3):
        books.meter.instrument()
        assert all(vars(owner)[name] is not original for (owner, name), original in zip(PLACES, originals, strict=True))
        await chat(client)
        await letter(letters)
        calls += 4
        counted(books, calls)
        books.meter.uninstrument()
        assert all(vars(owner)[name] is original for (owner, name), original in zip(PLACES, originals, strict=True))
        await chat(client)
        await letter(letters)
        counted(books, calls)


async def test_closing_undoes_everything(kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    originals = [vars(owner)[name] for owner, name in PLACES]
    client, letters = kind.openai(provider.openai_url), kind.anthropic(provider.anthropic_url)
    books.meter.instrument()
    derived = [books.meter.wrap(made).with_options(timeout=5) for made in (client, letters)]
    for made in (client, letters, *derived):
        assert "send" in vars(made._client)
        assert {"request", "copy", "with_options"} <= vars(made).keys()
    books.meter.close()
    assert all(vars(owner)[name] is original for (owner, name), original in zip(PLACES, originals, strict=True))
    for made in (client, letters, *derived):
        assert "send" not in vars(made._client)
        assert not {"request", "copy", "with_options"} & vars(made).keys()
    await chat(client)
    await letter(letters)
    await chat(derived[0])
    books.balanced(0)


async def test_a_wrapped_client_goes_on_when_another_meter_is_closed(
    kind: Kind, books: Books, provider: ScriptedProvider
) -> None:
    others = Books()
    client = books.meter.wrap(others.meter.wrap(kind.openai(provider.openai_url)))
    books.meter.close()  # the outer one first
    await chat(client)
    counted(others, 2)
    books.balanced(0)
    others.meter.close()
    assert "send" not in vars(client._client)


def test_what_can_not_be_wrapped(books: Books) -> None:
    for thing in (object(), None, "client", openai.OpenAI):
        with pytest.raises(ConfigError, match="can't wrap"):
            books.meter.wrap(thing)


def test_instrumented_before_the_sdk_is_imported(provider: ScriptedProvider) -> None:
    program = f"""
        import sys
        from tokenmeter import Meter
        meter = Meter()
        meter.instrument()
        assert not {{"openai", "anthropic", "httpx", "httpx2"}} & set(sys.modules)
        from anthropic import Anthropic
        from openai import OpenAI
        with OpenAI(base_url={provider.openai_url!r}, api_key="none") as client:
            client.chat.completions.create(model="m", messages=[{{"role": "user", "content": "hi"}}])
        with Anthropic(base_url={provider.anthropic_url!r}, api_key="none") as client:
            client.messages.create(model="m", max_tokens=9, messages=[{{"role": "user", "content": "hi"}}])
        print(meter.spend().calls, meter.spend().output_tokens)
        meter.close()
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("2 10\n", "")


# HTTP clients of the caller's own


def answers(library: Any) -> Callable[[Any], Any]:
    """Answers a chat without a network, streamed if asked."""
    chunk = '{{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{}],"usage":{}}}'  # noqa: RUF100
    text = '{"index":0,"delta":{"role":"assistant","content":"tea"},"finish_reason":"stop"}'
    usage = '{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}'

    def answer(request: Any) -> Any:
        asked = request.read()
        assert request.url.path == "/v1/chat/completions"
        if b'"stream":true' in asked.replace(b" ", b""):
            assert b"include_usage" in asked
            events = [chunk.format(text, "null"), chunk.format("", usage), "[DONE]"]
            body = "".join(f"data: {event}\n\n" for event in events)
            return library.Response(200, headers={"content-type": "text/event-stream"}, text=body)
        message = '{"index":0,"message":{"role":"assistant","content":"tea"},"finish_reason":"stop"}'
        whole = f'{{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{message}],"usage":{usage}}}'
        return library.Response(200, headers={"content-type": "application/json"}, text=whole)

    return answer


@pytest.mark.parametrize("how", ["wrap", "instrument"])
async def test_mock_transports(how: str, kind: Kind, books: Books) -> None:
    http = kind.http(OPENAI_HTTP, transport=OPENAI_HTTP.MockTransport(answers(OPENAI_HTTP)))
    client = kind.openai("http://provider.test/v1", http_client=http)
    if how == "instrument":
        books.meter.instrument()
    else:
        books.meter.wrap(client)
    answer = await of(client.chat.completions.create(**CHAT))
    assert answer.choices[0].message.content == "tea"
    chunks = await each(await of(client.chat.completions.create(**CHAT, stream=True)))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["tea"]
    counted(books, 2)


@pytest.mark.parametrize("how", ["wrap", "instrument"])
async def test_a_client_of_the_callers_own(how: str, kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    client = kind.openai(provider.openai_url, http_client=kind.http(OPENAI_HTTP, headers={"x-mine": "1"}))
    letters = kind.anthropic(provider.anthropic_url, http_client=kind.http(ANTHROPIC_HTTP, timeout=9))
    if how == "instrument":
        books.meter.instrument()
    else:
        books.meter.wrap(client)
        books.meter.wrap(letters)
    await chat(client)
    await letter(letters)
    assert provider.requests[0].headers["x-mine"] == "1"
    counted(books, 4)


@pytest.mark.parametrize("how", ["wrap", "instrument"])
async def test_the_sdks_default_client_with_options(
    how: str, kind: Kind, books: Books, provider: ScriptedProvider
) -> None:
    default: Any = openai.DefaultAsyncHttpxClient if kind.is_async else openai.DefaultHttpxClient
    client = kind.openai(provider.openai_url, http_client=default(headers={"x-mine": "1"}))
    if how == "instrument":
        books.meter.instrument()
    else:
        books.meter.wrap(client)
    await chat(client)
    assert provider.requests[0].headers["x-mine"] == "1"
    counted(books, 2)


@pytest.mark.parametrize("how", ["wrap", "instrument", "both"])
async def test_a_class_of_the_callers_own_overrides_send(
    how: str, kind: Kind, books: Books, provider: ScriptedProvider
) -> None:
    passed: list[str] = []

    class Mine(OPENAI_HTTP.Client):  # type: ignore[misc, name-defined, unused-ignore]
        def send(self, request: Any, **options: Any) -> Any:
            passed.append(request.url.path)
            return super().send(request, **options)

    class MineAsync(OPENAI_HTTP.AsyncClient):  # type: ignore[misc, name-defined, unused-ignore]
        async def send(self, request: Any, **options: Any) -> Any:
            passed.append(request.url.path)
            return await super().send(request, **options)

    made: Any = MineAsync() if kind.is_async else Mine()
    client = kind.openai(provider.openai_url, http_client=made)
    if how in ("instrument", "both"):
        books.meter.instrument()
    if how in ("wrap", "both"):
        books.meter.wrap(client)
    await chat(client)
    assert passed == ["/v1/chat/completions"] * 2
    counted(books, 2)


@pytest.mark.parametrize("how", ["wrap", "instrument"])
async def test_a_legacy_http_client(how: str, kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    if OPENAI_HTTP is httpx:
        pytest.skip(f"openai {openai.__version__} is built on httpx itself")
    client = kind.openai(provider.openai_url, http_client=kind.http(httpx))
    if how == "instrument":
        books.meter.instrument()
    else:
        books.meter.wrap(client)
    await chat(client)
    counted(books, 2)
