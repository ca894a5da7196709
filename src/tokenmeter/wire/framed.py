"""What the framings have in common: bytes are set aside and cut into documents in batches.

A chunk of a stream costs one append; about every 32 kB the chunks are joined, cut and read, off the narrow path
between the network and the caller, with warm caches. At most one batch and one unfinished document are held.
"""

from __future__ import annotations

import logging
from typing import Final

from tokenmeter.wire.jsonpick import Picker
from tokenmeter.wire.tally import Tally
from tokenmeter.wire.types import Reading

BATCH_BYTES: Final = 32_768
LARGE_BYTES: Final = 262_144  # a document above it is picked as it passes, never held
_PIECE_BYTES: Final = 65_536

_log = logging.getLogger("tokenmeter")


class Framed:
    """Base of the readers: `cut` takes joined bytes and returns those of the unfinished document."""

    __slots__ = (
        "_body_bytes",
        "_final",
        "_limit",
        "_peeked",
        "_pending",
        "_pending_bytes",
        "_rest_bytes",
        "_spoilt",
        "tally",
    )

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._limit = BATCH_BYTES
        self._rest_bytes = 0
        self._body_bytes = 0
        self._spoilt = False
        self._peeked: Reading | None = None  # at the end mark, with nothing left over
        self._final: Reading | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; they pass unchanged."""
        size = self._pending_bytes + len(chunk)
        if size <= self._limit:
            self._pending.append(chunk)
            self._pending_bytes = size
        else:
            self._feed_much(chunk)
        return chunk

    def _feed_much(self, chunk: bytes) -> None:
        for start in range(0, len(chunk), _PIECE_BYTES):
            piece = chunk if len(chunk) <= _PIECE_BYTES else chunk[start : start + _PIECE_BYTES]
            self._pending.append(piece)
            self._pending_bytes += len(piece)
            if self._pending_bytes > self._limit:
                self._drain(last=False)

    def finish(self) -> tuple[bytes, Reading]:
        """The end, however it came; whoever asks again gets the same."""
        if self._final is None:
            self._drain(last=True)
            complete, told = False if self._spoilt else self.complete(), self._peeked
            if told is None or told.body_bytes != self._body_bytes or not complete:
                told = self.tally.reading(body_bytes=self._body_bytes, complete=complete)
            self._final = told
        return b"", self._final

    def peek(self) -> Reading:
        """What was read so far."""
        self._drain(last=False)
        found = self.tally.reading(body_bytes=self._body_bytes, complete=not self._spoilt and self.tally.ended)
        self._peeked = found if found.complete and not self._pending else None
        return found

    def _drain(self, *, last: bool) -> None:
        joined = b"".join(self._pending)
        self._body_bytes += len(joined) - self._rest_bytes
        self._pending.clear()
        rest = b""
        if not self._spoilt:
            try:
                rest = self.cut(joined, last=last)
            except Exception:  # noqa: BLE001  the caller's response must not suffer from what it says
                self._spoilt = True
                _log.debug("a response could not be read on", exc_info=True)
        self._limit = BATCH_BYTES + len(rest)
        self._pending_bytes = self._rest_bytes = len(rest)
        if rest:
            self._pending.append(rest)

    def cut(self, joined: bytes, *, last: bool) -> bytes:
        """Read all whole documents in ``joined`` and return what remains; ``last``: nothing more comes."""
        raise NotImplementedError

    def complete(self) -> bool:
        """Whether the stream came to its own end."""
        return self.tally.ended


def take_or_pick(tally: Tally, document: bytes, name: str = "", *, cut: bool = False) -> None:
    """Take one document; of one with faults, such as a half of a surrogate pair, what stands beside them.

    One that may have been ``cut`` is taken only as a whole: it must not say why an answer ended, and not its usage.
    """
    if tally.take(document, name) or cut or not document.lstrip().startswith(b"{"):
        return
    picker = Picker(tally.wanted, lambda skeleton, weighed_bytes: tally.take_picked(skeleton, weighed_bytes, name))
    picker.feed(document)
    picker.finish()
