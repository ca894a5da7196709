"""A response body on its way to the caller, read as it passes by.

However it ends (read out, closed early, cut, cancelled, or forgotten and collected as garbage) the story of its
call goes on exactly once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

from tokenmeter.clients.aside import aside, here
from tokenmeter.clients.decoding import Deaf, Decoder, Undecodable
from tokenmeter.clients.growth import Growth
from tokenmeter.errors import Refused
from tokenmeter.faults import swallow
from tokenmeter.notes import Answer
from tokenmeter.wire import Reader, Reading

Resume = Callable[[Answer], None]

END_MARKS = (b"[DONE]\n\n", b"[DONE]\r\n\r\n", b"[DONE]\n")
SLICE_BYTES = 1_024  # of a compressed body at once, because each byte may unpack to a thousand


class Passage:
    """What both kinds of relay do with each piece and at the end."""

    __slots__ = (
        "_decoder",
        "_feed",
        "_first_s",
        "_growth",
        "_last_event",
        "_open",
        "_reader",
        "_resume",
        "_rewrites",
        "_start_s",
        "_status",
        "_tail",
    )

    def __init__(
        self,
        streams: set[Any],
        reader: Reader,
        decoder: Decoder | None,
        resume: Resume,
        *,
        status: int,
        start_s: float,
        rewrites: bool,
        growth: Growth | None = None,
    ) -> None:
        self._open = streams
        streams.add(self)
        self._reader = reader
        self._decoder = decoder
        self._resume: Resume | None = resume
        self._status = status
        self._start_s = start_s  # on the monotonic clock
        self._first_s: float | None = None
        self._feed: Callable[[bytes], bytes] | None = None
        self._growth = growth
        self._rewrites = rewrites  # the caller sees what the reader returns, not the bytes as they came

    def begins(self, *, decoded: bool = False) -> Callable[[bytes], bytes]:
        """The first piece is here. Returns what reads a piece, and says what the caller shall see of it.

        ``decoded``: the library undoes the coding of the pieces before they come here.
        """
        self._first_s = time.perf_counter() - self._start_s
        if decoded:
            self._decoder = None
        decoder = self._decoder
        # The reader's own, where nothing stands between: each piece is waited for by a caller.
        return self._reader.feed if decoder is None else partial(self._decoded, decoder)

    def passes(self, chunk: bytes, *, decoded: bool = False) -> bytes:
        """Read a piece; what the caller shall see of it. A relay that is one loop does these steps in it."""
        feed = self._feed
        if feed is None:
            feed = self._feed = self.begins(decoded=decoded)
        try:
            return feed(chunk)
        except Exception as fault:
            feed = self._feed = self.failed(fault)
            return feed(chunk)

    def _decoded(self, decoder: Decoder, chunk: bytes) -> bytes:
        if self._rewrites:
            return self._read(decoder.decode(chunk))
        try:
            for at in range(0, len(chunk), SLICE_BYTES):
                self._read(decoder.decode(chunk[at : at + SLICE_BYTES]))
        except Undecodable:
            self._decoder = Deaf()
        return chunk

    def _read(self, plain: bytes) -> bytes:
        try:
            return self._reader.feed(plain)
        except Exception as fault:
            return self._blind(fault)(plain)

    def failed(self, fault: Exception) -> Callable[[bytes], bytes]:
        """What reads the pieces from now on, if it was the reader that failed."""
        if self._decoder is not None:
            raise fault  # the library's own: what can't be decoded fails as on the bare client
        return self._blind(fault)

    def _blind(self, fault: Exception) -> Callable[[bytes], bytes]:
        swallow(fault, "reading a body")
        self._reader = _Blind()
        return self._reader.feed

    @property
    def rewrites(self) -> bool:
        """Whether the caller sees what the reader returns, not the bytes as they came."""
        return self._rewrites

    @property
    def grows(self) -> bool:
        """Whether the hold is enlarged as the body flows."""
        return self._growth is not None

    def growing(self) -> Callable[[], None] | None:
        """What is to be done before the piece that was read last may pass: a larger hold. None: nothing."""
        growth = self._growth
        if growth is None or self._resume is None:
            return None
        stage = growth.due(self._reader.peek)
        return None if stage is None else partial(growth.grow, stage)

    def end(self, failure: BaseException | None = None) -> bytes:
        """The body is over, or given up. Returns bytes that were withheld from the caller."""
        try:
            tail, reading = self._reader.finish()
        except Exception as fault:
            swallow(fault, "reading the end of a body")
            tail, reading = b"", Reading(complete=False)
        if self._resume is not None:
            self._tell(reading, failure)
        return tail if self._rewrites else b""

    def marked(self) -> None:
        """The end mark is here, behind which nothing is said. Not every caller closes what it read up to there."""
        reading = self._peek()
        if reading is not None and reading.complete:
            self._tell(reading, None)

    def peek(self) -> None:
        """Settle with what was read so far, while more may come."""
        reading = self._peek()
        if reading is not None:
            self._tell(reading, None)

    def leave(self) -> None:
        """In a forked child: the story is the parent's, which tells it."""
        self._resume = None

    def _peek(self) -> Reading | None:
        if self._resume is None:
            return None
        try:
            return self._reader.peek()
        except Exception as fault:
            swallow(fault, "reading a body")
            return None

    def _tell(self, reading: Reading, failure: BaseException | None) -> None:
        resume, self._resume = self._resume, None
        if resume is None:
            return
        self._open.discard(self)
        resume(
            Answer(
                status=self._status,
                reading=reading,
                failure=failure,
                time_to_first_chunk_s=self._first_s,
                duration_s=time.perf_counter() - self._start_s,
            )
        )


