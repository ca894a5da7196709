"""The seam to requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from tokenmeter.clients.for_urllib3 import RawResponse, RelayBody, never_left
from tokenmeter.clients.foreign import ForeignLibrary, ForeignRequest, Headers, Url, body_of, url_of
from tokenmeter.clients.library import Place
from tokenmeter.clients.reached import Reached


class _Response(RawResponse):
    unread = False

    def __init__(self, inner: requests.Response) -> None:
        super().__init__(inner)
        if not isinstance(inner.raw, urllib3.HTTPResponse):
            inner.content  # noqa: B018 - of an adapter that doesn't use urllib3: it is read at once

    def iter_raw(self) -> Iterator[bytes]:
        try:
            yield from self.inner.raw.stream(decode_content=False)
        except urllib3.exceptions.ProtocolError as error:
            raise requests.exceptions.ChunkedEncodingError(error)  # noqa: B904 - as requests does
        except urllib3.exceptions.ReadTimeoutError as error:
            raise requests.ConnectionError(error)  # noqa: B904 - as requests does


class Requests(ForeignLibrary):
    """Each hop of a request passes an adapter, which knows nothing of redirects, cookies and hooks."""

    relay = RelayBody

    def places(self) -> Sequence[Place]:
        """The adapter that all others are built on."""
        return (Place(HTTPAdapter, "send", False),)

    def places_of(self, client: Any) -> Sequence[Place]:
        """The adapters that a session has now."""
        if not isinstance(client, requests.Session):
            return ()
        return [Place(adapter, "send", False) for adapter in dict.fromkeys(client.adapters.values())]

    def address(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Url]:
        """What ``HTTPAdapter.send`` was given."""
        inner = args[0] if args else kwargs["request"]
        return inner.method, url_of(inner.url)

    def request(
        self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], method: str, url: Url
    ) -> ForeignRequest:
        """A prepared request, and how to send it."""
        inner = args[0] if args else kwargs["request"]
        rest = args[1:], {name: value for name, value in kwargs.items() if name != "request"}
        return _seen(inner, method, url, rest)

    def sending(self, wrapped: Callable[..., Any]) -> Callable[..., Any]:
        """``HTTPAdapter.send``."""

        def send(request: ForeignRequest, *, stream: bool) -> _Response:
            args, kwargs = request.rest
            try:
                response = wrapped(request.inner, *args, **kwargs)
            except requests.RequestException as error:
                if error.request is request.inner:
                    error.request = request.own
                raise
            if response.request is request.inner:
                response.request = request.own
            return _Response(response)

        return send

    def with_body(self, request: Any, body: bytes | None, *, drop: tuple[str, ...] = ()) -> Any:
        """A copy of a prepared request."""
        inner = request.inner.copy()
        for name in drop:
            inner.headers.pop(name, None)
        if body is not None:
            inner.headers.pop("transfer-encoding", None)
            inner.body = body
            inner.headers["Content-Length"] = str(len(body))
        found = _seen(inner, request.method, request.url, request.rest)
        found.own = request.own
        return found

    def reached(self, error: BaseException) -> Reached:
        """From where it was raised; where urllib3 gave up trying, it tells the status that it met."""
        reason = getattr(error.args[0], "reason", None) if error.args else None
        if isinstance(reason, urllib3.exceptions.ResponseError) and (found := re.search(r"\d{3}", str(reason))):
            return Reached(status=int(found[0]))
        return Reached(unsent=never_left(error, "requests.adapters"))

    def rearm(self, response: Any, raw: bytes) -> str:
        """The text of a body that was read here."""
        inner: requests.Response = response.inner
        known = inner.raw
        inner.raw = urllib3.HTTPResponse(
            BytesIO(raw),
            headers=known.headers,
            status=known.status,
            version=known.version,
            reason=known.reason,
            preload_content=False,
            decode_content=False,
            original_response=getattr(known, "_original_response", None),
            request_method=inner.request.method,
        )
        copy = urllib3.HTTPResponse(BytesIO(raw), headers=known.headers, preload_content=False)
        try:
            return copy.read(decode_content=True).decode(errors="replace")
        except urllib3.exceptions.DecodeError:
            return ""  # its caller is told when he reads it

    def show_plain(self, response: Any) -> None:
        """Without its length, and without its coding if urllib3 knows that."""
        raw = response.inner.raw
        raw._init_decoder()
        response.headers.pop("content-length", None)
        if raw._decoder is not None:
            response.headers.pop("content-encoding", None)


def _seen(inner: requests.PreparedRequest, method: str, url: Url, rest: Any) -> ForeignRequest:
    return ForeignRequest(inner, method, url, Headers.of(inner.headers.items()), body_of(inner.body), rest=rest)


LIBRARY = Requests()
