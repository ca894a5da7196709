"""The input bound against what providers billed, on recorded traffic."""

from __future__ import annotations

import base64
import gzip
import json
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.support.shared import CORPUS
from tokenmeter import wire
from tokenmeter.pricing import InputBound, PriceBook
from tokenmeter.usage import Usage
from tokenmeter.wire.types import Ask, Reading, Route

pytestmark = pytest.mark.skipif(not CORPUS.exists(), reason=f"no recorded traffic at {CORPUS}")

# The recorded request is not the one that was billed: "system": "very very long system prompt" stands in for
# 18,131 tokens that the answer says were written to the cache.
_RESPONSE_ID = re.compile(rb'"id"\s*:\s*"(resp_[^"]+)"')
EDITED = {"a0c615d7136ec9a4", "1477f9869734ab90"}
NOW = datetime(2026, 11, 24, tzinfo=UTC)


class Row(NamedTuple):
    id: str
    route: Route
    ask: Ask
    true_input: int
    true_output: int
    response_id: str | None


@cache
def rows() -> tuple[Row, ...]:
    return tuple(_read())


def _read() -> Iterator[Row]:
    with gzip.open(CORPUS, "rt", encoding="utf-8") as lines:
        for line in lines:
            item: dict[str, Any] = json.loads(line)
            truth = item["truth"]
            if not truth or truth.get("input") is None or item["id"] in EDITED:
                continue
            url = urlsplit(item["url"])
            route = wire.recognise(item["method"], url.hostname or "", url.path)
            if route is None:
                continue
            body = base64.b64decode(item["request"] or "")
            content_type = item["request_headers"].get("content-type") or "application/json"
            ask = wire.read_request(route, body, content_type)
            answer = base64.b64decode(item["response"] or "")
            found = _RESPONSE_ID.search(answer)
            response_id = found[1].decode() if found else None
            yield Row(item["id"], route, ask, truth["input"], truth.get("output") or 0, response_id)


def kind(ask: Ask) -> str:
    if not ask.readable:
        return "unreadable"
    if ask.server_tools:
        return "server tools"
    if ask.server_state or ask.previous_response_id:
        return "server state"
    if ask.media_bytes or ask.remote_media:
        return "files"
    if ask.images:
        return "images"
    return "tools" if ask.tools else "plain"


@cache
def book() -> PriceBook:
    return PriceBook()


def bound_of(bounds: InputBound, row: Row) -> int:
    model = row.ask.model or row.route.model
    rate = book().rate(row.route.price_provider, model, at=NOW)
    return bounds.bound(row.ask, row.route, rate.context_window if rate else None)


def show(title: str, lines: list[str]) -> None:
    print(f"\n{title}")
    for line in lines:
        print("   ", line)


def test_the_bound_holds_cold() -> None:
    """Without anything learned: plain text never passes its bound; the rest is reported by kind."""
    bounds = InputBound(exact=False)
    seen: Counter[str] = Counter()
    over: dict[str, list[str]] = defaultdict(list)
    ratios: dict[str, list[float]] = defaultdict(list)
    for row in rows():
        bound = bound_of(bounds, row)
        seen[kind(row.ask)] += 1
        ratios[kind(row.ask)].append(bound / max(1, row.true_input))
        if bound < row.true_input:
            over[kind(row.ask)].append(f"{row.id} {row.route.provider} {row.ask.model}: {bound} < {row.true_input}")
    for name, count in sorted(seen.items()):
        median = statistics.median(ratios[name])
        show(f"{name}: {len(over[name])} of {count} over; bound/true {median:.1f} in the median", over[name])
    assert sum(seen.values()) > 1_000
    assert not over["plain"]
    assert not over["tools"]
    assert not over["images"]
    # Server-side tools read the context again and again within one call: no figure bounds them before the first.
    assert len(over["server tools"]) <= seen["server tools"] // 10


def test_the_bound_holds_on_the_second_such_call() -> None:
    """What passed its bound once is bounded from then on."""
    bounds = InputBound(exact=False)
    for row in rows():
        bounds.learn(row.route, row.ask, bound_of(bounds, row), reading(row))
    again = [row.id for row in rows() if bound_of(bounds, row) < row.true_input]
    assert again == []


def test_the_exact_count_stays_a_bound() -> None:
    """OpenAI's own models, text only: the count of the tokenizer bounds what was billed, and is tighter."""
    pytest.importorskip("bpe_openai", reason="the optional tokenizer bpe-openai is not installed")
    counted, bytewise = InputBound(), InputBound(exact=False)
    counted.preload()
    tightness: dict[str, list[tuple[float, float]]] = defaultdict(list)
    over = []
    for row in rows():
        if row.route.provider not in {"openai", "azure.ai.openai"} or kind(row.ask) not in {"plain", "tools"}:
            continue
        exact, plain = bound_of(counted, row), bound_of(bytewise, row)
        if exact == plain:
            continue
        tightness[kind(row.ask)].append((exact / max(1, row.true_input), plain / max(1, row.true_input)))
        if exact < row.true_input:
            over.append(f"{row.id} {row.route.protocol} {row.ask.model}: {exact} < {row.true_input}")
    for name, pairs in tightness.items():
        with_it = statistics.median(pair[0] for pair in pairs)
        without = statistics.median(pair[1] for pair in pairs)
        show(f"{name}: {len(pairs)} rows, bound/true {with_it:.2f} counted, {without:.2f} by bytes", [])
    assert over == []
    assert sum(map(len, tightness.values())) > 100


def reading(row: Row) -> Reading:
    usage = Usage({"input_tokens": row.true_input, "output_tokens": row.true_output})
    return Reading(usage=usage, response_id=row.response_id)
