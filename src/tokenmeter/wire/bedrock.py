"""Bedrock: converse, which speaks one language for all models, and invoke, which speaks each model's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec

from tokenmeter.wire import eventstream  # noqa: F401 - its frames come with it
from tokenmeter.wire.anthropic import METRICS, MessagesTally, ask_messages, with_beside
from tokenmeter.wire.fields import Fields, count, largest, metadata, no_answer, tier
from tokenmeter.wire.jsonpick import EACH, TAKE, WEIGH, Tree
from tokenmeter.wire.openai import ChatTally
from tokenmeter.wire.tally import Tally, weigh
from tokenmeter.wire.types import Route
from tokenmeter.wire.words import number

_decode = msgspec.json.Decoder(dict[str, Any]).decode

_GUARDED = "amazon-bedrock-guardrailAction"

_BLOCKS: Tree = {
    EACH: {"text": WEIGH, "toolUse": {"input": WEIGH}, "reasoningContent": {"reasoningText": {"text": WEIGH}}}
}
_CONVERSE: Tree = {
    "usage": TAKE,
    "metrics": TAKE,
    "stopReason": TAKE,
    "serviceTier": TAKE,
    "output": {"message": {"content": _BLOCKS}},
    "delta": {"text": WEIGH, "toolUse": {"input": WEIGH}, "reasoningContent": {"text": WEIGH}},
    "message": TAKE,
}


class ConverseTally(Tally):
    """Converse and converse-stream; the frames of the stream bear names, the bodies don't."""

    wanted: ClassVar[Tree] = _CONVERSE
    __slots__ = ("_metered", "_stopped")

    def __init__(self, route: Route) -> None:
        super().__init__(route)
        self._metered = False
        self._stopped = False

    def read(self, payload: bytes, name: str) -> None:
        self.take_fields(_decode(payload), name)

    def take_fields(self, fields: Mapping[str, Any], name: str) -> None:
        """One decoded body or event."""
        if name.endswith(("Exception", "Error")):
            self.fail(name)
            return
        delta = fields.get("delta")
        if type(delta) is dict:
            for key in ("text", "toolUse", "reasoningContent"):
                self.text_bytes += _words(delta.get(key))
        output = fields.get("output")
        if type(output) is dict and type(output.get("message")) is dict:
            for block in output["message"].get("content") or ():
                if type(block) is dict:
                    self.text_bytes += weigh(block.get("text")) + weigh(block.get("reasoningContent"))
                    if "toolUse" in block:
                        self.text_bytes += len(msgspec.json.encode(block["toolUse"]))
        if fields.get("stopReason") is not None:
            self.finish_with(0, fields["stopReason"])
            self._stopped = True
        usage = fields.get("usage")
        if type(usage) is dict and usage:
            self.usage["usage"] = _as_converse_counts(usage, self.route.model or "")
            self._metered = True
        tier = fields.get("serviceTier")
        if type(tier) is dict:
            self.take_tier(tier.get("type"))

    def read_loosely(self, fields: Mapping[str, Any]) -> None:
        self.take_fields(fields, "")

    @property
    def ended(self) -> bool:
        """messageStop, and the metadata that follow it."""
        return self._stopped and self._metered


