"""Which tally reads a protocol. What few programs speak is imported with the first request that speaks it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Final

from tokenmeter.wire.tally import Tally

PLACES: Final[Mapping[str, str]] = {
    "openai.chat": "openai.ChatTally",
    "openai.completions": "openai.ChatTally",
    "openai.responses": "responses.ResponsesTally",
    "anthropic.messages": "anthropic.MessagesTally",
    "anthropic.complete": "anthropic.CompleteTally",
    "gemini.generate": "gemini.GenerateTally",
    "gemini.embed": "gemini.GenerateTally",
    "gemini.images": "gemini.GenerateTally",
    "gemini.interactions": "interactions.InteractionsTally",
    "bedrock.converse": "bedrock.ConverseTally",
    "bedrock.invoke": "bedrock.InvokeTally",
    "cohere.chat": "cohere.CohereTally",
    "cohere.embed": "cohere.CohereTally",
    "cohere.rerank": "cohere.CohereTally",
    "ollama.chat": "ollama.OllamaTally",
    "ollama.generate": "ollama.OllamaTally",
    "ollama.embed": "ollama.OllamaTally",
    "mistral.conversations": "mistral.ConversationsTally",
    "mistral.ocr": "mistral.OcrTally",
    "watsonx.generation": "watsonx.WatsonxTally",
    "watsonx.embed": "watsonx.WatsonxTally",
    "cloudflare.run": "cloudflare.RunTally",
    "llamacpp.completion": "llamacpp.CompletionTally",
    "tgi.generate": "tgi.TgiTally",
}
"""The module and the class, by protocol; others report at most a result."""


@cache
def tally_of(protocol: str) -> type[Tally]:
    """The class that adds up responses of a protocol."""
    module, _, name = PLACES.get(protocol, "openai.ResultTally").partition(".")
    found: type[Tally] = getattr(import_module(f"tokenmeter.wire.{module}"), name)
    return found
