"""The seam to aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import aiohttp
from aiohttp.base_protocol import BaseProtocol
from aiohttp.payload import BytesPayload, Payload
from aiohttp.streams import EmptyStreamReader, StreamReader
from multidict import CIMultiDict, CIMultiDictProxy

from tokenmeter.clients.aside import aside
from tokenmeter.clients.decoding import Decoder, Undecodable, decoder_for
from tokenmeter.clients.foreign import ForeignLibrary, ForeignRequest, ForeignResponse, Headers, Url, body_of
from tokenmeter.clients.library import Place
from tokenmeter.clients.reached import Reached
from tokenmeter.clients.relay import END_MARKS, Passage, as_failure, forgotten

_NEEDED = {
    StreamReader: {
        "_buffer", "_cursor", "_eof", "_exception", "_http_chunk_splits", "_loop", "_low_water", "_read_nowait_chunk",
        "_size", "_timer", "_wait",
    },
    aiohttp.ClientSession: {"_build_url", "_raise_for_status", "_request"},
    Payload: {"_value"},
}  # fmt: skip
for _kind, _names in _NEEDED.items():
    if missing := _names - {*dir(_kind), *vars(_kind)["__init__"].__code__.co_names}:
        raise ImportError(f"its {_kind.__name__} has no {', '.join(sorted(missing))}")


class _Unpaced(BaseProtocol):
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
        super().__init__(_Unpaced(loop), inner._low_water, timer=inner._timer, loop=loop)

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


class _Check:
    """``raise_for_status`` of a call whose body was rewritten: put off for errors, as one may be of our making."""

    def __init__(self, check: Any) -> None:
        self._check = check

    async def __call__(self, response: aiohttp.ClientResponse) -> None:
        if response.ok:
            await self.now(response)

    async def now(self, response: aiohttp.ClientResponse) -> None:
        if not isinstance(self._check, bool | None):
            await self._check(response)
        elif self._check:
            response.raise_for_status()


class _Response(ForeignResponse):
    kept_in = "_body"

    def __init__(self, inner: aiohttp.ClientResponse, plain: bool, check: Any) -> None:
        super().__init__(inner)
        self._check = check
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

    async def given(self) -> Any:
        if isinstance(self._check, _Check) and not self.inner.ok:
            try:
                await self._check.now(self.inner)
            except BaseException:
                self.inner.close()
                raise
        return self.inner


class Aiohttp(ForeignLibrary):
    """Requests of a ``ClientSession``."""

    async_relay = RelayReader

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
    ) -> ForeignRequest:
        """With the headers of the session, and the body that it makes of ``json``."""
        given = _named(args, kwargs)
        own = given.get("headers") or {}
        if not isinstance(own, Mapping):  # it may be an iterator, which gives them only once
            own = given["headers"] = kwargs["headers"] = CIMultiDict(own)
        headers = Headers.of([*instance.headers.items(), *own.items()])
        data = given.get("data")
        if data is None and given.get("json") is not None:
            data = given["data"] = _json_payload(instance, given.pop("json"))
            headers.setdefault("content-type", "application/json")
        body = body_of(data._value if isinstance(data, BytesPayload) else data)
        return ForeignRequest(instance, method, url, headers, body, rest=given)

    def sending(self, wrapped: Callable[..., Any]) -> Callable[..., Any]:
        """``ClientSession._request``."""

        async def send(request: ForeignRequest, *, stream: bool) -> _Response:
            rest = dict(request.rest)
            plain = rest.get("auto_decompress")
            method, url = rest.pop("method"), rest.pop("str_or_url")  # a subclass may call them otherwise
            response = await wrapped(method, url, **rest)
            plain = request.inner.auto_decompress if plain is None else plain
            return _Response(response, plain, rest.get("raise_for_status"))

        return send

    def with_body(self, request: Any, body: bytes | None, *, drop: tuple[str, ...] = ()) -> Any:
        """The same call with another body."""
        rest = dict(request.rest)
        given = CIMultiDict(rest.get("headers") or {})
        headers = Headers(request.headers)
        for name in drop:
            given.popall(name, None)
            headers.pop(name, None)
            if name in request.inner.headers:
                given[name] = ""  # the session's own can only be outdone
        if body is not None:
            given.popall("content-length", None)
            rest["data"] = _like(rest.get("data"), body)
            check = rest.get("raise_for_status")
            request.rest.pop("upload_tracker", None)  # it goes with one request, and not with another try
            rest["raise_for_status"] = _Check(request.inner._raise_for_status if check is None else check)
        rest["headers"] = given
        known = getattr(request, "content", None) if body is None else body
        return ForeignRequest(request.inner, request.method, request.url, headers, known, rest=rest)

    def reached(self, error: BaseException) -> Reached:
        """By what stands in the frames of aiohttp's own function: of each request that it made, its response."""
        found = Reached(status=error.status or None) if isinstance(error, aiohttp.ClientResponseError) else Reached()
        step = error.__traceback__
        while step is not None:
            frame = step.tb_frame
            at = frame.f_globals.get("__name__"), frame.f_code.co_name
            if at == ("aiohttp.client", "_request"):
                response = getattr(frame.f_locals.get("req"), "response", None)
                # Of a response whose head didn't come there is no status.
                found = Reached(unsent=True) if response is None else Reached(status=response.status)
            elif at == ("aiohttp.client_reqrep", "send"):
                return Reached()
            elif at[0] == __name__ and step.tb_next is None:  # it was called with what it doesn't take
                found = Reached(unsent=True)
            step = step.tb_next
        if found.unsent and isinstance(error, KeyboardInterrupt | SystemExit):
            return Reached()  # it may come between two steps, when the response has no name yet
        return found

    def rearm(self, response: Any, raw: bytes) -> str:
        """The text of a body that was read here."""
        inner: aiohttp.ClientResponse = response.inner
        if not isinstance(inner.content, EmptyStreamReader):
            loop = inner.content._loop
            again = StreamReader(_Unpaced(loop), inner.content._low_water, loop=loop)
            again.feed_data(raw)
            again.feed_eof()
            inner.content = again
        decoder = decoder_for(response.headers.get("content-encoding"))
        return (raw if decoder is None else decoder.decode(raw)).decode(errors="replace")

    def decoder(self, response: Any, *, rewrites: bool) -> Decoder | None:
        """Ours, in a session that undoes no coding itself."""
        try:
            return decoder_for(response.headers.get("content-encoding"))
        except Undecodable:
            if not rewrites:
                raise
            response.headers.popall("content-encoding")  # the body passes as it is, and so is told of
            return None

    def show_plain(self, response: Any) -> None:
        """Without its length, and without a coding that was undone here."""
        inner: aiohttp.ClientResponse = response.inner
        if response.headers.get("content-length") == "0":
            return
        gone = {"content-length", "content-encoding"} if "content-encoding" in response.headers else {"content-length"}
        inner._headers = CIMultiDictProxy(
            CIMultiDict((name, value) for name, value in inner.headers.items() if name.lower() not in gone)
        )
        inner._raw_headers = tuple(
            (name, value) for name, value in inner.raw_headers if name.decode("latin-1").lower() not in gone
        )
        inner._cache.pop("headers", None)
        inner._cache.pop("raw_headers", None)


def _named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(("method", "str_or_url"), args, strict=False)) | kwargs


def _json_payload(session: Any, value: Any) -> BytesPayload:
    """As the session makes it, for it may be asked only once."""
    to_bytes = getattr(session, "_json_serialize_bytes", None)
    if to_bytes is not None:
        return BytesPayload(to_bytes(value), content_type="application/json")
    return aiohttp.JsonPayload(value, dumps=session.json_serialize)


def _like(data: Any, body: bytes) -> Any:
    """A body of the same kind, which says the same of its content."""
    if isinstance(data, BytesPayload):
        return BytesPayload(body, headers=data.headers)
    return body.decode() if isinstance(data, str) else body


LIBRARY = Aiohttp()
