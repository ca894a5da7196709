"""lm15's transports, which send with sockets of their own: DSPy carries a copy of them."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from tokenmeter.clients.foreign import ForeignLibrary, ForeignRequest, ForeignResponse, Headers, Url, url_of
from tokenmeter.clients.library import Place
from tokenmeter.clients.reached import Reached
from tokenmeter.clients.relay import AsyncRelay, SyncRelay

_EARLY = frozenset({"acquire_slot", "checkout", "_open", "build_request_head"})  # before anything is written


class Transports(ForeignLibrary):
    """The transports of one copy."""

    def __init__(self, module: ModuleType) -> None:
        kinds = module.StdlibTransport, module.StdlibAsyncTransport
        if not (hasattr(kinds[0], "stream") and hasattr(kinds[1], "_do_stream")):
            raise ImportError("its transports have no stream")
        self._name = module.__name__
        self._sync, self._async = kinds
        self._failed, self._not_connected = module.TransportError, module.ConnectError
        self.relay, self.async_relay = SyncRelay, AsyncRelay

    def places(self) -> Sequence[Place]:
        """What all requests go through."""
        return Place(self._sync, "stream", False), Place(self._async, "_do_stream", True)

    def places_of(self, client: Any) -> Sequence[Place]:
        """The same of one transport."""
        if isinstance(client, self._sync):
            return (Place(client, "stream", False),)
        return (Place(client, "_do_stream", True),) if isinstance(client, self._async) else ()

    def address(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Url]:
        """What a ``TransportRequest`` says."""
        inner = _given(args, kwargs)
        return inner.method.upper(), url_of(inner.url)

    def request(
        self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], method: str, url: Url
    ) -> ForeignRequest:
        """A ``TransportRequest``."""
        return _seen(_given(args, kwargs), method, url, isinstance(instance, self._async))

    def sending(self, wrapped: Callable[..., Any]) -> Callable[..., Any]:
        """``StdlibTransport.stream``, and its twin."""

        def send(request: ForeignRequest, *, stream: bool) -> Any:
            if request.rest:
                return _later(wrapped, request.inner)
            return _Response(wrapped(request.inner))

        return send

    def with_body(self, request: Any, body: bytes | None, *, drop: tuple[str, ...] = ()) -> Any:
        """A copy of a request."""
        gone = {*drop, "content-length"} if body is not None else {*drop}
        kept = [(name, value) for name, value in request.inner.headers if name.lower() not in gone]
        changed = {} if body is None else {"body": body}
        inner = dataclasses.replace(request.inner, headers=kept, **changed)
        return _seen(inner, request.method, request.url, request.rest)

    def reached(self, error: BaseException) -> Reached:
        """By the class of the error, and by where it was raised."""
        early = isinstance(error, self._not_connected) or type(error) is self._failed  # closed, or too busy
        return Reached(unsent=early or isinstance(error, ValueError | TypeError) or self._was_early(error))

    def _was_early(self, error: BaseException) -> bool:
        step = error.__traceback__
        while step is not None:
            frame = step.tb_frame
            if frame.f_code.co_name in _EARLY and frame.f_globals.get("__name__", "").startswith(self._name):
                return True
            step = step.tb_next
        return False

    def rearm(self, response: Any, raw: bytes) -> str:
        """The text of a body that was read here."""
        response.again(raw)
        return raw.decode(errors="replace")

    def show_plain(self, response: Any) -> None:
        """Nobody is told of its length, and its coding is undone before it comes here."""


async def _later(wrapped: Callable[..., Any], request: Any) -> _AsyncResponse:
    return _AsyncResponse(await wrapped(request))


class _Body:
    """The chunks of a response."""

    def __init__(self, chunks: Any) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks.__aiter__()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Give back the transport's slot, which hangs on them. The rest is done by the response."""
        self._chunks.close()

    async def aclose(self) -> None:
        """All is done by the response."""


class _Response(ForeignResponse):
    """A ``TransportResponse``: whoever reads or closes it reads or closes the relay too."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.status_code = inner.status
        self.headers = Headers.of(inner.headers)
        self.headers.pop("content-encoding", None)

    @property
    def stream(self) -> Any:
        return _Body(self.inner._chunks)

    @stream.setter
    def stream(self, relay: Any) -> None:
        self.inner._chunks, self.inner._release = relay, self._releasing(self.inner._release, relay)

    def _releasing(self, release: Callable[..., Any], relay: Any) -> Callable[..., Any]:
        def released(body_consumed: bool) -> None:
            try:
                release(body_consumed)
            finally:
                relay.close()

        return released

    def iter_raw(self) -> Iterator[bytes]:
        yield from self.inner  # not its chunks: it gives back its connection

    def again(self, raw: bytes) -> None:
        self.inner._chunks = iter((raw,))


class _AsyncResponse(_Response):
    def _releasing(self, release: Callable[..., Any], relay: Any) -> Callable[..., Any]:
        async def released(body_consumed: bool) -> None:
            try:
                await release(body_consumed)
            finally:
                await relay.aclose()

        return released

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        async for piece in self.inner:
            yield piece

    def again(self, raw: bytes) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield raw

        self.inner._chunks = chunks()


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs["request"]


def _seen(inner: Any, method: str, url: Url, is_async: bool) -> ForeignRequest:
    return ForeignRequest(inner, method, url, Headers.of(inner.headers), bytes(inner.body or b""), rest=is_async)
