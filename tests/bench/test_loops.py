"""What the guards cost for one request, in blocks that alternate with those of a yardstick.

Times are never asserted; run with ``-s``."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.trace import TracerProvider

from tokenmeter import LoopPolicy
from tokenmeter.loops.findings import Facts
from tokenmeter.loops.guard import Memory, judge
from tokenmeter.loops.lineage import Keys, Lineage, decode, encode

pytestmark = pytest.mark.bench

LETTERS = str.maketrans("0123456789abcdef", "etaoinshrdlumwfg")
ROUNDS = int(os.environ.get("TOKENMETER_BENCH_ROUNDS", "3")) * 100
BLOCK = 20
WORDS = "the harbour lies in the north and nobody knows when the next ship will leave for the islands".split()  # noqa: SIM905


def prose(number: int, length: int) -> str:
    return " ".join(f"{WORDS[(number * 7 + n * n) % len(WORDS)]}{'' if n % 9 else n + number}" for n in range(length))


def prompt(size: int) -> list[Any]:
    system = {"role": "system", "content": "You are a helpful assistant. " * 8}
    return [system, {"role": "user", "content": prose(size, size // 6)[: size - 400]}]


def agent(size: int) -> list[Any]:
    """A conversation of steps with a tool whose results differ, ending in a result."""
    messages = prompt(900)
    left = size - 900
    while left > 0:
        number = len(messages)
        call = {"name": "search", "arguments": json.dumps({"query": prose(number, 6)})}
        calls = [{"id": f"call_{number:024}", "type": "function", "function": call}]
        result = prose(number, 30 + number * 13 % 90)
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        messages.append({"role": "tool", "tool_call_id": calls[0]["id"], "content": result})
        left -= 240 + len(result)
    return messages


def told(number: int, length: int) -> str:
    """What people say who go on about something: every third word was not said before."""
    found = prose(number, length).split()
    for at in range(0, length, 3):
        name = hashlib.md5(f"{number} {at}".encode(), usedforsecurity=False).hexdigest()
        found[at] = name.translate(LETTERS)[: 5 + at % 5]
    return " ".join(found)


def talk(size: int) -> list[Any]:
    """A chat in which no tool is used, ending in a question."""
    messages: list[Any] = [{"role": "system", "content": "You are a helpful assistant. " * 8}]
    while size > 0:
        number = len(messages)
        text = told(number, 12 if number % 2 else 45)
        messages.append({"role": "user" if number % 2 else "assistant", "content": text})
        size -= len(text) + 32
    if len(messages) % 2:
        messages.append({"role": "user", "content": told(len(messages), 12)})
    return messages


def bodies(messages: list[Any]) -> Iterator[bytes]:
    last = messages[-1]
    for number in range(ROUNDS):
        varied = {**last, "content": f"{told(number, 4)} {last['content']}"}
        yield json.dumps({"messages": [*messages[:-1], varied], "model": "gpt-5"}, separators=(",", ":")).encode()


@pytest.mark.parametrize("size", [4_000, 150_000])
@pytest.mark.parametrize("kind", [prompt, talk, agent])
def test_all_guards_on_one_request(kind: Any, size: int) -> None:
    policy, memory = LoopPolicy(), Memory(b"bench")
    messages = kind(size)
    asked = [
        Facts(1e9 + number, "bench", f"run {number // BLOCK}", ("bench",), 1, "chat", "openai.chat", body, 5, 10**9)
        for number, body in enumerate(bodies(messages))
    ]
    tracer = TracerProvider().get_tracer("bench")
    attributes = {f"gen_ai.attribute.{number}": "value" for number in range(15)}
    taken, decoding, spans = [], [], []
    for at in range(0, len(asked), BLOCK):
        for facts in asked[at : at + BLOCK]:
            start = time.perf_counter_ns()
            judged = judge(policy, memory, facts)
            middle = time.perf_counter_ns()
            memory.answered(judged.ticket)
            taken.append((middle - start, time.perf_counter_ns() - middle))
            assert judged.findings == ()
        for facts in asked[at : at + BLOCK]:
            start = time.perf_counter_ns()
            msgspec.json.decode(facts.body or b"")
            decoding.append(time.perf_counter_ns() - start)
        for _ in range(BLOCK):
            start = time.perf_counter_ns()
            tracer.start_span("chat", attributes=attributes).end()
            spans.append(time.perf_counter_ns() - start)
    before, after = (statistics.median(column) / 1e3 for column in zip(*taken, strict=True))
    least, yardstick = min(map(sum, taken)) / 1e3, statistics.median(decoding) / 1e3
    span = statistics.median(spans) / 1e3
    print(
        f"\n{kind.__name__} of {len(asked[-1].body or b''):,} bytes in {len(messages)} messages: "
        f"judge {before:.1f} µs, answered {after:.1f} µs, least of both {least:.1f} µs; "
        f"to decode it all with msgspec takes {yardstick:.1f} µs (ratio {(before + after) / yardstick:.2f}), "
        f"a span with 15 attributes {span:.1f} µs (ratio {(before + after) / span:.2f})"
    )


def test_a_lineage() -> None:
    keys = Keys({"k": b"k" * 32})
    lineage = Lineage("f" * 32, "e" * 32, 4, ("planner", "searcher", "reader", "writer"), 1_790_000_000)
    text = encode(lineage, keys)
    acts: dict[str, Callable[[], object]] = {
        "encode and sign": lambda: encode(lineage, keys),
        "verify and read": lambda: decode(text, keys),
    }
    for name, act in acts.items():
        taken = []
        for _ in range(ROUNDS):
            start = time.perf_counter_ns()
            act()
            taken.append(time.perf_counter_ns() - start)
        print(f"\n{name} ({len(text)} characters): {statistics.median(taken) / 1e3:.1f} µs")
    assert decode(text, keys)[0] == lineage
