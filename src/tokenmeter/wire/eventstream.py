"""Amazon's event stream: binary frames, each with lengths, headers, a payload and two checksums."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Final
from zlib import crc32

import msgspec

from tokenmeter.wire.framed import LARGE_BYTES, Framed
from tokenmeter.wire.jsonpick import Picker
from tokenmeter.wire.tally import Tally

_PRELUDE_BYTES: Final = 12
_LEAST_BYTES: Final = 16
_MOST_BYTES: Final = 25_165_824  # frames are at most 24 MB
_FIXED_VALUE_BYTES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/=]")


class _Chunk(msgspec.Struct, gc=False):
    bytes: str | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class EventStreamReader(Framed):
    """Reads the frames of one stream; bytes that are no frame are passed over."""

    __slots__ = ("_large", "_left_bytes", "_trailer_bytes")

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally)
        self._large: _LargeFrame | None = None
        self._left_bytes = 0  # of the payload of the large frame
        self._trailer_bytes = 0  # of its checksum

    def cut(self, joined: bytes, *, last: bool) -> bytes:
        at = self._go_on(joined) if self._large is not None else 0
        at += self._skip(len(joined) - at)
        end = len(joined)
        while end - at >= _PRELUDE_BYTES:
            total, header_bytes = _lengths(joined, at)
            if not total:
                at = _next_frame(joined, at + 1)
            elif end - at >= total and total <= LARGE_BYTES:
                self._frame(joined, at, total, header_bytes)
                at += total
            elif total > LARGE_BYTES and end - at >= _PRELUDE_BYTES + header_bytes:
                payload = at + _PRELUDE_BYTES + header_bytes
                self._large = _LargeFrame(self.tally, _headers(joined[at + _PRELUDE_BYTES : payload]))
                self._left_bytes = total - _LEAST_BYTES - header_bytes
                at = payload + self._go_on(joined[payload:])
                at += self._skip(end - at)
            else:
                break
        if last and self._large is not None:
            self._large.finish()
            self._large = None
        return b"" if last else joined[at:]

    def _go_on(self, data: bytes) -> int:
        if self._large is None:
            return 0
        part = data[: self._left_bytes]
        self._large.feed(part)
        self._left_bytes -= len(part)
        if not self._left_bytes:
            self._large.finish()
            self._large = None
            self._trailer_bytes = 4
        return len(part)

    def _skip(self, available: int) -> int:
        skipped = min(available, self._trailer_bytes)
        self._trailer_bytes -= skipped
        return skipped

    def _frame(self, joined: bytes, at: int, total: int, header_bytes: int) -> None:
        start = at + _PRELUDE_BYTES + header_bytes
        headers = _headers(joined[at + _PRELUDE_BYTES : start])
        payload = joined[start : at + total - 4]
        name = headers.get(":exception-type") or headers.get(":event-type", "")
        if headers.get(":message-type") == "error":
            self.tally.fail(headers.get(":error-code", "error"))
        elif name == "chunk":
            try:
                inner = binascii.a2b_base64(_decode_chunk(payload).bytes or "")
            except (msgspec.MsgspecError, ValueError):
                return
            self.tally.take(inner, name)
        else:
            self.tally.take(payload, name)


class _LargeFrame:
    """The payload of one frame that is not held; of a chunk, what its base64 says."""

    __slots__ = ("_carry", "_closed", "_is_chunk", "_name", "_open", "_picker", "_tally")

    def __init__(self, tally: Tally, headers: Mapping[str, str]) -> None:
        self._tally = tally
        self._name = headers.get(":exception-type") or headers.get(":event-type", "")
        self._picker = Picker(tally.wanted, self._picked)
        self._is_chunk = self._name == "chunk"
        self._open = self._closed = False  # whether the base64 has begun, and ended
        self._carry = b""

    def _picked(self, skeleton: bytes, weighed_bytes: int) -> None:
        self._tally.take_picked(skeleton, weighed_bytes, self._name)

    def feed(self, data: bytes) -> None:
        if not self._is_chunk:
            self._picker.feed(data)
            return
        if self._closed:
            return
        data = self._carry + data
        if not self._open:  # the payload is {"bytes":"…","p":"…"}
            at = data.find(b'"bytes":"')
            if at < 0:
                self._carry = data[-16:]
                return
            self._open = True
            data = data[at + 9 :]
        stop = _NOT_BASE64.search(data)
        whole = (stop.start() if stop else len(data)) // 4 * 4
        try:
            self._picker.feed(binascii.a2b_base64(data[:whole]))
        except ValueError:
            self._closed = True
        self._carry = data[whole:]
        self._closed = self._closed or stop is not None

    def finish(self) -> None:
        """The frame has ended, or the stream."""
        self._picker.finish()


def _lengths(data: bytes, at: int) -> tuple[int, int]:
    """The length of the frame and of its headers; zeros where no frame begins."""
    total = int.from_bytes(data[at : at + 4], "big")
    header_bytes = int.from_bytes(data[at + 4 : at + 8], "big")
    if not _LEAST_BYTES <= total <= _MOST_BYTES or header_bytes > min(total - _LEAST_BYTES, LARGE_BYTES // 2):
        return 0, 0
    if crc32(data[at : at + 8]) != int.from_bytes(data[at + 8 : at + 12], "big"):
        return 0, 0
    return total, header_bytes


def _next_frame(data: bytes, at: int) -> int:
    """Where the next frame may begin: its length starts with a zero byte or one."""
    found = _BEGINNING.search(data, at)
    return found.start() if found else max(at, len(data) - _PRELUDE_BYTES + 1)


_BEGINNING = re.compile(rb"[\x00\x01]")


def _headers(block: bytes) -> dict[str, str]:
    """The headers that hold strings; what can't be read ends the list."""
    found: dict[str, str] = {}
    at = 0
    while at + 2 <= len(block):
        name_end = at + 1 + block[at]
        name = block[at + 1 : name_end].decode("utf-8", "replace")
        kind = block[name_end] if name_end < len(block) else 255
        at = name_end + 1
        if kind in (6, 7):
            size = int.from_bytes(block[at : at + 2], "big")
            if kind == 7:
                found[name] = block[at + 2 : at + 2 + size].decode("utf-8", "replace")
            at += 2 + size
        elif kind in _FIXED_VALUE_BYTES:
            at += _FIXED_VALUE_BYTES[kind]
        else:
            break
    return found
