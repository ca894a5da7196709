"""Websockets to models, as the library ``websockets`` keeps them, sync and async.

A call is a message that asks for a response; the story of the call is told by the messages that come in after it.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from websockets.exceptions import ConcurrencyError, ConnectionClosed
from websockets.protocol import State

from tokenmeter.clients.births import uri_of
from tokenmeter.clients.foreign import ForeignLibrary, ForeignRequest, ForeignResponse, Headers, Url
from tokenmeter.clients.lanes import Asked, Lanes
from tokenmeter.clients.library import Place
from tokenmeter.clients.metering import Metering
from tokenmeter.clients.reached import Reached
from tokenmeter.clients.relay import Passage
from tokenmeter.faults import logger
from tokenmeter.wire import sockets
from tokenmeter.wire.sockets import Sent

_METHODS = ("send", "recv", "recv_streaming", "close")
_LANES = "_tokenmeter_lanes"
_UNSENT = "_tokenmeter_unsent"
_NOT_SENT = TypeError, ConcurrencyError
_HEADERS = {"content-type": "application/json", "upgrade": "websocket"}
_FIXED = {**_HEADERS, "content-encoding": "identity"}  # the response before it has fixed its settings

_told: set[str] = set()  # hosts
# What the meters that send one message through each other know it by.
_GOING: ContextVar[object | None] = ContextVar("tokenmeter-going", default=None)


class _Message(NamedTuple):
    """What ``Connection.send`` was given, and on which connection."""

    connection: Any
    sent: Sent
    args: tuple[Any, ...]
    options: dict[str, Any]


class Websockets(ForeignLibrary):
    """Connections of one kind."""

    def __init__(self, connection: type[Any], *, is_async: bool) -> None:
        if not all(hasattr(connection, name) for name in _METHODS):
            raise ImportError(f"its {connection.__name__} has not all of {', '.join(_METHODS)}")
        self._connection = connection
        self._is_async = is_async
        self._asked: weakref.WeakSet[Any] = weakref.WeakSet()  # connections over which a message went out
        self.relay = self.async_relay = _Attach

    def places(self) -> Sequence[Place]:
        """All connections: what goes out, what comes in, and their end."""
        return self._places(self._connection)

    def places_of(self, client: Any) -> Sequence[Place]:
        """One connection."""
        return self._places(client) if isinstance(client, self._connection) else ()

    def left(self) -> Sequence[Place]:
        """Where the answers to what went out come in."""
        busy = [each for each in self._asked if _lanes_of(each).busy]
        return [place for each in busy for place in self._places(each) if place.make is not None]

    def _places(self, owner: Any) -> Sequence[Place]:
        is_async = self._is_async
        return (
            Place(owner, "send", is_async),
            Place(owner, "recv", is_async, _recv_async if is_async else _recv),
            Place(owner, "recv_streaming", is_async, _recv_pieces_async if is_async else _recv_pieces),
            Place(owner, "close", is_async, _close_async if is_async else _close),
        )

    def address(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Url]:
        """Where a connection leads; what is sent over it is posted there, so to say."""
        uri = uri_of(instance)
        if uri.host not in _told and sockets.is_live(uri.host, uri.path):
            _told.add(uri.host)
            logger.warning("what goes over the websocket to %s%s is NOT METERED", uri.host, uri.path)
        return "POST", Url("https" if uri.secure else "http", uri.host, uri.port, uri.path.encode("ascii"))

    def request(
        self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], method: str, url: Url
    ) -> ForeignRequest | None:
        """A message that asks for a response."""
        message = args[0] if args else kwargs["message"]
        data = _joined(message)
        if data is None:
            return None
        sent = sockets.read_sent(data)
        found = None if sent is None else _lanes_of(instance).request(sent, data)
        if found is None:
            return None
        sent, body = found
        self._asked.add(instance)
        options = {name: value for name, value in kwargs.items() if name != "message"}
        rest = _Message(instance, sent, args[1:], options)
        headers = Headers(_HEADERS if sent.steers is None else _FIXED)
        return ForeignRequest(message, method, url, headers, body, rest=rest)

    def sending(self, wrapped: Callable[..., Any]) -> Callable[..., Any]:
        """``Connection.send``."""

        def send(request: ForeignRequest, *, stream: bool) -> _Answer:
            message: _Message = request.rest
            with _Going(request) as answer:
                wrapped(request.inner, *message.args, **message.options)
            return answer

        async def send_async(request: ForeignRequest, *, stream: bool) -> _Answer:
            message: _Message = request.rest
            with _Going(request) as answer:
                await wrapped(request.inner, *message.args, **message.options)
            return answer

        return send_async if self._is_async else send

    def with_body(self, request: Any, body: bytes | None, *, drop: tuple[str, ...] = ()) -> Any:
        """Another message of the same kind."""
        other = copy.copy(request)
        if body is not None:
            other._content = other.content = body
            first = request.inner[0] if isinstance(request.inner, list | tuple) else request.inner
            other.inner = body.decode() if isinstance(first, str) else body
        return other

    def reached(self, error: BaseException) -> Reached:
        """Whether the connection was closed or taken already, or what it was given is no message."""
        return Reached(unsent=isinstance(error, _NOT_SENT) or getattr(error, _UNSENT, False))


class _Answer(ForeignResponse):
    """What is to come in after a message went out."""

    status_code = 200

    def __init__(self, lanes: Lanes, asked: Asked) -> None:
        super().__init__(None)
        self.headers = Headers({"content-type": "text/event-stream"})
        self.stream = lanes, asked


class _Attach:
    """Stands where a library's body would: the messages find the passage by themselves."""

    def __init__(self, inner: tuple[Lanes, Asked], passage: Passage) -> None:
        lanes, asked = inner
        lanes.attach(asked, passage)


