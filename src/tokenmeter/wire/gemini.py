"""Gemini's generateContent and its embeddings, on AI Studio and on Vertex AI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec

from tokenmeter.wire.fields import Fields, count, largest, metadata, tier
from tokenmeter.wire.jsonpick import EACH, TAKE, WEIGH, Tree
from tokenmeter.wire.tally import UNREADABLE, Tally, weigh, with_counts
from tokenmeter.wire.types import Reading, Route
from tokenmeter.wire.words import whole


class _Grounding(msgspec.Struct, gc=False, rename="camel"):
    web_search_queries: Any = None


class _Candidate(msgspec.Struct, gc=False, rename="camel"):
    index: Any = 0
    content: Any = None
    finish_reason: Any = None
    grounding_metadata: _Grounding | None = None


class _Chunk(msgspec.Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    usage_metadata: Any = None
    model_version: Any = None
    response_id: Any = None
    prompt_feedback: Any = None
    error: Any = None
    predictions: msgspec.Raw = msgspec.Raw()


class _Statistics(msgspec.Struct, gc=False):
    token_count: Any = None


class _Embedding(msgspec.Struct, gc=False):
    statistics: _Statistics | None = None


class _Prediction(msgspec.Struct, gc=False):
    embeddings: _Embedding | None = None


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_predictions = msgspec.json.Decoder(list[_Prediction]).decode
_MOST_QUERIES: Final = 256
_QUERY_CHARS: Final = 512
_SEARCHES_ONCE: Final = ("gemini-1", "gemini-2")  # billed once for a prompt, later ones for each of their queries
_SERVED = {"ON_DEMAND_FLEX": "flex", "ON_DEMAND_PRIORITY": "priority"}


class GenerateTally(Tally):
    """One answer, whole or in chunks.

    The last usage that states a total stands for the whole answer, also where it leaves a field out that an
    earlier one had; of a stream that was cut, the last value of every field counts.
    """

    wanted: ClassVar[Tree] = {
        "candidates": {
            EACH: {
                "index": TAKE,
                "finishReason": TAKE,
                "groundingMetadata": {"webSearchQueries": TAKE},
                "content": {"parts": {EACH: {"text": WEIGH, "functionCall": WEIGH, "executableCode": WEIGH}}},
            }
        },
        "usageMetadata": TAKE,
        "modelVersion": TAKE,
        "responseId": TAKE,
        "promptFeedback": TAKE,
        "error": TAKE,
        "predictions": {EACH: {"embeddings": {"statistics": TAKE}}},
    }
    wanted_loosely = ("usageMetadata", "modelVersion", "responseId", "error")
    __slots__ = ("_queries", "_seen")

    def __init__(self, route: Route) -> None:
        super().__init__(route)
        self._seen: dict[str, Any] = {}  # every field's last value
        self._queries: set[str] = set()

    def read(self, payload: bytes, name: str) -> None:
        chunk = _decode(payload)
        for candidate in chunk.candidates or ():
            if type(candidate.content) is dict:
                self.text_bytes += _said(candidate.content)
            if candidate.finish_reason is not None:
                self.finish_with(candidate.index, candidate.finish_reason)
            if candidate.grounding_metadata is not None:
                self._take_queries(candidate.grounding_metadata.web_search_queries)
        if type(chunk.prompt_feedback) is dict and "blockReason" in chunk.prompt_feedback:
            self.finish_with(0, chunk.prompt_feedback["blockReason"])
        self._take(chunk.response_id, chunk.model_version, chunk.usage_metadata)
        if chunk.error is not None:
            self.fail(chunk.error)
        if len(chunk.predictions):
            self._take_predictions(chunk.predictions)

    def read_loosely(self, fields: Any) -> None:
        self._take(fields.get("responseId"), fields.get("modelVersion"), fields.get("usageMetadata"))
        if error := fields.get("error"):
            self.fail(error)

    def _take(self, response_id: Any, model: Any, usage: Any) -> None:
        self.take_identity(response_id, model)
        if type(usage) is dict and usage:
            if "promptTokenDetails" in usage:  # what embeddings call it
                usage = {"promptTokensDetails": usage["promptTokenDetails"], **usage}
            self._seen |= usage
            before = {} if "totalTokenCount" in usage else self.usage.get("usageMetadata", {})
            self.usage["usageMetadata"] = {**before, **usage}
            self.take_tier(usage.get("serviceTier"))
            if type(traffic := usage.get("trafficType")) is str and traffic in _SERVED:
                self.take_tier(_SERVED[traffic])

    def _take_predictions(self, raw: msgspec.Raw) -> None:
        tokens = 0
        for prediction in _decode_predictions(raw):
            if prediction.embeddings is not None and prediction.embeddings.statistics is not None:
                tokens += whole(prediction.embeddings.statistics.token_count) or 0
        if tokens:
            self.usage["predictions"] = {"token_count": tokens}

    def _take_queries(self, queries: Any) -> None:
        for query in queries if type(queries) is list else ():
            if type(query) is str and query and len(self._queries) < _MOST_QUERIES:
                self._queries.add(query[:_QUERY_CHARS])

    def reading(self, *, body_bytes: int, complete: bool) -> Reading:
        reading = super().reading(body_bytes=body_bytes, complete=complete)
        searches = len(self._queries)
        if (reading.model or self.route.model or "").startswith(_SEARCHES_ONCE):
            searches = min(searches, 1)
        return with_counts(reading, {"web_searches": searches})

    def document(self) -> Mapping[str, Any]:
        if self._seen and not self.finishes:
            return {**self.usage, "usageMetadata": self._seen}
        return self.usage

    @property
    def ended(self) -> bool:
        """There is no end mark: the candidates have said why they stopped."""
        return bool(self.finishes)


def _said(content: dict[str, Any]) -> int:
    parts = content.get("parts")
    total = 0
    for part in parts if type(parts) is list else ():
        if type(part) is dict:
            for key in ("text", "executableCode"):
                total += weigh(part.get(key))
            if "functionCall" in part:
                total += len(msgspec.json.encode(part["functionCall"]))
    return total


_as_keys = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode


def ask_generate(fields: Fields) -> dict[str, Any]:
    config = fields.get("generationConfig", "generation_config")
    config = config if type(config) is dict else {}
    try:
        tools = _as_keys(fields.raw["tools"]) if "tools" in fields.raw else []
    except UNREADABLE:
        tools = []
    schema = any(key in config for key in ("responseSchema", "responseJsonSchema", "response_schema"))
    return {
        "media": (("contents", "systemInstruction"), (b'Data"', b'_data"')),
        "cap": largest(config.get("maxOutputTokens"), config.get("max_output_tokens")),
        "choices": count(config.get("candidateCount") or config.get("candidate_count")),
        "tools": bool(tools) or schema,
        "server_tools": any(key not in _CLIENT_TOOLS for tool in tools for key in tool),
        "server_state": fields.given("cachedContent", "cached_content"),
        "metadata": metadata(fields.get("labels")),
        "price_context": tier(fields.get("serviceTier", "service_tier")),
    }


_CLIENT_TOOLS: Final = frozenset({"functionDeclarations", "function_declarations", "computerUse", "computer_use"})
