"""Calls that never came to their end: charged by what was seen of them, marked, and nothing is left open."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.sdk.helpers import Books, Kind, error_of, of, said, stepping, within
from tests.support.llama import MODEL, PROMPT_TOKENS, Llama
from tokenmeter.testing import Reply, ScriptedProvider

HELLO = said("Hello wörld")
CHAT: dict[str, Any] = {"model": "m", "messages": HELLO}
MESSAGES: dict[str, Any] = {"model": "m", "max_tokens": 500, "messages": HELLO}


class Way(NamedTuple):
    """One way to ask for a stream."""

    name: str
    sdk: str
    open: Callable[[Any], Any]

    def client(self, kind: Kind, provider: ScriptedProvider, **options: Any) -> Any:
        if self.sdk == "openai":
            return kind.openai(provider.openai_url, **options)
        return kind.anthropic(provider.anthropic_url, **options)


STREAMS = [
    Way("chat", "openai", lambda c: c.chat.completions.create(**CHAT, stream=True)),
    Way("completions", "openai", lambda c: c.completions.create(model="m", prompt="Hello", stream=True)),
    Way("responses", "openai", lambda c: c.responses.create(model="m", input="Hello", stream=True)),
    Way("messages", "anthropic", lambda c: c.messages.create(**MESSAGES, stream=True)),
]
HELPERS = [
    Way("chat.stream", "openai", lambda c: c.chat.completions.stream(**CHAT)),
    Way("responses.stream", "openai", lambda c: c.responses.stream(model="m", input="Hello")),
    Way("messages.stream", "anthropic", lambda c: c.messages.stream(**MESSAGES)),
]
WHOLE = [
    Way("chat", "openai", lambda c: c.chat.completions.create(**CHAT, max_tokens=100)),
    Way("responses", "openai", lambda c: c.responses.create(model="m", input="Hello", max_output_tokens=100)),
    Way("embeddings", "openai", lambda c: c.embeddings.create(model="m", input="Hello")),
    Way("messages", "anthropic", lambda c: c.messages.create(**MESSAGES)),
]


@pytest.fixture(scope="module", autouse=True)
def a_small_heap() -> Iterator[None]:
    """What the SDKs loaded lives on anyway: left out, garbage is collected in no time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def every(ways: list[Way]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("way", ways, ids=[way.name for way in ways])


def text_of(item: Any) -> str:
    """What an item of a stream says."""
    if hasattr(item, "choices"):
        choice = item.choices[0]
        return (choice.text if hasattr(choice, "text") else choice.delta.content) or ""
    if item.type in ("response.output_text.delta", "content.delta"):
        return str(item.delta)
    return item.delta.text if item.type == "content_block_delta" else ""


async def read(stream: Any, pieces: int = 2) -> str:
    """Read until so many pieces of text were seen, then break."""
    seen: list[str] = []
    if hasattr(stream, "__aiter__"):
        async for item in stream:
            if text := text_of(item):
                seen.append(text)
            if len(seen) == pieces:
                break
    else:
        for item in stream:
            if text := text_of(item):
                seen.append(text)
            if len(seen) == pieces:
                break
    return "".join(seen)


def under_way(books: Books) -> None:
    """A call is out: its money is held and its span is open."""
    assert all(state.held > 0 for state in books.meter.remaining())
    assert len(books.watch.open) == 1
    assert not books.calls


# Ways to give up; each returns what the caller saw


async def close(books: Books, stream: Any) -> str:
    seen = await read(stream)
    under_way(books)
    await of(stream.close())
    return seen


async def close_unread(books: Books, stream: Any) -> str:
    under_way(books)
    await of(stream.close())
    return ""


async def close_response(books: Books, stream: Any) -> str:
    seen = await read(stream)
    under_way(books)
    response = stream.response
    await of(response.aclose() if hasattr(stream, "__aiter__") else response.close())
    return seen


async def leave_block(books: Books, stream: Any) -> str:
    async with within(stream):
        seen = await read(stream)
        under_way(books)
    return seen


async def raise_in_block(books: Books, stream: Any) -> str:
    seen = ""
    try:
        async with within(stream):
            seen = await read(stream)
            raise ZeroDivisionError
    except ZeroDivisionError:
        return seen


async def interrupt_in_block(books: Books, stream: Any) -> str:
    seen = ""
    try:
        async with within(stream):
            seen = await read(stream)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return seen


AT_ONCE = [close, close_unread, close_response, leave_block, raise_in_block, interrupt_in_block]


async def break_off(books: Books, stream: Any) -> str:
    seen = await read(stream)
    under_way(books)
    return seen


async def drop_unread(books: Books, stream: Any) -> str:
    under_way(books)
    return ""


async def drop_in_a_cycle(books: Books, stream: Any) -> str:
    seen = await read(stream)
    cycle: list[Any] = [stream]
    cycle.append(cycle)
    return seen


async def close_generator(books: Books, stream: Any) -> str:
    """A generator of the caller's own, closed while it stands inside of the stream."""
    seen = ""
    generator = stepping(stream)
    async for item in generator:
        seen += text_of(item)
        if seen:
            break
    await generator.aclose()  # type: ignore[attr-defined]
    return seen


WHEN_COLLECTED = [break_off, drop_unread, drop_in_a_cycle, close_generator]

GiveUp = Callable[[Books, Any], Awaitable[str]]


async def give_up(way: Way, how: GiveUp, books: Books, client: Any) -> str:
    """In a frame of its own, so that nothing of the stream outlives it."""
    return await how(books, await of(way.open(client)))


def charged(books: Books, way: Way, provider: ScriptedProvider, seen: str) -> None:
    """At least what the provider bills and what the caller saw; the input exactly where it was said at the start."""
    billed = provider.wait_idle()
    usage = books.given_up().usage
    assert usage is not None
    given, made = usage.input_tokens or 0, usage.output_tokens or 0
    assert billed.calls == 1
    assert given >= billed.input_tokens
    if not seen:
        return
    assert made >= billed.output_tokens >= len(seen.split())
    if way.sdk == "anthropic":
        assert given == billed.input_tokens
        assert usage.cache_read_tokens == billed.cache_read_tokens


def scripted(way: Way, **script: Any) -> Reply:
    """Anthropic says at the start what went in, cached tokens too, so it can be known exactly."""
    if way.sdk == "anthropic":
        return Reply(input_tokens=41, cache_read_tokens=4, **script)
    return Reply(**script)


@pytest.mark.parametrize("how", AT_ONCE, ids=lambda how: how.__name__)
@every(STREAMS)
async def test_given_up(way: Way, how: GiveUp, kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    provider.reply = scripted(way, stall_after_chunks=3)
    client = books.meter.wrap(way.client(kind, provider))
    seen = await give_up(way, how, books, client)
    assert len(books.calls) == 1  # at once, not when garbage is collected
    gc.collect()
    charged(books, way, provider, seen)


@pytest.mark.parametrize("how", WHEN_COLLECTED, ids=lambda how: how.__name__)
@every(STREAMS)
async def test_dropped(way: Way, how: GiveUp, kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    provider.reply = scripted(way, stall_after_chunks=3)
    client = books.meter.wrap(way.client(kind, provider))
    seen = await give_up(way, how, books, client)
    await books.come_to_rest()
    await of(client.close())
    charged(books, way, provider, seen)


@pytest.mark.parametrize("how", ["leave", "raise", "close"])
@every(HELPERS)
async def test_helpers_given_up(way: Way, how: str, kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    provider.reply = scripted(way, stall_after_chunks=3)
    client = books.meter.wrap(way.client(kind, provider))
    seen = ""
    try:
        async with within(way.open(client)) as stream:
            seen = await read(stream)
            under_way(books)
            if how == "raise":
                raise ZeroDivisionError
            if how == "close":
                await of(stream.close())
                assert len(books.calls) == 1
    except ZeroDivisionError:
        assert how == "raise"
    assert len(books.calls) == 1
    charged(books, way, provider, seen)


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
async def test_a_streaming_response_left(sdk: str, kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    way = STREAMS[0] if sdk == "openai" else STREAMS[-1]
    provider.reply = scripted(way, stall_after_chunks=3)
    client = books.meter.wrap(way.client(kind, provider))
    resource, ask = (client.chat.completions, CHAT) if sdk == "openai" else (client.messages, MESSAGES)
    async with within(resource.with_streaming_response.create(**ask, stream=True)) as response:
        async for line in stepping(response.iter_lines()):
            if "from" in line:
                break
        under_way(books)
    await books.come_to_rest()
    charged(books, way, provider, "Hello from")


# Cancelled tasks


@every(STREAMS)
async def test_cancelled_within_a_stream(way: Way, books: Books, provider: ScriptedProvider) -> None:
    kind = Kind("async")
    provider.reply = scripted(way, stall_after_chunks=2)
    client = books.meter.wrap(way.client(kind, provider))
    seen: list[str] = []
    said_all = asyncio.Event()

    async def agent() -> None:
        async for item in await way.open(client):
            if text := text_of(item):
                seen.append(text)
            if len(seen) == 2:
                said_all.set()

    task = asyncio.create_task(agent())
    await said_all.wait()
    await asyncio.sleep(0)  # into the next read
    under_way(books)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(books.calls) == 1
    charged(books, way, provider, "".join(seen))
    await kind.close()


@every(WHOLE + STREAMS)
async def test_cancelled_within_a_request(way: Way, books: Books, provider: ScriptedProvider) -> None:
    kind = Kind("async")
    provider.hold()
    client = books.meter.wrap(way.client(kind, provider))
    task = asyncio.ensure_future(way.open(client))
    await asyncio.to_thread(provider.wait_for, 1)
    under_way(books)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    row = books.given_up(stream=way in STREAMS)
    assert row.error_type == "CancelledError"
    assert row.usage is not None
    assert (row.usage.input_tokens or 0) >= 2
    if way.name != "embeddings":
        assert (row.usage.output_tokens or 0) >= 100  # it may have said all that it was allowed to
    provider.release()
    await kind.close()


async def test_a_time_limit_of_the_callers_own(books: Books, provider: ScriptedProvider) -> None:
    kind = Kind("async")
    provider.reply = Reply(stall_after_chunks=0)
    client = books.meter.wrap(kind.anthropic(provider.anthropic_url))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.messages.create(**MESSAGES)
    books.given_up(stream=False)
    await kind.close()


async def test_a_sibling_fails_in_a_task_group(books: Books, provider: ScriptedProvider) -> None:
    kind = Kind("async")
    provider.hold()
    client = books.meter.wrap(kind.openai(provider.openai_url))

    async def fails() -> None:
        await asyncio.to_thread(provider.wait_for, 5)
        raise ZeroDivisionError

    async def crew() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(client.chat.completions.create(**CHAT))
            group.create_task(fails())

    with pytest.raises(ExceptionGroup):
        await crew()
    rows = books.balanced(5)
    assert {(row.status, row.estimated, row.error_type) for row in rows} == {("incomplete", True, "CancelledError")}
    provider.release()
    await kind.close()


# The other side ends it


async def consume(way: Way, client: Any, seen: list[str]) -> None:
    """Take the stream to its end, whatever that is."""
    opened = way.open(client)
    if way in HELPERS:
        async with within(opened) as stream:
            async for item in stepping(stream):
                seen.append(text_of(item))
    else:
        async for item in stepping(await of(opened)):
            seen.append(text_of(item))


ENDS: dict[str, dict[str, Any]] = {
    "cut at once": {"cut_after_chunks": 0},
    "cut": {"cut_after_chunks": 2},
    "stalled": {"stall_after_chunks": 2},
    "cut within an event": {"cut_after_chunks": 2, "piece_bytes": 7},
    "cut, compressed": {"cut_after_chunks": 2, "gzip": True},
}


# a stall lasts until the client's patience ends, so it is tried once for each SDK
@pytest.mark.parametrize(
    ("way", "end"),
    [
        pytest.param(way, end, id=f"{way.name}-{end}")
        for way in STREAMS + HELPERS
        for end in ENDS
        if end != "stalled" or way in (STREAMS[0], HELPERS[-1])
    ],
)
async def test_the_connection_fails(
    way: Way, end: str, kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    provider.reply = twin.reply = scripted(way, **ENDS[end])
    options = {"timeout": 0.3} if end == "stalled" else {}
    bare_saw: list[str] = []
    saw: list[str] = []
    expected = await error_of(lambda client: consume(way, client, bare_saw), way.client(kind, twin, **options))
    client = books.meter.wrap(way.client(kind, provider, **options))
    found = await error_of(lambda client: consume(way, client, saw), client)
    assert found == expected
    assert saw == bare_saw
    billed = provider.wait_idle()
    row = books.given_up()
    assert row.error_type is not None
    usage = row.usage
    assert usage is not None
    assert (usage.output_tokens or 0) >= billed.output_tokens
    assert (usage.input_tokens or 0) >= billed.input_tokens
    if way.sdk == "anthropic":
        assert usage.input_tokens == billed.input_tokens
        assert usage.cache_read_tokens == billed.cache_read_tokens


FAULTS: list[tuple[str, Any]] = [("cut_after_chunks", 0), ("hang_up", True)]


@every(STREAMS)
async def test_silently_truncated(
    way: Way, kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    provider.reply = twin.reply = scripted(way, truncate_after_chunks=2)
    bare_saw: list[str] = []
    saw: list[str] = []
    await consume(way, way.client(kind, twin), bare_saw)
    await consume(way, books.meter.wrap(way.client(kind, provider)), saw)
    assert saw == bare_saw
    charged(books, way, provider, "".join(saw))


@pytest.mark.parametrize(
    ("way", "script"),
    [pytest.param(way, {name: value}, id=f"{way.name}-{name}") for way in WHOLE for name, value in FAULTS]
    + [pytest.param(way, {"stall_after_chunks": 0}, id=f"{way.name}-stall") for way in (WHOLE[0], WHOLE[-1])],
)
async def test_no_answer_or_half_of_one(
    way: Way, script: Any, kind: Kind, books: Books, provider: ScriptedProvider, twin: ScriptedProvider
) -> None:
    provider.reply = twin.reply = scripted(way, **script)
    options = {"timeout": 0.3} if "stall_after_chunks" in script else {}

    async def use(client: Any) -> Any:
        return await of(way.open(client))

    expected = await error_of(use, way.client(kind, twin, **options))
    found = await error_of(use, books.meter.wrap(way.client(kind, provider, **options)))
    assert found == expected
    billed = provider.wait_idle()
    row = books.given_up(stream=False)
    assert row.error_type is not None
    assert row.usage is not None
    assert (row.usage.input_tokens or 0) >= billed.input_tokens
    assert (row.usage.output_tokens or 0) >= billed.output_tokens


# What is hardly an end at all


async def until_finished(way: Way, client: Any) -> None:
    """Leave a stream at the item that says why it ends, as many programs do."""
    stream = await of(way.open(client))
    if hasattr(stream, "__aiter__"):
        async for item in stream:
            if finished(item):
                break
    else:
        for item in stream:
            if finished(item):
                break


def finished(item: Any) -> bool:
    if hasattr(item, "choices"):
        return item.choices[0].finish_reason is not None
    return item.type in ("message_delta", "response.completed")


@every(STREAMS)
async def test_left_when_all_was_said(way: Way, kind: Kind, books: Books, provider: ScriptedProvider) -> None:
    provider.reply = scripted(way)
    await until_finished(way, books.meter.wrap(way.client(kind, provider)))
    await books.come_to_rest()
    billed = provider.wait_idle()
    if way.name in ("messages", "responses"):
        books.exact(billed.input_tokens, billed.output_tokens)  # the usage came with that item
        return
    [row] = books.balanced()
    assert row.finish_reasons == ("stop",)
    assert row.usage is not None
    assert (row.usage.input_tokens or 0) >= billed.input_tokens
    assert (row.usage.output_tokens or 0) >= billed.output_tokens


@every(STREAMS)
def test_the_loop_ends_before_the_stream(way: Way, books: Books, provider: ScriptedProvider) -> None:
    """Nothing is closed and nobody waits: what asyncio itself ends at the end of its loop is settled."""
    provider.reply = scripted(way, chunks=3, chunk_delay_s=0.01)
    kind = Kind("async")
    seen: list[str] = []

    async def program() -> None:
        client = books.meter.wrap(way.client(kind, provider))
        stream = await of(way.open(client))
        async for item in stream:
            if text := text_of(item):
                seen.append(text)
                break
        await client.close()

    asyncio.run(program())
    gc.collect()
    provider.wait_idle()
    usage = books.given_up().usage
    assert usage is not None
    assert (usage.output_tokens or 0) >= len(seen) == 1


# A real server


CHAT_600: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 600}
REAL = [
    Way("chat", "openai", lambda c: c.chat.completions.create(**CHAT_600, stream=True)),
    Way("messages", "anthropic", lambda c: c.messages.create(**CHAT_600, stream=True)),
]


@pytest.mark.parametrize("how", [close, leave_block, raise_in_block, break_off, close_generator])
@every(REAL)
async def test_a_real_server_is_left(way: Way, how: GiveUp, kind: Kind, books: Books, llama: Llama) -> None:
    url = llama.openai_url if way.sdk == "openai" else llama.anthropic_url
    client = books.meter.wrap(kind.openai(url) if way.sdk == "openai" else kind.anthropic(url))
    seen = await give_up(way, how, books, client)
    await books.come_to_rest()
    usage = books.given_up().usage
    assert usage is not None
    given, made = usage.input_tokens or 0, usage.output_tokens or 0
    truth = len("Hello wörld".encode()) + PROMPT_TOKENS
    assert given == truth if way.sdk == "anthropic" else given >= truth
    assert made >= len(seen) > 0


@every(REAL)
async def test_a_task_is_cancelled_while_a_real_server_streams(way: Way, books: Books, llama: Llama) -> None:
    kind = Kind("async")
    url = llama.openai_url if way.sdk == "openai" else llama.anthropic_url
    client = books.meter.wrap(kind.openai(url) if way.sdk == "openai" else kind.anthropic(url))
    seen: list[str] = []

    async def agent() -> None:
        async for item in await way.open(client):
            seen.append(text_of(item))
            if len("".join(seen)) > 2:
                task.cancel()

    task = asyncio.create_task(agent())
    with pytest.raises(asyncio.CancelledError):
        await task
    usage = books.given_up().usage
    assert usage is not None
    assert (usage.output_tokens or 0) >= len("".join(seen)) > 2
    await kind.close()
