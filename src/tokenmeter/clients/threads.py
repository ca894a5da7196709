"""Carries attribution into plain threads, which start with an empty context."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from tokenmeter import attribution
from tokenmeter.clients.patches import Patch
from tokenmeter.clients.seam import Wrapper

POOLS = "multiprocessing.pool"


def patches() -> list[Patch]:
    """Patch ``ThreadPoolExecutor.submit`` and ``threading.Thread.start``."""
    # OpenTelemetry's instrumentation, once undone, leaves `threading.Timer` a ``start`` of its own.
    starting = [each for each in (threading.Thread, threading.Timer) if "start" in vars(each)]
    found = [Patch(each, "start", _start) for each in starting]
    try:
        from concurrent.futures import ThreadPoolExecutor
    except RuntimeError:  # the main thread has ended, and there will be no pool
        return found
    return [Patch(ThreadPoolExecutor, "submit", _submit), *found]


def patches_of_pools(module: Any) -> list[Patch]:
    """Patch what gives work to a ``multiprocessing.pool.ThreadPool``, where it has the names of this Python."""
    pool = module.ThreadPool
    names = ("apply_async", "_map_async", "imap", "imap_unordered")
    return [Patch(pool, name, _submit) for name in names if hasattr(pool, name)]


def _submit(active: Callable[[], bool]) -> Wrapper:
    def submit(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        scope = attribution.carried()
        if scope is None or not args or not active():
            return wrapped(*args, **kwargs)
        return wrapped(_under(scope, args[0]), *args[1:], **kwargs)

    return submit


def _start(active: Callable[[], bool]) -> Wrapper:
    def start(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        scope = attribution.carried()
        # The worker threads of a pool outlive the call that happened to start them.
        if scope is not None and active() and not _is_worker(instance):
            instance.run = _under(scope, instance.run)
        return wrapped(*args, **kwargs)

    return start


def _is_worker(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", None) in ("concurrent.futures.thread", POOLS)


def _under(scope: attribution.Scope, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def carried(*args: Any, **kwargs: Any) -> Any:
        if attribution.carried() is not None:
            return function(*args, **kwargs)  # somebody else carried it here already
        with attribution.in_force(scope):
            return function(*args, **kwargs)

    return carried
