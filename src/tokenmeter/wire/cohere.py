"""Cohere's own protocol: chat, embed and rerank, of version 1 and 2."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from tokenmeter.wire.fields import Fields, count
from tokenmeter.wire.jsonpick import EACH, TAKE, WEIGH, Tree
from tokenmeter.wire.tally import Tally, weigh
from tokenmeter.wire.words import number


class _Answer(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    generation_id: Any = None
    finish_reason: Any = None
    usage: Any = None
    meta: Any = None
    text: Any = None


class _Event(_Answer, gc=False):
    type: Any = None  # version 2
    event_type: Any = None  # version 1
    delta: Any = None
    message: Any = None
    response: _Answer | None = None


_decode = msgspec.json.Decoder(_Event).decode

_ANSWER: Tree = {
    "id": TAKE,
    "model": TAKE,
    "generation_id": TAKE,
    "finish_reason": TAKE,
    "usage": TAKE,
    "meta": TAKE,
    "text": WEIGH,
}


class CohereTally(Tally):
    """Version 2 reports tokens under ``usage``, version 1 billed units under ``meta``."""

    wanted: ClassVar[Tree] = {
        **_ANSWER,
        "type": TAKE,
        "event_type": TAKE,
        "response": _ANSWER,
        "delta": {
            "finish_reason": TAKE,
            "usage": TAKE,
            "message": {"content": {"text": WEIGH, "thinking": WEIGH}, "tool_plan": WEIGH, "tool_calls": WEIGH},
        },
        "message": {"content": {EACH: {"text": WEIGH, "thinking": WEIGH}}},
    }
    wanted_loosely = ("id", "generation_id", "usage", "meta")
    __slots__ = ()

    def read(self, payload: bytes, name: str) -> None:
        event = _decode(payload)
        self._take(event)
        if event.response is not None:  # the stream's end of version 1 repeats the text
            before = self.text_bytes
            self._take(event.response)
            self.text_bytes = before or self.text_bytes
        delta = event.delta
        if type(delta) is dict:
            self.finish_with(0, delta.get("finish_reason"))
            if type(usage := delta.get("usage")) is dict and usage:
                self.usage["usage"] = usage
            self.text_bytes += _said(delta.get("message"))
            if event.type == "message-end" and delta.get("error"):
                self.fail(delta["error"])
        elif type(event.message) is dict:
            self.text_bytes += _said(event.message)
        if event.type == "message-end" or event.event_type == "stream-end":
            self.done = True
        if event.type == "error" or name == "error":
            self.fail("error")

    def read_loosely(self, fields: Any) -> None:
        self.take_identity(fields.get("id") or fields.get("generation_id"), None)
        for key in ("usage", "meta"):
            if type(fields.get(key)) is dict:
                self.usage[key] = fields[key]

    def _take(self, answer: _Answer) -> None:
        self.take_identity(answer.id or answer.generation_id, answer.model)
        self.finish_with(0, answer.finish_reason)
        if type(answer.usage) is dict and answer.usage:
            self.usage["usage"] = answer.usage
        if type(answer.meta) is dict and answer.meta:
            self.usage["meta"] = _with_pictures(answer.meta)
        self.text_bytes += weigh(answer.text)


def _with_pictures(meta: dict[str, Any]) -> dict[str, Any]:
    """Tokens of pictures that are embedded stand beside those of text; the input is both."""
    billed = meta.get("billed_units")
    pictures = number(billed, "image_tokens")
    if not pictures:
        return meta
    whole = pictures + (number(billed, "input_tokens") or 0)
    return {**meta, "billed_units": {**meta["billed_units"], "input_tokens": whole}}


def _said(message: Any) -> int:
    if type(message) is not dict:
        return 0
    total = weigh(message.get("tool_plan"))
    content = message.get("content")
    for block in content if type(content) is list else (content,):
        if type(block) is dict:
            total += weigh(block.get("text")) + weigh(block.get("thinking"))
        else:
            total += weigh(block)
    calls = message.get("tool_calls")
    for call in calls if type(calls) is list else (calls,):
        if type(call) is dict:
            total += weigh(call.get("function"))
    return total


def ask_chat(fields: Fields) -> dict[str, Any]:
    return {
        "media": (("messages",), (b'_url"',)),
        "cap": fields.get("max_tokens"),
        "choices": count(fields.get("num_generations")),
        "tools": fields.given("tools")
        or (fields.given("response_format") and fields.within("response_format", "type") != "text"),
        "server_tools": fields.given("connectors"),
        "server_state": fields.given("conversation_id"),
    }
