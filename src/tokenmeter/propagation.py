"""A run that goes on in another process: its root, depth and path cross by one entry of W3C baggage.

The caller's side writes them with `inject`, or has `injecting` do it for a client of your own services; the other
side puts them in force with `extract`, or has `AsgiMiddleware` or `WsgiMiddleware` do it for each request. What is
signed can't be forged; a request without a lineage, or with a bad one, begins a run of its own.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from contextvars import Context as Variables
from contextvars import copy_context
from typing import Any, TypeVar

from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.context import Context

from tokenmeter import attribution, wire
from tokenmeter.attribution import Scope
from tokenmeter.errors import ConfigError
from tokenmeter.loops import carriers
from tokenmeter.loops.carriers import Arrival
from tokenmeter.loops.lineage import Keys, Lineage, encode, shortened
from tokenmeter.wire.hosts import provider_of

logger = logging.getLogger("tokenmeter")

MAX_AGE_S = 86_400.0

# Provider hosts at which customers run services of their own.
_OF_CUSTOMERS = (".modal.run", ".modal.direct", ".azure-api.net")

C = TypeVar("C")
LineageKeys = Keys | Mapping[str, bytes] | bytes | None
Receive = Callable[[], Awaitable[Any]]
AsgiSend = Callable[[Any], Awaitable[None]]
AsgiApp = Callable[[Any, Receive, AsgiSend], Awaitable[None]]


def inject(carrier: MutableMapping[str, Any], *, keys: LineageKeys = None) -> None:
    """Write the run that is in force here into a carrier: HTTP headers, the ``_meta`` of an MCP call, any mapping.

    It becomes one entry of the mapping's ``baggage``, beside the baggage of others. Outside any agent, a run begins
    here, so that what the other side spends has a root. ``keys`` sign it: one secret of at least 16 bytes, or several
    by name, of which the first signs.

    Raises:
        ConfigError: keys that are too short or named badly.
    """
    carriers.inject(carrier, _lineage(), _keys(keys))


def extract(carrier: carriers.Carrier, *, keys: LineageKeys = None) -> Continued:
    """Continue the run that a carrier brings: a context manager, sync and async.

    Takes HTTP headers as a mapping or as pairs, a WSGI environ, and the ``params`` or ``_meta`` of an MCP call. With
    ``keys``, only a lineage signed with one of them counts. One that is forged, altered, expired or garbled is logged
    and otherwise ignored, as if nothing had come: the next agent then begins a run of its own.

    Raises:
        ConfigError: keys that are too short or named badly.
    """
    found = carriers.extract(carrier, _keys(keys), time.time(), MAX_AGE_S)
    _report(found)
    return Continued(found)


class Continued(attribution.Entering):
    """What `extract` returns. ``lineage`` is what came, or None; ``verdict`` says why."""

    __slots__ = ("lineage", "verdict")

    def __init__(self, found: Arrival) -> None:
        self.lineage = found.lineage
        self.verdict = found.verdict

    def _inside(self) -> tuple[Scope, Context]:
        scope = attribution.current() if self.lineage is None else _scope(self.lineage)
        return scope, _without_lineage(attribution.carry(scope))


class AsgiMiddleware:
    """Continues the run that each request to an ASGI application brings."""

    def __init__(self, app: AsgiApp, *, keys: LineageKeys = None) -> None:
        self._app = app
        self._keys = _keys(keys)

    async def __call__(self, scope: Any, receive: Receive, send: AsgiSend) -> None:
        if scope.get("type") not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        async with extract(scope.get("headers") or (), keys=self._keys):
            await self._app(scope, receive, send)


class WsgiMiddleware:
    """Continues the run that each request to a WSGI application brings, even while its answer is iterated.

    Each request has context variables of its own: what the application sets in them stays until its answer is closed,
    whatever the server does in between.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]], *, keys: LineageKeys = None) -> None:
        self._app = app
        self._keys = _keys(keys)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        variables = copy_context()
        variables.run(extract(environ, keys=self._keys).__enter__)
        answer = variables.run(self._app, environ, start_response)
        if isinstance(answer, list | tuple):
            return answer
        return _WithinRun(answer, variables)


class _WithinRun:
    """The body of a WSGI answer, produced within its run."""

    def __init__(self, answer: Iterable[bytes], variables: Variables) -> None:
        self._answer = answer
        self._variables = variables
        self._pieces = variables.run(iter, answer)

    def __iter__(self) -> _WithinRun:
        return self

    def __next__(self) -> bytes:
        return self._variables.run(next, self._pieces)

    def close(self) -> None:
        close = getattr(self._answer, "close", None)
        if close is not None:
            self._variables.run(close)


