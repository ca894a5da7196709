"""The words of the protocols for what was used: which field is which counter, whoever the provider is.

A counter that is missing stays absent; a bool, a negative or a broken number is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

Counts: TypeAlias = dict[str, int]


def number(value: Any, *path: str) -> int | None:
    """The counter at a path of keys; None when there is none or it is no counter."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return whole(value)


def whole(value: Any) -> int | None:
    """A counter; some services write theirs as floats."""
    if type(value) is int:
        return value if 0 <= value < MOST else None
    return int(value) if type(value) is float and value.is_integer() and 0 <= value < MOST else None


MOST: Final = 10**12  # no answer has so many tokens, and what they cost still fits the books


def _first(value: Any, *paths: tuple[str, ...]) -> int | None:
    for path in paths:
        found = number(value, *path)
        if found is not None:
            return found
    return None


def tolerant(document: Mapping[str, Any]) -> Counts | None:
    """Read the counters by the names that protocols share, whoever the provider is."""
    for root, read in _ROOTS:
        value = document.get(root)
        if isinstance(value, dict) and (found := read(value)):
            return found
    return None


def _usage(usage: Mapping[str, Any]) -> Counts:
    for key in ("tokens", "billed_units"):  # Cohere
        if isinstance(nested := usage.get(key), dict) and (found := _cohere(nested)):
            cached = number(usage, "cached_tokens")
            return found if cached is None or key != "tokens" else {**found, "cache_read_tokens": cached}
    if usage.get("type") == "duration" and "seconds" in usage:  # transcriptions by the second
        return _seconds(usage["seconds"])
    if "inputTokens" in usage or "outputTokens" in usage:
        return _converse(usage)
    if "prompt_tokens" in usage or "completion_tokens" in usage:
        return _chat(usage)
    if "total_input_tokens" in usage or "total_output_tokens" in usage:
        return _interactions(usage)
    if "input_tokens" in usage or "output_tokens" in usage:
        return _messages(usage)
    return _present(input_tokens=number(usage, "total_tokens"))  # embeddings and rerankers that report no more


def _chat(usage: Mapping[str, Any]) -> Counts:
    """OpenAI's words, in one walk over what is present: most answers are read here."""
    found: Counts = {}
    for key, value in usage.items():
        if type(value) is int:
            name = _CHAT.get(key)
            if name is not None and 0 <= value < MOST:
                found.setdefault(name, value)
        elif type(value) is dict and (within := _CHAT_WITHIN.get(key)) is not None:
            for inner, count in value.items():
                name = within.get(inner)
                if name is not None:
                    known = count if type(count) is int and 0 <= count < MOST else whole(count)
                    if known is not None:
                        found[name] = known  # the details come first
        elif key in _CHAT and (known := whole(value)) is not None:
            found.setdefault(_CHAT[key], known)
    if found.get("output_reasoning_tokens"):
        bring_in_reasoning(found, usage)
    if "output_tokens" not in found and "input_tokens" in found:
        total = number(usage, "total_tokens")
        if total is not None and total > found["input_tokens"]:
            found["output_tokens"] = total - found["input_tokens"]
    return found


def bring_in_reasoning(found: Counts, usage: Mapping[str, Any]) -> None:
    """Grok counts reasoning beside the completion, also where others serve it, and the total says so."""
    reasoning, completion = found["output_reasoning_tokens"], found.get("output_tokens")
    if completion is not None:
        total = number(usage, "total_tokens")
        if total is not None and total == found.get("input_tokens", 0) + completion + reasoning:
            found["output_tokens"] = completion + reasoning


def bring_in_thoughts(found: Counts, usage: Any) -> None:
    """Gemini leaves its thoughts out of the completion in a chat; often only the total has them."""
    total = number(usage, "total_tokens")
    if total is not None and "input_tokens" in found:
        found["output_tokens"] = max(found.get("output_tokens", 0), total - found["input_tokens"])


