"""What comes after a complete answer, told beside the caller's path and before anybody asks for it.

Once a body is here as a whole, its caller need not wait until it was read, settled and written down. A thread does
that, a few at a time, within a hundredth of a second. Whoever asks what was spent, or finds no room in a budget, has
it done first.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue

from tokenmeter.ending import at_end

TICK_S = 0.01
SLEEP_S = 60.0
MAX_WAITING = 256


class Later:
    """A queue of things to do that never raise an `Exception`, and its thread."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        self._tick_s = tick_s
        self._start_afresh()
        _LIVE.add(self)

    def _start_afresh(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()
        self._doing = threading.RLock()  # a finalizer may flush in the midst of it
        self._bell: SimpleQueue[bool] = SimpleQueue()  # its put can't be caught half-way by a finalizer
        self._thread: threading.Thread | None = None
        self._asleep = False
        self._closed = False

    def put(self, rest: Callable[[], object]) -> None:
        """Have it done soon."""
        waiting = self._waiting
        waiting.append(rest)
        if self._closed:
            self.flush()
        elif self._thread is None:
            self._start()
        elif self._asleep:
            self._asleep = False
            self._bell.put(True)
        elif len(waiting) >= MAX_WAITING:
            self._do_oldest()  # and no more: each may take as long as the store does

    def flush(self, timeout_s: float = -1.0) -> bool:
        """Do all that waits by now, or as much as there is time for. Whether there was anything to do.

        What is under way on the thread counts, and is waited for; what comes meanwhile is not.
        """
        until_s = time.monotonic() + timeout_s
        busy = not self._doing.acquire(blocking=False)
        if busy and not self._doing.acquire(timeout=timeout_s):
            return True
        try:
            count = len(self._waiting)
            while count and self._waiting and (timeout_s < 0 or time.monotonic() < until_s):
                count -= 1
                busy = True
                self._waiting.popleft()()
            return busy
        finally:
            self._doing.release()

    def close(self) -> None:
        """Do all that waits, end the thread, and do at once what still comes."""
        self._closed = True
        self._bell.put(False)
        self.flush()

    def _start(self) -> None:
        ref = weakref.ref(self)
        self._thread = threading.Thread(target=_work, args=(ref, self._bell), name="tokenmeter-later", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter ends
            self._closed = True
            self.flush()

    def _work(self) -> bool:
        """Do what waits, and let the callers' threads run in between. Whether there was anything."""
        done = False
        while self._waiting:
            done = True
            self._do_oldest()
            time.sleep(0)
        return done

    def _do_oldest(self) -> None:
        with self._doing, contextlib.suppress(IndexError):  # whoever flushed may have been faster
            self._waiting.popleft()()


def _work(ref: weakref.ref[Later], bell: SimpleQueue[bool]) -> None:
    """The thread: it ends with its queue, and keeps it alive as long as something waits."""
    while True:
        later = ref()
        if later is None or later._bell is not bell:
            return
        time.sleep(later._tick_s)
        if later._work():
            continue
        later._asleep = True
        if later._waiting:
            continue
        del later
        with contextlib.suppress(Empty):
            if not bell.get(timeout=SLEEP_S):
                return


_LIVE: weakref.WeakSet[Later] = weakref.WeakSet()


def _at_end(left_s: float) -> None:
    for later in list(_LIVE):
        later.flush()


def _after_fork() -> None:
    """What waits in the parent, the parent does."""
    for later in list(_LIVE):
        later._start_afresh()


at_end(0, _at_end)  # first: what waits here is still to be settled
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
