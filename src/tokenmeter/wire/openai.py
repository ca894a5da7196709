"""OpenAI's protocol as most of the world speaks it: chat completions, legacy completions, embeddings, images, audio."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec

from tokenmeter.wire.jsonpick import EACH, TAKE, WEIGH, Tree
from tokenmeter.wire.tally import Tally, weigh


class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: Any = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    text: Any = None
    finish_reason: Any = None
    usage: Any = None


class _Chunk(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    choices: list[_Choice] | None = None
    usage: Any = None
    service_tier: Any = None
    error: Any = None
    x_groq: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_many = msgspec.json.Decoder(list[_Chunk]).decode

_SAID: Tree = {
    "content": WEIGH,
    "reasoning_content": WEIGH,
    "reasoning": WEIGH,
    "refusal": WEIGH,
    "tool_calls": {EACH: {"function": {"name": WEIGH, "arguments": WEIGH}}},
    "function_call": WEIGH,
}


class ChatTally(Tally):
    """Chat completions and legacy completions, whole or streamed. The last usage wins."""

    wanted: ClassVar[Tree] = {
        "id": TAKE,
        "model": TAKE,
        "usage": TAKE,
        "service_tier": TAKE,
        "error": TAKE,
        "x_groq": {"usage": TAKE},
        "choices": {
            EACH: {
                "index": TAKE,
                "finish_reason": TAKE,
                "usage": TAKE,
                "delta": _SAID,
                "message": _SAID,
                "text": WEIGH,
            }
        },
    }
    __slots__ = ("_choices", "_tier")

    def __init__(self, route: Any) -> None:
        super().__init__(route)
        self._choices = 0
        self._tier: Any = None

    def read(self, payload: bytes, name: str) -> None:
        chunk = _decode(payload)
        self._take((chunk,))
        if name == "error" and chunk.error is None:
            self.fail("error")

    def read_many(self, array: bytes, number: int) -> bool:
        chunks = _decode_many(array)
        if len(chunks) != number:
            return False
        self._take(chunks)
        return True

    def _take(self, chunks: Iterable[_Chunk]) -> None:
        text_bytes = 0
        for chunk in chunks:
            choices = chunk.choices
            if choices:
                for choice in choices:
                    said = choice.delta or choice.message
                    text = choice.text if said is None or said.content is None else said.content
                    if type(text) is str:
                        text_bytes += len(text) if text.isascii() else weigh(text)
                    elif text is not None:
                        text_bytes += weigh(text)
                    if said is not None:
                        text_bytes += _beside_content(said)
                    if choice.finish_reason is not None:
                        self.finish_with(choice.index, choice.finish_reason)
                        if choice.usage is not None and type(choice.usage) is dict and choice.usage:
                            self.usage["usage"] = choice.usage  # Moonshot's place; the chunk's own comes over it
                if len(choices) != self._choices:
                    self._choices = max(self._choices, len(choices))
            if chunk.usage is not None or chunk.x_groq is not None or chunk.error is not None:
                self._take_rare(chunk)
            if self.response_id is None or self.model is None:
                self.take_identity(chunk.id, chunk.model)
            if chunk.service_tier is not None and chunk.service_tier != self._tier:
                self._tier = chunk.service_tier
                self.take_tier(chunk.service_tier)
        self.text_bytes += text_bytes

    def _take_rare(self, chunk: _Chunk) -> None:
        if type(chunk.usage) is dict and chunk.usage:
            self.usage["usage"] = chunk.usage
        elif type(chunk.x_groq) is dict and type(chunk.x_groq.get("usage")) is dict:
            self.usage["usage"] = chunk.x_groq["usage"]
        if chunk.error is not None:
            self.fail(chunk.error)

    @property
    def ended(self) -> bool:
        """[DONE], or every choice with its reason: some servers leave the mark out."""
        return self.done or bool(self.finishes and len(self.finishes) >= self._choices)


def _beside_content(said: _Delta) -> int:
    """Reasoning, calls of tools and the like; a word that two fields repeat counts once."""
    total = 0
    if said.reasoning_content is not None:
        total += weigh(said.reasoning_content)
    elif said.reasoning is not None:
        total += weigh(said.reasoning)
    if said.tool_calls is not None and type(said.tool_calls) is list:
        for call in said.tool_calls:
            if type(call) is dict:
                total += weigh(call.get("function"))
    if said.function_call is not None:
        total += weigh(said.function_call)
    if said.refusal is not None:
        total += weigh(said.refusal)
    if said.audio is not None and type(said.audio) is dict:
        total += weigh(said.audio.get("transcript"))
    return total


def _seconds(value: Any) -> Any:
    """A duration, also where it is written as a string, as whisper's."""
    if type(value) is str and len(value) < 16:
        try:
            return float(value)
        except ValueError:
            return None
    return value


class _Result(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    usage: Any = None
    service_tier: Any = None
    error: Any = None
    type: Any = None
    delta: Any = None
    text: Any = None
    meta: Any = None
    duration: Any = None


_decode_result = msgspec.json.Decoder(_Result).decode


class ResultTally(Tally):
    """Embeddings, images, transcriptions, reranking: one result, sometimes with events on the way."""

    wanted: ClassVar[Tree] = {
        "id": TAKE,
        "model": TAKE,
        "usage": TAKE,
        "service_tier": TAKE,
        "error": TAKE,
        "type": TAKE,
        "delta": WEIGH,
        "text": WEIGH,
        "meta": TAKE,
        "duration": TAKE,
    }
    __slots__ = ()

    def read(self, payload: bytes, name: str) -> None:
        result = _decode_result(payload)
        self.take_identity(result.id, result.model)
        if type(result.usage) is dict and result.usage:
            self.usage["usage"] = result.usage
        if type(result.meta) is dict and result.meta:
            self.usage["meta"] = result.meta
        if result.duration is not None and not self.usage and self.route.protocol == "openai.transcriptions":
            self.usage["usage"] = {"type": "duration", "seconds": _seconds(result.duration)}
        if result.service_tier is not None:
            self.take_tier(result.service_tier)
        if result.error is not None or name == "error":
            self.fail(result.error)
        kind = result.type if type(result.type) is str else ""
        if kind.endswith(".delta"):
            self.text_bytes += weigh(result.delta)
        elif kind.endswith((".done", ".completed")):  # transcript.text.done, image_generation.completed
            self.done = True
        elif not kind:
            self.text_bytes += weigh(result.text)
