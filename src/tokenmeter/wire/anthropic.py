"""Anthropic's messages, direct or through another house: whole, or message_start to message_stop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

import msgspec

from tokenmeter.usage import Usage
from tokenmeter.wire.fields import Fields, as_typed, text, tier
from tokenmeter.wire.jsonpick import EACH, TAKE, WEIGH, Tree
from tokenmeter.wire.tally import UNREADABLE, Tally, weigh
from tokenmeter.wire.types import Beside, Reading
from tokenmeter.wire.usage import counts
from tokenmeter.wire.words import number

METRICS = "amazon-bedrock-invocationMetrics"
_WRITTEN = "cache_creation_input_tokens"
_CACHED = ("cache_read_input_tokens", _WRITTEN)


class _Delta(msgspec.Struct, gc=False):
    text: Any = None
    thinking: Any = None
    partial_json: Any = None
    content: Any = None  # of a compaction
    stop_reason: Any = None


class _Message(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    usage: Any = None


class _Event(msgspec.Struct, gc=False):
    type: Any = None
    delta: _Delta | None = None
    message: _Message | None = None
    usage: Any = None
    error: Any = None
    metrics: Any = msgspec.field(default=None, name=METRICS)


class _Body(_Message, gc=False):
    content: Any = None
    stop_reason: Any = None


class _Piece(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    completion: Any = None
    stop_reason: Any = None
    error: Any = None


_decode_piece = msgspec.json.Decoder(_Piece).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_many = msgspec.json.Decoder(list[_Event]).decode
_decode_body = msgspec.json.Decoder(_Body).decode


def with_beside(reading: Reading, tally: Tally) -> Reading:
    """``reading`` with the work of other passes, which the usage lists and doesn't add up.

    Those that it adds up are listed as messages. Where another model stepped in, they are that model's: what the
    declined one had said by then stands beside them, and what it declined at once costs nothing.
    """
    usage = tally.usage.get("usage")
    iterations = usage.get("iterations") if type(usage) is dict else None
    if type(iterations) is not list:
        return reading
    route, beside = tally.route, []
    passes = [each for each in iterations if type(each) is dict]
    served = next((text(each.get("model")) for each in passes if each.get("type") == "fallback_message"), None)
    for each in passes:
        kind, model = each.get("type"), text(each.get("model"))
        declined = kind == "message" and None not in (served, model) and model != served
        if kind in _BESIDE or (declined and number(each, "output_tokens")):
            found = counts(route.price_provider, route.protocol, {"usage": each})
            if found:
                beside.append(Beside(model, Usage(found)))
    if not beside and served is None:
        return reading
    return msgspec.structs.replace(reading, model=served or reading.model, beside=tuple(beside))


_BESIDE = ("compaction", "advisor_message")


class CompleteTally(Tally):
    """The completions that were before messages: no usage is reported, the text comes piece by piece."""

    wanted: ClassVar[Tree] = {
        "id": TAKE,
        "model": TAKE,
        "completion": WEIGH,
        "stop_reason": TAKE,
        "error": TAKE,
    }
    __slots__ = ()

    def read(self, payload: bytes, name: str) -> None:
        piece = _decode_piece(payload)
        self.take_identity(piece.id, piece.model)
        self.text_bytes += weigh(piece.completion)
        if piece.stop_reason is not None:
            self.finish_with(0, piece.stop_reason)
            self.done = True
        if piece.error is not None:
            self.fail(piece.error)


class MessagesTally(Tally):
    """One message. Counters are cumulative: the later ones win.

    An input never shrinks, unless the later ones tell it apart (a proxy may learn only then what was cached of it) or
    tell the passes: a stream begins with the input of the first, which may be a compaction.
    """

    wanted: ClassVar[Tree] = {
        "type": TAKE,
        "id": TAKE,
        "model": TAKE,
        "usage": TAKE,
        "error": TAKE,
        "stop_reason": TAKE,
        "message": {"id": TAKE, "model": TAKE, "usage": TAKE},
        "delta": {"text": WEIGH, "thinking": WEIGH, "partial_json": WEIGH, "content": WEIGH, "stop_reason": TAKE},
        "content": {EACH: {"text": WEIGH, "thinking": WEIGH, "input": WEIGH}},
        METRICS: TAKE,
    }
    needs_names = False
    __slots__ = ()

    def read(self, payload: bytes, name: str) -> None:
        event = _decode_event(payload)
        self._take((event,))
        if event.type == "message":
            self._read_body(payload)

    def read_many(self, array: bytes, number: int) -> bool:
        events = _decode_many(array)
        if len(events) != number:
            return False
        self._take(events)
        return True

    def _take(self, events: Iterable[_Event]) -> None:
        text_bytes = 0
        for event in events:
            delta = event.delta
            if delta is not None:
                text = delta.text
                if text is None:
                    text = delta.partial_json if delta.partial_json is not None else delta.thinking or delta.content
                if type(text) is str:
                    text_bytes += len(text) if text.isascii() else weigh(text)
                if delta.stop_reason is not None:
                    self.finish_with(0, delta.stop_reason)
                if event.usage is None:
                    continue
            self._take_rare(event)
        self.text_bytes += text_bytes

    def _take_rare(self, event: _Event) -> None:
        if event.message is not None:
            self.take_identity(event.message.id, event.message.model)
            self.merge(event.message.usage)
        if event.usage is not None:
            self.merge(event.usage)
        if event.type == "message_stop":
            self.done = True
        elif event.type == "error" or event.error is not None:
            self.fail(event.error)
        if type(event.metrics) is dict:
            self.usage["counted"] = event.metrics

    def _read_body(self, payload: bytes) -> None:
        body = _decode_body(payload)
        self.take_identity(body.id, body.model)
        self.finish_with(0, body.stop_reason)
        if type(body.content) is list:
            for block in body.content:
                if type(block) is dict:
                    self.text_bytes += weigh(block.get("text")) + weigh(block.get("thinking"))
                    if block.get("type") == "tool_use":
                        self.text_bytes += len(msgspec.json.encode(block.get("input")))

    def reading(self, *, body_bytes: int, complete: bool) -> Reading:
        return with_beside(super().reading(body_bytes=body_bytes, complete=complete), self)

    def merge(self, usage: Any) -> None:
        """Take a usage object over the one before."""
        if type(usage) is not dict or not usage:
            return
        seen: Mapping[str, Any] = self.usage.get("usage") or {}
        merged = {**seen, **{key: value for key, value in usage.items() if value is not None}}
        if usage.get("iterations"):  # all passes are told now, and the first one's input may be none of the usage
            if "cache_creation" not in usage and merged.get(_WRITTEN) != seen.get(_WRITTEN):
                merged.pop("cache_creation", None)
        elif not (number(usage, "input_tokens") and any(number(usage, key) for key in _CACHED)):
            for key in ("input_tokens", *_CACHED):
                before, now = number(seen, key), number(merged, key)
                if before is not None and now is not None and before > now:
                    merged[key] = before
        self.usage["usage"] = merged
        self.take_tier(usage.get("service_tier"))
        if type(speed := usage.get("speed")) is str:
            self.context["speed"] = speed


def ask_messages(fields: Fields) -> dict[str, Any]:
    try:
        kinds = [tool.type for tool in as_typed(fields.raw["tools"])] if "tools" in fields.raw else []
    except UNREADABLE:
        kinds = []
    remote = any(type(kind) is str and not kind.startswith(_CLIENT_TOOLS) for kind in kinds)
    return {
        "media": (("messages", "system"), (b'"source"',)),
        "cap": fields.get("max_tokens"),
        "tools": fields.given("tools", "output_format") or bool(fields.within("output_config", "format")),
        "passes": 1 + _may_compact(fields) + _may_step_in(fields),
        "server_tools": remote or fields.given("mcp_servers"),
        "server_state": fields.given("container"),
        "user": text(fields.within("metadata", "user_id")),
        "price_context": tier(fields.get("service_tier"), fields.get("speed")),
    }


def _may_compact(fields: Fields) -> bool:
    raw = fields.raw.get("context_management")
    return raw is not None and len(fields.body) >= _LEAST_COMPACTED and b'"compact_' in bytes(raw)


def _may_step_in(fields: Fields) -> int:
    """How many other models may answer where one declines; what each had said by then is billed."""
    if not fields.given("fallbacks"):
        return 0
    models = fields.get("fallbacks")
    return len(models) if type(models) is list else 1


_LEAST_COMPACTED: Final = 50_000  # tokens, of which none is less than a byte: the smallest trigger that Anthropic takes
_CLIENT_TOOLS: Final = ("custom", "bash_", "text_editor_", "computer_", "memory_")


def ask_complete(fields: Fields) -> dict[str, Any]:
    return {"cap": fields.get("max_tokens_to_sample"), "user": text(fields.within("metadata", "user_id"))}
