"""What to patch: one client that was handed over, or every client of the process."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenmeter.clients import seam, threads
from tokenmeter.clients.births import CONNECTS, Births
from tokenmeter.clients.library import Library, Place
from tokenmeter.clients.metering import Metering
from tokenmeter.clients.patches import Patch
from tokenmeter.errors import ConfigError
from tokenmeter.faults import logger
from tokenmeter.forks import renew_in_child, start_thread
from tokenmeter.turn import Turn, in_turn

# By the module that is there once the library is.
HTTP_LIBRARIES = {
    "httpx": "tokenmeter.clients.for_httpx",
    "httpx2": "tokenmeter.clients.for_httpx2",
    "aiohttp": "tokenmeter.clients.for_aiohttp",
    "botocore.client": "tokenmeter.clients.for_botocore",
    "requests": "tokenmeter.clients.for_requests",
    "lm15.transports": "tokenmeter.clients.for_lm15",
    "dspy._vendor.lm15.transports": "tokenmeter.clients.for_dspy",
    "websockets.sync.client": "tokenmeter.clients.for_websockets",
    "websockets.asyncio.client": "tokenmeter.clients.for_websockets_async",
}

# SDKs of one make: each has a `_base_client` with these two classes, whose `request` retries and masks what is
# raised below it.
SDKS = (
    "openai",
    "anthropic",
    "groq",
    "together",
    "cerebras.cloud.sdk",
    "fireworks",
    "perplexity",
    "sambanova",
    "writerai",
    "gradient",
    "llama_api_client",
    "llama_stack_client",
    "portkey_ai._vendor.openai",
)
# What sends model calls in another way, by the module that is there once it is used.
UNSEEN = {
    "xai_sdk": "xai-sdk sends over gRPC; the HTTP side of xAI's API is metered",
    "google.cloud.aiplatform_v1.services.prediction_service": "it sends over gRPC; google-genai is metered",
}
SOCKETS = ("websockets.sync.client", "websockets.asyncio.client")
AIOBOTOCORE = "aiobotocore.httpsession"  # masks what is raised in aiohttp below it
Act = Callable[["Instruments", Any], object]  # with a module
_HTTPX = (seam.sync_send, seam.async_send)
_FOREIGN = (seam.sync_foreign, seam.async_foreign)
SDK_CLASSES = {"SyncAPIClient": seam.sync_method, "AsyncAPIClient": seam.async_method}

_told: set[str] = set()  # once a process


class _Patching:
    """One lock for all meters: two that patch one client at once would overwrite each other."""

    def __init__(self) -> None:
        self.turn = Turn()
        renew_in_child(self, "turn", Turn)


_patching = _Patching()


class Instruments:
    """The patches of one meter. ``needed`` is called once there is an HTTP library to meter."""

    def __init__(self, metering: Metering, needed: Callable[[], object]) -> None:
        self._metering = metering
        self._needed = needed
        self._process: list[Patch] = []
        self._on = False
        self._closed = False
        self._patched: set[str] = set()  # modules
        self._births = Births(self.wrap)
        self._hooked: set[tuple[str, Act]] = set()
        # The patches themselves are held by the wrappers that stand in the clients: held here, they would keep alive
        # every client that was ever wrapped.
        self._clients: weakref.WeakKeyDictionary[Any, list[weakref.ref[Patch]]] = weakref.WeakKeyDictionary()

    @property
    def _turn(self) -> Turn:
        return _patching.turn

    def wrap(self, client: Any) -> None:
        """Meter one client. Raises `ConfigError` for what can't be metered this way."""
        self._wrap(client)
        self._needed()

    @in_turn
    def _wrap(self, client: Any) -> None:
        if client in self._clients:
            return
        found = _library_of(client)
        if found is not None:
            library, places = found
            patches = [self._patch(library, place) for place in places]
            self._clients[client] = [weakref.ref(patch) for patch in patches + self._derivations(client)]
            return
        sdk = _sdk_class(client)
        inner = getattr(client, "_client", None)
        if sdk is None or _library_of(inner) is None:
            kind = f"{type(client).__module__}.{type(client).__qualname__}"
            raise ConfigError(
                f"can't wrap a {kind}; give a client of httpx, httpx2 or boto3, a session of aiohttp or requests, a "
                "connection of websockets, or an SDK client that is built on httpx; or call meter.instrument() to "
                "meter every client of the process"
            )
        identity = getattr(client, "workload_identity", None)
        if isinstance(identity, Mapping) and identity.get("type") == "x509":
            raise ConfigError(
                f"can't wrap a {type(client).__qualname__} that logs in with an X.509 identity: it sends through "
                "clients that it makes anew; call meter.instrument() to meter every client of the process"
            )
        self._wrap(inner)
        patches = [Patch(client, "request", SDK_CLASSES[sdk.__name__])]
        patches += self._derivations(client)
        if hasattr(client, CONNECTS):
            patches.append(self._births.expect_of(client))
            for name in SOCKETS:
                self._meet(name, Instruments._watch, now=Instruments._watch)
        self._clients[client] = [weakref.ref(patch) for patch in patches]

    def instrument(self, arriving: str = "") -> None:
        """Meter every client of the process, those made before too.

        ``arriving``: a library that this thread is importing, and of which it tells by `there`.
        """
        self._instrument(arriving)
        if not self._patched.isdisjoint(HTTP_LIBRARIES):
            self._needed()

    @in_turn
    def _instrument(self, arriving: str) -> None:
        if self._on:
            return
        self._on = True
        self._process += threads.patches()
        for name in (*HTTP_LIBRARIES, *(f"{sdk}._base_client" for sdk in SDKS), AIOBOTOCORE, threads.POOLS):
            if name != arriving:
                self._meet(name, Instruments.there, now=Instruments._imported)
        for name in UNSEEN:
            self._meet(name, Instruments._tell, now=Instruments._tell)

    @in_turn
    def uninstrument(self) -> None:
        """Undo `instrument`."""
        self._undo()
        self._hear_out()

    def _undo(self) -> None:
        self._on = False
        for patch in reversed(self._process):
            patch.undo()
        self._process.clear()
        self._patched.clear()

    def _hear_out(self) -> None:
        """What went out over connections that stay open is still heard to its end."""
        found: Any = [_library(name) for name in SOCKETS if name in sys.modules]
        for library in filter(None, found):
            for place in library.left():
                self._patch(library, place)

    @in_turn
    def close(self) -> None:
        """Undo everything."""
        self._closed = True
        self._undo()
        self._births.undo()
        for patches in self._clients.values():
            for found in reversed(patches):
                if (patch := found()) is not None:
                    patch.undo()
        self._clients.clear()
        self._hear_out()

    def _meet(self, name: str, later: Act, *, now: Act) -> None:
        """Do something with a module: now, or once it is imported."""
        if name not in sys.modules:
            self._hook_import(name, later)
        elif _is_being_imported(name):
            # To wait for it here could be for ever.
            start_thread(_when_imported, weakref.ref(self), name, later, name="import")
        else:
            now(self, sys.modules[name])

    def _hook_import(self, name: str, act: Act) -> None:
        """A library that is imported from now on is patched then."""
        if (name, act) in self._hooked:
            return
        self._hooked.add((name, act))
        import wrapt

        this = weakref.ref(self)

        def imported(module: Any) -> None:
            instruments = this()
            if instruments is not None:
                act(instruments, module)

        wrapt.register_post_import_hook(imported, name)

    def there(self, module: Any) -> None:
        """A library has been imported."""
        self._imported(module)
        if module.__name__ in self._patched.intersection(HTTP_LIBRARIES):
            self._needed()  # not in the turn: it imports, and imports may wait for each other

    @in_turn
    def _imported(self, module: Any) -> None:
        """Patch it, unless that is done."""
        name = module.__name__
        if self._on and name not in self._patched:
            self._patched.add(name)
            if name == threads.POOLS:
                self._process += threads.patches_of_pools(module)
            elif name == AIOBOTOCORE:
                self._process.append(Patch(module.AIOHTTPSession, "send", seam.async_method))
            else:
                (self._on_http if name in HTTP_LIBRARIES else self._on_sdk)(module)

    def _tell(self, module: Any) -> None:
        """A library is here that nobody can meter."""
        if self._on and module.__name__ not in _told:
            _told.add(module.__name__)
            logger.warning("%s is NOT METERED: %s", module.__name__, UNSEEN[module.__name__])

    def _on_http(self, module: Any) -> None:
        library = _library(module.__name__)
        if library is not None:
            self._process += [self._patch(library, place) for place in library.places()]

    def _on_sdk(self, module: Any) -> None:
        for name, make in SDK_CLASSES.items():
            kind = getattr(module, name, None)
            if kind is not None:
                self._process.append(Patch(kind, "request", make))

    def _patch(self, library: Library, place: Place) -> Patch:
        makers: Any = _FOREIGN if library.foreign else _HTTPX
        make = place.make or makers[place.is_async]
        return Patch(place.owner, place.attribute, lambda active: make(self._metering, library, active))

    @in_turn
    def _watch(self, module: Any) -> None:
        """A wrapped client may open connections with it."""
        if not self._closed:
            self._births.watch(module)

    def _derivations(self, client: Any) -> list[Patch]:
        return [Patch(client, name, self._derive) for name in ("copy", "with_options") if hasattr(client, name)]

    def _derive(self, active: Callable[[], bool]) -> seam.Wrapper:
        def derive(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            client = wrapped(*args, **kwargs)
            if active() and isinstance(client, type(instance)):  # S3 copies objects
                self.wrap(client)
            return client

        return derive


def _is_being_imported(name: str) -> bool:
    """Whether another thread is at it."""
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))


