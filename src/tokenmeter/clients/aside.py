"""Work that may wait for a disk or a network, done beside an event loop instead of on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from tokenmeter.faults import swallow
from tokenmeter.forks import renew_in_child
from tokenmeter.turn import Turn, in_turn

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_T = TypeVar("_T")

MAX_THREADS = 16


def here(work: Callable[[], _T], undo: Callable[[], object] | None = None) -> _T:
    """Do it on this thread."""
    return work()


async def aside(work: Callable[[], _T], undo: Callable[[], object] | None = None) -> _T:
    """Do it on a thread, unless another event loop than asyncio's runs here or no thread is to be had.

    When the task is cancelled meanwhile, the work goes on to its end; then ``undo`` is done.
    """
    import asyncio

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # another event loop
        return work()
    errand = _Errand(work, undo)
    try:
        doing = loop.run_in_executor(_pool.get(), copy_context().run, errand.run)
    except RuntimeError:  # the main thread has ended, and no pool takes anything more; or it took it, and has no thread
        return errand.here()
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        errand.abandon()
        doing.add_done_callback(lambda done: done.cancelled() or done.exception())  # else it is told as unheard
        raise


def sleep(pause_s: float) -> None:
    """Let time pass on this thread."""
    time.sleep(pause_s)


async def sleep_async(pause_s: float) -> None:
    """Let time pass for this task, under asyncio or whatever anyio knows."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        import anyio

        await anyio.sleep(pause_s)
    else:
        await asyncio.sleep(pause_s)


class _Errand(Generic[_T]):
    """Work whose caller may go away."""

    def __init__(self, work: Callable[[], _T], undo: Callable[[], object] | None) -> None:
        self._works = [work]  # whoever takes it out, does it
        self._undo = undo
        self._end: dict[str, str] = {}  # what came first, in one step: it was done, or nobody waits for it any more
        self._ended = SimpleQueue[Callable[[], _T]]()

    def run(self) -> Any:
        try:
            work = self._works.pop()
        except IndexError:  # the caller did it
            return None
        try:
            found = work()
        except BaseException as error:
            self._ended.put(partial(_raise, error))
            raise
        else:
            self._ended.put(lambda: found)
            return found
        finally:
            if self._end.setdefault("", "done") != "done":
                self._undone()

    def here(self) -> _T:
        """Do it on this thread, or wait for the one that has begun it."""
        try:
            work = self._works.pop()
        except IndexError:
            return self._ended.get()()
        return work()

    def abandon(self) -> None:
        """Nobody will hear what came of it. What is done already, the caller's own clean-up undoes."""
        self._end.setdefault("", "abandoned")

    def _undone(self) -> None:
        if self._undo is not None:
            try:
                self._undo()
            except Exception as fault:
                swallow(fault, "undoing what a cancelled call asked for")


def _raise(error: BaseException) -> NoReturn:
    raise error


class _Pool:
    """The threads, of this process."""

    def __init__(self) -> None:
        self._pid = 0
        self._threads: ThreadPoolExecutor | None = None
        self._turn = Turn()
        renew_in_child(self, "_turn", Turn)

    def get(self) -> ThreadPoolExecutor:
        threads = self._threads
        return self._open() if threads is None or self._pid != os.getpid() else threads

    @in_turn
    def _open(self) -> ThreadPoolExecutor:
        threads = self._threads
        if threads is None or self._pid != os.getpid():
            from concurrent.futures import ThreadPoolExecutor

            threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="tokenmeter-aside")
            self._pid, self._threads = os.getpid(), threads
        return threads


_pool = _Pool()
