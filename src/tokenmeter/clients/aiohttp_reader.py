"""What a body is read from in aiohttp, with its pieces read as they pass by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import EmptyStreamReader, StreamReader

from tokenmeter.clients.aside import aside
from tokenmeter.clients.decoding import Undecodable
from tokenmeter.clients.relay import END_MARKS, Passage, as_failure, forgotten


class Unpaced(BaseProtocol):
    """For readers that are fed from here: it is the real one that slows a server down."""

    def pause_reading(self) -> None:
        pass

    def resume_reading(self, *args: Any, **kwargs: Any) -> None:
        pass


class RelayReader(StreamReader):
    """The body of a response as it passes by: draws from the real reader whenever it has nothing itself.

    It works on the same fields as the methods that it inherits, for it must tell apart what these tell apart: what is
    here by now, where the server's chunks end, and that all came.
    """

    def __new__(cls, inner: StreamReader, passage: Passage) -> Any:
        """An empty body is one object for all responses: that stays as it is."""
        if isinstance(inner, EmptyStreamReader):
            passage.end()
            return inner
        return super().__new__(cls)

    def __init__(self, inner: StreamReader, passage: Passage) -> None:
        self._inner = inner
        self._passage = passage
        self._marked = False
        loop = inner._loop
        super().__init__(Unpaced(loop), inner._low_water, timer=inner._timer, loop=loop)

    @property
    def _exception(self) -> BaseException | None:
        """The real reader's. Nothing more can be read then."""
        error = self._inner._exception
        if error is not None:
            self._passage.end(as_failure(error))
        return error

    @_exception.setter
    def _exception(self, error: BaseException | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        pass

    async def _wait(self, func_name: str) -> None:
        passage = self._passage
        try:
            if not self._draw():
                await self._inner._wait(func_name)
                self._draw()
        except asyncio.CancelledError:
            raise  # who waited no longer may ask again, and nothing is lost
        except BaseException as error:
            passage.end(as_failure(error))
            raise
        if passage.grows and (grow := passage.growing()) is not None:
            try:
                await aside(grow)
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                passage.end(error)
                self.set_exception(error)
                raise
        self._catch_up()

    def _draw(self) -> bool:
        """Take what the real reader has by now, and no more: it may go on to fill itself. Whether there was any."""
        inner = self._inner
        inner.at_eof()  # then another meter's relay has drawn
        size, ends = inner._size, inner._http_chunk_splits
        found = bool(size or ends or inner._eof)
        if ends is not None:
            self.begin_http_chunk_receiving()
        while True:
            while ends and ends[0] <= inner._cursor:
                del ends[0]
                self.end_http_chunk_receiving()
            if size <= 0:
                break
            chunk = inner._read_nowait_chunk(ends[0] - inner._cursor if ends else -1)
            size -= len(chunk)
            self.feed_data(self._read(chunk))
        self.total_compressed_bytes = getattr(inner, "total_compressed_bytes", None)
        return found

    def _catch_up(self) -> None:
        """Tell that all came, once it may pass."""
        if self._marked:
            self._marked = False
            self._passage.marked()
        if self._inner._eof and not self._inner._buffer and not self._eof:
            self.feed_data(self._passage.end())
            self.feed_eof()

    def _read(self, chunk: bytes) -> bytes:
        """Read a piece; what the caller shall see of it."""
        try:
            out = self._passage.passes(chunk)
        except Undecodable as fault:
            raise aiohttp.ClientPayloadError(str(fault)) from fault
        self._marked = chunk.endswith(END_MARKS)
        return out

    def set_read_chunk_size(self, n: int) -> None:
        """As aiohttp's."""
        super().set_read_chunk_size(n)
        self._inner.set_read_chunk_size(n)

    def read_nowait(self, n: int = -1) -> bytes:
        """As aiohttp's."""
        if self._exception is None and (n < 0 or self._size < n):
            self._draw()
            self._catch_up()
        return super().read_nowait(n)

    def is_eof(self) -> bool:
        """As aiohttp's."""
        return self._eof or self._inner.is_eof()

    def at_eof(self) -> bool:
        """As aiohttp's."""
        if not self._buffer and not self._eof:
            if not self._passage.grows:  # else it must be waited for whether more may pass
                self._draw()
            self._catch_up()
        return super().at_eof()

    async def wait_eof(self) -> None:
        """As aiohttp's."""
        await self._inner.wait_eof()

    def on_eof(self, callback: Callable[[], None]) -> None:
        """As aiohttp's."""
        self._inner.on_eof(callback)

    def set_exception(self, exc: BaseException, *args: Any, **kwargs: Any) -> None:
        """The response is closed: what was not read by now is given up."""
        try:
            self._inner.set_exception(exc, *args, **kwargs)
        finally:
            self._passage.end()

    def __del__(self) -> None:
        forgotten(getattr(self, "_passage", None))
