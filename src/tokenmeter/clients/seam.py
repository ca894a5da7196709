"""The narrow seam: the function of a client through which every request passes, ``send`` in httpx and httpx2."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import msgspec

from tokenmeter import attribution, wire
from tokenmeter.call import story
from tokenmeter.clients.drive import drive, drive_async
from tokenmeter.clients.foreign import ForeignLibrary, ForeignRequest
from tokenmeter.clients.library import CARRIED, HttpxLike
from tokenmeter.clients.metering import Metering
from tokenmeter.clients.port import INSIDE
from tokenmeter.clients.ports import AsyncPort, SyncPort
from tokenmeter.errors import Refused, StoreUnavailable
from tokenmeter.faults import is_the_hosts, swallow
from tokenmeter.forks import in_child
from tokenmeter.notes import Request
from tokenmeter.wire import Route

# Set while an SDK's own method runs whose outer seam brings a refusal to the caller.
OUTER_SEAM: ContextVar[bool] = ContextVar("tokenmeter-outer-seam", default=False)

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]

_UNREAD = Request(Route("", "", None, "", ""), None, {}, attribution.NOBODY, 0.0, "", None)


def sync_send(metering: Metering, library: HttpxLike, active: Callable[[], bool]) -> Wrapper:
    """A wrapper for ``Client.send``, for one meter."""

    def send(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        request: Any = args[0] if args else kwargs.get("request")
        asked = _asked(metering, request) if active() else None
        if asked is _UNREAD:
            request.read()  # what the caller's body raises is the caller's own
            asked = _asked(metering, request, loaded=True)
        if asked is None:
            return wrapped(*args, **kwargs)
        stream = bool(kwargs.pop("stream", False))
        kwargs.pop("request", None)
        port = SyncPort(metering, library, wrapped, request, stream, kwargs)
        try:
            return drive(story(metering.current(), asked), port)
        except (Refused, StoreUnavailable) as refusal:
            return _carried_out(library, request, refusal)

    return send


def async_send(metering: Metering, library: HttpxLike, active: Callable[[], bool]) -> Wrapper:
    """A wrapper for ``AsyncClient.send``, for one meter."""

    async def send(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        request: Any = args[0] if args else kwargs.get("request")
        asked = _asked(metering, request) if active() else None
        if asked is _UNREAD:
            await request.aread()  # what the caller's body raises is the caller's own
            asked = _asked(metering, request, loaded=True)
        if asked is None:
            return await wrapped(*args, **kwargs)
        stream = bool(kwargs.pop("stream", False))
        kwargs.pop("request", None)
        port = AsyncPort(metering, library, wrapped, request, stream, kwargs)
        try:
            return await drive_async(story(metering.current(), asked), port)
        except (Refused, StoreUnavailable) as refusal:
            return _carried_out(library, request, refusal)

    return send


def sync_foreign(metering: Metering, library: ForeignLibrary, active: Callable[[], bool]) -> Wrapper:
    """As `sync_send`, for a library of another shape. A refusal is raised in it: none masks what it raises."""

    def send(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        request = _seen(library, instance, args, kwargs) if active() else None
        asked = None if request is None else _asked(metering, request, loaded=True)
        if request is None or asked is None:
            return wrapped(*args, **kwargs)
        port = SyncPort(metering, library, library.sending(wrapped), request, library.streams(request), {})
        return drive(story(metering.current(), asked), port).inner

    return send


def async_foreign(metering: Metering, library: ForeignLibrary, active: Callable[[], bool]) -> Wrapper:
    """As `sync_foreign`, for an async client."""

    async def send(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        request = _seen(library, instance, args, kwargs) if active() else None
        asked = None if request is None else _asked(metering, request, loaded=True)
        if request is None or asked is None:
            return await wrapped(*args, **kwargs)
        port = AsyncPort(metering, library, library.sending(wrapped), request, library.streams(request), {})
        return await (await drive_async(story(metering.current(), asked), port)).given()

    return send


def sync_method(active: Callable[[], bool]) -> Wrapper:
    """A wrapper for an SDK's own request method: the outer seam, at which a carried refusal is raised."""

    def request(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not active():
            return wrapped(*args, **kwargs)
        token = OUTER_SEAM.set(True)
        try:
            return wrapped(*args, **kwargs)
        except Exception as error:
            refusal = _carried_in(error)
            if refusal is None:
                raise
        finally:
            OUTER_SEAM.reset(token)
        raise refusal

    return request


def async_method(active: Callable[[], bool]) -> Wrapper:
    """As `sync_method`, for an async SDK."""

    async def request(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not active():
            return await wrapped(*args, **kwargs)
        token = OUTER_SEAM.set(True)
        try:
            return await wrapped(*args, **kwargs)
        except Exception as error:
            refusal = _carried_in(error)
            if refusal is None:
                raise
        finally:
            OUTER_SEAM.reset(token)
        raise refusal

    return request


def _seen(
    library: ForeignLibrary, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ForeignRequest | None:
    """What a client of another shape was asked to send, if it may be a model call."""
    try:
        method, url = library.address(instance, args, kwargs)
    except Exception:
        return None  # the bare client says what is wrong with it
    try:
        if wire.recognise(method, url.host, url.raw_path.decode("ascii")) is None:
            return None
        return library.request(instance, args, kwargs, method, url)
    except Exception as fault:
        if is_the_hosts(fault):
            raise
        # Told without itself: it may be the caller's own serializer that failed, and quote what it was given.
        swallow(RuntimeError(type(fault).__name__), f"reading a request to {url.host}")
        return None


def _asked(metering: Metering, request: Any, *, loaded: bool = False) -> Request | None:
    """What the story is told of; None for what is no model call, or is counted further out.

    `_UNREAD` where the body must be loaded first: JSON that comes from a generator, and forms, as those of audio. Then
    it is asked for once more.
    """
    try:
        url = request.url
        method, host, path = request.method, url.host, url.raw_path.partition(b"?")[0].decode("ascii")
    except Exception:
        return None  # no request of the library's own; the bare client says what is wrong with it
    try:
        route = wire.recognise(method, host, path)
        if route is None:
            return None
        inside = INSIDE.get()
        if inside and any(meter is metering and sent == request for meter, sent in inside):
            return None
        headers = request.headers
        body: bytes | None = None
        if hasattr(request, "_content"):
            body = request.content
        elif not loaded and _is_loaded(headers):
            return _UNREAD
        if not wire.is_call(route, body, headers):
            return None
        return Request(
            route,
            body,
            headers,
            attribution.current(),
            metering.clock.now_s(),
            host,
            url.port or (443 if url.scheme == "https" else 80),
            _ids.new(),
        )
    except Exception as fault:
        swallow(fault, "reading a request")
        return None


def _is_loaded(headers: Any) -> bool:
    kind = headers.get("content-type", "")
    if "json" in kind:
        return True
    size = headers.get("content-length", "")
    return kind.startswith("multipart/") and size.isdigit() and int(size) <= _MOST_FORM_BYTES


_MOST_FORM_BYTES = 32 << 20  # services take up to 25 MB


def _carried_out(library: HttpxLike, request: Any, refusal: Refused | StoreUnavailable) -> Any:
    if not OUTER_SEAM.get():
        raise refusal
    name = type(refusal).__name__
    error = {"type": name, "code": name, "message": str(refusal), "param": None}
    return library.refusal(request, refusal, msgspec.json.encode({"type": "error", "error": error}))


def _carried_in(error: Exception) -> BaseException | None:
    extensions = getattr(getattr(error, "response", None), "extensions", None)
    refusal = extensions.get(CARRIED) if isinstance(extensions, dict) else None
    if refusal is None and isinstance(kwargs := getattr(error, "kwargs", None), dict):
        refusal = kwargs.get("error")  # botocore's errors keep what they mask there
    return refusal if isinstance(refusal, Refused | StoreUnavailable) else None


class _Ids:
    """Ids of calls: drawn once a process, then counted, which is ten times as fast as drawing each."""

    def __init__(self) -> None:
        self.renew()
        in_child(self.renew)

    def renew(self) -> None:
        self._prefix = secrets.token_hex(10)
        self._numbers = itertools.count()

    def new(self) -> str:
        return f"{self._prefix}{next(self._numbers):012x}"


_ids = _Ids()
