"""Picks a few values out of a JSON document of any size as its bytes pass by.

A document that is too large to be held is reduced to a skeleton: the same nesting, only the wanted keys. The
skeleton is small JSON that the ordinary decoders read, so that a large event and a small one mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import msgspec

TAKE: Final = 1  # keep the value, whatever it is, if it is small
WEIGH: Final = 2  # don't keep it, count the bytes of its strings
EACH: Final = "[]"  # the key that stands for every element of an array

Node: TypeAlias = "Mapping[str, Node] | int"
Tree: TypeAlias = Mapping[str, Node]

_MAX_CAPTURE_BYTES: Final = 65_536
_MAX_SKELETON_BYTES: Final = 262_144
_MAX_FRAMES_BYTES: Final = 32_768  # containers alone may not crowd out the captures
_MAX_KEY_BYTES: Final = 256
_MAX_DEPTH: Final = 64

_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_STRUCTURE = re.compile(rb'["{}\[\]]')
_SCALAR = re.compile(rb"[-+.0-9A-Za-z]*+")
_NEITHER = re.compile(rb'[^"{}\[\],0-9A-Za-z+.-]*+')
_NO_NUMBER = re.compile(rb"(?<=[:,\[\s])(?:NaN|-?Infinity)(?=[,\]}\s])")  # as Python's own encoder writes it
_QUOTE, _BACKSLASH, _COMMA = b'",\\'[0], b"\\"[0], b","[0]
_OPEN, _CLOSE = b"{[", b"}]"

# what the bytes of the string that is being read are for
_KEY, _VALUE, _INSIDE = range(3)


class Picker:
    """Feed it the bytes of one or more documents; each yields a skeleton. Constant memory, never raises."""

    __slots__ = (
        "_capture",
        "_captured",
        "_emit",
        "_escaped",
        "_frames",
        "_key",
        "_node",
        "_out",
        "_out_bytes",
        "_purpose",
        "_scalar",
        "_skip_depth",
        "_string",
        "weighed_bytes",
    )

    def __init__(self, tree: Tree, emit: Callable[[bytes, int], None]) -> None:
        """``emit`` gets each skeleton with the bytes that were weighed on the way."""
        self._node: Node = tree
        self._emit = emit
        self._frames: list[list[object]] = []  # [node, is_array, members emitted]
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._key: bytes | None = None
        self._string = False
        self._escaped = False
        self._purpose = _INSIDE
        self._skip_depth = 0
        self._scalar = False
        self._capture = 0  # TAKE, WEIGH or 0: what is done with the value that is being read
        self._captured = bytearray()
        self.weighed_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        at, end = 0, len(data)
        while at < end:
            if self._string:
                at = self._in_string(data, at, end)
            elif self._scalar:
                at = self._in_scalar(data, at, end)
            elif self._skip_depth:
                at = self._in_container(data, at, end)
            else:
                at = self._between(data, at)

    def finish(self) -> None:
        """The bytes have ended: what is open is closed and emitted as far as it came."""
        if self._scalar:
            self._scalar = False
            self._value_end()
        if self._frames:
            self._key = None
            while self._frames:
                self._pop()

    def _in_string(self, data: bytes, at: int, end: int) -> int:
        start = at
        if self._escaped:
            self._escaped = False
            at += 1
        found = _STRING.match(data, at)
        at = found.end() if found else end
        closed = at < end and data[at] == _QUOTE
        if at < end and not closed:  # the last byte is a backslash
            self._escaped = True
            at += 1
        self._keep(data, start, at)
        if not closed:
            return at
        self._string = False
        if self._purpose == _INSIDE:
            self._keep(b'"', 0, 1)
        elif self._purpose == _KEY:
            self._key = bytes(self._captured)
            self._captured.clear()
        else:
            if self._capture == TAKE:
                self._captured += b'"'
            self._value_end()
        return at + 1

    def _in_scalar(self, data: bytes, at: int, end: int) -> int:
        found = _SCALAR.match(data, at)
        stop = found.end() if found else end
        self._keep(data, at, stop)
        if stop < end:
            self._scalar = False
            self._value_end()
        return stop

    def _in_container(self, data: bytes, at: int, end: int) -> int:
        found = _STRUCTURE.search(data, at)
        if found is None:
            if self._capture == TAKE:
                self._keep(data, at, end)
            return end
        stop = found.end()
        if self._capture == TAKE:
            self._keep(data, at, stop)
        byte = data[stop - 1]
        if byte == _QUOTE:
            self._string, self._purpose = True, _INSIDE
        elif byte in _OPEN:
            self._skip_depth += 1
        else:
            self._skip_depth -= 1
            if not self._skip_depth:
                self._value_end()
        return stop

    def _between(self, data: bytes, at: int) -> int:
        if not self._frames:  # brackets, commas and whatever else stands round the documents mean nothing
            at = data.find(b"{", at)
            if at < 0:
                return len(data)
            self._push(self._node, b"{", is_array=False)
            return at + 1
        byte, top = data[at], self._frames[-1]
        if byte == _QUOTE:
            self._string = True
            if not top[1] and self._key is None:
                self._purpose, self._capture = _KEY, 0
                self._captured.clear()
            else:
                self._purpose = _VALUE
                self._begin(self._wanted(top))
                if self._capture == TAKE:
                    self._captured += b'"'
        elif byte in _OPEN:
            self._open(byte, top)
        elif byte in _CLOSE:
            self._pop()
        elif byte == _COMMA:
            self._key = None
        elif (found := _NEITHER.match(data, at)) and found.end() > at:
            return found.end()
        else:
            self._scalar = True
            self._begin(self._wanted(top))
            return at
        return at + 1

    def _open(self, byte: int, top: list[object]) -> None:
        wanted = self._wanted(top)
        crowded = self._out_bytes > _MAX_FRAMES_BYTES or len(self._frames) >= _MAX_DEPTH
        if isinstance(wanted, int) or crowded:
            self._begin(wanted)
            self._skip_depth = 1
            if self._capture == TAKE:
                self._captured.append(byte)
        else:
            is_array = byte != _OPEN[0]
            self._lead(top)
            self._push(wanted, b"[" if is_array else b"{", is_array=is_array)

    def _wanted(self, top: list[object]) -> Node:
        node = top[0]
        if not isinstance(node, Mapping):
            return 0
        key = EACH if top[1] else (self._key or b"").decode("utf-8", "replace")
        found: Node = node.get(key, 0)
        return found

    def _begin(self, wanted: Node) -> None:
        self._capture = wanted if isinstance(wanted, int) else 0
        self._captured.clear()

    def _keep(self, data: bytes, start: int, stop: int) -> None:
        """Bytes of the current string, scalar or container: collected, weighed or dropped."""
        if self._string and self._purpose == _KEY:
            if len(self._captured) < _MAX_KEY_BYTES:
                self._captured += data[start : min(stop, start + _MAX_KEY_BYTES)]
        elif self._capture == WEIGH:
            self.weighed_bytes += stop - start if self._string else 0
        elif self._capture == TAKE:
            if len(self._captured) + stop - start > _MAX_CAPTURE_BYTES:
                self._capture = 0
                self._captured.clear()
            else:
                self._captured += data[start:stop]

    def _value_end(self) -> None:
        if self._capture == TAKE and self._captured and self._out_bytes < _MAX_SKELETON_BYTES:
            value = bytes(self._captured)
            if not _is_json(value):
                value = _NO_NUMBER.sub(b"null", value)
            if _is_json(value):
                self._lead(self._frames[-1])
                self._write(value)
        self._capture = 0
        self._captured.clear()
        self._key = None

    def _lead(self, top: list[object]) -> None:
        comma = b"," if top[2] else b""
        top[2] = True
        self._write(comma if top[1] else comma + b'"' + (self._key or b"") + b'":')

    def _push(self, node: Node, bracket: bytes, *, is_array: bool) -> None:
        self._frames.append([node, is_array, False])
        self._write(bracket)
        self._key = None

    def _pop(self) -> None:
        frame = self._frames.pop()
        self._write(b"]" if frame[1] else b"}")
        self._key = None
        if not self._frames:
            skeleton = b"".join(self._out)
            self._out.clear()
            self._out_bytes = 0
            weighed, self.weighed_bytes = self.weighed_bytes, 0
            self._emit(skeleton, weighed)

    def _write(self, data: bytes) -> None:
        self._out.append(data)
        self._out_bytes += len(data)


def _is_json(value: bytes) -> bool:
    try:
        msgspec.json.decode(value, type=msgspec.Raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True
