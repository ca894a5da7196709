"""The websockets of a client that was wrapped: which of the connections that are made in this process are its own.

The SDK opens them through a library that knows nothing of the client. But it asks its client for something right
before, in the same context, and then a connection to that host is made there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

from tokenmeter.clients.patches import Patch
from tokenmeter.clients.seam import Wrapper
from tokenmeter.faults import swallow

CONNECTS = "_websocket_query_params"  # what the SDK asks its client for when it opens a websocket, and only then


class Births:
    """What one meter looks out for. ``adopt`` meters a connection; it is a method, whose object isn't kept alive."""

    def __init__(self, adopt: Callable[[Any], object]) -> None:
        self._adopt = weakref.WeakMethod(adopt)
        self._patches: dict[str, Patch] = {}

    def expect_of(self, client: Any) -> Patch:
        """Note whenever this client opens one; forget it once another does."""
        patch = Patch(client, CONNECTS, partial(_expects, weakref.ref(self)))
        kind = next(kind for kind in type(client).__mro__ if CONNECTS in vars(kind))
        self._patch(f"{kind.__module__}.{kind.__qualname__}", kind, CONNECTS, _forgets)
        return patch

    def watch(self, module: Any) -> None:
        """Look at each connection that is made by this module of the library."""
        self._patch(module.__name__, module.ClientConnection, "__init__", partial(_adopts, weakref.ref(self)))

    def _patch(self, name: str, owner: Any, attribute: str, make: Callable[[Callable[[], bool]], Wrapper]) -> None:
        if name not in self._patches:
            self._patches[name] = Patch(owner, attribute, make)

    def undo(self) -> None:
        """Look no longer."""
        for patch in reversed(self._patches.values()):
            patch.undo()
        self._patches.clear()

    def born(self, connection: Any) -> None:
        """A connection was made: it is metered if a wrapped client expects it."""
        expected, adopt = _expected.get(), self._adopt()
        if expected and adopt is not None:
            _expected.set(tuple(each for each in expected if each[0] is not self))
            if (self, uri_of(connection).host) in expected:
                adopt(connection)


# Whose clients are about to open a websocket right here, and to which host.
_expected: ContextVar[tuple[tuple[Births, str], ...]] = ContextVar("tokenmeter-expected", default=())


def uri_of(connection: Any) -> Any:
    """Where a connection leads."""
    protocol = connection.protocol
    return getattr(protocol, "uri", None) or protocol.wsuri  # older ones


def _expects(ref: weakref.ref[Births], active: Callable[[], bool]) -> Wrapper:
    def connect(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        host = getattr(args[0] if args else kwargs.get("url"), "host", "")
        found, births = wrapped(*args, **kwargs), ref()
        if births is not None and active():
            _expected.set((*_expected.get(), (births, host)))
        return found

    return connect


def _forgets(active: Callable[[], bool]) -> Wrapper:
    """Whichever client opens a websocket: what was expected before did not come."""

    def connect(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if active():
            _expected.set(())
        return wrapped(*args, **kwargs)

    return connect


def _adopts(ref: weakref.ref[Births], active: Callable[[], bool]) -> Wrapper:
    def made(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        wrapped(*args, **kwargs)
        births = ref()
        if births is not None and active():
            try:
                births.born(instance)
            except Exception as fault:
                swallow(fault, "metering a websocket")

    return made
