"""Who pays: the agent, user, team and run that a call belongs to.

A scope travels in one private key of the OpenTelemetry context, so whatever carries that context (asyncio tasks,
``asyncio.to_thread``, OpenTelemetry's threading instrumentation) carries it too. It is never written to baggage.
"""

from __future__ import annotations

import functools
import inspect
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from contextvars import ContextVar
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar

from msgspec import Struct
from opentelemetry import context as otel_context
from opentelemetry.context import Context

from tokenmeter.errors import ConfigError

MAX_VALUE_CHARS = 256
MAX_TAGS = 32

_KEY = otel_context.create_key("tokenmeter-scope")
_NO_TAGS: Mapping[str, str] = MappingProxyType({})

_Entered = tuple[tuple[object, ...], tuple[Context, ...]]
_entered: ContextVar[_Entered] = ContextVar("tokenmeter-entered", default=((), ()))

F = TypeVar("F", bound=Callable[..., Any])


class Scope(Struct, frozen=True):
    """What a call is charged to.

    ``path`` names the agents from the outermost in, ``hidden`` is how many more there were that a path from another
    process had no room for; together they are the depth. ``root`` is the run at the very beginning, which may have
    been in another process: ``run`` unless runs are nested.
    """

    agent: str | None = None
    user: str | None = None
    team: str | None = None
    run: str | None = None
    path: tuple[str, ...] = ()
    tags: Mapping[str, str] = _NO_TAGS
    root: str | None = None
    hidden: int = 0

    @property
    def depth(self) -> int:
        """How many agents are nested here; 0 outside any."""
        return len(self.path) + self.hidden


NOBODY = Scope()


_outermost = NOBODY


def current() -> Scope:
    """The scope that is in force here."""
    found = otel_context.get_current().get(_KEY)
    return found if isinstance(found, Scope) else _outermost


def carried() -> Scope | None:
    """The scope that the context here has; None where it has none."""
    found = otel_context.get_current().get(_KEY)
    return found if isinstance(found, Scope) else None


def outermost() -> Scope:
    """The scope that is in force wherever the context has none."""
    return _outermost


def surround(scope: Scope) -> None:
    """Put a scope in force wherever the context has none, in all of the process."""
    global _outermost  # noqa: PLW0603 - a program has one that it was started with
    _outermost = scope


def carry(scope: Scope) -> Context:
    """The context that is in force here, with ``scope`` in place of its own."""
    return otel_context.set_value(_KEY, scope)


def is_alone(context: Context) -> bool:
    """Whether a context has nothing in it but a scope, if that."""
    return not context or (len(context) == 1 and _KEY in context)


class Entering:
    """A context manager, sync and async, with a scope in force inside.

    It may be entered any number of times, even nested and by several threads or tasks at once.
    """

    __slots__ = ()

    def _inside(self) -> tuple[Scope, Context]:
        """The scope, and a context with it in force."""
        raise NotImplementedError

    def __enter__(self) -> Scope:
        scope, context = self._inside()
        managers, before = _entered.get()
        _entered.set(((*managers, self), (*before, otel_context.get_current())))
        otel_context.attach(context)
        return scope

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take back what this put in force.

        If it was entered in another context, as by a framework that runs both ends of a dependency on threads of their
        own, nothing of it is in force here.
        """
        managers, before = _entered.get()
        for at, each in enumerate(managers):
            if each is self:  # they may end in another order than they began
                _entered.set((managers[:at] + managers[at + 1 :], before[:-1]))
                # Not detached by a token: that is good in one context only, and a generator may be closed in another.
                otel_context.attach(before[-1])
                return

    async def __aenter__(self) -> Scope:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


class in_force:  # noqa: N801 - it is read as a statement: with in_force(scope)
    """Puts a scope in force for a block."""

    __slots__ = ("_scope", "_token")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        self._token = otel_context.attach(carry(self._scope))

    def __exit__(self, *exc: object) -> None:
        otel_context.detach(self._token)


class AgentScope(Entering):
    """What ``meter.agent(...)`` returns: a context manager, sync and async, and a decorator."""

    __slots__ = ("_name", "_run", "_tags", "_team", "_user")

    def __init__(
        self, name: str, user: str | None, team: str | None, run: str | None, tags: Mapping[str, object]
    ) -> None:
        self._name = _checked("agent name", name)
        self._user = None if user is None else _checked("user", user)
        self._team = None if team is None else _checked("team", team)
        self._run = None if run is None else _checked("run", run)
        if len(tags) > MAX_TAGS:
            raise ConfigError(f"{len(tags)} tags given; at most {MAX_TAGS} are kept, leave some out")
        self._tags = {plain_text(key): _checked(f"tag {key!r}", value) for key, value in tags.items()}

    def _scope(self) -> Scope:
        outer = current()
        run = self._run or outer.run or uuid.uuid4().hex
        return Scope(
            agent=self._name,
            user=self._user or outer.user,
            team=self._team or outer.team,
            run=run,
            path=(*outer.path, self._name),
            tags=MappingProxyType({**outer.tags, **self._tags}) if self._tags else outer.tags,
            root=outer.root or outer.run or run,
            hidden=outer.hidden,
        )

    def _inside(self) -> tuple[Scope, Context]:
        scope = self._scope()
        return scope, carry(scope)

    def __call__(self, function: F) -> F:
        """Decorate a function, coroutine function, generator function or async generator function."""
        if inspect.isasyncgenfunction(function):
            around = self._around_async_generator
        elif inspect.isgeneratorfunction(function):
            around = self._around_generator
        elif inspect.iscoroutinefunction(function):
            around = self._around_coroutine
        else:
            around = self._around_function
        return functools.wraps(function)(around(function))  # type: ignore[return-value]

    def _around_function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            scope = self._scope()
            with in_force(scope):
                result = function(*args, **kwargs)
            return _within(scope, result) if inspect.iscoroutine(result) else result

        return wrapped

    def _around_coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            with in_force(self._scope()):
                return await function(*args, **kwargs)

        return wrapped

    def _around_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            scope = self._scope()
            inner = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(next, inner)
            try:
                while True:
                    try:
                        with in_force(scope):
                            value = step()
                    except StopIteration as end:
                        return end.value
                    try:
                        step = functools.partial(inner.send, (yield value))
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        step = functools.partial(inner.throw, error)
            finally:
                with in_force(scope):
                    inner.close()

        return wrapped

    def _around_async_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapped(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            scope = self._scope()
            inner = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(anext, inner)
            try:
                while True:
                    try:
                        with in_force(scope):
                            value = await step()
                    except StopAsyncIteration:
                        return
                    try:
                        step = functools.partial(inner.asend, (yield value))
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        step = functools.partial(inner.athrow, error)
            finally:
                with in_force(scope):
                    await inner.aclose()

        return wrapped


async def _within(scope: Scope, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """A coroutine of a function that doesn't look like one, as that of a decorator or of a callable object."""
    with in_force(scope):
        return await coroutine


def plain_text(text: str) -> str:
    """The text as a ``str`` and no subclass, with what can't be written in UTF-8 replaced."""
    return str.__str__(text).encode("utf-8", "replace").decode()


def _checked(what: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{what} is {value!r}; give a string that is not empty")
    if len(value) > MAX_VALUE_CHARS:
        raise ConfigError(f"{what} {value[:40]!r}… has {len(value)} characters; at most {MAX_VALUE_CHARS} are kept")
    return value if type(value) is str and value.isascii() else plain_text(value)
