"""What the ports need of an HTTP library, and how httpx and httpx2 give it: the same shapes under unrelated classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from tokenmeter.clients.decoding import Decoded, Decoder, decoder_for
from tokenmeter.clients.reached import Reached, reached

CARRIED = "tokenmeter.refusal"


class Place(NamedTuple):
    """Where a client sends: a function of a class, or of one object."""

    owner: Any
    attribute: str
    is_async: bool
    make: Callable[..., Any] | None = None  # a wrapper of its own, where the client does something else there


class Library(Protocol):
    """An HTTP library, as the ports see it."""

    @property
    def foreign(self) -> bool:
        """Whether its requests and responses have another shape than httpx's."""
        ...

    @property
    def relay(self) -> type[Any]:
        """The body that passes by, for sync clients."""
        ...

    @property
    def async_relay(self) -> type[Any]:
        """The body that passes by, for async clients."""
        ...

    def places(self) -> Sequence[Place]:
        """Where all clients of the process send."""
        ...

    def places_of(self, client: Any) -> Sequence[Place]:
        """Where this client sends; none if it is no client of this library."""
        ...

    def has_header(self, request: Any, name: str) -> bool:
        """Whether a header is there."""
        ...

    def with_body(self, request: Any, body: bytes | None, *, drop: tuple[str, ...] = ()) -> Any:
        """A copy of a request with another body, so that the caller's own stays as it is."""
        ...

    def reached(self, error: BaseException) -> Reached:
        """How far a request came that ended in this error."""
        ...

    def rearm(self, response: Any, raw: bytes) -> str:
        """The text of a body that was read here; it is still to be read by the caller, in the very bytes."""
        ...

    def decoder(self, response: Any, *, rewrites: bool) -> Decoder | None:
        """What undoes the coding of a body that passes by. Raises `Undecodable`."""
        ...

    def show_plain(self, response: Any) -> None:
        """Say in a response that its body is plain, and of no length that is known."""
        ...


class HttpxLike(Struct, frozen=True):
    """The classes of one of the two libraries."""

    name: str
    client: type[Any]
    async_client: type[Any]
    request: type[Any]
    response: type[Any]
    identity_decoder: type[Any]
    unsent: tuple[type[BaseException], ...]  # errors after which no byte of the request was accepted
    relay: type[Any]
    async_relay: type[Any]

    @property
    def foreign(self) -> bool:
        """It is the shape that the ports know."""
        return False

    def places(self) -> Sequence[Place]:
        """``send`` of both classes."""
        return Place(self.client, "send", False), Place(self.async_client, "send", True)

    def places_of(self, client: Any) -> Sequence[Place]:
        """``send`` of a client."""
        if not isinstance(client, (self.client, self.async_client)):
            return ()
        return (Place(client, "send", isinstance(client, self.async_client)),)

    def has_header(self, request: Any, name: str) -> bool:
        """Whether a header is there. To ask the library takes as long as to hold a budget, so a no is found faster."""
        fields = getattr(request.headers, "_list", None)
        if fields is not None and name.encode() not in chain.from_iterable(fields):
            return False
        return name in request.headers

    def with_body(self, request: Any, body: bytes | None, *, drop: tuple[str, ...] = ()) -> Any:
        """A copy of a request with another body, so that the caller's own stays as it is."""
        headers = request.headers.copy()
        for name in drop:
            headers.pop(name, None)
        if body is None:
            return self.request(
                request.method,
                request.url,
                headers=headers,
                stream=request.stream,
                extensions=request.extensions,
            )
        headers.pop("content-length", None)
        headers.pop("transfer-encoding", None)
        return self.request(request.method, request.url, headers=headers, content=body, extensions=request.extensions)

    def reached(self, error: BaseException) -> Reached:
        """By the class of the error, and by where it was raised."""
        found = reached(self.name, self.response, error)
        return Reached(True, found.status) if isinstance(error, self.unsent) else found

    def rearm(self, response: Any, raw: bytes) -> str:
        """The text of a body that was read here."""
        copy = self.response(response.status_code, headers=response.headers, content=raw)
        response.elapsed = response.elapsed  # it is the stream's that goes
        response.stream = self.response(200, content=raw).stream
        response.is_stream_consumed = response.is_closed = False
        response._num_bytes_downloaded = 0
        return bytes(copy.content).decode(errors="replace")

    def decoder(self, response: Any, *, rewrites: bool) -> Decoder | None:
        """Ours on the side; but what the caller shall see otherwise is decoded by the library itself.

        Then what it can't decode fails as on the bare client.
        """
        coding = response.headers.get("content-encoding")
        return Decoded(response._get_content_decoder()) if rewrites and coding else decoder_for(coding)

    def show_plain(self, response: Any) -> None:
        """Without its length and its coding."""
        headers = response.headers
        headers.pop("content-length", None)
        if headers.get("content-encoding"):
            response._decoder = self.identity_decoder()
            del headers["content-encoding"]

    def refusal(self, request: Any, error: BaseException, body: bytes) -> Any:
        """An answer that carries a refusal past an SDK's own retries, to the seam around the SDK's method."""
        headers: Mapping[str, str] = {"content-type": "application/json", "x-should-retry": "false"}
        return self.response(402, headers=headers, content=body, request=request, extensions={CARRIED: error})
