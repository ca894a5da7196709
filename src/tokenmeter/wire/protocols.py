"""Which file reads a protocol. What few programs speak is imported with the first request that speaks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Final, NamedTuple

from tokenmeter.wire.fields import Fields, no_answer, plain
from tokenmeter.wire.tally import Tally

ReadsAsk = Callable[[Fields], dict[str, Any]]


class Place(NamedTuple):
    """Where a protocol is read: a module of this package, its tally of responses, its reader of requests."""

    module: str
    tally: str
    ask: str | ReadsAsk


PLACES: Final[Mapping[str, Place]] = {
    "openai.chat": Place("openai", "ChatTally", "ask_chat"),
    "openai.completions": Place("openai", "ChatTally", "ask_completions"),
    "openai.embeddings": Place("openai", "ResultTally", no_answer),
    "openai.decisions": Place("openai", "ResultTally", "ask_decisions"),
    "openai.responses": Place("responses", "ResponsesTally", "ask_responses"),
    "anthropic.messages": Place("anthropic", "MessagesTally", "ask_messages"),
    "anthropic.complete": Place("anthropic", "CompleteTally", "ask_complete"),
    "gemini.generate": Place("gemini", "GenerateTally", "ask_generate"),
    "gemini.embed": Place("gemini", "GenerateTally", no_answer),
    "gemini.images": Place("gemini", "GenerateTally", plain),
    "gemini.interactions": Place("interactions", "InteractionsTally", "ask_interactions"),
    "bedrock.converse": Place("bedrock", "ConverseTally", "ask_converse"),
    "bedrock.invoke": Place("bedrock", "InvokeTally", "ask_invoke"),
    "cohere.chat": Place("cohere", "CohereTally", "ask_chat"),
    "cohere.embed": Place("cohere", "CohereTally", no_answer),
    "cohere.rerank": Place("cohere", "CohereTally", no_answer),
    "ollama.chat": Place("ollama", "OllamaTally", "ask_ollama"),
    "ollama.generate": Place("ollama", "OllamaTally", "ask_ollama"),
    "ollama.embed": Place("ollama", "OllamaTally", no_answer),
    "mistral.conversations": Place("mistral", "ConversationsTally", "ask_conversations"),
    "mistral.ocr": Place("mistral", "OcrTally", no_answer),
    "watsonx.generation": Place("watsonx", "WatsonxTally", "ask_generation"),
    "watsonx.embed": Place("watsonx", "WatsonxTally", no_answer),
    "alibaba.generation": Place("alibaba", "GenerationTally", "ask_generation"),
    "alibaba.embed": Place("alibaba", "GenerationTally", no_answer),
    "cloudflare.run": Place("cloudflare", "RunTally", "ask_run"),
    "llamacpp.completion": Place("llamacpp", "CompletionTally", "ask_completion"),
    "tgi.generate": Place("tgi", "TgiTally", "ask_generate"),
}
_ELSE: Final = Place("openai", "ResultTally", plain)  # it reports at most a result


@cache
def tally_of(protocol: str) -> type[Tally]:
    """The class that adds up responses of a protocol."""
    place = PLACES.get(protocol, _ELSE)
    found: type[Tally] = getattr(import_module(f"tokenmeter.wire.{place.module}"), place.tally)
    return found


@cache
def ask_of(protocol: str) -> ReadsAsk:
    """What reads a request of a protocol: fields of `Ask`; ``cap`` for its output; ``media`` for where that may be."""
    place = PLACES.get(protocol, _ELSE)
    if not isinstance(place.ask, str):
        return place.ask
    found: ReadsAsk = getattr(import_module(f"tokenmeter.wire.{place.module}"), place.ask)
    return found
