"""The seam to httpx2."""

from __future__ import annotations

import httpx2
from httpx2._decoders import IdentityDecoder

from tokenmeter.clients.library import HttpxLike
from tokenmeter.clients.relay import AsyncRelay, SyncRelay


class RelayStream(SyncRelay, httpx2.SyncByteStream):
    """The body of a sync response as it passes by."""


class AsyncRelayStream(AsyncRelay, httpx2.AsyncByteStream):
    """The body of an async response as it passes by."""


LIBRARY = HttpxLike(
    name="httpx2",
    client=httpx2.Client,
    async_client=httpx2.AsyncClient,
    request=httpx2.Request,
    response=httpx2.Response,
    identity_decoder=IdentityDecoder,
    unsent=(
        httpx2.ConnectError,
        httpx2.ConnectTimeout,
        httpx2.PoolTimeout,
        httpx2.ProxyError,
        httpx2.UnsupportedProtocol,
        httpx2.LocalProtocolError,
        httpx2.InvalidURL,
    ),
    relay=RelayStream,
    async_relay=AsyncRelayStream,
)
