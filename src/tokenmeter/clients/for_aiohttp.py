"""The seam to aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, CIMultiDictProxy

from tokenmeter.clients.aside import aside
from tokenmeter.clients.decoding import Decoder, decoder_for
from tokenmeter.clients.foreign import ForeignLibrary, ForeignRequest, ForeignResponse, Headers, Url, body_of
from tokenmeter.clients.library import Place
from tokenmeter.clients.reached import Reached
from tokenmeter.clients.relay import END_MARKS, Passage, as_failure, forgotten
from tokenmeter.errors import Refused


class _Unpaced(BaseProtocol):
    """For readers that are fed from here: it is the real one that slows a server down."""

    def pause_reading(self) -> None:
        pass

    def resume_reading(self, *args: Any, **kwargs: Any) -> None:
        pass


class RelayReader(StreamReader):
    """The body of a response as it passes by: draws from the real reader whenever it would have to wait for data."""

    __slots__ = ("__weakref__", "_feed", "_inner", "_passage")

    def __init__(self, inner: StreamReader, passage: Passage) -> None:
        super().__init__(_Unpaced(inner._loop), inner._low_water, loop=inner._loop)
        self._inner = inner
        self._passage = passage
        self._feed: Callable[[bytes], bytes] | None = None

    async def _wait(self, func_name: str) -> None:
        passage, inner = self._passage, self._inner
        try:
            chunk, ends = await inner.readchunk()
            out = self._read(chunk)
            if passage.grows and (grow := passage.growing()) is not None:
                try:
                    await aside(grow)
                except asyncio.CancelledError:
                    self._give(out, ends)
                    raise
        except asyncio.CancelledError:
            raise  # who waited no longer may ask again, and nothing is lost
        except Refused as error:
            passage.end(error)
            self.set_exception(error)
            raise
        except BaseException as error:
            passage.end(as_failure(error))
            raise
        if not chunk and not ends:
            self._over()
        else:
            self._give(out, ends)
            self._catch_up()

    def _read(self, chunk: bytes) -> bytes:
        """Read a piece; what the caller shall see of it."""
        if not chunk:
            return chunk
        feed = self._feed
        if feed is None:
            feed = self._feed = self._passage.begins()
        try:
            out = feed(chunk)
        except Exception as fault:
            feed = self._feed = self._passage.failed(fault)
            out = feed(chunk)
        if chunk.endswith(END_MARKS):
            self._passage.marked()
        return out

    def _give(self, out: bytes, ends: bool) -> None:
        if self._inner._http_chunk_splits is None:
            self.feed_data(out)
            return
        self.begin_http_chunk_receiving()
        self.feed_data(out)
        if ends:
            self.end_http_chunk_receiving()

    def _over(self) -> None:
        if not self._eof:
            self.feed_data(self._passage.end())
            self.feed_eof()

    def _catch_up(self) -> None:
        """What the real reader knows without waiting."""
        if self._inner.at_eof():
            self._over()

    def set_read_chunk_size(self, n: int) -> None:
        """As aiohttp's."""
        super().set_read_chunk_size(n)
        self._inner.set_read_chunk_size(n)

    def read_nowait(self, n: int = -1) -> bytes:
        """As aiohttp's."""
        if not self._buffer and not self._eof:
            self._give(self._read(self._inner.read_nowait()), ends=False)
            self._catch_up()
        return super().read_nowait(n)

    def is_eof(self) -> bool:
        """As aiohttp's."""
        return self._eof or self._inner.is_eof()

    def at_eof(self) -> bool:
        """As aiohttp's."""
        self._catch_up()
        return super().at_eof()

    async def wait_eof(self) -> None:
        """As aiohttp's."""
        await self._inner.wait_eof()

    def on_eof(self, callback: Callable[[], None]) -> None:
        """As aiohttp's."""
        self._inner.on_eof(callback)

    def exception(self) -> Any:
        """As aiohttp's."""
        return super().exception() or self._inner.exception()

    def set_exception(self, exc: BaseException, *args: Any, **kwargs: Any) -> None:
        """The response is closed, or its connection is lost: what was not read by now is given up."""
        try:
            self._inner.set_exception(exc, *args, **kwargs)
            super().set_exception(exc, *args, **kwargs)
        finally:
            self._passage.end()

    def __del__(self) -> None:
        forgotten(getattr(self, "_passage", None))


