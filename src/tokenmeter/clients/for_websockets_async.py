"""The seam to the async connections of websockets."""

from __future__ import annotations

from websockets.asyncio.client import ClientConnection

from tokenmeter.clients.sockets import Websockets

LIBRARY = Websockets(ClientConnection, is_async=True)
