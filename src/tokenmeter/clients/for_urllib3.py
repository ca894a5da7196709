"""The body of a response of urllib3, on which botocore and requests are built, as it passes by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import wrapt

from tokenmeter.clients.aside import here
from tokenmeter.clients.relay import END_MARKS, Passage, as_failure, forgotten
from tokenmeter.errors import Refused


class RelayBody(wrapt.ObjectProxy):  # type: ignore[type-arg]
    """Stands round a ``urllib3.HTTPResponse``, which has half a dozen ways to be read."""

    def __init__(self, inner: Any, passage: Passage) -> None:
        super().__init__(inner)
        self._self_passage = passage
        self._self_feed: Callable[[bytes], bytes] | None = None
        self._self_kept = b""  # read, and not given to the caller yet
        self._self_over = False

    def read(self, amt: int | None = None, decode_content: bool | None = None, cache_content: bool = False) -> bytes:
        """As urllib3's."""
        inner = self.__wrapped__
        if not self._self_passage.rewrites:
            with _Watched(self):
                chunk: bytes = inner.read(amt, decode_content, cache_content)
                self._pass(chunk, decode_content)
            if amt is None or amt < 0 or (not chunk and amt):
                self._end()
            return chunk
        if amt == 0:
            return b""
        whole = amt is None or amt < 0
        while whole or not self._self_kept:
            with _Watched(self):
                chunk = inner.read(None if whole else amt, True)
                self._self_kept += self._pass(chunk, True)
            if whole or not chunk:
                self._self_kept += self._end()
                break
        end = len(self._self_kept) if whole else amt
        out, self._self_kept = self._self_kept[:end], self._self_kept[end:]
        return out

    def read1(self, amt: int | None = None, decode_content: bool | None = None) -> bytes:
        """As urllib3's."""
        if self._self_passage.rewrites:
            return self.read(1 << 16 if amt is None else amt)
        with _Watched(self):
            chunk: bytes = self.__wrapped__.read1(amt, decode_content)
            self._pass(chunk, decode_content)
        if not chunk and amt != 0:
            self._end()
        return chunk

    def readinto(self, buffer: Any) -> int:
        """As urllib3's."""
        view = memoryview(buffer).cast("B")
        chunk = self.read(len(view))
        view[: len(chunk)] = chunk
        return len(chunk)

    def stream(self, amt: int | None = 1 << 16, decode_content: bool | None = None) -> Iterator[bytes]:
        """As urllib3's."""
        return self._passing(lambda decodes: self.__wrapped__.stream(amt, decodes), decode_content)

    def read_chunked(self, amt: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:
        """As urllib3's."""
        return self._passing(lambda decodes: self.__wrapped__.read_chunked(amt, decodes), decode_content)

    def __iter__(self) -> Iterator[bytes]:
        return type(self.__wrapped__).__iter__(self)  # type: ignore[no-any-return]

    def readline(self, limit: int = -1) -> bytes:
        """The next line with its end, or as much of it."""
        line = b""
        while (limit < 0 or len(line) < limit) and not line.endswith(b"\n"):
            byte = self.read(1)
            if not byte:
                break
            line += byte
        return line

    def readlines(self, hint: int = -1) -> list[bytes]:
        """The lines that are left."""
        return list(iter(self.readline, b""))

    @property
    def data(self) -> bytes:
        """The whole body."""
        known: bytes | None = getattr(self.__wrapped__, "_body", None)
        return known if known is not None else self.read(cache_content=True)

    def drain_conn(self) -> None:
        """Read what is left, so that the connection can be used again."""
        self.__wrapped__.drain_conn()
        self._self_passage.end()

    def release_conn(self) -> None:
        """Give the connection back."""
        try:
            self.__wrapped__.release_conn()
        finally:
            self._self_passage.end()

    def close(self) -> None:
        """Close the body; what was not read by now is given up."""
        try:
            self.__wrapped__.close()
        finally:
            self._self_passage.end()

    def __del__(self) -> None:
        forgotten(getattr(self, "_self_passage", None))

    def _passing(self, pieces: Callable[[bool | None], Iterator[bytes]], decode: bool | None) -> Iterator[bytes]:
        passage = self._self_passage
        decode = True if passage.rewrites else decode
        with _Watched(self):
            for chunk in pieces(decode):
                out = self._pass(chunk, decode)
                if out or not passage.rewrites:
                    yield out
        if out := self._end():
            yield out

    def _end(self) -> bytes:
        """The body is over. What is still to be shown of it."""
        if self._self_over:
            return b""
        self._self_over = True
        return self._self_passage.end()

    def _pass(self, chunk: bytes, decode: bool | None) -> bytes:
        """Read a piece; what the caller shall see of it."""
        passage, feed = self._self_passage, self._self_feed
        if not chunk:
            return chunk
        if feed is None:
            decoded = self.__wrapped__.decode_content if decode is None else decode
            feed = self._self_feed = passage.begins(decoded=decoded)
        try:
            out = feed(chunk)
        except Exception as fault:
            feed = self._self_feed = passage.failed(fault)
            out = feed(chunk)
        if passage.grows and (grow := passage.growing()) is not None:
            here(grow)
        if chunk.endswith(END_MARKS):
            passage.marked()
        return out


class _Watched:
    """Settles a body that ends in an error."""

    def __init__(self, body: RelayBody) -> None:
        self._body = body

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._body._self_passage.end(error if isinstance(error, Refused) else as_failure(error))
            if isinstance(error, Refused):
                self._body.__wrapped__.close()