class _Response(ForeignResponse[aiohttp.ClientResponse]):
    def __init__(self, inner: aiohttp.ClientResponse, plain: bool) -> None:
        super().__init__(inner)
        self.status_code = inner.status
        self.headers = CIMultiDict(inner.headers)
        if plain:  # aiohttp has undone the coding that it still tells of
            self.headers.popall("content-encoding", None)

    @property
    def stream(self) -> Any:
        return self.inner.content

    @stream.setter
    def stream(self, body: Any) -> None:
        self.inner.content = body

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        while piece := await self.inner.content.readany():
            yield piece


class Aiohttp(ForeignLibrary):
    """Requests of a ``ClientSession``."""

    async_relay = RelayReader
    unsent = (
        aiohttp.ClientConnectorError,
        aiohttp.ConnectionTimeoutError,
        aiohttp.ServerFingerprintMismatch,
        aiohttp.InvalidURL,
    )

    def places(self) -> Sequence[Place]:
        """What all the methods of a session go through."""
        return (Place(aiohttp.ClientSession, "_request", True),)

    def places_of(self, client: Any) -> Sequence[Place]:
        """The same of one session."""
        return (Place(client, "_request", True),) if isinstance(client, aiohttp.ClientSession) else ()

    def address(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Url]:
        """What ``ClientSession._request`` was given."""
        given = _named(args, kwargs)
        url = instance._build_url(given["str_or_url"])
        return given["method"].upper(), Url(url.scheme, url.host or "", url.port, url.raw_path.encode("ascii"))

    def request(
        self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], method: str, url: Url
    ) -> ForeignRequest[Any]:
        """With the headers of the session, and what it makes of ``json``."""
        given = _named(args, kwargs)
        headers = Headers.of([*instance.headers.items(), *CIMultiDict(given.get("headers") or {}).items()])
        body = body_of(given.get("data"))
        if given.get("json") is not None:
            body = instance.json_serialize(given["json"]).encode()
            headers.setdefault("content-type", "application/json")
        return ForeignRequest(instance, method, url, headers, body, rest=given)

    def sending(self, wrapped: Callable[..., Any], instance: Any) -> Callable[..., Any]:
        """``ClientSession._request``."""

        async def send(request: ForeignRequest[Any]) -> _Response:
            return _Response(await wrapped(**request.rest), plain=instance.auto_decompress)

        return send

    def with_body(self, request: Any, body: bytes | None, *, drop: tuple[str, ...] = ()) -> Any:
        """The same call with another body."""
        rest = dict(request.rest)
        given = CIMultiDict(rest.get("headers") or {})
        for name in (*drop, *(("content-length",) if body is not None else ())):
            given.popall(name, None)
        if body is not None:
            if rest.pop("json", None) is not None:
                given.setdefault("Content-Type", "application/json")
            rest["data"] = body
        rest["headers"] = given
        headers = Headers(request.headers)
        for name in drop:
            headers.pop(name, None)
        known = getattr(request, "content", None) if body is None else body
        return ForeignRequest(request.inner, request.method, request.url, headers, known, rest=rest)

    def reached(self, error: BaseException) -> Reached:
        """By its class, by the status that it tells, and by where it was raised: nothing is sent while it connects."""
        if isinstance(error, aiohttp.ClientResponseError) and error.status:
            return Reached(status=error.status)
        return Reached(unsent=isinstance(error, self.unsent) or _connecting(error))

    def rearm(self, response: Any, raw: bytes) -> str:
        """The text of a body that was read here."""
        inner: aiohttp.ClientResponse = response.inner
        again = StreamReader(_Unpaced(inner.content._loop), inner.content._low_water, loop=inner.content._loop)
        again.feed_data(raw)
        again.feed_eof()
        inner.content = again
        decoder = decoder_for(response.headers.get("content-encoding"))
        return (raw if decoder is None else decoder.decode(raw)).decode(errors="replace")

    def decoder(self, response: Any, *, rewrites: bool) -> Decoder | None:
        """Ours, in a session that undoes no coding itself."""
        return decoder_for(response.headers.get("content-encoding"))

    def show_plain(self, response: Any) -> None:
        """Without its length, and without a coding that was undone here."""
        inner: aiohttp.ClientResponse = response.inner
        left = CIMultiDict(inner.headers)
        left.popall("content-length", None)
        if "content-encoding" in response.headers:
            left.popall("content-encoding")
        inner._headers = CIMultiDictProxy(left)
        inner._cache.pop("headers", None)


def _named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(("method", "str_or_url"), args, strict=False)) | kwargs


def _connecting(error: BaseException) -> bool:
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_globals.get("__name__") == "aiohttp.connector":
            return True
        step = step.tb_next
    return False


LIBRARY = Aiohttp()