def injecting(client: C, *, keys: LineageKeys = None) -> C:
    """Make an httpx or httpx2 client, sync or async, inject the run into each of its requests. Returns the same client.

    For clients of your own services. A model provider is never told: model calls, and whatever goes to a host that
    is known to be a provider's, carry no lineage. Where the OpenTelemetry context has baggage, an instrumentation
    further in writes that in place of ours; so the lineage is added to that baggage while the request is out.

    Raises:
        ConfigError: this isn't such a client.
    """
    hooks = getattr(client, "event_hooks", None)
    if not isinstance(hooks, Mapping) or "request" not in hooks:
        kind = f"{type(client).__module__}.{type(client).__qualname__}"
        raise ConfigError(f"can't inject into a {kind}; give an httpx or httpx2 client, or call inject(headers)")
    signing = _keys(keys)

    def write(request: Any) -> None:
        if _is_for_a_provider(request):
            _take_off(request.headers)  # a redirect may have led here
        else:
            carriers.inject(request.headers, _lineage(), signing)

    async def write_async(request: Any) -> None:
        write(request)

    is_async = inspect.iscoroutinefunction(getattr(client, "send", None))
    hook = write_async if is_async else write
    sending: Any = client
    sending.event_hooks = {**hooks, "request": [*hooks["request"], hook]}
    own = vars(client).get("send")

    def further_in(*args: Any, **kwargs: Any) -> Any:
        # A later patch of the class must find its request here too.
        return type(sending).send(sending, *args, **kwargs) if own is None else own(*args, **kwargs)

    def send(request: Any, *args: Any, **kwargs: Any) -> Any:
        with _beside_baggage(request, signing):
            return further_in(request, *args, **kwargs)

    async def send_async(request: Any, *args: Any, **kwargs: Any) -> Any:
        with _beside_baggage(request, signing):
            return await further_in(request, *args, **kwargs)

    sending.send = send_async if is_async else send
    return client


def _is_for_a_provider(request: Any) -> bool:
    """Whether this is a model call, or goes to a host that is known to be a provider's."""
    url = request.url
    if wire.recognise(request.method, url.host, url.raw_path.partition(b"?")[0].decode("ascii")) is not None:
        return True
    return provider_of(url.host) is not None and not url.host.endswith(_OF_CUSTOMERS)


def _take_off(headers: MutableMapping[str, str]) -> None:
    """Remove the lineage from headers, and leave the baggage of others."""
    found = headers.get(carriers.BAGGAGE, "")
    if carriers.KEY in found:
        rest = carriers.without(found)
        if rest:
            headers[carriers.BAGGAGE] = rest
        else:
            del headers[carriers.BAGGAGE]


@contextlib.contextmanager
def _beside_baggage(request: Any, keys: Keys | None) -> Iterator[None]:
    """Have the lineage in the context's baggage while a request is out, if there is any that would be sent."""
    here = otel_context.get_current()
    if not baggage.get_all(here) or _is_for_a_provider(request):
        yield
        return
    token = otel_context.attach(baggage.set_baggage(carriers.KEY, encode(_lineage(), keys), here))
    try:
        yield
    finally:
        otel_context.detach(token)


def _without_lineage(context: Context) -> Context:
    """A context whose baggage has no lineage: OpenTelemetry read that from the request, and it is the caller's."""
    if baggage.get_baggage(carriers.KEY, context) is None:
        return context
    return baggage.remove_baggage(carriers.KEY, context)


def _lineage() -> Lineage:
    """The run that is in force here, or one that begins here."""
    scope = attribution.current()
    run = scope.run or uuid.uuid4().hex
    return Lineage(scope.root or run, run, scope.depth, shortened(scope.path), int(time.time()))


def _scope(lineage: Lineage) -> Scope:
    """What is in force on the other side. Who pays there is for the other side to say."""
    return Scope(
        run=lineage.run,
        root=lineage.root,
        path=lineage.path,
        hidden=max(0, lineage.depth - len(lineage.path)),
    )


def _keys(keys: LineageKeys) -> Keys | None:
    if keys is None or isinstance(keys, Keys):
        return keys
    if isinstance(keys, bytes):
        return Keys({"key": keys})
    named: object = keys
    if not isinstance(named, Mapping):
        raise ConfigError(
            f"keys is a {type(named).__name__}; give bytes, such as secrets.token_bytes(32), or bytes by name: "
            '{"2026-11": secrets.token_bytes(32)}'
        )
    return Keys(keys)


def _report(found: Arrival) -> None:
    if found.suspicious:
        verdicts = sorted({found.verdict, *found.rejected} - {"none", "trusted"})
        logger.warning(
            "a request brought a lineage that is %s; it is taken for a run of its own. If it came from one of your "
            "services, check that both sides have the same keys and clocks.",
            " and ".join(verdicts),
        )
