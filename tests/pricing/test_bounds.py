"""The input bound: what it allows for, and what it learns."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tokenmeter.pricing import InputBound
from tokenmeter.pricing.bounds import _KINDS, _RESPONSES, UNKNOWN_CONTEXT
from tokenmeter.pricing.tokenizers import MOST_BYTES, TokenCounter, encoding_of
from tokenmeter.usage import Usage
from tokenmeter.wire.types import Ask, Reading, Route

OPENAI = Route("openai.chat", "openai", "openai", "chat", "api.openai.com")
ANTHROPIC = Route("anthropic.messages", "anthropic", "anthropic", "chat", "api.anthropic.com")
GEMINI = Route("gemini.generate", "gcp.gemini", "google", "chat", "generativelanguage.googleapis.com", "gemini-2.5-pro")
OWN = Route("openai.chat", "openai", None, "chat", "127.0.0.1")
PLAIN = Ask(model="m", text_bytes=100)


def read(given_tokens: int | None, made: int | None = 10, **more: Any) -> Reading:
    counts = {"input_tokens": given_tokens, "output_tokens": made} | more.pop("counts", {})
    return Reading(usage=Usage({key: count for key, count in counts.items() if count is not None}), **more)


def test_plain_text_is_bounded_by_its_bytes_and_a_little() -> None:
    assert InputBound().bound(PLAIN, OWN) == 132


def test_a_byte_vocabulary_with_a_template_is_bounded() -> None:
    """llama.cpp with a token a byte bills the bytes and 18 for one message."""
    text = "a"
    assert InputBound().bound(Ask(text_bytes=len(text)), OWN) >= len(text) + 18


@pytest.mark.parametrize(
    ("route", "ask", "least", "most"),
    [
        (ANTHROPIC, replace(PLAIN, tools=True), 1_500, 2_000),
        (OPENAI, replace(PLAIN, tools=True), 100, 500),
        (OPENAI, replace(PLAIN, model="gpt-4o-mini", images=1), 48_169, 50_000),
        (OPENAI, replace(PLAIN, model="gpt-5-mini", images=2), 2 * 2_489, 10_000),
        (OPENAI, replace(PLAIN, model="gpt-5.4", images=1), 10_000, 15_000),
        (ANTHROPIC, replace(PLAIN, images=3), 3 * 4_784, 20_000),
        (GEMINI, replace(PLAIN, model=None, images=1), 2_240, 6_000),
        (ANTHROPIC, replace(PLAIN, media_bytes=300), 3_000, 8_000),
        (ANTHROPIC, replace(PLAIN, media_bytes=1_000_000), 1_000_000, 1_010_000),
    ],
)
def test_what_the_provider_adds_is_allowed_for(route: Route, ask: Ask, least: int, most: int) -> None:
    assert 100 + least <= InputBound().bound(ask, route) <= 100 + most


@pytest.mark.parametrize(
    "ask",
    [
        replace(PLAIN, remote_media=1),
        replace(PLAIN, server_tools=True),
        replace(PLAIN, server_state=True),
        replace(PLAIN, previous_response_id="never seen"),
        replace(PLAIN, readable=False),
    ],
)
def test_what_nobody_here_can_see_is_a_whole_context_window(ask: Ask) -> None:
    assert InputBound().bound(ask, OPENAI) >= UNKNOWN_CONTEXT
    assert 50_000 <= InputBound().bound(ask, OPENAI, 50_000) <= 51_000


def test_a_known_response_adds_what_it_held() -> None:
    bounds = InputBound()
    bounds.learn(OPENAI, PLAIN, 132, read(90, 40, response_id="r1"))
    assert bounds.bound(replace(PLAIN, previous_response_id="r1"), OPENAI) == 132 + 130
    bounds.learn(OPENAI, PLAIN, 132, read(90, 40, response_id="r2", complete=False))
    assert bounds.bound(replace(PLAIN, previous_response_id="r2"), OPENAI) > UNKNOWN_CONTEXT


@settings(deadline=None)
@given(
    st.builds(
        Ask,
        model=st.sampled_from(["a", "gpt-4o-mini", None]),
        text_bytes=st.integers(0, 10_000),
        images=st.integers(0, 3),
        media_bytes=st.integers(0, 5_000),
        remote_media=st.integers(0, 2),
        tools=st.booleans(),
        server_tools=st.booleans(),
        server_state=st.booleans(),
    ),
    st.sampled_from([OPENAI, ANTHROPIC, GEMINI, OWN]),
    st.integers(0, 3_000_000),
)
def test_a_call_that_passed_its_bound_passes_it_only_once(ask: Ask, route: Route, true_input: int) -> None:
    bounds = InputBound()
    before = bounds.bound(ask, route)
    bounds.learn(route, ask, before, read(true_input))
    after = bounds.bound(ask, route)
    assert after >= max(before, true_input)
    assert bounds.bound(replace(ask, text_bytes=ask.text_bytes + 1), route) > after - 1
    if true_input <= before:
        assert after == before


def test_the_bound_never_learns_downward() -> None:
    bounds = InputBound()
    for _ in range(50):
        bounds.learn(OWN, PLAIN, 132, read(3, 1, output_bytes=500))
    assert bounds.bound(PLAIN, OWN) == 132


def test_pictures_teach_the_price_of_a_picture() -> None:
    bounds = InputBound()
    one = replace(PLAIN, images=1)
    bounds.learn(OWN, one, bounds.bound(one, OWN), read(20_100))
    assert bounds.bound(replace(PLAIN, images=4), OWN) >= 80_100


def test_a_bound_that_was_not_asked_for_teaches_too() -> None:
    bounds = InputBound()
    bounds.learn(OWN, PLAIN, 0, read(40))
    assert bounds.bound(PLAIN, OWN) == 132
    bounds.learn(OWN, PLAIN, 0, read(4_000))
    assert bounds.bound(PLAIN, OWN) >= 4_000


def test_estimated_and_absent_usage_teach_nothing() -> None:
    bounds = InputBound()
    bounds.learn(OWN, PLAIN, 132, Reading(usage=Usage({"input_tokens": 9_999}, estimated=True)))
    bounds.learn(OWN, PLAIN, 132, Reading(usage=None))
    bounds.learn(OWN, PLAIN, 132, Reading(usage=Usage({})))
    assert bounds.bound(PLAIN, OWN) == 132
    assert bounds.typical_output("openai", "m") is None


def test_the_input_estimate_is_the_bound_until_five_calls_taught_better() -> None:
    bounds = InputBound()
    asked = Ask(model="m", text_bytes=1_000)
    for _ in range(4):
        bounds.learn(OWN, asked, 1_032, read(300))
        assert bounds.estimate_input(asked, OWN) == 1_032
    bounds.learn(OWN, asked, 1_032, read(250))
    assert 300 <= bounds.estimate_input(asked, OWN) <= 420
    assert bounds.estimate_input(Ask(model="other", text_bytes=1_000), OWN) == 1_032


def test_the_output_estimate_is_the_bytes_until_five_calls_taught_better() -> None:
    bounds = InputBound()
    for _ in range(4):
        bounds.learn(OWN, PLAIN, 132, read(10, 100, output_bytes=400))
        assert bounds.estimate_output(OWN, "m", 1_000) == 1_000
    bounds.learn(OWN, PLAIN, 132, read(10, 50, output_bytes=400))
    assert 250 <= bounds.estimate_output(OWN, "m", 1_000) <= 330
    assert bounds.estimate_output(OWN, "m", 0) <= 2


def test_the_output_estimate_adds_the_reasoning_and_keeps_a_floor() -> None:
    bounds = InputBound()
    for _ in range(5):
        reading = read(10, 510, output_bytes=4_000, counts={"output_reasoning_tokens": 500})
        bounds.learn(OWN, PLAIN, 132, reading)
    assert bounds.estimate_output(OWN, "m", 800) == 500 + 100


def test_the_typical_output_is_a_decaying_maximum() -> None:
    bounds = InputBound()
    for made in (10, 2_000, 10, 10):
        bounds.learn(OWN, PLAIN, 132, read(10, made))
        assert bounds.typical_output("openai", "m") is None
    bounds.learn(OWN, PLAIN, 132, read(10, 10))
    first = bounds.typical_output("openai", "m")
    assert first is not None
    assert 1_000 < first < 2_000
    for _ in range(200):
        bounds.learn(OWN, PLAIN, 132, read(10, 30))
    assert bounds.typical_output("openai", "m") == 30


def test_server_tools_are_allowed_some_paid_calls() -> None:
    bounds = InputBound()
    searching = replace(PLAIN, server_tools=True)
    assert bounds.tool_calls(PLAIN, OWN) == 0
    assert bounds.tool_calls(searching, OWN) == 16
    bounds.learn(OWN, searching, 300_000, read(10, counts={"web_searches": 40}))
    assert bounds.tool_calls(searching, OWN) == 50


def test_memory_is_bounded() -> None:
    bounds = InputBound()
    for index in range(_RESPONSES + 100):
        asked = Ask(model=f"model-{index}", text_bytes=10)
        bounds.learn(OWN, asked, 42, read(5_000, response_id=f"r{index}"))
    assert len(bounds._held) == _RESPONSES
    assert len(bounds._inputs) == len(bounds._outputs) == _KINDS
    assert bounds.bound(Ask(model=f"model-{_RESPONSES + 99}", text_bytes=10), OWN) > 5_000
    assert bounds.bound(Ask(model="model-0", text_bytes=10), OWN) == 42


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o", "o200k_base"), ("gpt-4o-mini-2024-07-18", "o200k_base"), ("gpt-5-mini", "o200k_base"),
        ("o3-mini", "o200k_base"), ("gpt-4.1", "o200k_base"), ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"), ("gpt-35-turbo", "cl100k_base"), ("text-embedding-3-small", "cl100k_base"),
        ("gpt-4o-audio-preview", None), ("gpt-6", None), ("gpt-55", None), ("claude-sonnet-4-5", None),
        ("my-deployment", None), ("gpt-oss-20b", None), (None, None), ("o365", None),
    ],
)  # fmt: skip
def test_the_encoding_of_a_name(model: str | None, encoding: str | None) -> None:
    assert encoding_of(model) == encoding


@pytest.fixture(scope="module")
def counted() -> InputBound:
    pytest.importorskip("bpe_openai", reason="the optional tokenizer bpe-openai is not installed")
    bounds = InputBound()
    bounds.preload()
    return bounds


def asking(body: dict[str, Any], **more: Any) -> Ask:
    text = json.dumps(body, ensure_ascii=False).encode()
    return Ask(model=body["model"], text_bytes=len(text), text=text, **more)


def hello(content: str, model: str = "gpt-4o") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}]}


def test_a_tokenizer_tightens_the_bound(counted: InputBound) -> None:
    asked = asking(hello("The quick brown fox jumps over the lazy dog. " * 100))
    assert 1_000 <= counted.bound(asked, OPENAI) < InputBound().bound(asked, OPENAI) / 3


@settings(deadline=None)
@given(st.text(max_size=400))
def test_the_counted_bound_covers_the_text_in_any_language(counted: InputBound, content: str) -> None:
    """The text's own tokens and the 7 of the template are within the bound, however JSON escapes it."""
    counts = counted._counter and counted._counter._counts
    assert counts
    asked = asking(hello(content))
    assert counted.bound(asked, OPENAI) >= min(counts["o200k_base"](content) + 7, asked.text_bytes + 32)
    assert counted.bound(asked, OPENAI) <= asked.text_bytes + 32


