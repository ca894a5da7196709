"""Every recorded exchange: the provider's own counts, whole and in pieces; and what genai-prices reads of it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any, Final

from tests.wire.exchanges import Exchange
from tokenmeter import wire

# Rows whose truth is surely wrong, with the bytes that show it.
DISPUTED: Final[dict[str, str]] = {}

KEYS: Final = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cache_read": "cache_read_tokens",
    "cache_write": "cache_write_tokens",
    "reasoning": "output_reasoning_tokens",
}
NO_CALLS: Final = re.compile(r"count_?tokens$|/threads/[^/]+/messages$", re.IGNORECASE)


def in_pieces(route: wire.Route, row: Exchange, seed: int) -> wire.Reading:
    """The reading of a response that comes in pieces of every size."""
    dice = random.Random(seed)
    ask = wire.read_request(route, row.request, "application/json")
    reader = wire.reader(route, row.content_type, stream=ask.stream)
    at, seen = 0, []
    while at < len(row.response):
        size = dice.choice([1, 2, 3, 7, 50, 400, 3_000, 60_000])
        seen.append(reader.feed(row.response[at : at + size]))
        at += size
    rest, reading = reader.finish()
    assert b"".join(seen) + rest == row.response
    return reading


def wrong(row: Exchange, reading: wire.Reading) -> str | None:
    assert row.truth is not None
    if reading.usage is None:
        return f"{row.id}: no usage, {row.truth} billed"
    for name, billed in row.truth.items():
        # a provider that reports no such counter has billed none of it: truth says 0 there
        if billed is not None and reading.usage.counts.get(KEYS[name], 0) != billed:
            return f"{row.id}: {name} is {billed}, read {dict(reading.usage.counts)}"
    return None


def test_every_exchange_with_a_truth_is_counted_to_the_token(corpus: list[Exchange]) -> None:
    faults: list[str | None] = []
    counted = 0
    for row in corpus:
        if row.truth is None or row.id in DISPUTED:
            continue
        counted += 1
        route = row.route
        if route is None:
            faults.append(f"{row.id}: not recognised, {row.host}{row.path}")
            continue
        whole = wire.read_body(route, row.response, row.content_type)
        faults += [wrong(row, whole), wrong(row, in_pieces(route, row, seed=counted))]
    assert [fault for fault in faults if fault] == []
    assert counted > 1_000


def test_pieces_and_whole_give_the_same_reading(corpus: list[Exchange]) -> None:
    for number, row in enumerate(corpus):
        if (route := row.route) is not None:
            assert in_pieces(route, row, seed=number) == wire.read_body(route, row.response, row.content_type), row.id


def test_only_what_is_no_model_call_is_not_recognised(corpus: list[Exchange]) -> None:
    unknown = {row.path for row in corpus if row.route is None}
    assert unknown
    assert {path for path in unknown if not NO_CALLS.search(path)} == set()


def test_every_request_can_be_read(corpus: list[Exchange]) -> None:
    for row in corpus:
        if (route := row.route) is not None:
            ask = wire.read_request(route, row.request, "application/json")
            assert ask.readable, row.id
            assert ask.model, row.id
            assert ask.text_bytes <= len(row.request), row.id


def test_whole_answers_of_providers_are_complete(corpus: list[Exchange]) -> None:
    for row in corpus:
        if row.truth is not None and (route := row.route) is not None:
            assert wire.read_body(route, row.response, row.content_type).complete, row.id


FLAVORS: Final = {
    "openai.chat": ("chat", "default"),
    "openai.completions": ("chat", "default"),
    "openai.responses": ("responses", "default"),
    "openai.embeddings": ("embeddings", "default"),
    "anthropic.messages": ("anthropic", "default"),
    "gemini.generate": ("default",),
    "bedrock.converse": ("default",),
    "cohere.chat": ("tokens",),
    "cohere.embed": ("embeddings",),
}


def extracted(route: wire.Route, body: Any) -> dict[str, Any] | None:
    from genai_prices.data_snapshot import get_snapshot

    provider = next(p for p in get_snapshot().providers if p.id == route.price_provider)
    for flavor in FLAVORS.get(route.protocol, ()):
        try:
            _, usage = provider.extract_usage(body, api_flavor=flavor)
        except (ValueError, AttributeError):  # AttributeError: it stumbles over enums sent as numbers
            continue
        return {name: value for name, value in vars(usage).items() if value is not None}
    return None


def documents(row: Exchange) -> Iterator[Any]:
    """The JSON documents of a response that may carry the usage of the whole."""
    try:
        body = json.loads(row.response)
    except ValueError:
        for line in re.split(rb"[\r\n]+", row.response):
            if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                event = json.loads(line[5:])
                yield event.get("response", event)
    else:
        yield body


def test_what_genai_prices_can_extract_is_read_the_same(corpus: list[Exchange]) -> None:
    compared = 0
    for row in corpus:
        route = row.route
        if row.status != 200 or route is None or route.price_provider is None:
            continue
        if route.protocol == "anthropic.messages" and b"message_start" in row.response:
            continue  # the counters of several events make one usage
        if row.response.startswith(b"\x00"):
            continue
        found = [extracted(route, document) for document in documents(row)]
        found = [usage for usage in found if usage]
        if found:
            compared += 1
            usage = wire.read_body(route, row.response, row.content_type).usage
            assert usage is not None, row.id
            assert usage.counts.items() >= (found[-1] or {}).items(), row.id  # and what the extractor passes over
    assert compared > 900


def said(value: Any) -> int:
    """UTF-8 bytes of the generated text in the events of a stream, found without knowing the protocol."""
    total = 0
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str) and key in {
                "content",
                "text",
                "reasoning_content",
                "reasoning",
                "arguments",
                "partial_json",
                "thinking",
            }:
                total += len(item.encode())
            elif isinstance(item, dict | list):
                total += said(item)
    elif isinstance(value, list):
        total += sum(map(said, value))
    return total


def test_output_bytes_bound_the_text_of_streams(corpus: list[Exchange]) -> None:
    streams = 0
    for row in corpus:
        route = row.route
        if route is None or route.protocol not in {"openai.chat", "anthropic.messages"}:
            continue
        if not row.response.startswith((b"data:", b"event:")) or row.host == "api.together.ai":
            continue  # Together says each word twice, as text and as content
        if b'"executed_tools"' in row.response:
            continue  # what the provider's own tools returned was not generated
        text_bytes = 0
        for line in re.split(rb"[\r\n]+", row.response):
            if line.startswith(b"data: {"):
                event = json.loads(line[5:])
                deltas = [choice.get("delta") for choice in event.get("choices") or ()]
                text_bytes += said(deltas or event.get("delta"))
        reading = wire.read_body(route, row.response, row.content_type)
        assert text_bytes <= reading.output_bytes <= 2 * text_bytes + 256, row.id
        streams += 1
    assert streams > 60
