"""Server-sent events: LF, CRLF or CR, comments, data over several lines, a missing last blank line, garbage."""

from __future__ import annotations

import re
from typing import Final

from tokenmeter.wire.framed import LARGE_BYTES, Framed, take_or_pick
from tokenmeter.wire.jsonpick import Picker
from tokenmeter.wire.tally import Tally

_BOM: Final = b"\xef\xbb\xbf"
_HEADS = re.compile(rb"\n\nevent: [a-z_.]*+\ndata: ")
_FIELD_BYTES: Final = 4_096  # of a line that is no data, more is not looked at


class SseReader(Framed):
    """Reads the events of one stream."""

    __slots__ = ("_large", "_started")

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally)
        self._large: _LargeEvent | None = None
        self._started = False

    def cut(self, joined: bytes, *, last: bool) -> bytes:
        held = b""
        if b"\r" in joined:
            if joined.endswith(b"\r") and not last:  # half of a CRLF, perhaps
                joined, held = joined[:-1], b"\r"
            joined = joined.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not self._started:
            joined = joined.removeprefix(_BOM)
            self._started = True
        start = 0
        if self._large is not None:
            start = self._large.feed(joined)
            if start < 0:
                return held
            self._end_large()
        stop = joined.rfind(b"\n\n", start)
        if stop > start:
            region = joined[start:stop]
            if len(region) > LARGE_BYTES or not self._events_at_once(region):
                self._one_by_one(joined, start, stop)
        if stop >= 0:
            start = stop + 2
        if last:
            self._rest(joined[start:])
            return b""
        if len(joined) - start > LARGE_BYTES:
            self._large = _LargeEvent(self.tally)
            self._large.feed(joined[start:])
            return held
        return joined[start:] + held

    def _events_at_once(self, region: bytes) -> bool:
        """Events of the plainest form, which most streams consist of, read as one array."""
        if region.startswith(b"data: {"):
            parts = region[6:].split(b"\n\ndata: ")
            done = parts[-1] == b"[DONE]"
            if done:
                parts.pop()
            if not self.tally.take_many(b"[" + b",".join(parts) + b"]", len(parts)):
                return False
            self.tally.done = self.tally.done or done
            return True
        if self.tally.needs_names or not region.startswith(b"event: "):
            return False
        array, number = _HEADS.subn(b",", b"\n\n" + region)
        return self.tally.take_many(b"[" + array[1:] + b"]", number)

    def _one_by_one(self, joined: bytes, start: int, stop: int) -> None:
        while start <= stop:
            end = joined.find(b"\n\n", start)
            if end - start > LARGE_BYTES:
                large = _LargeEvent(self.tally)
                large.feed(joined[start : end + 2])
                large.finish()
            elif end > start:
                self._event(joined[start:end])
            start = end + 2

    def _rest(self, rest: bytes) -> None:
        if self._large is not None:
            self._large.feed(rest)
            self._end_large()
        elif len(rest) > LARGE_BYTES:
            self._large = _LargeEvent(self.tally)
            self._large.feed(rest)
            self._end_large()
        elif rest.strip():
            self._event(rest, last=True)

    def _end_large(self) -> None:
        if self._large is not None:
            self._large.finish()
            self._large = None

    def _event(self, event: bytes, *, last: bool = False) -> None:
        """One event; the ``last`` may have been cut."""
        if event.startswith(b"data: ") and event.find(b"\n") < 0:
            take_or_pick(self.tally, event[6:], cut=last)
            return
        name, data, strays = "", [], []
        for line in event.split(b"\n"):
            if line.startswith(b"data:"):
                data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif line.startswith(b"event:"):
                name = line[6:_FIELD_BYTES].decode("utf-8", "replace").strip()
            elif line and not line.startswith((b":", b"id:", b"retry:")):
                strays.append(line)
        if len(data) == 1:
            take_or_pick(self.tally, data[0], name, cut=last)
        elif data:
            self._lines(data, name, last=last)
        elif strays:
            self._stray(strays)

    def _lines(self, data: list[bytes], name: str, *, last: bool) -> None:
        """One document over several lines; or events that no blank line parts, which programs read by the line."""
        if all(line.lstrip().startswith((b"{", b"[DONE]")) for line in data):
            for line in data:
                take_or_pick(self.tally, line, cut=last and line is data[-1])
        else:
            take_or_pick(self.tally, b"\n".join(data), name, cut=last)

    def _stray(self, lines: list[bytes]) -> None:
        """Lines of no field. Garbage; or an event behind garbage, or JSON where a stream was announced."""
        for line in lines:
            at = line.find(b"data:")
            if at >= 0 and line[at + 5 :].lstrip().startswith(b"{"):
                self.tally.take(line[at + 5 :])
                return
        whole = b"\n".join(lines).strip()
        if whole.startswith(b"{") and self.tally.take(whole):
            self.tally.done = True


class _LargeEvent:
    """One event that is read line by line as it passes."""

    __slots__ = ("_bare", "_in_data", "_line", "_name", "_picker", "_tally")

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._name = ""
        self._picker = Picker(tally.wanted, self._picked)
        self._line: bytes | None = b""  # a line whose field is not known yet; None: the field is known
        self._in_data = False
        self._bare = False  # JSON with no field before it

    def _picked(self, skeleton: bytes, weighed_bytes: int) -> None:
        self._tally.take_picked(skeleton, weighed_bytes, self._name)
        if self._bare:
            self._tally.done = True

    def feed(self, data: bytes) -> int:
        """Take the next bytes; the position behind the event's blank line, or -1 if it goes on."""
        at, end = 0, len(data)
        while at < end:
            stop = data.find(b"\n", at)
            closed = stop >= 0
            part = data[at:stop] if closed else data[at:]
            at = stop + 1 if closed else end
            if self._in_data:
                self._picker.feed(part)
            elif self._line is not None:
                line = self._line + part
                if closed and not line:
                    return at
                self._line = line
                if closed or line.startswith((b"data:", b"{")) or len(line) > _FIELD_BYTES:
                    self._line = None
                    self._begin(line)
            if closed:
                if self._in_data:
                    self._picker.feed(b"\n")
                self._in_data, self._line = False, b""
        return -1

    def _begin(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._in_data = True
            self._picker.feed(line[5:])
        elif line.startswith(b"event:"):
            self._name = line[6:_FIELD_BYTES].decode("utf-8", "replace").strip()
        elif self._bare or line.startswith(b"{"):
            self._bare = self._in_data = True
            self._picker.feed(line)

    def finish(self) -> None:
        """The event has ended, or the stream."""
        self._picker.finish()
