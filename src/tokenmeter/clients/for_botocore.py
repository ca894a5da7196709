"""The seam to botocore, which boto3 sends with: Bedrock."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from botocore.awsrequest import AWSPreparedRequest, HeadersDict
from botocore.client import BaseClient
from botocore.httpsession import URLLib3Session

from tokenmeter.clients.for_urllib3 import RawResponse, RelayBody, never_left
from tokenmeter.clients.foreign import ForeignLibrary, ForeignRequest, Headers, Url, body_of, url_of
from tokenmeter.clients.library import Place
from tokenmeter.clients.reached import Reached


class Botocore(ForeignLibrary):
    """Requests of AWS' SDK. They are signed, so that their bodies go out as they are."""

    relay = RelayBody

    def places(self) -> Sequence[Place]:
        """Each client has a session."""
        return (Place(URLLib3Session, "send", False),)

    def places_of(self, client: Any) -> Sequence[Place]:
        """The session of a client of boto3 or botocore."""
        if not isinstance(client, BaseClient):
            return ()
        session = client._endpoint.http_session
        return (Place(session, "send", False),) if isinstance(session, URLLib3Session) else ()

    def address(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Url]:
        """What ``URLLib3Session.send`` was given."""
        inner = _given(args, kwargs)
        return inner.method, url_of(inner.url)

    def request(
        self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], method: str, url: Url
    ) -> ForeignRequest:
        """A prepared request."""
        return _seen(_given(args, kwargs), method, url)

    def streams(self, request: ForeignRequest) -> bool:
        """Whether the operation has a stream for its output."""
        return bool(request.inner.stream_output)

    def sending(self, wrapped: Callable[..., Any]) -> Callable[..., Any]:
        """``URLLib3Session.send``."""

        def send(request: ForeignRequest, *, stream: bool) -> RawResponse:
            return RawResponse(wrapped(request.inner))

        return send

    def with_body(self, request: Any, body: bytes | None, *, drop: tuple[str, ...] = ()) -> Any:
        """For a request that bears a token in place of a signature."""
        inner: AWSPreparedRequest = request.inner
        headers = HeadersDict(inner.headers.items())
        for name in drop:
            del headers[name]
        if body is not None:
            headers["Content-Length"] = str(len(body))
        other = copy.copy(inner)
        other.headers, other.body = headers, inner.body if body is None else body
        return _seen(other, request.method, request.url)

    def reached(self, error: BaseException) -> Reached:
        """From where it was raised."""
        return Reached(unsent=never_left(error, "botocore.httpsession"))


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> AWSPreparedRequest:
    return args[0] if args else kwargs["request"]


def _seen(inner: AWSPreparedRequest, method: str, url: Url) -> ForeignRequest:
    return ForeignRequest(inner, method, url, Headers.of(inner.headers.items()), body_of(inner.body))


LIBRARY = Botocore()
