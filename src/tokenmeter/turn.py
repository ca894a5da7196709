"""One errand at a time, whatever comes in between.

A ``with`` over a lock would do, but for an interrupt (Ctrl-C, or a signal handler that raises) right after the lock
was taken: from Python 3.14 on it leaves the lock taken for good, and whoever else wants it waits for ever.

The steps are written out in each way to take it: one function more in between would be paid several times a call.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

_T = TypeVar("_T")
_Self = TypeVar("_Self")
_P = ParamSpec("_P")


def _refusal() -> tuple[object, ...]:
    try:
        threading.RLock().release()
    except RuntimeError as error:
        return error.args
    raise AssertionError


_NOT_TAKEN = _refusal()  # what the lock says to whoever gives it back and hasn't got it


class Turn:
    """A lock that no interrupt leaves locked, be it right after it was taken.

    The thread that has it may come again: a finalizer or a signal handler of its own can't wait for it.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.RLock()

    @property
    def mine(self) -> bool:
        """Whether this thread is at work."""
        found: bool = self._lock._is_owned()  # type: ignore[attr-defined]
        return found

    def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do it once nobody else is at work, or at once on the thread that is."""
        lock = self._lock
        if lock._is_owned():  # type: ignore[attr-defined]
            return work(*args, **kwargs)
        try:
            lock.acquire()
            return work(*args, **kwargs)
        finally:
            # The lock itself knows whether it was taken: between two steps of ours an interrupt may come.
            try:
                lock.release()
            except RuntimeError as error:
                if error.args != _NOT_TAKEN:  # it is a signal handler's
                    raise

    def begin(self, timeout_s: float) -> bool:
        """Take it until `end`, over what no function can be put round, such as a fork. False: it wasn't to be had."""
        return self._lock.acquire(timeout=timeout_s)

    def end(self) -> None:
        """Undo `begin`."""
        self._lock.release()

    def take(self, work: Callable[[], _T], otherwise: _T, timeout_s: float = 0.0) -> _T:
        """What the work comes to, or the other where it isn't to be had in time, and at once on the thread that has it.

        A time of -1 waits for ever.
        """
        lock = self._lock
        if lock._is_owned():  # type: ignore[attr-defined]
            return otherwise
        try:
            return work() if lock.acquire(timeout=timeout_s) else otherwise
        finally:
            try:
                lock.release()
            except RuntimeError as error:
                if error.args != _NOT_TAKEN:  # it is a signal handler's
                    raise


def in_turn(method: Callable[Concatenate[_Self, _P], _T]) -> Callable[Concatenate[_Self, _P], _T]:
    """A method that is done in the ``_turn`` of its object, as by `Turn.run`."""

    @functools.wraps(method)
    def waits(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        turn: Any = self._turn  # type: ignore[attr-defined]
        lock = turn._lock
        if lock._is_owned():
            return method(self, *args, **kwargs)
        try:
            lock.acquire()
            return method(self, *args, **kwargs)
        finally:
            try:
                lock.release()
            except RuntimeError as error:
                if error.args != _NOT_TAKEN:  # it is a signal handler's
                    raise

    return waits


def in_turn_or(
    otherwise: Any,
) -> Callable[[Callable[Concatenate[_Self, _P], _T]], Callable[Concatenate[_Self, _P], _T]]:
    """As `in_turn`, but on the thread that is at work the method isn't done: what it returns is ``otherwise``."""

    def decorate(method: Callable[Concatenate[_Self, _P], _T]) -> Callable[Concatenate[_Self, _P], _T]:
        @functools.wraps(method)
        def waits(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
            turn: Any = self._turn  # type: ignore[attr-defined]
            lock = turn._lock
            if lock._is_owned():
                return otherwise  # type: ignore[no-any-return]
            try:
                lock.acquire()
                return method(self, *args, **kwargs)
            finally:
                try:
                    lock.release()
                except RuntimeError as error:
                    if error.args != _NOT_TAKEN:  # it is a signal handler's
                        raise

        return waits

    return decorate