class _Going:
    """While a message goes out, which may be answered before that is known here."""

    def __init__(self, request: ForeignRequest) -> None:
        message: _Message = request.rest
        self._was_open = message.connection.protocol.state is State.OPEN
        self._connection = message.connection
        self._waited = _waits(message.connection)
        self._lanes = _lanes_of(message.connection)
        going = _GOING.get() or object()
        self._token = _GOING.set(going)
        self._asked = self._lanes.expect(message.sent, going, request.content)

    def __enter__(self) -> _Answer:
        return _Answer(self._lanes, self._asked)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _GOING.reset(self._token)
        if error is not None:
            waits = self._waited and _waits(self._connection)
            if isinstance(error, Exception) or waits:
                self._lanes.withdraw(self._asked)
            else:  # by a caller that waited no longer for what was written at once
                self._lanes.forgo(self._asked)
            if waits or (isinstance(error, ConnectionClosed) and not self._was_open):
                setattr(error, _UNSENT, True)


def _waits(connection: Any) -> bool:
    """Whether another message is going out in fragments, for whose last one all others wait."""
    names = ("send_in_progress", "fragmented_send_waiter")  # the latter of older ones
    return any(getattr(connection, name, None) for name in names)


def _joined(message: Any) -> bytes | None:
    """A message, be it in fragments. None for one that is made while it goes out."""
    if isinstance(message, str):
        return message.encode()
    if isinstance(message, list | tuple):
        parts = [_joined(part) for part in message]
        return b"".join([part for part in parts if part is not None])
    return bytes(message) if isinstance(message, bytes | bytearray | memoryview) else None


def _lanes_of(connection: Any) -> Lanes:
    own = vars(connection)
    found: Lanes = own[_LANES] if _LANES in own else own.setdefault(_LANES, Lanes())
    return found


def _recv(metering: Metering, library: Any, active: Callable[[], bool]) -> Any:
    def recv(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        lanes = _lanes_of(instance)  # also before anything went out: it may be waited for already
        if lanes.hearing:
            return wrapped(*args, **kwargs)
        with _Hearing(lanes):
            message = wrapped(*args, **kwargs)
        lanes.hear(message)
        return message

    return recv


def _recv_async(metering: Metering, library: Any, active: Callable[[], bool]) -> Any:
    async def recv(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        lanes = _lanes_of(instance)  # also before anything went out: it may be waited for already
        if lanes.hearing:
            return await wrapped(*args, **kwargs)
        with _Hearing(lanes):
            message = await wrapped(*args, **kwargs)
        lanes.hear(message)
        return message

    return recv


def _recv_pieces(metering: Metering, library: Any, active: Callable[[], bool]) -> Any:
    def recv(
        wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[Any]:
        lanes = _lanes_of(instance)
        if lanes.hearing:
            yield from wrapped(*args, **kwargs)
            return
        pieces: list[Any] = []
        with _Hearing(lanes):
            for piece in wrapped(*args, **kwargs):
                if lanes.busy:
                    pieces.append(piece)
                yield piece
        lanes.hear(_joined(pieces) or b"")

    return recv


def _recv_pieces_async(metering: Metering, library: Any, active: Callable[[], bool]) -> Any:
    async def recv(
        wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncIterator[Any]:
        lanes = _lanes_of(instance)
        if lanes.hearing:
            async for piece in wrapped(*args, **kwargs):
                yield piece
            return
        pieces: list[Any] = []
        with _Hearing(lanes):
            async for piece in wrapped(*args, **kwargs):
                if lanes.busy:
                    pieces.append(piece)
                yield piece
        lanes.hear(_joined(pieces) or b"")

    return recv


class _Hearing:
    """While a message is waited for."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes

    def __enter__(self) -> None:
        self._lanes.hearing = True

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._lanes.hearing = False
        if isinstance(error, ConnectionClosed):
            self._lanes.over(error)


def _close(metering: Metering, library: Any, active: Callable[[], bool]) -> Any:
    def close(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return wrapped(*args, **kwargs)
        finally:
            _over(instance)

    return close


def _close_async(metering: Metering, library: Any, active: Callable[[], bool]) -> Any:
    async def close(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return await wrapped(*args, **kwargs)
        finally:
            _over(instance)

    return close


def _over(connection: Any) -> None:
    lanes: Lanes | None = getattr(connection, _LANES, None)
    if lanes is not None:
        lanes.over()
