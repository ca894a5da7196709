"""Takes out of a stream what came only because tokenmeter asked for usage: one chunk, and `"usage":null` members."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from tokenmeter.wire.sse import SseReader
from tokenmeter.wire.tally import UNREADABLE
from tokenmeter.wire.types import Reading

_HELD_BYTES: Final = 65_536
_NULL: Final = b',"usage":null'
_SPACED_NULL: Final = b', "usage": null'  # as Python's own encoder writes it
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


class HidingReader:
    """Reads a stream like the reader inside of it, and hands on what the caller would have got unasked.

    Only the bytes of an unfinished event are withheld; an event above 64 kB passes as it comes.
    """

    __slots__ = ("_beginning", "_edge", "_held", "_inner", "_null", "_passing", "_take")

    def __init__(self, inner: SseReader) -> None:
        self._inner = inner
        self._take = inner.feed
        self._null = _NULL
        self._held = b""
        self._passing = False  # in the midst of an event that is too large to be withheld
        self._edge = b""  # its last bytes
        self._beginning = b""  # how the chunks of this stream begin; no usage is in it

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes and return those that the caller shall see."""
        self._take(chunk)
        if self._held or self._passing:
            return self._slowly(chunk)
        at = chunk.rfind(self._null)
        if at >= 0:
            # the object that closes right before the blank line is the whole chunk
            end = at + len(self._null)
            if _TAIL.match(chunk, end):
                known = len(self._beginning) if chunk.startswith(self._beginning) else 0
                if chunk.find(b'"usage"', known, at) < 0:
                    if not known:
                        self._beginning = chunk[: chunk.find(b'"choices"', 0, at) + 1]
                    return chunk[:at] + chunk[end:]
        elif b'"usage"' not in chunk:
            if chunk.endswith(b"\n\n"):
                return chunk
        elif _SPACED_NULL in chunk:
            self._null = _SPACED_NULL
        return self._slowly(chunk)

    def peek(self) -> Reading:
        """What was read so far."""
        return self._inner.peek()

    def finish(self) -> tuple[bytes, Reading]:
        """The end: an event without its blank line is an event all the same."""
        rest, reading = self._inner.finish()
        held, self._held = self._held, b""
        return (_edited(held) if held else b"") + rest, reading

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
        data = self._held + chunk
        start = 0
        for blank in _BLANK.finditer(data):
            if blank.end() == len(data) and data.endswith(b"\r"):
                break  # its line feed may be on the way
            out.append(_edited(data[start : blank.end()]))
            start = blank.end()
        self._held = data[start:]
        if len(self._held) > _HELD_BYTES:
            out.append(self._held)
            self._passing, self._edge, self._held = True, self._held[-3:], b""
        return b"".join(out)


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
