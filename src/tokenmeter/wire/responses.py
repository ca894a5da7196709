"""OpenAI's Responses API: whole objects, and events of which the last carries the object again."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from tokenmeter.usage import Usage
from tokenmeter.wire.fields import Fields, metadata, text, tier
from tokenmeter.wire.jsonpick import EACH, TAKE, WEIGH, Tree
from tokenmeter.wire.openai import runs_tools
from tokenmeter.wire.tally import PENDING, UNREADABLE, Tally, weigh, with_counts
from tokenmeter.wire.types import Beside, Reading, Route
from tokenmeter.wire.usage import counts
from tokenmeter.wire.words import number


class _Response(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    status: Any = None
    usage: Any = None
    service_tier: Any = None
    error: Any = None
    incomplete_details: Any = None
    background: Any = None
    output: Any = None
    tools: msgspec.Raw = msgspec.Raw()
    tool_usage: Any = None


class _Tool(msgspec.Struct, gc=False):
    type: Any = None
    model: Any = None


class _Event(msgspec.Struct, gc=False):
    type: Any = None
    delta: Any = None
    response: _Response | None = None
    error: Any = None
    code: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_many = msgspec.json.Decoder(list[_Event]).decode
_decode_body = msgspec.json.Decoder(_Response).decode
_as_tools = msgspec.json.Decoder(list[_Tool]).decode

_RESPONSE: Tree = {
    "id": TAKE,
    "model": TAKE,
    "status": TAKE,
    "usage": TAKE,
    "service_tier": TAKE,
    "error": TAKE,
    "incomplete_details": TAKE,
    "background": TAKE,
    "tools": {EACH: {"type": TAKE, "model": TAKE}},
    "tool_usage": TAKE,
}
_CALL: Tree = {"type": TAKE, "action": {"type": TAKE}}
_ENDS = frozenset({"response.completed", "response.failed", "response.incomplete", "response.done"})
_FINAL = frozenset({"completed", "failed", "incomplete", "cancelled"})


class ResponsesTally(Tally):
    """One response object, whole or in events. What tools of the provider cost is not in its usage."""

    wanted: ClassVar[Tree] = {
        **_RESPONSE,
        "type": TAKE,
        "delta": WEIGH,
        "code": TAKE,
        "response": {**_RESPONSE, "output": {EACH: _CALL}},
        "output": {EACH: {**_CALL, "content": {EACH: {"text": WEIGH}}, "arguments": WEIGH}},
    }
    needs_names = False
    __slots__ = ("_beside", "_searches")

    def __init__(self, route: Route) -> None:
        super().__init__(route)
        self._searches: dict[str, int] = {}
        self._beside: tuple[Beside, ...] = ()

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
        self._take_tools(response)
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

    def _take_tools(self, response: _Response) -> None:
        usage = response.tool_usage
        searches = number(usage, "web_search", "num_requests")
        if type(response.output) is list and response.output:
            made = [_search(item) for item in response.output]
            if searches is None:  # not every server sums them up
                searches = made.count("web_searches")
            self._searches["storage_searches"] = made.count("storage_searches")
        if searches is not None:
            self._searches["web_searches"] = searches
        if number(usage, "image_gen", "input_tokens") or number(usage, "image_gen", "output_tokens"):
            found = counts(self.route.price_provider, "openai.images", {"usage": usage["image_gen"]})
            self._beside = (Beside(_image_model(response.tools), Usage(found)),) if found else ()

    def reading(self, *, body_bytes: int, complete: bool) -> Reading:
        reading = with_counts(super().reading(body_bytes=body_bytes, complete=complete), self._searches)
        return msgspec.structs.replace(reading, beside=self._beside) if self._beside else reading


def _search(item: Any) -> str | None:
    """Which counter a call among the output adds to. Only a search of the web is billed, not what it opens."""
    if type(item) is not dict:
        return None
    if item.get("type") == "file_search_call":
        return "storage_searches"
    action = item.get("action")
    billed = type(action) is not dict or action.get("type") in (None, "search")
    return "web_searches" if item.get("type") == "web_search_call" and billed else None


def _image_model(tools: msgspec.Raw) -> str | None:
    """Which model draws, as the response tells its tools again."""
    try:
        return next((text(each.model) for each in _as_tools(tools) if each.type == "image_generation"), None)
    except UNREADABLE:
        return None


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