def _when_imported(ref: weakref.ref[Instruments], name: str, act: Act) -> None:
    """Wait for the thread that imports a library, and patch it."""
    with contextlib.suppress(Exception):  # an import that failed is its importer's affair
        module = importlib.import_module(name)
        instruments = ref()
        if instruments is not None:
            act(instruments, module)


@functools.cache
def _library(name: str) -> Library | None:
    """The library whose module this is; None for a version that has not what is needed."""
    try:
        library: Library = importlib.import_module(HTTP_LIBRARIES[name]).LIBRARY
    except (ImportError, AttributeError) as fault:
        logger.warning("this version of %s is NOT METERED: %s", name, fault)
        return None
    return library


def _library_of(client: Any) -> tuple[Library, Sequence[Place]] | None:
    packages = {kind.__module__.partition(".")[0] for kind in type(client).__mro__}
    for name in HTTP_LIBRARIES:
        # No other is imported here, in the turn: it may be that of a thread that waits for the turn.
        if name.partition(".")[0] in packages and name in sys.modules:
            library = _library(name)
            places = () if library is None else library.places_of(client)
            if library is not None and places:
                return library, places
    return None


def _sdk_class(client: Any) -> type | None:
    for kind in type(client).__mro__:
        if kind.__name__ in SDK_CLASSES and kind.__module__.endswith("._base_client"):
            return kind
    return None
