"""Ollama's native protocol: chat, generate and embed; a stream of JSON lines unless told otherwise."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from tokenmeter.wire.fields import Fields
from tokenmeter.wire.jsonpick import TAKE, WEIGH, Tree
from tokenmeter.wire.tally import Tally, weigh


class _Line(msgspec.Struct, gc=False):
    model: Any = None
    message: Any = None
    response: Any = None
    thinking: Any = None
    done: Any = None
    done_reason: Any = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Line).decode


class OllamaTally(Tally):
    """The last line carries the counters; a prompt that was cached whole has none."""

    wanted: ClassVar[Tree] = {
        "model": TAKE,
        "message": {"content": WEIGH, "thinking": WEIGH, "tool_calls": WEIGH},
        "response": WEIGH,
        "thinking": WEIGH,
        "done": TAKE,
        "done_reason": TAKE,
        "prompt_eval_count": TAKE,
        "eval_count": TAKE,
        "error": TAKE,
    }
    wanted_loosely = ("model", "error", "prompt_eval_count", "eval_count")
    __slots__ = ()

    def read(self, payload: bytes, name: str) -> None:
        line = _decode(payload)
        if self.model is None:
            self.take_identity(None, line.model)
        message = line.message
        if type(message) is dict:
            self.text_bytes += weigh(message.get("content")) + weigh(message.get("thinking"))
            if message.get("tool_calls"):
                self.text_bytes += len(msgspec.json.encode(message["tool_calls"]))
        if line.response is not None:
            self.text_bytes += weigh(line.response)
        if line.thinking is not None:
            self.text_bytes += weigh(line.thinking)
        self._count(line.prompt_eval_count, line.eval_count)
        if line.done is True:
            self.done = True
            self.finish_with(0, line.done_reason)
        if line.error is not None:
            self.fail("error" if type(line.error) is str else line.error)

    def read_loosely(self, fields: Any) -> None:
        self.take_identity(None, fields.get("model"))
        self._count(fields.get("prompt_eval_count"), fields.get("eval_count"))
        if fields.get("error"):
            self.fail("error")

    def _count(self, prompt: Any, answer: Any) -> None:
        counted = {"prompt_eval_count": prompt, "eval_count": answer}
        counted = {key: value for key, value in counted.items() if value is not None}
        if counted:
            self.usage["counted"] = {"prompt_eval_count": 0, **self.usage.get("counted", {}), **counted}


def ask_ollama(fields: Fields) -> dict[str, Any]:
    return {
        "media": (("messages", "images"), (b'"images"',)),
        "stream": fields.get("stream") is not False,
        "cap": fields.within("options", "num_predict"),  # negative: without end
        "tools": fields.given("tools", "format"),
    }
