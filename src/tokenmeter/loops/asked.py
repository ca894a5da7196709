"""The turns of one request, cut apart without being read: one pass over the body, whatever its length.

A turn is an element of the list that a conversation is sent as: a message, an item of ``input``, an entry of
``contents``. What else tells two requests apart (model, system prompt, tools, seed) is kept beside it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

NOTHING: Final = msgspec.Raw()
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Asked(NamedTuple):
    """What one request says: its turns, as JSON, and the rest that gives them a meaning."""

    turns: list[msgspec.Raw]
    rest: tuple[msgspec.Raw, ...] = ()
    server_state: bool = False  # earlier turns are at the provider


class _Open(msgspec.Struct, gc=False):
    model: msgspec.Raw = NOTHING
    seed: msgspec.Raw = NOTHING
    system: msgspec.Raw = NOTHING
    tools: msgspec.Raw = NOTHING


class _Chat(_Open, gc=False):
    messages: list[msgspec.Raw] = []


class _Responses(_Open, gc=False):
    input: msgspec.Raw = NOTHING
    instructions: msgspec.Raw = NOTHING
    previous_response_id: msgspec.Raw = NOTHING
    conversation: msgspec.Raw = NOTHING


class _Converse(_Chat, gc=False):
    tools: msgspec.Raw = msgspec.field(name="toolConfig", default=NOTHING)


class _Gemini(_Open, gc=False):
    contents: msgspec.Raw = NOTHING
    system: msgspec.Raw = msgspec.field(name="systemInstruction", default=NOTHING)
    config: msgspec.Raw = msgspec.field(name="generationConfig", default=NOTHING)


class _Prompt(_Open, gc=False):
    prompt: msgspec.Raw = NOTHING
    message: msgspec.Raw = NOTHING
    input_text: msgspec.Raw = msgspec.field(name="inputText", default=NOTHING)
    messages: list[msgspec.Raw] = []


_as_chat = msgspec.json.Decoder(_Chat).decode
_as_converse = msgspec.json.Decoder(_Converse).decode
_as_responses = msgspec.json.Decoder(_Responses).decode
_as_gemini = msgspec.json.Decoder(_Gemini).decode
_as_prompt = msgspec.json.Decoder(_Prompt).decode
_as_list = msgspec.json.Decoder(list[msgspec.Raw]).decode

_CHATS: Final = frozenset({"openai.chat", "anthropic.messages", "cohere.chat", "ollama.chat"})
_PROMPTS: Final = frozenset({"openai.completions", "ollama.generate", "bedrock.invoke"})


def open_request(protocol: str, body: bytes) -> Asked | None:
    """Cut a body into its turns; None where it has none or can't be read. Never raises."""
    try:
        if protocol in _CHATS:
            chat = _as_chat(body)
            if chat.messages:
                return Asked(chat.messages, (chat.model, chat.seed, chat.system, chat.tools))
            return _prompt(body)
        if protocol == "openai.responses":
            asked = _as_responses(body)
            rest = (asked.model, asked.instructions, asked.tools, asked.previous_response_id)
            return Asked(_turns(asked.input), rest, bool(asked.previous_response_id or asked.conversation))
        if protocol == "gemini.generate":
            gemini = _as_gemini(body)
            return Asked(_turns(gemini.contents), (gemini.system, gemini.tools, gemini.config))
        if protocol == "bedrock.converse":
            converse = _as_converse(body)
            return Asked(converse.messages, (converse.system, converse.tools))
        return _prompt(body) if protocol in _PROMPTS else None
    except UNREADABLE:
        return None


def _prompt(body: bytes) -> Asked:
    """A single prompt, or messages as a model behind another protocol takes them."""
    asked = _as_prompt(body)
    if asked.messages:
        return Asked(asked.messages, (asked.model, asked.seed, asked.system, asked.tools))
    turns = [raw for raw in (asked.prompt, asked.message, asked.input_text) if raw]
    return Asked(turns, (asked.model, asked.seed, asked.system))


def _turns(raw: msgspec.Raw) -> list[msgspec.Raw]:
    """A list is one turn each; a text is one turn."""
    if not raw:
        return []
    return _as_list(raw) if memoryview(raw)[0] == _BRACKET else [raw]


_BRACKET: Final = ord("[")


def text_of(raw: Any) -> bytes:
    """The bytes of a raw value."""
    return bytes(raw)
