"""The protocols that the scripted provider speaks, one file each."""

from __future__ import annotations

from tokenmeter.testing.dialects.base import Dialect
from tokenmeter.testing.dialects.chat import CHAT, COMPLETIONS
from tokenmeter.testing.dialects.embeddings import EMBEDDINGS
from tokenmeter.testing.dialects.messages import MESSAGES
from tokenmeter.testing.dialects.responses import RESPONSES

__all__ = ["EMBEDDINGS", "find"]

_BY_PATH = {
    "/chat/completions": CHAT,
    "/completions": COMPLETIONS,
    "/embeddings": EMBEDDINGS,
    "/messages": MESSAGES,
    "/responses": RESPONSES,
}


def find(path: str) -> Dialect | None:
    """The protocol that is spoken at this path, with or without a prefix such as ``/v1``."""
    path = path.partition("?")[0].rstrip("/")
    return next((dialect for suffix, dialect in _BY_PATH.items() if path.endswith(suffix)), None)
