"""The seam to httpx."""

from __future__ import annotations

import httpx
from httpx._decoders import IdentityDecoder

from tokenmeter.clients.library import HttpxLike
from tokenmeter.clients.relay import AsyncRelay, SyncRelay


class RelayStream(SyncRelay, httpx.SyncByteStream):
    """The body of a sync response as it passes by."""


class AsyncRelayStream(AsyncRelay, httpx.AsyncByteStream):
    """The body of an async response as it passes by."""


LIBRARY = HttpxLike(
    name="httpx",
    client=httpx.Client,
    async_client=httpx.AsyncClient,
    request=httpx.Request,
    response=httpx.Response,
    identity_decoder=IdentityDecoder,
    unsent=(
        httpx.ConnectError,
        httpx.ConnectTimeout,
        httpx.PoolTimeout,
        httpx.ProxyError,
        httpx.UnsupportedProtocol,
        httpx.LocalProtocolError,
        httpx.InvalidURL,
    ),
    relay=RelayStream,
    async_relay=AsyncRelayStream,
)
