"""Threads and forks: what a forked child would wait for in vain, because the thread that has it isn't there."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")
_makers: weakref.WeakKeyDictionary[Any, tuple[str, Callable[[], Any]]] = weakref.WeakKeyDictionary()


def in_child(act: Callable[[], object]) -> None:
    """Have it done in each forked child, after what was given before."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=act)


def each_in_child(live: weakref.WeakSet[_T], act: Callable[[_T], object]) -> None:
    """Have it done in each forked child with each of the objects that live then."""

    def all_of_them() -> None:
        for each in list(live):
            act(each)

    in_child(all_of_them)


def renew_in_child(owner: object, name: str, make: Callable[[], Any]) -> None:
    """Make the owner's lock of this name anew in each forked child."""
    _makers[owner] = name, make


def _after_fork() -> None:
    for owner, (name, make) in list(_makers.items()):
        setattr(owner, name, make())


def start_thread(work: Callable[..., object], *args: object, name: str) -> threading.Thread | None:
    """Have it done by a thread that keeps no program alive. None: there is none to be had.

    That is so at the end of the interpreter, and where the system allows no more of them.
    """
    thread = threading.Thread(target=work, args=args, name="tokenmeter-" + name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        if "shutdown" not in str(error) and not _told:
            _told.append(thread.name)
            _log.warning("tokenmeter has to do without the thread %s: %s", thread.name, error)
        return None
    return thread


_log = logging.getLogger("tokenmeter")
_told: list[str] = []  # once a process


def load_aside(load: Callable[[], object]) -> None:
    """Import what takes long on a thread of its own.

    The end of the program and a fork wait for it. Else the locks of the modules that it is at would be held for ever
    by a thread that is gone, and whoever imports one of them would hang.
    """
    with contextlib.suppress(RuntimeError):  # the main thread has ended
        import concurrent.futures.thread  # noqa: F401 - its hooks must not come while a fork waits

    thread = threading.Thread(target=load, name="tokenmeter-load", daemon=False)
    _loading.add(thread)
    with contextlib.suppress(RuntimeError):  # the interpreter ends
        thread.start()


_loading: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_PATIENCE_S = 10.0  # not for ever: the thread that forks may itself be at the import that is waited for


def _before_fork() -> None:
    until_s = time.monotonic() + _PATIENCE_S
    for thread in list(_loading):
        if thread.is_alive() and thread is not threading.current_thread():
            thread.join(max(0.0, until_s - time.monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
