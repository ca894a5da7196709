"""One errand at a time, whatever comes in between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


class Turn:
    """A lock that no interrupt leaves locked, be it right after it was taken.

    Who finds it taken waits for a while at most. That goes for a finalizer too that interrupted whoever has it on the
    same thread: it doesn't wait at all.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def take(self, work: Callable[[], _T], otherwise: _T, timeout_s: float = 0.0) -> _T:
        """What the work comes to, or the other where it isn't to be had in time; below zero waits for ever."""
        lock = self._lock
        if lock._is_owned():  # type: ignore[attr-defined]
            return otherwise
        try:
            return work() if lock.acquire(timeout=timeout_s) else otherwise
        finally:
            # The lock itself knows whether it was taken: between two steps of ours an interrupt may come.
            try:  # noqa: SIM105 - to suppress it by a call would be one step more
                lock.release()
            except RuntimeError:
                pass
