"""JSON by the line (Ollama, Cohere's older streams), and JSON whole or as one array, in any pieces."""

from __future__ import annotations

from typing import Final

import msgspec

from tokenmeter.wire.framed import LARGE_BYTES, Framed, take_or_pick
from tokenmeter.wire.jsonpick import Picker
from tokenmeter.wire.tally import UNREADABLE, Tally
from tokenmeter.wire.types import Reading

_BOM: Final = b"\xef\xbb\xbf"
_UNCLOSED: Final = (b"[}", b"[,")  # an array that was cut between its items
_as_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class LinesReader(Framed):
    """One document a line."""

    __slots__ = ("_large",)

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally)
        self._large: Picker | None = None

    def cut(self, joined: bytes, *, last: bool) -> bytes:
        start = 0
        if self._large is not None:
            stop = joined.find(b"\n")
            self._large.feed(joined if stop < 0 else joined[:stop])
            if stop < 0 and not last:
                return b""
            self._end_large()
            start = len(joined) if stop < 0 else stop + 1
        stop = joined.find(b"\n", start)
        while stop >= 0:
            self._line(joined[start:stop])
            start = stop + 1
            stop = joined.find(b"\n", start)
        rest = joined[start:]
        if last:
            self._line(rest, last=True)
            return b""
        if len(rest) > LARGE_BYTES:
            self._large = Picker(self.tally.wanted, self.tally.take_picked)
            self._large.feed(rest)
            return b""
        return rest

    def _line(self, line: bytes, *, last: bool = False) -> None:
        if len(line) > LARGE_BYTES:
            self._large = Picker(self.tally.wanted, self.tally.take_picked)
            self._large.feed(line)
            self._end_large()
        elif line := line.strip():
            take_or_pick(self.tally, line.removeprefix(b"data:"), cut=last)

    def _end_large(self) -> None:
        if self._large is not None:
            self._large.finish()
            self._large = None


class JsonReader(Framed):
    """One document, or an array of them that is sent as it grows. Held whole while it is small."""

    __slots__ = ("_documents", "_edges", "_picker", "_whole")

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally)
        self._limit = LARGE_BYTES
        self._picker: Picker | None = None
        self._whole = False
        self._documents = 0
        self._edges = b""  # the first byte that is no white space, and the last

    def cut(self, joined: bytes, *, last: bool) -> bytes:
        if self._picker is None and last and len(joined) <= LARGE_BYTES:
            self._whole = read_json(self.tally, joined)
            if self._whole:
                return b""
        if self._picker is None:
            self._picker = Picker(self.tally.wanted, self._picked)
        self._picker.feed(joined)
        if bare := joined.removeprefix(_BOM).strip():
            self._edges = (self._edges or bare)[:1] + bare[-1:]
        if last:
            documents, finishes = self._documents, dict(self.tally.finishes)
            self._picker.finish()
            self._whole = bool(documents) and documents == self._documents and self._edges not in _UNCLOSED
            if documents != self._documents > 1:  # an array that was cut: its last usage is in none of them
                self.tally.finishes = finishes
        return b""

    def peek(self) -> Reading:
        """What was read so far: nothing, while the document is held."""
        return self.tally.reading(body_bytes=self._body_bytes + self._pending_bytes, complete=False)

    def _picked(self, skeleton: bytes, weighed_bytes: int) -> None:
        self._documents += 1
        self.tally.take_picked(skeleton, weighed_bytes)

    def complete(self) -> bool:
        """Whether the document could be read to its end."""
        return self._whole


def read_json(tally: Tally, body: bytes) -> bool:
    """Read a body that is one document or an array of them; False if it is neither."""
    if body[:1] != b"{":
        body = body.removeprefix(_BOM)
        if body.lstrip()[:1] == b"[":
            return _read_array(tally, body)
    return tally.take(body)


def _read_array(tally: Tally, body: bytes) -> bool:
    try:
        items = _as_items(body)
    except UNREADABLE:
        return False
    for item in items:
        tally.take(bytes(item))
    return bool(items)
