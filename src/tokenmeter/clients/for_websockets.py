"""The seam to the sync connections of websockets."""

from __future__ import annotations

from websockets.sync.client import ClientConnection

from tokenmeter.clients.sockets import Websockets

LIBRARY = Websockets(ClientConnection, is_async=False)
