"""Takes out of a stream what came only because tokenmeter asked for usage: one chunk, and `"usage":null` members."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from tokenmeter.wire.sse import SseReader
from tokenmeter.wire.tally import UNREADABLE
from tokenmeter.wire.types import Reading

_HELD_BYTES: Final = 65_536
_USAGE: Final = b'"usage"'
_NULL: Final = b',"usage":null'
_SPACED_NULL: Final = b', "usage": null'  # as Python's own encoder writes it
_CLOSING: Final = b"}\n\n"
_BLANK = re.compile(rb"(?>\r\n|\r|\n)(?>\r\n|\r|\n)")
_TAIL = re.compile(rb'(?:, ?"obfuscation": ?"[^"\\]*+")?+\}\n\n\Z')
_END = re.compile(rb'"usage": ?null((?:, ?"obfuscation": ?"[^"\\]*+")?+\}\n\n)\Z')
_MEMBER = re.compile(rb'"usage"\s*:\s*null')
_BEFORE = re.compile(rb",\s*\Z")
_BEHIND = re.compile(rb"\s*,")
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[{}\[\]]', re.DOTALL)


class _Chunk(msgspec.Struct, gc=False):
    choices: Any = None
    usage: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Chunk).decode
_as_json = msgspec.json.Decoder(msgspec.Raw).decode


class HidingReader:
    """Reads a stream like the reader inside of it, and hands on what the caller would have got unasked.

    Only the bytes of an unfinished event are withheld; an event above 64 kB passes as it comes.
    """

    __slots__ = ("_between", "_cut", "_edge", "_ending", "_held", "_inner", "_null", "_passing", "_take")

    def __init__(self, inner: SseReader) -> None:
        self._inner = inner
        self._take = inner.feed
        self._between = True  # before an event, with nothing withheld
        self._held = bytearray()
        self._passing = False  # in the midst of an event that is too large to be withheld
        self._edge = b""  # its last bytes
        self._expect(_NULL)

    def _expect(self, null: bytes) -> None:
        self._null = null
        self._ending = null + _CLOSING
        self._cut = -len(self._ending)

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes and return those that the caller shall see."""
        self._take(chunk)
        if not self._between:
            return self._slowly(chunk)
        # From the end, which takes half as long. The object that closes right before the blank line is the whole chunk.
        if chunk.endswith(self._ending):
            cut = self._cut
            if chunk.rfind(_USAGE, 0, cut) < 0:
                return chunk[:cut] + _CLOSING
            return self._slowly(chunk)
        at = chunk.rfind(self._null)
        if at >= 0:
            end = at + len(self._null)
            if _TAIL.match(chunk, end) and chunk.rfind(_USAGE, 0, at) < 0:
                return chunk[:at] + chunk[end:]
        elif chunk.rfind(_USAGE) < 0:
            if chunk.endswith(b"\n\n"):
                return chunk
        elif _SPACED_NULL in chunk:
            self._expect(_SPACED_NULL)
        return self._slowly(chunk)

    def peek(self) -> Reading:
        """What was read so far."""
        return self._inner.peek()

    def finish(self) -> tuple[bytes, Reading]:
        """The end: an event without its blank line is an event all the same."""
        rest, reading = self._inner.finish()
        held = bytes(self._held)
        self._held.clear()
        return b"".join(map(_edited, _parted(held))) + rest, reading

    def _slowly(self, chunk: bytes) -> bytes:
        out: list[bytes] = []
        if self._passing:
            joined = self._edge + chunk
            blank = _BLANK.search(joined)
            if blank is None or (blank.end() == len(joined) and joined.endswith(b"\r")):
                self._edge = joined[-3:]
                return chunk
            end = blank.end() - len(self._edge)
            out.append(chunk[:end])
            chunk = chunk[end:]
            self._passing, self._edge = False, b""
        held = self._held
        at = max(0, len(held) - 3)  # a blank line may have begun
        held += chunk
        start = 0
        while (blank := _BLANK.search(held, at)) is not None:
            at = blank.end()
            if at == len(held) and held.endswith(b"\r"):
                break  # its line feed may be on the way
            out.append(_edited(bytes(held[start:at])))
            start = at
        del held[:start]
        if end := held.rfind(b"\ndata:") + 1:
            lines = _parted(bytes(held[:end]))
            if len(lines) > 1 or _is_whole(lines[0]):
                out += map(_edited, lines)
                del held[:end]
        if len(held) > _HELD_BYTES:
            out.append(bytes(held))
            self._passing, self._edge = True, bytes(held[-3:])
            held.clear()
        self._between = not held and not self._passing
        return b"".join(out)


def _parted(held: bytes) -> list[bytes]:
    """One event; or those that no blank line parts, which programs read by the line."""
    lines = held.splitlines(keepends=True)
    return lines if len(lines) > 1 and all(map(_is_whole, lines)) else [held]


def _is_whole(line: bytes) -> bool:
    data = line[5:].strip() if line.startswith(b"data:") else b""
    if not data.startswith(b"{"):
        return data == b"[DONE]"
    try:
        return bool(_as_json(data))
    except UNREADABLE:
        return False


def _edited(event: bytes) -> bytes:
    """One event as it would have been unasked; empty if it would not have been."""
    at = event.find(b'"usage"')
    if at < 0:
        return event
    end = _END.match(event, at)
    if end is not None and event[at - 2 : at].strip().endswith(b","):
        # the only one, in the object that closes right before the blank line: it is the whole chunk's
        return event[:at].rstrip(b" ").removesuffix(b",") + end[1]
    data = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
    try:
        chunk = _decode(b"\n".join(data))
    except UNREADABLE:
        return event
    usage = bytes(chunk.usage)
    if usage.startswith(b"{") and chunk.choices == []:
        return b""
    return _without_null(event) if usage == b"null" else event


def _without_null(event: bytes) -> bytes:
    for member in _MEMBER.finditer(event):
        if _depth(event, member.start()) != 1:
            continue
        before = _BEFORE.search(event, 0, member.start())
        if before is not None:
            return event[: before.start()] + event[member.end() :]
        behind = _BEHIND.match(event, member.end())
        if behind is not None:
            return event[: member.start()] + event[behind.end() :]
        return event[: member.start()] + event[member.end() :]
    return event


def _depth(event: bytes, stop: int) -> int:
    depth = 0
    for token in _TOKEN.finditer(event, 0, stop):
        byte = token.group()[:1]
        if byte in b"{[":
            depth += 1
        elif byte in b"}]":
            depth -= 1
    return depth
