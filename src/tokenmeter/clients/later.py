"""What comes after a complete answer, told a little later and before anybody asks for it.

Once a body is here as a whole, its caller need not wait until it was read, settled and written down. That is done a
few calls at a time, which takes half as long as one by one, or by a thread once nothing happened for a moment. Whoever
asks what was spent, waits for a budget, or finds no room in one, has it done first.

Where the books take time to write to, a thread does it within a hundredth of a second, beside the callers.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue

from tokenmeter.ending import at_end
from tokenmeter.forks import each_in_child, start_thread
from tokenmeter.turn import Turn

TICK_S = 0.003
QUIET_S = 0.05
BATCH = 16
SLEEP_S = 60.0
MAX_WAITING = 256
LEAST_S = 0.5  # at the end of a process


class Later:
    """A queue of things to do that never raise an `Exception`, and its thread.

    ``instant``: none of them takes time. Then callers do them, so many at once, and the thread only what is left when
    no more come: two threads that want the interpreter at once cost both more than the work does.
    """

    def __init__(self, tick_s: float | None = None, *, instant: bool = False) -> None:
        self._tick_s = tick_s if tick_s is not None else QUIET_S if instant else TICK_S
        self._instant = instant
        self._most = BATCH if instant else MAX_WAITING
        self._start_afresh()
        _LIVE.add(self)

    def _start_afresh(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()
        self._doing = Turn()
        self._bell: SimpleQueue[bool] = SimpleQueue()  # its put can't be caught half-way by a finalizer
        self._thread: threading.Thread | None = None
        self._asleep = False
        self._closed = False
        self._puts = 0
        self.awaited: list[None] = []  # one for each caller that waits for others to settle

    def put(self, rest: Callable[[], object]) -> None:
        """Have it done soon."""
        waiting = self._waiting
        waiting.append(rest)
        self._puts += 1
        if self._closed or (self.awaited and self._instant):
            self.flush()
        elif self._thread is None:
            self._start()
        elif self._asleep:
            self._asleep = False
            self._bell.put(True)
        elif len(waiting) >= self._most:
            if self._instant:
                self.flush()
            else:
                self._do_oldest()  # and no more: each may take as long as the store does

    def flush(self, timeout_s: float = -1.0) -> bool:
        """Do all that waits by now, or as much as there is time for. Whether there was anything to do.

        What is under way on the thread counts, and is waited for; what comes meanwhile is not.
        """
        until_s = math.inf if timeout_s < 0 else time.monotonic() + timeout_s
        if self._doing.mine:
            return self._do_all(until_s)
        done = self._doing.take(partial(self._do_all, until_s), None)
        if done is None:
            done = True
            self._doing.take(partial(self._do_all, until_s), True, timeout_s)
        return done

    def _do_all(self, until_s: float) -> bool:
        """Do what waits by now, while there is time. Whether there was anything to do."""
        busy = False
        for _ in range(len(self._waiting)):
            if not self._waiting or time.monotonic() >= until_s:
                break
            busy = True
            self._do_next()
        return busy

    def leave_rest(self, until_s: float) -> None:
        """Do what waits while there is time, also if the thread is still at something."""
        while time.monotonic() < until_s and self._do_next():
            pass

    def close(self) -> None:
        """Do all that waits, end the thread, and do at once what still comes."""
        self._closed = True
        self._bell.put(False)
        self.flush()

    def _start(self) -> None:
        self._thread = start_thread(_work, weakref.ref(self), self._bell, name="later")
        if self._thread is None:
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
        self._doing.run(self._do_next)

    def _do_next(self) -> bool:
        try:
            rest = self._waiting.popleft()
        except IndexError:  # somebody was faster, in a signal handler perhaps
            return False
        rest()
        return True


def _work(ref: weakref.ref[Later], bell: SimpleQueue[bool]) -> None:
    """The thread: it ends with its queue, and keeps it alive as long as something waits."""
    while True:
        later = ref()
        if later is None or later._bell is not bell:
            return
        puts = later._puts
        time.sleep(later._tick_s)
        if later._instant and later._puts != puts and len(later._waiting) < later._most:
            continue  # they come, and who brings them does them
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
    until_s = time.monotonic() + left_s
    for later in list(_LIVE):
        later.flush(max(0.0, until_s - time.monotonic()))


def _leave_rest(left_s: float) -> None:
    """What there was no time for: the stores take no more by now, and what they are told goes to their journals."""
    until_s = time.monotonic() + max(left_s, LEAST_S)
    for later in list(_LIVE):
        later.leave_rest(until_s)


at_end(0, _at_end)  # first: what waits here is still to be settled
at_end(3, _leave_rest)
each_in_child(_LIVE, lambda each: each._start_afresh())  # what waits in the parent, the parent does
