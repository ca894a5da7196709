"""Libraries of another shape than httpx's: what a port needs of their requests and responses, put round the real ones.

The seam takes what the caller gave to its client, and gives back what that client returned: what stands here is seen
by the port and the story alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from tokenmeter.clients.decoding import Decoder, decoder_for
from tokenmeter.clients.library import Place
from tokenmeter.clients.reached import Reached


class Url(NamedTuple):
    """An address, in its parts."""

    scheme: str
    host: str
    port: int | None
    raw_path: bytes  # without a query


def url_of(text: str) -> Url:
    """The parts of an address. Raises ValueError."""
    parts = urlsplit(text)
    return Url(parts.scheme, parts.hostname or "", parts.port, parts.path.encode("ascii"))


def _path(url: Any) -> bytes:
    """Without what the libraries do differently: each quotes other characters."""
    return unquote_to_bytes(url.raw_path.partition(b"?")[0])


class Headers(dict[str, str]):
    """Headers of a request, looked up without regard to case."""

    @classmethod
    def of(cls, pairs: Iterable[tuple[Any, Any]]) -> Headers:
        """From names and values, which may be bytes."""
        return cls(
            {
                (name if type(name) is str else _text(name)).lower(): value if type(value) is str else _text(value)
                for name, value in pairs
            }
        )

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a header."""
        return super().get(name.lower(), default)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


class ForeignRequest:
    """A request as the port and the story look at it. ``inner``: the real one."""

    def __init__(
        self, inner: Any, method: str, url: Url, headers: Headers, body: bytes | None, *, rest: Any = None
    ) -> None:
        self.inner = inner
        self.own = inner  # the caller's, of which ``inner`` may be a copy
        self.rest = rest  # what else the client's function was given
        self.method = method
        self.url = url
        self.headers: Mapping[str, str] = headers
        if body is not None:
            self._content = self.content = body

    def __eq__(self, other: object) -> bool:
        """The same request, also if another library further out sends it: that one has counted it."""
        url, ours = getattr(other, "url", None), self.url
        if url is None or getattr(other, "method", None) != self.method:
            return False
        body = getattr(self, "_content", None)
        if body is None or body == getattr(other, "_content", None):
            return True  # wherever a redirect led it; then httpx gives the body on unread
        return url.host == ours.host and _path(url) == _path(ours)

    __hash__ = None  # type: ignore[assignment]


class ForeignResponse:
    """A response as the port looks at it. ``inner``: the real one, which the caller gets."""

    request = None
    status_code: int
    stream: Any  # the body; a port puts its relay round it
    headers: Any  # asked by name, without regard to case

    kept_in = "_content"  # where the real one keeps a body that was read
    unread: Any = None  # what stands there before

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    @property
    def _content(self) -> bytes:
        """The body, if the client has read it. Raises AttributeError where it hasn't, as in httpx."""
        found: bytes | None = getattr(self.inner, self.kept_in, self.unread)
        if found is self.unread:
            raise AttributeError("_content")
        return found or b""

    @_content.setter
    def _content(self, body: bytes) -> None:
        setattr(self.inner, self.kept_in, body)

    @property
    def content(self) -> bytes:
        """The body."""
        return self._content

    @property
    def text(self) -> str:
        """The body, for a look at an error."""
        return self._content.decode(errors="replace")

    def iter_raw(self) -> Iterator[bytes]:
        """The body, read out. For sync libraries."""
        raise NotImplementedError

    def aiter_raw(self) -> AsyncIterator[bytes]:
        """The body, read out. For async libraries."""
        raise NotImplementedError

    async def given(self) -> Any:
        """The real one, as the caller of an async library shall have it. May raise what the library would have."""
        return self.inner


class ForeignLibrary:
    """What all of them have in common."""

    foreign = True
    relay: type[Any] = object
    async_relay: type[Any] = object

    def places(self) -> Sequence[Place]:
        """Where all clients of the process send."""
        raise NotImplementedError

    def places_of(self, client: Any) -> Sequence[Place]:
        """Where this client sends; none if it is no client of this library."""
        raise NotImplementedError

    def address(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Url]:
        """The method and the address that a client was asked to send to. What is wrong with them the client says."""
        raise NotImplementedError

    def request(
        self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], method: str, url: Url
    ) -> ForeignRequest | None:
        """What a client was asked to send. None: nothing that is paid."""
        raise NotImplementedError

    def streams(self, request: ForeignRequest) -> bool:
        """Whether the response comes before its body was read."""
        return True

    def sending(self, wrapped: Callable[..., Any]) -> Callable[..., Any]:
        """The client's own function, from a request as the port has it to a response as the port needs it."""
        raise NotImplementedError

    def has_header(self, request: Any, name: str) -> bool:
        """Whether a header is there."""
        return name in request.headers

    def with_body(self, request: Any, body: bytes | None, *, drop: tuple[str, ...] = ()) -> Any:
        """A copy of a request with another body."""
        raise NotImplementedError

    def reached(self, error: BaseException) -> Reached:
        """How far a request came that ended in this error."""
        raise NotImplementedError

    def rearm(self, response: Any, raw: bytes) -> str:
        """The text of a body that was read here."""
        raise NotImplementedError

    def decoder(self, response: Any, *, rewrites: bool) -> Decoder | None:
        """Ours on the side; what the caller shall see otherwise, the library decodes before."""
        return None if rewrites else decoder_for(response.headers.get("content-encoding"))

    def show_plain(self, response: Any) -> None:
        """Without its length and its coding."""
        for name in ("content-length", "content-encoding"):
            response.headers.pop(name, None)


def body_of(data: Any) -> bytes | None:
    """A body that is here as a whole; None for a file or a generator, which only its client may read."""
    if data is None:
        return b""
    if isinstance(data, str):
        return data.encode()
    return bytes(data) if isinstance(data, bytes | bytearray | memoryview) else None
