"""OpenAI's Responses API: whole objects, and events of which the last carries the object again."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from tokenmeter.wire.fields import Fields, metadata, tier
from tokenmeter.wire.jsonpick import EACH, TAKE, WEIGH, Tree
from tokenmeter.wire.openai import runs_tools
from tokenmeter.wire.tally import PENDING, Tally, weigh


class _Response(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    status: Any = None
    usage: Any = None
    service_tier: Any = None
    error: Any = None
    incomplete_details: Any = None
    background: Any = None


class _Event(msgspec.Struct, gc=False):
    type: Any = None
    delta: Any = None
    response: _Response | None = None
    error: Any = None
    code: Any = None


class _Body(_Response, gc=False):
    output: Any = None
    object: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_many = msgspec.json.Decoder(list[_Event]).decode
_decode_body = msgspec.json.Decoder(_Body).decode

_RESPONSE: Tree = {
    "id": TAKE,
    "model": TAKE,
    "status": TAKE,
    "usage": TAKE,
    "service_tier": TAKE,
    "error": TAKE,
    "incomplete_details": TAKE,
    "background": TAKE,
}
_ENDS = frozenset({"response.completed", "response.failed", "response.incomplete", "response.done"})
_FINAL = frozenset({"completed", "failed", "incomplete", "cancelled"})


class ResponsesTally(Tally):
    """One response object, whole or in events."""

    wanted: ClassVar[Tree] = {
        **_RESPONSE,
        "type": TAKE,
        "delta": WEIGH,
        "code": TAKE,
        "response": _RESPONSE,
        "output": {EACH: {"content": {EACH: {"text": WEIGH}}, "arguments": WEIGH}},
    }
    needs_names = False
    __slots__ = ()

    def read(self, payload: bytes, name: str) -> None:
        event = _decode_event(payload)
        if type(event.type) is str:
            self._take_event(event, event.type)
        else:
            self._read_body(payload)

    def read_many(self, array: bytes, number: int) -> bool:
        events = _decode_many(array)
        if len(events) != number or any(type(event.type) is not str for event in events):
            return False
        for event in events:
            self._take_event(event, event.type)
        return True

    def _take_event(self, event: _Event, kind: str) -> None:
        if event.delta is not None and kind.endswith(".delta"):
            delta = event.delta
            self.text_bytes += len(delta) if type(delta) is str and delta.isascii() else weigh(delta)
            return
        if event.response is not None:
            self._take(event.response)
        if kind in _ENDS:
            self.done = True
            if kind == "response.failed" and self.failed is None:
                self.fail("failed")
        elif kind == "error":
            self.fail(event.error if event.error is not None else event.code)

    def _read_body(self, payload: bytes) -> None:
        body = _decode_body(payload)
        self._take(body)
        self.pending = body.status in PENDING
        if type(body.output) is list:
            for item in body.output:
                if type(item) is dict:
                    self.text_bytes += weigh(item.get("content")) + weigh(item.get("summary"))
                    self.text_bytes += weigh(item.get("name")) + weigh(item.get("arguments"))

    def _take(self, response: _Response) -> None:
        self.take_identity(response.id, response.model)
        if type(response.usage) is dict and response.usage:
            self.usage["usage"] = response.usage
        self.take_tier(response.service_tier)
        if response.error is not None:
            self.fail(response.error)
        status = response.status
        self.pending = response.background is True and status in PENDING  # else it ends with its stream
        if type(status) is str and status in _FINAL:
            reason = None
            if type(response.incomplete_details) is dict:
                reason = response.incomplete_details.get("reason")
            self.finish_with(0, reason or status)
            if status == "failed" and self.failed is None:
                self.fail("failed")


def ask_responses(fields: Fields) -> dict[str, Any]:
    previous = fields.string("previous_response_id")
    return {
        "media": (
            ("input",),
            (b'"input_image"', b'"input_file"', b'"input_audio"', b'"computer_screenshot"'),
        ),
        "cap": fields.get("max_output_tokens"),
        "tools": fields.given("tools")
        or b'"additional_tools"' in fields.body
        or (fields.given("text") and fields.within("text", "format", "type") not in (None, "text")),
        # a mode such as "pro" works through the input more than once at the provider, and bills each time
        "server_tools": runs_tools(fields)
        or fields.given("plugins")
        or fields.within("reasoning", "mode") not in (None, "standard"),
        "previous_response_id": previous,
        "server_state": previous is not None
        or fields.given("conversation", "prompt")
        or b'"item_reference"' in fields.body,
        "user": fields.string("user", "safety_identifier"),
        "metadata": metadata(fields.get("metadata")),
        "price_context": tier(fields.get("service_tier")),
    }