@pytest.mark.parametrize(
    ("asked", "route"),
    [
        (asking(hello("hello " * 50, "claude-sonnet-4-5")), OPENAI),
        (asking(hello("hello " * 50)), replace(OPENAI, price_provider=None)),
        (asking(hello("hello " * 50)), ANTHROPIC),
        (asking(hello("x" * MOST_BYTES)), OPENAI),
        (replace(asking(hello("hello " * 50)), text=None), OPENAI),
        (replace(asking(hello("hello " * 50)), text=b"{broken"), OPENAI),
        (replace(asking(hello("hello " * 50)), text=b"[1]"), OPENAI),
    ],
)
def test_where_no_tokenizer_fits_bytes_are_used(counted: InputBound, asked: Ask, route: Route) -> None:
    assert counted.bound(asked, route) == asked.text_bytes + 32


def test_tools_and_schemas_are_counted_as_json(counted: InputBound) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "d " * 200, "parameters": {}}}
    plain = counted.bound(asking(hello("hi")), OPENAI)
    assert counted.bound(asking(hello("hi") | {"tools": [tool]}, tools=True), OPENAI) > plain + 200


def test_an_absent_tokenizer_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bpe_openai", None)
    counter = TokenCounter()
    counter.preload()
    assert counter.count(asking(hello("hi")), OPENAI) is None
