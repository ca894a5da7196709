"""llama.cpp's own completion: the last event, or each answer of several prompts, carries the counters."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from tokenmeter.wire.fields import Fields
from tokenmeter.wire.jsonpick import TAKE, WEIGH, Tree
from tokenmeter.wire.tally import Tally, weigh
from tokenmeter.wire.types import Route
from tokenmeter.wire.words import whole


class _Answer(msgspec.Struct, gc=False):
    index: Any = 0
    content: Any = None
    model: Any = None
    stop: Any = None
    stop_type: Any = None
    tokens_evaluated: Any = None
    tokens_predicted: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


class CompletionTally(Tally):
    """One answer a prompt; the counters of a stream grow."""

    wanted: ClassVar[Tree] = {
        "index": TAKE,
        "content": WEIGH,
        "model": TAKE,
        "stop": TAKE,
        "stop_type": TAKE,
        "tokens_evaluated": TAKE,
        "tokens_predicted": TAKE,
        "error": TAKE,
    }
    __slots__ = ("_counters",)

    def __init__(self, route: Route) -> None:
        super().__init__(route)
        self._counters: dict[Any, dict[str, int]] = {}  # by prompt

    def read(self, payload: bytes, name: str) -> None:
        answer = _decode(payload)
        self.take_identity(None, answer.model)
        self.text_bytes += weigh(answer.content)
        self._count(answer, "prompt_eval_count", whole(answer.tokens_evaluated))
        self._count(answer, "eval_count", whole(answer.tokens_predicted))
        if answer.stop is True:
            self.done = True
            self.finish_with(answer.index, answer.stop_type if type(answer.stop_type) is str else "stop")
        if answer.error is not None:
            self.fail(answer.error)

    def _count(self, answer: _Answer, name: str, count: int | None) -> None:
        index = answer.index if type(answer.index) is int and 0 <= answer.index < _MOST_PROMPTS else 0
        if count is None:
            return
        counters = self._counters.setdefault(index, {})
        counters[name] = max(count, counters.get(name, 0))
        self.usage["counted"] = {
            key: sum(each.get(key, 0) for each in self._counters.values())
            for key in ("prompt_eval_count", "eval_count")
        }


_MOST_PROMPTS = 1024


def ask_completion(fields: Fields) -> dict[str, Any]:
    prompt = fields.get("prompt")
    several = type(prompt) is list and bool(prompt) and all(type(each) is not int for each in prompt)
    return {"cap": fields.get("n_predict"), "choices": len(prompt) if several else 1}
