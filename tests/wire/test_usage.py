"""Usage objects of every kind, with and without genai-prices' extractors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmeter import wire
from tokenmeter.wire.usage import counts
from tokenmeter.wire.words import tolerant

DETAILS = {"cached_tokens": 4, "audio_tokens": 1}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"usage": {"prompt_tokens": 9, "completion_tokens": 5}}, {"input_tokens": 9, "output_tokens": 5}),
        (
            {"usage": {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": DETAILS}},
            {"input_tokens": 9, "output_tokens": 5, "cache_read_tokens": 4, "input_audio_tokens": 1},
        ),
        (
            {"usage": {"prompt_tokens": 9, "completion_tokens": 5, "prompt_cache_hit_tokens": 0}},
            {"input_tokens": 9, "output_tokens": 5, "cache_read_tokens": 0},
        ),
        (  # reasoning counted apart, as the total says
            {
                "usage": {
                    "prompt_tokens": 9,
                    "completion_tokens": 5,
                    "total_tokens": 20,
                    "completion_tokens_details": {"reasoning_tokens": 6},
                }
            },
            {"input_tokens": 9, "output_tokens": 11, "output_reasoning_tokens": 6},
        ),
        (  # and within
            {
                "usage": {
                    "prompt_tokens": 9,
                    "completion_tokens": 8,
                    "total_tokens": 17,
                    "completion_tokens_details": {"reasoning_tokens": 6},
                }
            },
            {"input_tokens": 9, "output_tokens": 8, "output_reasoning_tokens": 6},
        ),
        (
            {"usage": {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 10}},
            {"input_tokens": 13, "output_tokens": 5, "cache_read_tokens": 10},
        ),
        (
            {"usage": {"input_tokens": 13, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 10}}},
            {"input_tokens": 13, "output_tokens": 5, "cache_read_tokens": 10},
        ),
        (
            {"usageMetadata": {"promptTokenCount": 2, "toolUsePromptTokenCount": 3, "thoughtsTokenCount": 4}},
            {"input_tokens": 5, "output_tokens": 4, "output_reasoning_tokens": 4, "input_tool_tokens": 3},
        ),
        (
            {"usage": {"inputTokens": 2, "outputTokens": 3, "cacheReadInputTokens": 5}},
            {"input_tokens": 7, "output_tokens": 3, "cache_read_tokens": 5},
        ),
        ({"usage": {"inputTokens": 30}}, {"input_tokens": 30}),
        ({"usage": {"total_tokens": 18}}, {"input_tokens": 18}),
        ({"usage": {"prompt_tokens": 7, "total_tokens": 18}}, {"input_tokens": 7, "output_tokens": 11}),
        (
            {"usage": {"prompt_tokens": 7, "completion_tokens": -1, "total_tokens": 18}},
            {"input_tokens": 7, "output_tokens": 11},
        ),
        ({"usage": {"prompt_tokens": 7, "total_tokens": 7}}, {"input_tokens": 7}),
        ({"usage": {"tokens": {"input_tokens": 9}, "billed_units": {"input_tokens": 1}}}, {"input_tokens": 9}),
        ({"meta": {"tokens": {"input_tokens": 9}, "billed_units": {"input_tokens": 1}}}, {"input_tokens": 1}),
        ({"meta": {"billed_units": {"search_units": 1}}}, {"rerank_searches": 1}),
        ({"counted": {"results": [{"tokenCount": 5}, {"tokenCount": 6}]}}, {"output_tokens": 11}),
        ({"counted": {"prompt_eval_count": 4, "eval_count": 5}}, {"input_tokens": 4, "output_tokens": 5}),
        ({"counted": {"eval_count": 5}}, {"output_tokens": 5}),
        ({"usage": {"type": "duration", "seconds": 2.4}}, {"audio_seconds": 3}),
        (
            {"usage": {"prompt_audio_seconds": 203, "prompt_tokens": 4, "completion_tokens": 635}},
            {"input_tokens": 4, "output_tokens": 635, "audio_seconds": 203},
        ),
        (  # counters that are written as floats
            {"usage": {"prompt_tokens": 9.0, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4.0}}},
            {"input_tokens": 9, "output_tokens": 5, "cache_read_tokens": 4},
        ),
        (
            {"counted": {"inputTextTokenCount": 28.0, "results": [{"tokenCount": 197.0}]}},
            {"input_tokens": 28, "output_tokens": 197},
        ),
    ],
)  # fmt: skip
def test_the_tolerant_reader(document: dict[str, Any], expected: dict[str, int]) -> None:
    assert tolerant(document) == expected


@pytest.mark.parametrize("broken", [None, True, -1, 1.5, "7", [], {}, float("inf")])
def test_a_broken_counter_is_missing_not_zero(broken: object) -> None:
    usage = {"prompt_tokens": broken, "completion_tokens": 5, "prompt_tokens_details": broken}
    for price_provider in (None, "openai", "groq", "nobody"):
        assert counts(price_provider, "openai.chat", {"usage": usage}) == {"output_tokens": 5}
    assert counts("openai", "openai.chat", {"usage": {"prompt_tokens": broken}}) is None
    assert counts("google", "gemini.generate", {"usageMetadata": {"promptTokenCount": broken}}) is None


CHAT = {"prompt_tokens": 9, "completion_tokens": 5}
TEXT = {"input_tokens": 9, "output_tokens": 5}


def test_extractors_take_counters_that_are_written_as_floats() -> None:
    usage = {"prompt_tokens": 9.0, "completion_tokens": 5.0, "prompt_tokens_details": {"cached_tokens": 4.0}}
    assert counts("openai", "openai.chat", {"usage": usage}) == {**TEXT, "cache_read_tokens": 4}
    assert counts("openai", "openai.chat", {"usage": {**CHAT, "prompt_tokens": 2.0**60}}) == {"output_tokens": 5}


@pytest.mark.parametrize(
    ("price_provider", "protocol", "usage", "expected"),
    [
        ("moonshotai", "openai.chat", {**CHAT, "cached_tokens": 4}, {**TEXT, "cache_read_tokens": 4}),
        (
            "moonshotai",
            "openai.chat",
            {"cached_tokens": 3, **CHAT, "prompt_tokens_details": {"cached_tokens": 4}},
            {**TEXT, "cache_read_tokens": 4},
        ),
        (
            "cerebras",
            "openai.chat",
            {**CHAT, "cached_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
            {**TEXT, "cache_read_tokens": 4},
        ),
        (
            "databricks",
            "openai.chat",
            {**CHAT, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2},
            {**TEXT, "cache_read_tokens": 4, "cache_write_tokens": 2},
        ),
        (
            "google",
            "anthropic.messages",
            {**TEXT, "output_tokens_details": {"thinking_tokens": 4}, "server_tool_use": {"web_search_requests": 2}},
            {**TEXT, "output_reasoning_tokens": 4, "web_searches": 2},
        ),
        (
            "minimax",
            "anthropic.messages",
            {**TEXT, "cache_creation_input_tokens": 3, "cache_creation": {"ephemeral_1h_input_tokens": 3}},
            {"input_tokens": 12, "output_tokens": 5, "cache_write_tokens": 3, "cache_write_1h_tokens": 3},
        ),
        (  # a part of what this extractor does not count
            "baseten",
            "anthropic.messages",
            {**TEXT, "cache_creation": {"ephemeral_1h_input_tokens": 3}},
            TEXT,
        ),
        ("mistral", "openai.chat", {**CHAT, "num_cached_tokens": 4}, TEXT),  # billed in full
        (None, "openai.chat", {**CHAT, "num_cached_tokens": 4}, TEXT),  # whoever passes it on
        (
            "openrouter",
            "openai.chat",
            {**CHAT, "server_tool_use_details": {"web_search_requests": 2}},
            {**TEXT, "web_searches": 2},
        ),
        (
            "openrouter",
            "openai.chat",
            {**CHAT, "server_tool_use": {"web_search_requests": 1}},
            {**TEXT, "web_searches": 1},
        ),
        ("mistral", "openai.chat", {**CHAT, "prompt_audio_seconds": 7}, {**TEXT, "audio_seconds": 7}),
    ],
)
def test_what_an_extractor_passes_over_is_read(
    price_provider: str, protocol: str, usage: dict[str, Any], expected: dict[str, int]
) -> None:
    assert counts(price_provider, protocol, {"usage": usage}) == expected


@pytest.mark.parametrize("price_provider", ["openai", "deepseek", None])
@pytest.mark.parametrize("name", ["cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens"])
def test_what_a_chat_wrote_into_the_cache_has_many_names(name: str, price_provider: str | None) -> None:
    usage = {**CHAT, "prompt_tokens_details": {"cached_tokens": 2, name: 3}}
    found = counts(price_provider, "openai.chat", {"usage": usage})
    assert found == {**TEXT, "cache_read_tokens": 2, "cache_write_tokens": 3}


@pytest.mark.parametrize("price_provider", ["openai", "azure", "aws", None])
def test_reasoning_beside_the_completion_is_output(price_provider: str | None) -> None:
    usage = {**CHAT, "total_tokens": 20, "completion_tokens_details": {"reasoning_tokens": 6}}
    expected = {"input_tokens": 9, "output_tokens": 11, "output_reasoning_tokens": 6}
    assert counts(price_provider, "openai.chat", {"usage": usage}) == expected
    assert counts("x-ai", "openai.chat", {"usage": usage}) == expected  # whose extractor says so, and adds it once


@pytest.mark.parametrize(
    ("usage", "output", "reasoning"),
    [
        ({"completion_tokens": 3, "prompt_tokens": 9, "total_tokens": 105}, 96, None),
        ({"prompt_tokens": 9, "total_tokens": 105}, 96, None),  # it thought, and said nothing
        (
            {
                "completion_tokens": 3,
                "prompt_tokens": 9,
                "total_tokens": 105,
                "completion_tokens_details": {"reasoning_tokens": 93},
            },
            96,
            93,
        ),
        ({"completion_tokens": 3, "prompt_tokens": 9, "total_tokens": 12}, 3, None),
        ({"completion_tokens": 3, "prompt_tokens": 9, "total_tokens": 0}, 3, None),
        ({"completion_tokens": 3, "prompt_tokens": 9}, 3, None),
    ],
)
def test_gemini_thinks_beside_the_completion_of_a_chat(
    usage: dict[str, Any], output: int, reasoning: int | None
) -> None:
    found = counts("google", "openai.chat", {"usage": usage})
    assert found is not None
    assert (found["input_tokens"], found["output_tokens"], found.get("output_reasoning_tokens")) == (
        9,
        output,
        reasoning,
    )
    if reasoning is None:  # elsewhere a total may have what isn't output
        others = counts("mistral", "openai.chat", {"usage": usage})
        assert others is not None
        assert others.get("output_tokens") == usage.get("completion_tokens", output)


@pytest.mark.parametrize("price_provider", ["openrouter", "typesafe", "anthropic", "x-ai", None])
def test_cached_input_stands_apart_in_messages_wherever_they_are_served(price_provider: str | None) -> None:
    usage = {**TEXT, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 7}
    expected = {"input_tokens": 36, "output_tokens": 5, "cache_read_tokens": 20, "cache_write_tokens": 7}
    assert counts(price_provider, "anthropic.messages", {"usage": usage}) == expected


def test_extractors_are_used_where_they_are() -> None:
    # Perplexity bills citations as output; only genai-prices knows
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "citation_tokens": 30, "num_search_queries": 4}
    found = counts("perplexity", "openai.chat", {"usage": usage})
    assert found == {"input_tokens": 1, "output_tokens": 32, "output_citation_tokens": 30, "web_searches": 4}
    metadata = {
        "promptTokenCount": 9,
        "candidatesTokenCount": 1,
        "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 4}, {"modality": 1, "tokenCount": 5}, None],
    }
    for provider in ("google", None, "databricks"):  # behind a gateway, too
        found = counts(provider, "gemini.generate", {"usageMetadata": metadata})
        assert found == {"input_tokens": 9, "output_tokens": 1, "input_audio_tokens": 4}
    written = {"inputTokens": 1, "outputTokens": 2, "cacheWriteInputTokens": 3}
    details = [{"ttl": "1h", "inputTokens": 3}]
    found = counts(None, "bedrock.converse", {"usage": {**written, "cacheDetails": details}})
    assert found == {"input_tokens": 4, "output_tokens": 2, "cache_write_tokens": 3, "cache_write_1h_tokens": 3}


def test_gemini_behind_a_gateway_thinks_beside_its_completion() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 121}
    for model, output in (("gemini-2.5-flash", 112), ("google/gemini-2.5-flash", 112), ("gpt-5", 12), (None, 12)):
        found = counts(None, "openai.chat", {"usage": usage}, model=model)
        assert found == {"input_tokens": 9, "output_tokens": output}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 10**9) | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "prompt_tokens",
                        "usage",
                        "tokens",
                        "input_tokens",
                        "total_tokens",
                        "promptTokensDetails",
                        "cached_tokens",
                        "completion_tokens",
                        "completion_tokens_details",
                        "reasoning_tokens",
                        "total_input_tokens",
                        "input_tokens_by_modality",
                        "pages_processed",
                        "prompt_audio_seconds",
                        "modality",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_usage_is_read_or_not_but_never_raises(value: Any) -> None:
    readers = ((None, "x"), ("openai", "openai.chat"), ("google", "gemini.generate"), ("cloudflare", "cloudflare.run"))
    for root in ("usage", "usageMetadata", "meta", "counted", "usage_info"):
        for price_provider, protocol in (*readers, ("databricks", "openai.chat"), ("minimax", "anthropic.messages")):
            found = counts(price_provider, protocol, {root: value, "result": {root: value}})
            assert found is None or all(type(number) is int and number >= 0 for number in found.values())


def test_headers_of_bedrock() -> None:
    route = wire.recognise("POST", "bedrock-runtime.us-east-1.amazonaws.com", "/model/m/invoke")
    other = wire.recognise("POST", "api.openai.com", "/v1/embeddings")
    assert route is not None
    assert other is not None
    headers = {"X-Amzn-Bedrock-Input-Token-Count": "7", "x-amzn-bedrock-output-token-count": "x", "a": "b"}
    usage = wire.read_headers(route, headers)
    assert usage is not None
    assert dict(usage.counts) == {"input_tokens": 7}
    assert wire.read_headers(other, headers) is None
    assert wire.read_headers(route, {"content-type": "application/json"}) is None