class _Blind:
    """Stands in for a reader that failed: what passes is only weighed, and then charged by estimate."""

    def __init__(self) -> None:
        self._bytes = 0

    def feed(self, chunk: bytes) -> bytes:
        self._bytes += len(chunk)
        return chunk

    def peek(self) -> Reading:
        return Reading(complete=False, output_bytes=self._bytes, body_bytes=self._bytes)

    def finish(self) -> tuple[bytes, Reading]:
        return b"", self.peek()


class SyncRelay:
    """Mixed with a library's sync byte stream."""

    def __init__(self, inner: Any, passage: Passage) -> None:
        self._inner = inner
        self._passage = passage

    @property
    def elapsed(self) -> timedelta | None:
        """httpx2 reads the time that a response took from its stream."""
        found: timedelta | None = getattr(self._inner, "elapsed", None)
        return found

    def __iter__(self) -> Iterator[bytes]:
        passage = self._passage
        feed, growing = None, passage.growing if passage.grows else None
        try:
            for chunk in self._inner:
                if feed is None:
                    feed = passage.begins()
                try:
                    out = feed(chunk)
                except Exception as fault:
                    feed = passage.failed(fault)
                    out = feed(chunk)
                if growing is not None and (grow := growing()) is not None:
                    here(grow)
                if chunk.endswith(END_MARKS):
                    passage.marked()
                if out:
                    yield out
            if out := self._passage.end():
                yield out
        except Refused as error:
            self._passage.end(error)
            self._inner.close()
            raise
        except BaseException as error:
            self._passage.end(as_failure(error))
            raise

    def close(self) -> None:
        """Close the body; what was not read by now is given up."""
        try:
            self._inner.close()
        finally:
            self._passage.end()

    def __del__(self) -> None:
        forgotten(getattr(self, "_passage", None))


class AsyncRelay:
    """Mixed with a library's async byte stream."""

    def __init__(self, inner: Any, passage: Passage) -> None:
        self._inner = inner
        self._passage = passage

    @property
    def elapsed(self) -> timedelta | None:
        """httpx2 reads the time that a response took from its stream."""
        found: timedelta | None = getattr(self._inner, "elapsed", None)
        return found

    async def __aiter__(self) -> AsyncIterator[bytes]:
        passage = self._passage
        feed, growing = None, passage.growing if passage.grows else None
        try:
            async for chunk in self._inner:
                if feed is None:
                    feed = passage.begins()
                try:
                    out = feed(chunk)
                except Exception as fault:
                    feed = passage.failed(fault)
                    out = feed(chunk)
                if growing is not None and (grow := growing()) is not None:
                    await aside(grow)
                if chunk.endswith(END_MARKS):
                    passage.marked()
                if out:
                    yield out
            if out := self._passage.end():
                yield out
        except Refused as error:
            self._passage.end(error)
            await self._inner.aclose()
            raise
        except BaseException as error:
            self._passage.end(as_failure(error))
            raise

    async def aclose(self) -> None:
        """Close the body; what was not read by now is given up."""
        try:
            await self._inner.aclose()
        finally:
            self._passage.end()

    def __del__(self) -> None:
        forgotten(getattr(self, "_passage", None))


def as_failure(error: BaseException) -> BaseException | None:
    """Why a body ended early; a caller that stopped reading is no failure."""
    return None if isinstance(error, GeneratorExit) else error


def forgotten(passage: Passage | None) -> None:
    """What read the body is garbage. None: it did not get far."""
    if passage is not None:
        passage.end()