class InvokeTally(Tally):
    """Invoke: whatever the model's maker chose to answer. Read by its shape, event by event."""

    wanted: ClassVar[Tree] = {
        **_CONVERSE,
        **ChatTally.wanted,
        **MessagesTally.wanted,
        "messageStart": TAKE,
        "messageStop": TAKE,
        "contentBlockDelta": {"delta": _CONVERSE["delta"]},
        "metadata": TAKE,
        "output": {"message": {"content": _BLOCKS}},
        "results": {EACH: {"tokenCount": TAKE, "completionReason": TAKE, "outputText": WEIGH}},
        "outputs": {EACH: {"text": WEIGH, "stop_reason": TAKE}},
        "inputTextTokenCount": TAKE,
        "totalOutputTextTokenCount": TAKE,
        "prompt_token_count": TAKE,
        "generation_token_count": TAKE,
        "generation": WEIGH,
        "outputText": WEIGH,
        "text": WEIGH,
        "completionReason": TAKE,
        "finish_reason": TAKE,
        "is_finished": TAKE,
        "meta": TAKE,
        _GUARDED: TAKE,
    }
    __slots__ = ("_chat", "_converse", "_messages")

    def __init__(self, route: Route) -> None:
        super().__init__(route)
        self._messages = MessagesTally(route)
        self._chat = ChatTally(route)
        self._converse = ConverseTally(route)
        for part in (self._messages, self._chat, self._converse):
            part.usage = self.usage

    def read(self, payload: bytes, name: str) -> None:
        if name.endswith(("Exception", "Error")):
            self.fail(name)
            return
        fields = _decode(payload)
        kind = fields.get("type")
        if type(kind) is str and kind.startswith(("message", "content_block", "error", "ping")):
            self._messages.read(payload, name)
        elif "choices" in fields:
            self._chat.read(payload, name)
        else:
            self._take_others(fields)
        if type(metrics := fields.get(METRICS)) is dict:
            self.usage["counted"] = {**self.usage.get("counted", {}), **metrics}
            self.done = True
        if _GUARDED in fields and "totalOutputTextTokenCount" in fields:
            self.done = True  # a blocked answer is one event, without metrics

    def _take_others(self, fields: Mapping[str, Any]) -> None:
        self.take_identity(fields.get("id") or fields.get("response_id"), fields.get("model"))
        for key in ("contentBlockDelta", "messageStop", "metadata"):  # Nova's events stand one level deeper
            if type(inner := fields.get(key)) is dict:
                self._converse.take_fields(inner, "")
        self._converse.take_fields(fields, "")
        if type(meta := fields.get("meta")) is dict:
            self.usage["meta"] = meta
        counted = {key: fields[key] for key in _COUNTED if fields.get(key) is not None}
        if counted:
            self.usage["counted"] = {**self.usage.get("counted", {}), **counted}
        for key in ("generation", "outputText", "text", "completion"):
            self.text_bytes += weigh(fields.get(key))
        for key in ("stop_reason", "finish_reason", "completionReason"):
            self.finish_with(0, fields.get(key))
        for key in ("outputs", "results"):
            items = fields.get(key)
            for index, item in enumerate(items if type(items) is list else ()):
                if type(item) is dict:
                    self.text_bytes += weigh(item.get("text")) + weigh(item.get("outputText"))
                    self.finish_with(index, item.get("stop_reason") or item.get("completionReason"))

    def reading(self, *, body_bytes: int, complete: bool) -> Any:
        for part in (self._messages, self._chat, self._converse):
            self.text_bytes += part.text_bytes
            part.text_bytes = 0
            self.take_identity(part.response_id, part.model)
            for index, reason in part.finishes.items():
                self.finish_with(index, reason)
            self.failed = self.failed or part.failed
            self.context |= part.context
        return with_beside(super().reading(body_bytes=body_bytes, complete=complete), self)

    @property
    def ended(self) -> bool:
        """The metrics that Bedrock puts into the last event, or the model's own end."""
        parts = (self._messages, self._chat, self._converse)
        return self.done or any(part.ended for part in parts)


_COUNTED = (
    "inputTextTokenCount",
    "totalOutputTextTokenCount",
    "prompt_token_count",
    "generation_token_count",
    "results",
)


def _as_converse_counts(usage: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    """A usage in converse's own words, in which the input leaves out what was cached."""
    for short, long in _NOVA_NAMES:  # what Nova calls it in an invoke
        if short not in usage and long in usage:
            usage = {**usage, short: usage[long]}
    if "openai." in model:  # its input is the whole
        tokens_in, cached = number(usage, "inputTokens"), sum(number(usage, short) or 0 for short, _ in _NOVA_NAMES)
        if tokens_in is not None and tokens_in >= cached > 0:
            usage = {**usage, "inputTokens": tokens_in - cached}
    return usage


_NOVA_NAMES = (
    ("cacheReadInputTokens", "cacheReadInputTokenCount"),
    ("cacheWriteInputTokens", "cacheWriteInputTokenCount"),
)


def _words(value: Any) -> int:
    """Bytes of text and arguments in a delta; identifiers and signatures are no text."""
    if type(value) is dict:
        return sum(weigh(value.get(key)) for key in ("text", "input", "reasoningText"))
    return weigh(value)


def ask_converse(fields: Fields) -> dict[str, Any]:
    model = fields.route.model or ""
    return {
        "media": (("messages", "system"), (b'"source"',)),
        "cap": largest(
            fields.within("inferenceConfig", "maxTokens"), fields.within("inferenceConfig", "max_new_tokens")
        ),
        "tools": fields.given("toolConfig", "outputConfig"),
        "server_tools": b'"systemTool"' in fields.body,
        "server_state": ":prompt/" in model,
        "metadata": metadata(fields.get("requestMetadata")),
        "price_context": tier(fields.within("serviceTier", "type")),
    }


def ask_invoke(fields: Fields) -> dict[str, Any]:
    if fields.route.operation == "embeddings":
        return {**no_answer(fields), "media": ()}
    if "anthropic_version" in fields.raw:
        return ask_messages(fields)
    if "inferenceConfig" in fields.raw or "schemaVersion" in fields.raw:
        return ask_converse(fields)
    return {
        "media": (("messages",), (b'_url"', b'"source"')),
        "cap": largest(
            *(fields.get(name) for name in _INVOKE_CAPS),
            fields.within("textGenerationConfig", "maxTokenCount"),
        ),
        "choices": count(fields.get("n", "num_generations", "numResults")),
        "tools": fields.given("tools", "response_format"),
    }


_INVOKE_CAPS: Final = ("max_completion_tokens", "max_tokens", "max_gen_len", "maxTokens", "max_tokens_to_sample")
