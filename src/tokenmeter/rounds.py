"""Work that is done again and again on a thread of its own, as long as there is somebody to do it for."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue

from tokenmeter.faults import swallow
from tokenmeter.forks import start_thread
from tokenmeter.turn import Turn

_AFTER_A_FAULT_S = 1.0


class Rounds:
    """The rounds of an object, and their thread, which keeps neither the object nor the program alive.

    ``work`` is a method of the object, does one round, and returns the seconds until the next. The first comes
    ``first_s`` after `start`; where no thread is to be had, a later `start` tries again. A forked child has to make
    its own.
    """

    def __init__(self, work: Callable[[], float], *, name: str, doing: str, first_s: float = 0.0) -> None:
        self._bell = bell = SimpleQueue[None]()  # its put can't be caught half-way by a finalizer
        self._work = weakref.WeakMethod(work, lambda _: bell.put(None))
        self._name = name
        self._doing = doing
        self._first_s = first_s
        self._starting = Turn()
        self.thread: threading.Thread | None = None
        self.ended = False

    def start(self) -> None:
        """Have them done from now on, unless they are, or have ended. Waits for nobody."""
        if self.thread is None and not self.ended:
            self._starting.take(self._start, None)

    def ring(self) -> None:
        """Have the next one done at once."""
        self._bell.put(None)

    def end(self, timeout_s: float = 0.0) -> None:
        """Have no more of them, and wait so long for the one that is under way."""
        self.ended = True
        self.ring()
        thread = self.thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _start(self) -> None:
        if self.thread is None:
            self.thread = start_thread(self._run, name=self._name)

    def _run(self) -> None:
        next_s = self._first_s
        while True:
            with contextlib.suppress(Empty):
                self._bell.get(timeout=next_s)
                while True:
                    self._bell.get_nowait()
            work = self._work()
            if work is None or self.ended:
                return
            try:
                next_s = work()
            except Exception as fault:  # noqa: BLE001 - the thread must live
                swallow(fault, self._doing)
                next_s = _AFTER_A_FAULT_S
            del work
