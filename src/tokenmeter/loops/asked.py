"""The turns of one request, cut apart without being read.

Of a long conversation only the last turns are cut. Where they begin is searched from the end; the place is trusted only
if what stands before it and what stands after it are JSON of the right depth, and all of the body is read otherwise. A
turn is an element of the list that a conversation is sent as: a message, an item of ``input``, an entry of
``contents``. What else tells two requests apart (model, system prompt, tools, seed) is kept beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

NOTHING: Final = msgspec.Raw()
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What one request says: its turns, as JSON, and the rest that gives them a meaning."""

    turns: list[msgspec.Raw]
    rest: tuple[msgspec.Raw, ...] = ()
    server_state: bool = False  # earlier turns are at the provider
    earlier: memoryview | None = None  # the turns before the last ones, where only those were cut


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


class _ResponsesEnd(_Open, gc=False):
    turns: list[msgspec.Raw] = msgspec.field(name="input", default_factory=list)
    instructions: msgspec.Raw = NOTHING
    previous_response_id: msgspec.Raw = NOTHING
    conversation: msgspec.Raw = NOTHING


class _GeminiEnd(_Open, gc=False):
    turns: list[msgspec.Raw] = msgspec.field(name="contents", default_factory=list)
    system: msgspec.Raw = msgspec.field(name="systemInstruction", default=NOTHING)
    config: msgspec.Raw = msgspec.field(name="generationConfig", default=NOTHING)


_as_chat = msgspec.json.Decoder(_Chat).decode
_as_converse = msgspec.json.Decoder(_Converse).decode
_as_responses = msgspec.json.Decoder(_Responses).decode
_as_gemini = msgspec.json.Decoder(_Gemini).decode
_as_prompt = msgspec.json.Decoder(_Prompt).decode
_as_list = msgspec.json.Decoder(list[msgspec.Raw]).decode

_BRACKET: Final = ord("[")
_CHATS: Final = frozenset({"openai.chat", "anthropic.messages", "cohere.chat", "ollama.chat"})
_PROMPTS: Final = frozenset({"openai.completions", "ollama.generate", "bedrock.invoke"})


def open_request(protocol: str, body: bytes, whole: bool = False) -> Asked | None:
    """Cut a body into its turns, or a long one into its last turns; None where it has none. Never raises."""
    try:
        if len(body) >= _LONG_BYTES and not whole:
            layout = _LAYOUTS.get(protocol)
            found = _open_end(layout, body) if layout is not None else None
            if found is not None:
                return found
        return _open(protocol, body)
    except UNREADABLE:
        return None


def _open(protocol: str, body: bytes) -> Asked | None:
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


class _Layout(NamedTuple):
    """How the list of turns is found in the body of a protocol."""

    field: bytes
    starts: tuple[bytes, ...]  # what turns begin with, and nothing else that stands in a list of the body itself
    read: Callable[[bytes], Any]
    rest: tuple[str, ...]


_LONG_BYTES: Final = 16_384
_LAST_TURNS: Final = 26
_FARTHEST_BYTES: Final = 32_768  # where a turn is longer, reading all costs hardly more
_ROLE: Final = (b'{"role":',)
_ITEMS: Final = (*_ROLE, b'{"type":"function_call', b'{"type":"message"', b'{"type":"reasoning"')
_SPACED_ITEMS: Final = (*_ROLE, b'{"type": "function_call', b'{"type": "message"', b'{"type": "reasoning"')
_CHAT_LAYOUT: Final = _Layout(b'"messages":', _ROLE, _as_chat, ("model", "seed", "system", "tools"))
_LAYOUTS: Final[dict[str, _Layout]] = {
    **dict.fromkeys(("openai.chat", "anthropic.messages", "cohere.chat", "ollama.chat"), _CHAT_LAYOUT),
    "openai.responses": _Layout(
        b'"input":',
        _ITEMS + _SPACED_ITEMS,
        msgspec.json.Decoder(_ResponsesEnd).decode,
        ("model", "instructions", "tools", "previous_response_id"),
    ),
    "gemini.generate": _Layout(
        b'"contents":',
        (*_ROLE, b'{"parts":'),
        msgspec.json.Decoder(_GeminiEnd).decode,
        ("system", "tools", "config"),
    ),
    "bedrock.converse": _Layout(b'"messages":', _ROLE, _as_converse, ("system", "tools")),
}


def _open_end(layout: _Layout, body: bytes) -> Asked | None:
    """The last turns of a long body, and the rest; None where they are not found for sure."""
    field, starts = layout.field, layout.starts
    first = body.find(field)
    if first < 0:
        return None
    opened = first + len(field)
    gap = body[opened : opened + 1] == b" "
    opened += gap + 1
    if body[opened - 1] != _BRACKET:
        return None
    between = (b"}, " if gap else b"},") + (starts[0] if len(starts) == 1 else b'{"')
    skip = 3 if gap else 2
    at, found = len(body), 0
    while found < _LAST_TURNS:
        at = body.rfind(between, max(opened, at - _FARTHEST_BYTES), at)
        if at < 0:
            return None
        if len(starts) == 1 or body.startswith(starts, at + skip):
            found += 1
    start = at + skip
    try:
        after = layout.read(b"{" + field + b"[" + body[start:])
        before = layout.read(body[:first] + field + b"[]}")
    except UNREADABLE:
        return None
    turns = after.turns if len(starts) > 1 else after.messages
    if len(turns) != found:
        return None
    rest = tuple([getattr(after, name) or getattr(before, name) for name in layout.rest])
    server_state = len(starts) > 2 and bool(rest[-1] or after.conversation or before.conversation)
    return Asked(turns, rest, server_state, memoryview(body)[opened:start])


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
