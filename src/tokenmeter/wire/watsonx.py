"""IBM watsonx' own words: generation, embeddings and reranking. Its chats speak OpenAI's protocol."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from tokenmeter.wire.fields import Fields
from tokenmeter.wire.jsonpick import EACH, TAKE, WEIGH, Tree
from tokenmeter.wire.tally import Tally, weigh
from tokenmeter.wire.words import whole


class _Result(msgspec.Struct, gc=False):
    generated_text: Any = None
    generated_token_count: Any = None
    input_token_count: Any = None
    stop_reason: Any = None


class _Answer(msgspec.Struct, gc=False):
    model_id: Any = None
    results: list[_Result] | None = None
    input_token_count: Any = None
    errors: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


class WatsonxTally(Tally):
    """In a stream, the first event counts the input and the last the whole output."""

    wanted: ClassVar[Tree] = {
        "model_id": TAKE,
        "results": {
            EACH: {
                "generated_text": WEIGH,
                "generated_token_count": TAKE,
                "input_token_count": TAKE,
                "stop_reason": TAKE,
            }
        },
        "input_token_count": TAKE,
        "errors": TAKE,
    }
    __slots__ = ()

    def read(self, payload: bytes, name: str) -> None:
        answer = _decode(payload)
        self.take_identity(None, answer.model_id)
        self._count("prompt_token_count", answer.input_token_count)
        for index, result in enumerate(answer.results or ()):
            self.text_bytes += weigh(result.generated_text)
            self._count("prompt_token_count", result.input_token_count)
            self._count("generation_token_count", result.generated_token_count)
            if result.stop_reason != "not_finished":
                self.finish_with(index, result.stop_reason)
        if type(answer.errors) is list and answer.errors:
            self.fail(answer.errors[0])

    def _count(self, name: str, value: Any) -> None:
        if (count := whole(value)) is not None:
            counted = self.usage.setdefault("counted", {})
            counted[name] = max(count, counted.get(name, 0))

    @property
    def ended(self) -> bool:
        """There is no end mark: the last event says why it stopped."""
        return bool(self.finishes)


def ask_generation(fields: Fields) -> dict[str, Any]:
    return {"cap": fields.within("parameters", "max_new_tokens")}
