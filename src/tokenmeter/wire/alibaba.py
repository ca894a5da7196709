"""DashScope's own words: what is generated stands in an output, and events tell the usage so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from tokenmeter.wire.fields import Fields, count
from tokenmeter.wire.jsonpick import EACH, TAKE, WEIGH, Tree
from tokenmeter.wire.tally import Tally, weigh


class _Choice(msgspec.Struct, gc=False):
    message: Any = None
    finish_reason: Any = None


class _Output(msgspec.Struct, gc=False):
    text: Any = None
    finish_reason: Any = None
    choices: list[_Choice] | None = None


class _Answer(msgspec.Struct, gc=False):
    request_id: Any = None
    output: _Output | None = None
    usage: Any = None
    code: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


class GenerationTally(Tally):
    """One answer, whole or in events; of a stream that repeats what it said, the text is counted too often."""

    wanted: ClassVar[Tree] = {
        "request_id": TAKE,
        "usage": TAKE,
        "code": TAKE,
        "output": {
            "text": WEIGH,
            "finish_reason": TAKE,
            "choices": {
                EACH: {
                    "finish_reason": TAKE,
                    "message": {"content": WEIGH, "reasoning_content": WEIGH, "tool_calls": WEIGH},
                }
            },
        },
    }
    wanted_loosely = ("request_id", "usage", "code")
    __slots__ = ()

    def read(self, payload: bytes, name: str) -> None:
        answer = _decode(payload)
        self._take(answer.request_id, answer.usage, answer.code)
        if answer.output is not None:
            self.text_bytes += weigh(answer.output.text)
            self._end(0, answer.output.finish_reason)
            for index, choice in enumerate(answer.output.choices or ()):
                if type(choice.message) is dict:
                    self.text_bytes += sum(weigh(choice.message.get(key)) for key in _SAID)
                self._end(index, choice.finish_reason)

    def read_loosely(self, fields: Mapping[str, Any]) -> None:
        self._take(fields.get("request_id"), fields.get("usage"), fields.get("code"))

    def _take(self, request_id: Any, usage: Any, code: Any) -> None:
        self.take_identity(request_id, None)
        if type(usage) is dict and usage:
            self.usage["usage"] = _as_counts(usage)
        if code:
            self.fail(code)

    def _end(self, index: int, reason: Any) -> None:
        if reason != "null":  # what it says on the way
            self.finish_with(index, reason)

    @property
    def ended(self) -> bool:
        """There is no end mark: the last event says why it stopped."""
        return bool(self.finishes)


_SAID = ("content", "reasoning_content", "tool_calls")


def _as_counts(usage: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its own names for input and output, OpenAI's older ones for what of it was cached."""
    cached = usage.get("prompt_tokens_details")
    if type(cached) is not dict:
        return usage
    details = usage.get("input_tokens_details")
    details = {**details, **cached} if type(details) is dict else dict(cached)
    details.setdefault("cache_write_tokens", details.get("cache_creation_input_tokens"))
    return {**usage, "input_tokens_details": details}


def ask_generation(fields: Fields) -> dict[str, Any]:
    parameters = fields.get("parameters")
    parameters = parameters if type(parameters) is dict else {}
    return {
        "cap": parameters.get("max_tokens"),
        "choices": count(parameters.get("n")),
        "tools": bool(parameters.get("tools") or parameters.get("response_format")),
        "server_tools": bool(parameters.get("enable_search")) or any(kind in fields.body for kind in _MEDIA),
    }


_MEDIA = (b'"image"', b'"video"', b'"audio"', b'"file"')
