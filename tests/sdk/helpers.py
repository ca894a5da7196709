"""One body of a test for sync and async clients, bare and metered, and books in which every trace can be seen."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tokenmeter import Budget, CallRecord, Meter, Price
from tokenmeter.testing import CapturedCalls

OPENAI_MAJOR = int(openai.__version__.partition(".")[0])
ANTHROPIC_MAJOR = int(anthropic.__version__.partition(".")[0])
OPENAI_HTTP: Any = httpx2 if issubclass(openai.DefaultHttpxClient, httpx2.Client) else httpx
ANTHROPIC_HTTP: Any = httpx2 if issubclass(anthropic.DefaultHttpxClient, httpx2.Client) else httpx
"""The libraries that the SDKs are built on."""

INPUT_NANOS, CACHED_NANOS, OUTPUT_NANOS = 370, 50, 1_130
PRICE = Price("0.37", "1.13", cache_read="0.05", context_window=8192, max_output_tokens=4096)

Use = Callable[[Any], Awaitable[Any]]
"""Something that is done with a client."""

_OF_THE_MOMENT = frozenset({"created", "created_at", "completed_at", "timings"})
_RANDOM = frozenset({"id", "item_id", "response_id", "encrypted_content"})


def said(text: str) -> Any:
    """The messages of a chat with one user message."""
    return [{"role": "user", "content": text}]


# One body for sync and async


async def of(value: Any) -> Any:
    """What a call gave, awaited where it has to be."""
    return await value if inspect.isawaitable(value) else value


async def stepping(stream: Any) -> AsyncIterator[Any]:
    """The items of a stream, sync or async."""
    if hasattr(stream, "__aiter__"):
        async for item in stream:
            yield item
    else:
        for item in stream:
            yield item


async def each(stream: Any) -> list[Any]:
    """All items of a stream, sync or async."""
    if hasattr(stream, "__aiter__"):
        return [item async for item in stream]
    return list(stream)


@asynccontextmanager
async def within(manager: Any) -> AsyncIterator[Any]:
    """A ``with`` block, sync or async."""
    if hasattr(manager, "__aenter__"):
        async with manager as entered:
            yield entered
    else:
        with manager as entered:
            yield entered


class Kind:
    """Makes clients of one kind, sync or async, and closes them in the end."""

    def __init__(self, name: str) -> None:
        self.is_async = name == "async"
        self._made: list[Any] = []

    def openai(self, base_url: str, **options: Any) -> Any:
        kind: Any = openai.AsyncOpenAI if self.is_async else openai.OpenAI
        return self._kept(kind(**{"base_url": base_url, "api_key": "none", "max_retries": 0} | options))

    def azure(self, endpoint: str, **options: Any) -> Any:
        kind: Any = openai.AsyncAzureOpenAI if self.is_async else openai.AzureOpenAI
        given = {"azure_endpoint": endpoint, "api_key": "none", "api_version": "2026-01-01", "max_retries": 0}
        return self._kept(kind(**given | options))

    def anthropic(self, base_url: str, **options: Any) -> Any:
        kind: Any = anthropic.AsyncAnthropic if self.is_async else anthropic.Anthropic
        return self._kept(kind(**{"base_url": base_url, "api_key": "none", "max_retries": 0} | options))

    def http(self, library: Any, **options: Any) -> Any:
        """A client of httpx or httpx2."""
        return self._kept((library.AsyncClient if self.is_async else library.Client)(**options))

    def transport(self, library: Any, answer: Callable[[Any], Any]) -> Any:
        """A transport that answers without a network."""
        return library.MockTransport(answer)

    def _kept(self, client: Any) -> Any:
        self._made.append(client)
        return client

    async def close(self) -> None:
        for client in reversed(self._made):
            await of(client.aclose() if hasattr(client, "aclose") else client.close())


# What is compared


def plain(value: Any, *, random: bool = False) -> Any:
    """A value as types and data, without the time of the moment; with ``random`` without random ids too."""
    left_out = _OF_THE_MOMENT | _RANDOM if random else _OF_THE_MOMENT

    def shape(value: Any) -> Any:
        if hasattr(value, "model_fields_set"):
            shaped = shape(value.model_dump(exclude_unset=True, warnings=False))
            return type(value), shaped, sorted(value.model_fields_set - left_out)
        if isinstance(value, Mapping):
            return {key: shape(item) for key, item in value.items() if key not in left_out}
        if isinstance(value, list | tuple):
            return [shape(item) for item in value]
        return type(value), value

    return shape(value)


def response_state(response: Any) -> Any:
    """Where a response of the HTTP library stands."""
    http = response.http_response
    return (
        type(http),
        http.is_closed,
        http.is_stream_consumed,
        http.num_bytes_downloaded,
        http.http_version,
        http.reason_phrase,
        http.encoding,
        str(http.url.path),
    )


def without_time(value: Any) -> Any:
    """A line of an event stream as data."""
    return json.loads(value[6:]) if value.startswith("data: {") else value


def head(response: Any) -> Any:
    """What a raw response says beside its body."""
    varies = {"date", "content-length"} if "content-encoding" in response.headers else {"date"}
    headers = {name: value for name, value in response.headers.items() if name not in varies}
    request = response.http_request
    return response.status_code, headers, response.retries_taken, request.method, request.url.path, response.is_closed


async def error_of(use: Use, client: Any) -> Mapping[str, Any]:
    """All that the error says which a use ends with."""
    error = await outcome_of(lambda: use(client))
    found: dict[str, Any] = {"type": type(error), "str": str(error), "cause": type(error.__cause__)}
    names = ("body", "status_code", "code", "param", "request_id", "message")
    return found | {name: getattr(error, name, None) for name in names}


async def outcome_of(attempt: Callable[[], Awaitable[Any]]) -> BaseException:
    """The error that an attempt ends with."""
    try:
        await attempt()
    except BaseException as error:
        return error
    raise AssertionError("there was no error")


# The books


class _Watch(SpanProcessor):
    """Knows the spans that are open."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.started = 0

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.started += 1
        self.open.add(_id(span))

    def on_end(self, span: ReadableSpan) -> None:
        self.open.discard(_id(span))


