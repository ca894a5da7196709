"""Text Generation Inference's own words: counters come only with the details that a caller asks for, or a stream."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from tokenmeter.wire.fields import Fields
from tokenmeter.wire.jsonpick import TAKE, WEIGH, Tree
from tokenmeter.wire.tally import Tally, weigh
from tokenmeter.wire.words import whole


class _Token(msgspec.Struct, gc=False):
    text: Any = None


class _Details(msgspec.Struct, gc=False):
    finish_reason: Any = None
    generated_tokens: Any = None
    input_length: Any = None
    prefill: list[msgspec.Raw] | None = None


class _Answer(msgspec.Struct, gc=False):
    token: _Token | None = None
    generated_text: Any = None
    details: _Details | None = None
    error: Any = None
    error_type: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


class TgiTally(Tally):
    """One answer, whole or token by token; the last event has the whole text again."""

    wanted: ClassVar[Tree] = {
        "token": {"text": WEIGH},
        "generated_text": WEIGH,
        "details": {"finish_reason": TAKE, "generated_tokens": TAKE, "input_length": TAKE},
        "error": TAKE,
        "error_type": TAKE,
    }
    __slots__ = ()

    def read(self, payload: bytes, name: str) -> None:
        answer = _decode(payload)
        self.text_bytes += weigh(answer.generated_text if answer.token is None else answer.token.text)
        if answer.details is not None:
            self._count(answer.details)
        if answer.generated_text is not None or answer.details is not None:
            self.done = True
        if answer.error is not None:
            self.fail(answer.error_type or "error")

    def _count(self, details: _Details) -> None:
        tokens_in = whole(details.input_length)
        if tokens_in is None and details.prefill:
            tokens_in = len(details.prefill)
        counted = {"prompt_token_count": tokens_in, "generation_token_count": whole(details.generated_tokens)}
        self.usage["counted"] = {key: count for key, count in counted.items() if count is not None}
        self.finish_with(0, details.finish_reason)


def ask_generate(fields: Fields) -> dict[str, Any]:
    return {"cap": fields.within("parameters", "max_new_tokens")}
