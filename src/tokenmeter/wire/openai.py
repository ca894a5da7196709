"""OpenAI's protocol as most of the world speaks it: chat completions, legacy completions, embeddings, images, audio."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, ClassVar, Final

import msgspec

from tokenmeter.wire.fields import Fields, Typed, as_typed, count, largest, metadata, tier
from tokenmeter.wire.jsonpick import EACH, TAKE, WEIGH, Tree
from tokenmeter.wire.tally import UNREADABLE, Tally, weigh
from tokenmeter.wire.types import Ask, Route


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
    value: Any = None  # all that a chunk of Writer's completions has


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
        "value": WEIGH,
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
            elif chunk.value is not None:
                text_bytes += weigh(chunk.value)
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
            if chunk.usage.get("prompt_tokens"):
                self.usage["usage"] = chunk.usage
            else:
                self._take_usage(chunk.usage)
        elif type(chunk.x_groq) is dict and type(chunk.x_groq.get("usage")) is dict:
            self._take_usage(chunk.x_groq["usage"])
        if chunk.error is not None:
            self.fail(chunk.error)

    def _take_usage(self, usage: dict[str, Any]) -> None:
        """The last usage wins; where it has no input to tell, what was told before stays."""
        if (before := self.usage.get("usage")) and not usage.get("prompt_tokens"):
            usage = {**before, **{key: value for key, value in usage.items() if value}}
        self.usage["usage"] = usage

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
    """Embeddings, images, transcriptions, decisions: one result, sometimes with events on the way."""

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


class _PlainMessage(msgspec.Struct, gc=False):
    content: str | None = None


class _PlainChat(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The request that most are: messages of text, and nothing that changes what they cost."""

    model: str
    messages: list[_PlainMessage]
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    reasoning_effort: str | None = None


_as_plain_chat = msgspec.json.Decoder(_PlainChat).decode


def plain_chat(route: Route, body: bytes) -> Ask | None:
    """A plain chat in one pass of the decoder; None for any other."""
    try:
        plain = _as_plain_chat(body)
    except UNREADABLE:
        return None
    model, provider = plain.model, route.provider
    if not model or searches(provider, model):
        return None
    cap, older = plain.max_completion_tokens, plain.max_tokens
    if cap is None or (older is not None and older > cap):
        cap = older
    stream = plain.stream is True
    return Ask(
        model=model,
        stream=stream if plain.stream is not None or route.stream is None else route.stream,
        max_output_tokens=cap if cap is not None and cap >= 0 else None,
        text_bytes=len(body),
        text_only=True,
        can_ask_usage=stream and route.stream is None and provider not in _REPORTS_ALWAYS,
        can_cap=True,
        text=body,
    )


class _Message(msgspec.Struct, gc=False):
    content: msgspec.Raw = msgspec.Raw()


class _MessageOfParts(msgspec.Struct, gc=False):
    content: str | list[Typed] | None = None


_as_messages = msgspec.json.Decoder(list[_Message]).decode
_as_messages_of_parts = msgspec.json.Decoder(list[_MessageOfParts]).decode


def ask_chat(fields: Fields) -> dict[str, Any]:
    model = fields.string("model") or fields.route.model or ""
    provider = fields.route.provider
    stream = fields.get("stream") is True
    options = fields.get("stream_options")
    asked = type(options) is dict and "include_usage" in options
    return {
        "media": (("messages",), (b"",)) if _may_have_media(fields) else (),
        "stream": stream if "stream" in fields.raw or fields.route.stream is None else fields.route.stream,
        "cap": largest(fields.get("max_completion_tokens"), fields.get("max_tokens")),
        "choices": count(fields.get("n")),
        "tools": fields.given("tools", "functions") or fields.within("response_format", "type") not in (None, "text"),
        "server_tools": fields.given("web_search_options", "plugins", "search_parameters", "data_sources")
        or searches(provider, model)
        or runs_tools(fields),
        # where the path streams, it is no API of OpenAI's, and reports unasked
        "can_ask_usage": stream and not asked and fields.route.stream is None and provider not in _REPORTS_ALWAYS,
        "user": fields.string("user", "safety_identifier"),
        "metadata": metadata(fields.get("metadata")),
        "price_context": tier(fields.get("service_tier")),
    }


def ask_completions(fields: Fields) -> dict[str, Any]:
    found = ask_chat(fields)
    choices = largest(fields.get("n"), fields.get("best_of")) or 1
    prompt = fields.get("prompt")
    if type(prompt) is list and prompt and type(prompt[0]) is not int:
        choices *= len(prompt)
    return {**found, "media": (), "choices": choices}


def ask_decisions(fields: Fields) -> dict[str, Any]:
    """The answers are probabilities; counted at the most by the bytes of what is asked."""
    return {
        "media": (("input", "state"), (b'_url"', b'"input_image"', b'"data"', b'"uri"')),
        "cap": len(fields.raw["questions"]) if "questions" in fields.raw else 0,
        "user": fields.string("user", "safety_identifier"),
    }


def _may_have_media(fields: Fields) -> bool:
    """Whether a message has a part that is no text. One pass of the decoder beats a search for markers."""
    raw = fields.raw.get("messages")
    if raw is None:
        return False
    try:
        contents = [message.content for message in _as_messages(raw)]
        if not any(len(content) > 1 and memoryview(content)[0] == _BRACKET for content in contents):
            return False
        return any(
            part.type not in _TEXTS
            for message in _as_messages_of_parts(raw)
            if type(message.content) is list
            for part in message.content
        )
    except UNREADABLE:
        return True


_BRACKET: Final = ord("[")
_TEXTS: Final = ("text", "refusal", "thinking")


def runs_tools(fields: Fields) -> bool:
    """Whether one of the tools runs at the provider."""
    raw = fields.raw.get("tools")
    if raw is None:
        return False
    try:
        return any(
            tool.type is not None and (type(tool.type) is not str or tool.type not in _FUNCTIONS)
            for tool in as_typed(raw)
        )
    except UNREADABLE:
        return False


_FUNCTIONS: Final = frozenset({"function", "custom", "namespace", None})


def searches(provider: str, model: str) -> bool:
    """Whether the provider searches the web for this model unasked."""
    return (
        provider == "perplexity"
        or (provider == "groq" and "compound" in model)
        or "search-preview" in model
        or model.endswith(":online")
    )


_REPORTS_ALWAYS: Final = frozenset({"mistral_ai"})


def read_form(route: Route, body: bytes) -> Ask:
    """Transcriptions and image edits come as forms: small fields, and files."""
    parts = {key.decode(): value.decode("utf-8", "replace") for key, value in _PART.findall(body)}
    files = [name for name in _FILE.findall(body) if name != b"mask"]
    images = sum(name.startswith(b"image") for name in files)
    number = parts.get("n", "")
    return Ask(
        model=parts.get("model") or route.model,
        stream=parts.get("stream", "").lower() == "true",
        choices=int(number) if number.isascii() and number.isdigit() and 0 < len(number) < 4 else 1,
        text_bytes=len(parts.get("prompt", "").encode()),
        images=images,
        media_bytes=len(body) if len(files) > images else 0,
        user=parts.get("user"),
    )


_PART = re.compile(rb'name="(model|stream|n|user|prompt)"\r?\n(?:[^\r\n]+\r?\n)*\r?\n([^\r\n]{0,4096})')
_FILE = re.compile(rb'name="(image|image\[\]|mask|file)"; *filename')