# Not in it: num_cached_tokens, which Mistral sends, are read from a cache and billed in full.
_CHAT: Final[Mapping[str, str]] = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "reasoning_tokens": "output_reasoning_tokens",
    "prompt_cache_hit_tokens": "cache_read_tokens",
    "cached_tokens": "cache_read_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
    "prompt_audio_seconds": "audio_seconds",  # Mistral's, beside the tokens
}
_CHAT_WITHIN: Final[Mapping[str, Mapping[str, str]]] = {
    "prompt_tokens_details": {
        "cached_tokens": "cache_read_tokens",
        "cache_write_tokens": "cache_write_tokens",
        "cache_creation_tokens": "cache_write_tokens",  # LiteLLM's
        "cache_creation_input_tokens": "cache_write_tokens",  # Alibaba's
        "audio_tokens": "input_audio_tokens",
    },
    "completion_tokens_details": {
        "reasoning_tokens": "output_reasoning_tokens",
        "audio_tokens": "output_audio_tokens",
    },
    "server_tool_use": {"web_search_requests": "web_searches"},
    "server_tool_use_details": {"web_search_requests": "web_searches"},
}

# What an extractor may pass over, the surest first. Input and output are its own.
_Spares: TypeAlias = tuple[tuple[tuple[str, ...], str], ...]
_BESIDE: Final = frozenset(
    {"cache_read_tokens", "cache_write_tokens", "output_reasoning_tokens", "audio_seconds", "web_searches"}
)
CHAT_SPARES: Final[_Spares] = (
    *(((key, inner), name) for key, names in _CHAT_WITHIN.items() for inner, name in names.items() if name in _BESIDE),
    *(((key,), name) for key, name in _CHAT.items() if name in _BESIDE),
)
MESSAGES_SPARES: Final[_Spares] = (
    (("input_tokens_details", "cached_tokens"), "cache_read_tokens"),
    (("input_tokens_details", "cache_write_tokens"), "cache_write_tokens"),
    (("output_tokens_details", "reasoning_tokens"), "output_reasoning_tokens"),
    (("output_tokens_details", "thinking_tokens"), "output_reasoning_tokens"),
    (("cache_creation", "ephemeral_5m_input_tokens"), "cache_write_5m_tokens"),
    (("cache_creation", "ephemeral_1h_input_tokens"), "cache_write_1h_tokens"),
    (("server_tool_use", "web_search_requests"), "web_searches"),
)


def _messages(usage: Mapping[str, Any]) -> Counts:
    """Anthropic's words, where cached input stands apart, and those of OpenAI Responses, where it doesn't."""
    tokens_in = number(usage, "input_tokens")
    read, write = number(usage, "cache_read_input_tokens"), number(usage, "cache_creation_input_tokens")
    if tokens_in is not None:
        tokens_in += (read or 0) + (write or 0)
    inputs = usage.get("input_tokens_details") or usage.get("input_token_details")
    outputs = usage.get("output_tokens_details") or usage.get("output_token_details")
    return _present(
        input_tokens=tokens_in,
        output_tokens=number(usage, "output_tokens"),
        cache_read_tokens=read if read is not None else number(inputs, "cached_tokens"),
        cache_write_tokens=write if write is not None else number(inputs, "cache_write_tokens"),
        cache_write_5m_tokens=number(usage, "cache_creation", "ephemeral_5m_input_tokens"),
        cache_write_1h_tokens=number(usage, "cache_creation", "ephemeral_1h_input_tokens"),
        input_text_tokens=number(inputs, "text_tokens"),
        input_image_tokens=number(inputs, "image_tokens"),
        input_audio_tokens=number(inputs, "audio_tokens"),
        output_image_tokens=number(outputs, "image_tokens"),
        output_audio_tokens=number(outputs, "audio_tokens"),
        output_reasoning_tokens=_first(outputs, ("reasoning_tokens",), ("thinking_tokens",)),
        web_searches=number(usage, "server_tool_use", "web_search_requests"),
    )


def _converse(usage: Mapping[str, Any]) -> Counts:
    tokens_in = number(usage, "inputTokens")
    read = _first(usage, ("cacheReadInputTokens",), ("cacheReadInputTokenCount",))
    write = _first(usage, ("cacheWriteInputTokens",), ("cacheWriteInputTokenCount",))
    return _present(
        input_tokens=None if tokens_in is None else tokens_in + (read or 0) + (write or 0),
        output_tokens=number(usage, "outputTokens"),
        cache_read_tokens=read,
        cache_write_tokens=write,
    )


def _gemini(usage: Mapping[str, Any]) -> Counts:
    prompt, tool = number(usage, "promptTokenCount"), number(usage, "toolUsePromptTokenCount")
    answer, thoughts = number(usage, "candidatesTokenCount"), number(usage, "thoughtsTokenCount")
    return _present(
        input_tokens=_sum(prompt, tool),
        output_tokens=_sum(answer, thoughts),
        cache_read_tokens=number(usage, "cachedContentTokenCount"),
        output_reasoning_tokens=thoughts,
        input_tool_tokens=tool,
    )