def _id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


class Books:
    """A meter whose rows, spans and budgets can be looked at."""

    def __init__(self, *, calls_limit: int = 1000, **options: Any) -> None:
        self.calls = CapturedCalls()
        self.exporter = InMemorySpanExporter()
        self.watch = _Watch()
        provider = TracerProvider()
        provider.add_span_processor(self.watch)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        budgets = [Budget(limit, wait_s=0) for limit in ("$10", "100M tokens", f"{calls_limit} calls")]
        self.meter = Meter(budgets, prices={"*": PRICE}, tracer_provider=provider, recorders=[self.calls], **options)

    def balanced(self, rows: int = 1) -> list[CallRecord]:
        """So many rows, as many spans, all ended, nothing held, and three sums that agree."""
        found = self.calls[:]
        assert len(found) == rows, found
        assert not self.watch.open
        assert self.watch.started == len(self.exporter.get_finished_spans()) == rows
        dollars, tokens, calls = self.meter.remaining()
        assert [state.held for state in (dollars, tokens, calls)] == [0, 0, 0]
        spend = self.meter.spend()
        charged = [row for row in found if row.usage is not None]
        assert dollars.spent == spend.usd == Decimal(self.calls.cost_nanos) / 10**9
        assert tokens.spent == spend.input_tokens + spend.output_tokens
        assert calls.spent == spend.calls == len(charged)
        return found

    def exact(self, given: int, made: int, cached: int | None = None, *, rows: int = 1) -> CallRecord:
        """The rows are of exactly so many tokens in all, none estimated, and cost what they cost."""
        found = self.balanced(rows)
        assert [(row.status, row.estimated, row.error_type) for row in found] == [("ok", False, None)] * rows
        spend = self.meter.spend()
        assert (spend.input_tokens, spend.output_tokens) == (given, made)
        if cached is not None:
            assert spend.cache_read_tokens == cached
        cached = spend.cache_read_tokens
        nanos = (given - cached) * INPUT_NANOS + cached * CACHED_NANOS + made * OUTPUT_NANOS
        assert spend.usd == Decimal(nanos) / 10**9
        assert spend.estimated_calls == 0
        for span in self.spans:
            assert "tokenmeter.usage.estimated" not in span
        return found[-1]

    def failed(self, *statuses: int | str) -> list[CallRecord]:
        """So many rows of requests that failed, uncharged."""
        found = self.balanced(len(statuses))
        assert [row.error_type for row in found] == [str(status) for status in statuses]
        assert all(row.status == "error" and row.usage is None and row.cost_nanos is None for row in found)
        assert self.meter.spend().usd == 0
        return found

    def given_up(self, *, stream: bool = True) -> CallRecord:
        """One row of a call that ended early: estimated, and marked."""
        [row] = self.balanced()
        assert (row.status, row.estimated, row.stream) == ("incomplete", True, stream)
        assert row.usage is not None
        assert row.usage.estimated
        [span] = self.spans
        assert span.get("gen_ai.response.finish_reasons") == (("error",) if stream else None)
        assert span["tokenmeter.usage.estimated"] is True
        spend = self.meter.spend()
        assert spend.estimated_calls == 1
        assert spend.estimated_usd == spend.usd > 0
        return row

    @property
    def spans(self) -> list[Mapping[str, Any]]:
        """The attributes of each span that ended."""
        return [span.attributes or {} for span in self.exporter.get_finished_spans()]

    async def come_to_rest(self, rows: int = 1) -> None:
        """Let what was dropped be collected, and the loop close what it has to."""
        for _ in range(200):
            gc.collect()
            await asyncio.sleep(0.005)
            if len(self.calls) >= rows:
                break
        else:
            pytest.fail(f"{len(self.calls)} of {rows} calls were recorded")
        for _ in range(3):
            await asyncio.sleep(0)
