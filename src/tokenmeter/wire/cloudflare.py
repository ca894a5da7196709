"""Cloudflare's Workers AI under the path of a model: the answer stands in an envelope, events stand alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from tokenmeter.wire.fields import Fields
from tokenmeter.wire.jsonpick import EACH, TAKE, WEIGH, Tree
from tokenmeter.wire.tally import Tally, weigh

_decode = msgspec.json.Decoder(dict[str, Any]).decode

_ANSWER: Tree = {
    "response": WEIGH,
    "usage": TAKE,
    "tool_calls": WEIGH,
    "choices": {EACH: {"finish_reason": TAKE, "message": {"content": WEIGH}, "delta": {"content": WEIGH}}},
}


class RunTally(Tally):
    """One answer of whatever model it is; those without a usage are many."""

    wanted: ClassVar[Tree] = {**_ANSWER, "result": _ANSWER, "errors": TAKE}
    __slots__ = ()

    def read(self, payload: bytes, name: str) -> None:
        body = _decode(payload)
        result = body.get("result")
        self._take(result if type(result) is dict else body)
        if type(errors := body.get("errors")) is list and errors:
            self.fail(errors[0])

    def _take(self, answer: Mapping[str, Any]) -> None:
        if type(usage := answer.get("usage")) is dict and usage:
            self.usage["result"] = {"usage": usage}
            self.usage["usage"] = usage
        self.text_bytes += weigh(answer.get("response")) + weigh(answer.get("tool_calls"))
        choices = answer.get("choices")
        for index, choice in enumerate(choices if type(choices) is list else ()):
            if type(choice) is dict:
                said = choice.get("message") or choice.get("delta")
                self.text_bytes += weigh(said.get("content")) if type(said) is dict else 0
                self.finish_with(index, choice.get("finish_reason"))


def ask_run(fields: Fields) -> dict[str, Any]:
    if fields.route.operation == "embeddings":
        return {"cap": 0}
    return {
        "media": (("messages", "image"), (b'_url"',)),
        "cap": fields.get("max_tokens"),
        "tools": fields.given("tools", "response_format"),
    }
