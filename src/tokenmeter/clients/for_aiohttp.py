"""The seam to aiohttp."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import aiohttp
from aiohttp.payload import BytesPayload, Payload
from aiohttp.streams import EmptyStreamReader, StreamReader
from multidict import CIMultiDict, CIMultiDictProxy

from tokenmeter.clients.aiohttp_reader import RelayReader, Unpaced
from tokenmeter.clients.decoding import Decoder, Undecodable, decoder_for
from tokenmeter.clients.foreign import ForeignLibrary, ForeignRequest, ForeignResponse, Headers, Url, body_of
from tokenmeter.clients.library import Place
from tokenmeter.clients.reached import Reached

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
            again = StreamReader(Unpaced(loop), inner.content._low_water, loop=loop)
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