def _interactions(usage: Mapping[str, Any]) -> Counts:
    """Gemini's words in interactions: thoughts stand beside the output, results of tools beside the input."""
    tool, thoughts = number(usage, "total_tool_use_tokens"), number(usage, "total_thought_tokens")
    return _present(
        input_tokens=_sum(number(usage, "total_input_tokens"), tool),
        output_tokens=_sum(number(usage, "total_output_tokens"), thoughts),
        cache_read_tokens=number(usage, "total_cached_tokens"),
        output_reasoning_tokens=thoughts,
        input_tool_tokens=tool,
        web_searches=_searches(usage.get("grounding_tool_count")),
        **_by_modality(usage.get("input_tokens_by_modality"), "input"),
        **_by_modality(usage.get("output_tokens_by_modality"), "output"),
    )


def _searches(listed: Any) -> int | None:
    """How often Google was asked; what else it grounds an answer in is listed there, too."""
    counts = [
        number(each, "count")
        for each in (listed if isinstance(listed, list) else ())
        if isinstance(each, dict) and each.get("type") == "google_search"
    ]
    return _sum(*counts)


def _by_modality(listed: Any, direction: str) -> Counts:
    found: Counts = {}
    for each in listed if isinstance(listed, list) else ():
        tokens, modality = number(each, "tokens"), each.get("modality") if isinstance(each, dict) else None
        kind = _MODALITIES.get(modality.lower()) if isinstance(modality, str) else None
        if kind is not None and tokens is not None:
            name = f"{direction}_{kind}_tokens"
            found[name] = found.get(name, 0) + tokens
    return found


_MODALITIES: Final[Mapping[str, str]] = {"audio": "audio", "image": "image", "document": "image", "video": "video"}


def _cohere(units: Mapping[str, Any]) -> Counts:
    return _present(
        input_tokens=number(units, "input_tokens"),
        output_tokens=number(units, "output_tokens"),
        input_image_tokens=number(units, "image_tokens") or None,
        rerank_searches=number(units, "search_units"),
    )


def _meta(meta: Mapping[str, Any]) -> Counts:
    """Cohere's older answers: billed units are what is paid for; tokens stand in where there are none."""
    for key in ("billed_units", "tokens"):
        if isinstance(units := meta.get(key), dict) and (found := _cohere(units)):
            return found
    return {}


def _counted(flat: Mapping[str, Any]) -> Counts:
    """Counters that stand in the body itself: Ollama, and Bedrock's own shapes for each model family."""
    results = flat.get("results")
    each = [number(item, "tokenCount") for item in results] if isinstance(results, list) else []
    tokens_in = _first(
        flat, ("prompt_eval_count",), ("prompt_token_count",), ("inputTextTokenCount",), ("inputTokenCount",)
    )
    read, write = number(flat, "cacheReadInputTokenCount"), number(flat, "cacheWriteInputTokenCount")
    tokens_out = _first(
        flat,
        ("eval_count",),
        ("generation_token_count",),
        ("totalOutputTextTokenCount",),
        ("outputTokenCount",),
    )
    return _present(
        input_tokens=None if tokens_in is None else tokens_in + (read or 0) + (write or 0),
        output_tokens=tokens_out if tokens_out is not None else _sum(*each),
        cache_read_tokens=read,
        cache_write_tokens=write,
    )


def _predictions(predictions: Mapping[str, Any]) -> Counts:
    return _present(input_tokens=number(predictions, "token_count"))


def _pages(info: Mapping[str, Any]) -> Counts:
    pages = number(info, "pages_processed")
    annotated = pages if info.get("annotated") is True else None
    return _present(input_document_pages=pages, input_annotated_document_pages=annotated)


_ROOTS: Final[tuple[tuple[str, Callable[[Mapping[str, Any]], Counts]], ...]] = (
    ("usage", _usage),
    ("usageMetadata", _gemini),
    ("meta", _meta),
    ("counted", _counted),
    ("predictions", _predictions),
    ("usage_info", _pages),
)


def _seconds(value: Any) -> Counts:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return {}
    return {"audio_seconds": math.ceil(value)}


def _sum(*values: int | None) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _present(**named: int | None) -> Counts:
    return {name: value for name, value in named.items() if value is not None}
