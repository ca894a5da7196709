"""What was done and said in a conversation, whatever the protocol: tool steps with their results, and texts.

All stays JSON as it was sent: nothing is decoded that is only compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from tokenmeter.loops.asked import NOTHING, UNREADABLE

QUICK_BYTES: Final = 1 << 15
MAX_BYTES: Final = 1 << 20


class Item(NamedTuple):
    """One step with a tool, or one text."""

    who: str  # the tools, or the speaker
    said: bytes  # the arguments, or the text
    got: bytes  # the results
    tool: bool


class _Function(msgspec.Struct, gc=False):
    name: Any = None
    parts: msgspec.Raw = NOTHING
    arguments: msgspec.Raw = NOTHING
    args: msgspec.Raw = NOTHING
    response: msgspec.Raw = NOTHING
    input: msgspec.Raw = NOTHING
    content: msgspec.Raw = NOTHING


class _Call(msgspec.Struct, gc=False):
    function: _Function | None = None
    custom: _Function | None = None


class _Media(msgspec.Struct, gc=False):
    """A picture, a sound or a file, under the names that the protocols have for it."""

    image_url: msgspec.Raw = NOTHING
    file_id: msgspec.Raw = NOTHING
    file_data: msgspec.Raw = NOTHING
    file: msgspec.Raw = NOTHING
    source: msgspec.Raw = NOTHING
    input_audio: msgspec.Raw = NOTHING
    image: msgspec.Raw = NOTHING
    document: msgspec.Raw = NOTHING
    video: msgspec.Raw = NOTHING
    inline_data: msgspec.Raw = NOTHING
    file_uri: msgspec.Raw = NOTHING
    camel_data: msgspec.Raw = msgspec.field(name="inlineData", default=NOTHING)
    camel_file: msgspec.Raw = msgspec.field(name="fileData", default=NOTHING)
    code: msgspec.Raw = msgspec.field(name="executableCode", default=NOTHING)
    snake_code: msgspec.Raw = msgspec.field(name="executable_code", default=NOTHING)
    ran: msgspec.Raw = msgspec.field(name="codeExecutionResult", default=NOTHING)
    snake_ran: msgspec.Raw = msgspec.field(name="code_execution_result", default=NOTHING)

    def mark(self, content: msgspec.Raw) -> bytes:
        """A word that stands for what it shows: another one for anything else. Empty where there is none."""
        shown = b"".join([content, *(raw for name in _MEDIA if (raw := getattr(self, name)))])
        return b"0" + hashlib.blake2b(shown, digest_size=8).hexdigest().encode().translate(_LETTERS) if shown else b""


_MEDIA: Final = _Media.__struct_fields__
_LETTERS: Final = bytes.maketrans(b"0123456789abcdef", b"ghijklmnopqrstuv")  # of which neither numbers nor ids are made


class _Part(_Media, gc=False):
    type: Any = None
    text: msgspec.Raw = NOTHING
    name: Any = None
    input: msgspec.Raw = NOTHING
    content: msgspec.Raw = NOTHING
    tool_use: _Function | None = msgspec.field(name="toolUse", default=None)
    tool_result: _Function | None = msgspec.field(name="toolResult", default=None)
    function_call: _Function | None = msgspec.field(name="functionCall", default=None)
    function_response: _Function | None = msgspec.field(name="functionResponse", default=None)
    snake_call: _Function | None = msgspec.field(name="function_call", default=None)
    snake_response: _Function | None = msgspec.field(name="function_response", default=None)


class _Turn(msgspec.Struct, gc=False):
    role: Any = None
    type: Any = None
    content: msgspec.Raw = NOTHING
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None
    name: Any = None
    arguments: msgspec.Raw = NOTHING
    input: msgspec.Raw = NOTHING
    output: msgspec.Raw = NOTHING
    parts: list[_Part] | None = None
    action: msgspec.Raw = NOTHING
    operation: msgspec.Raw = NOTHING
    code: msgspec.Raw = NOTHING
    queries: msgspec.Raw = NOTHING
    outputs: msgspec.Raw = NOTHING
    result: msgspec.Raw = NOTHING
    results: msgspec.Raw = NOTHING

    def asks(self) -> msgspec.Raw:
        """What a tool is asked for."""
        return self.arguments or self.input or self.action or self.operation or self.code or self.queries

    def hears(self) -> msgspec.Raw:
        """What a tool of the provider said, which stands in its call."""
        return self.output or self.outputs or self.results or self.result


_as_turns = msgspec.json.Decoder(list[_Turn]).decode
_as_parts = msgspec.json.Decoder(list[_Part | str]).decode

_BRACKET: Final = ord("[")
_USER: Final = frozenset({"user", "function"})
_SYSTEM: Final = frozenset({"system", "developer"})
_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking", "reasoning"})
_MODEL: Final = frozenset({"assistant", "model"})
_SILENT: Final = frozenset({"web_search_call", "file_search_call"})  # their results are not told
_BLANK: Final = frozenset({b"", b'""', b"null", b"[]"})


def read_items(
    turns: Sequence[msgspec.Raw], last: int, *, alone: bool = False, most_bytes: int = MAX_BYTES
) -> list[Item]:
    """The items of the last turns, oldest first; no more turns than stand in so many bytes. Never raises.

    ``alone``: results whose calls stand elsewhere, because the provider remembers them, are items, too.
    """
    start = len(turns)
    left = most_bytes
    for turn in reversed(turns[-last:]):
        left -= len(turn)
        if left < 0:
            break
        start -= 1
    try:
        found = _as_turns(b"[" + b",".join(turns[start:]) + b"]")
        return _Telling(alone).tell(found)
    except UNREADABLE:
        return []


class _Document(msgspec.Struct, gc=False):
    data: msgspec.Raw = NOTHING


class _Wrapped(msgspec.Struct, gc=False):
    text: msgspec.Raw = NOTHING
    json: msgspec.Raw = NOTHING
    document: _Document | None = None


_as_wrapped = msgspec.json.Decoder(list[_Wrapped]).decode
_as_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_BRACE: Final = ord("{")


def _inner(result: msgspec.Raw) -> bytes:
    """What a result says, without the part or the one field that it is wrapped in."""
    first = memoryview(result)[0] if result else 0
    try:
        if first == _BRACKET:
            parts = _as_wrapped(result)
            if len(parts) == 1:
                part = parts[0]
                return bytes(part.text or part.json or (part.document.data if part.document else b"") or result)
        elif first == _BRACE:
            fields = list(_as_fields(result).values())
            if len(fields) == 1:
                return bytes(fields[0])
    except UNREADABLE:
        pass
    return bytes(result)


class _Telling:
    """Puts calls and the results that follow them together."""

    __slots__ = ("alone", "args", "items", "names", "prose", "results")

    def __init__(self, alone: bool) -> None:
        self.alone = alone
        self.items: list[Item] = []
        self.names: list[str] = []
        self.args: list[bytes] = []
        self.results: list[bytes] = []
        self.prose = False  # the last item is what a model said before it called a tool

    def tell(self, turns: list[_Turn]) -> list[Item]:
        for turn in turns:
            role = turn.role
            if role == "assistant" and turn.tool_calls:
                for call in turn.tool_calls:
                    function = call.function or call.custom
                    if function is not None:
                        self.call(function.name, function.arguments or function.input)
            elif role == "tool" and not turn.parts and not self.holds_parts(turn.content):
                self.results.append(_inner(turn.content))
            elif (kind := turn.type if type(turn.type) is str else "").endswith("_call"):
                self.call(turn.name or kind, turn.asks())
                if hears := turn.hears():
                    self.results.append(_inner(hears))
                elif kind in _SILENT:
                    self.results.append(b"")
            elif kind.endswith("_call_output"):
                self.results.append(_inner(turn.hears()))
            elif turn.function_call is not None:
                self.call(turn.function_call.name, turn.function_call.arguments)
            elif role == "function" and turn.content:
                self.results.append(_inner(turn.content))
            elif turn.parts is not None:
                self.tell_parts(role if type(role) is str else "user", turn.parts)
            elif turn.content and type(role) is str:
                if memoryview(turn.content)[0] == _BRACKET:
                    self.tell_parts(role, _as_parts(turn.content))
                else:
                    self.say(role, bytes(turn.content))
        self.flush()
        return self.items

    def holds_parts(self, content: msgspec.Raw) -> bool:
        return bool(content) and memoryview(content)[0] == _BRACKET and b'"tool' in bytes(content)

    def tell_parts(self, role: str, parts: Sequence[_Part | str]) -> None:
        texts: list[bytes] = []
        called = False
        for part in parts:
            if isinstance(part, str):
                texts.append(part.encode())
                continue
            kind = part.type
            call = part.tool_use or part.function_call or part.snake_call
            answer = part.tool_result or part.function_response or part.snake_response
            if call is not None:
                self.call(call.name, call.input or call.args)
                called = True
            elif answer is not None:
                self.results.append(_inner(answer.content or answer.response))
                if answer.parts:
                    self.results.append(bytes(answer.parts))
            elif kind == "tool_use":
                self.call(part.name, part.input)
                called = True
            elif type(kind) is str and kind.endswith("_tool_use"):  # of the provider: its text comes behind it
                self.call(part.name, part.input)
            elif type(kind) is str and kind.endswith("tool_result"):
                self.results.append(_inner(part.content))
            elif part.text:
                texts.append(bytes(part.text))
            elif (mark := part.mark(part.content)) or (kind is not None and str(kind) not in _THOUGHTS):
                texts.append(b"(%s %s)" % (b"media" if kind is None else str(kind).encode(), mark))
        if texts and not called:
            self.say(role, b" ".join(texts))

    def call(self, name: Any, args: msgspec.Raw) -> None:
        if self.results:
            self.flush()
        if self.prose:
            self.items.pop()
            self.prose = False
        self.names.append(name if type(name) is str else "")
        self.args.append(bytes(args))

    def say(self, role: str, text: bytes) -> None:
        if text in _BLANK:
            return
        self.flush()
        if role in _MODEL:
            self.items.append(Item("assistant", text, b"", False))
            self.prose = True
        elif role in _USER:
            self.items.append(Item("user", text, b"", False))
        elif role in _SYSTEM and self.items:  # what a conversation begins with is no turn of it
            self.items.append(Item("system", text, b"", False))

    def flush(self) -> None:
        self.prose = False
        names = self.names
        if names:
            if len(names) == 1 and len(self.results) <= 1:
                item = Item(names[0], self.args[0], self.results[0] if self.results else b"", True)
            else:
                item = Item("+".join(names), b"\n".join(self.args), b"\n".join(self.results), True)
            self.items.append(item)
            self.names, self.args = [], []
        elif self.results and self.alone:
            self.items.append(Item("", b"", b"\n".join(self.results), True))
        if self.results:
            self.results = []
