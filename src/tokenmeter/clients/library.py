"""What httpx and httpx2 have in common: the same shapes under unrelated classes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from msgspec import Struct

CARRIED = "tokenmeter.refusal"


class Library(Struct, frozen=True):
    """The classes of one of the two libraries."""

    name: str
    client: type[Any]
    async_client: type[Any]
    request: type[Any]
    response: type[Any]
    identity_decoder: type[Any]
    unsent: tuple[type[BaseException], ...]  # errors after which no byte of the request was accepted
    relay: type[Any]  # the body that passes by, for sync clients
    async_relay: type[Any]

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

    def refusal(self, request: Any, error: BaseException, body: bytes) -> Any:
        """An answer that carries a refusal past an SDK's own retries, to the seam around the SDK's method."""
        headers: Mapping[str, str] = {"content-type": "application/json", "x-should-retry": "false"}
        return self.response(402, headers=headers, content=body, request=request, extensions={CARRIED: error})
