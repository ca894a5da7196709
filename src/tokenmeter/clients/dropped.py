"""Streams that callers dropped may stand in reference cycles (OpenAI's do), and hold money that others wait for."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Collection

from tokenmeter.forks import start_thread

_SPACING_S = 1.0
_SPACING_TIMES = 6  # to collect takes long where a program has many objects
_PAUSE_S = 0.5


class Dropped:
    """Has dropped streams collected while callers wait: when one begins, and then now and then.

    A program in which all wait makes no more garbage, so that Python itself would never look.
    """

    __slots__ = ("_thread",)

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def collect(self, streams: Collection[object]) -> None:
        """Collect at once where any are open, unless that was done a moment ago."""
        begun_s = time.monotonic()
        if streams and begun_s >= _not_before[0]:
            _not_before[0] = begun_s + _SPACING_S
            gc.collect()
            took_s = time.monotonic() - begun_s
            _not_before[0] = begun_s + max(_SPACING_S, _SPACING_TIMES * took_s)

    def look_after(self, streams: Collection[object], waiting: Collection[object]) -> None:
        """Collect now and then, until nobody waits any more."""
        thread = self._thread
        if thread is None or not thread.is_alive():  # in a forked child none is
            self._thread = start_thread(self._work, streams, waiting, name="dropped")

    def _work(self, streams: Collection[object], waiting: Collection[object]) -> None:
        while True:
            time.sleep(_PAUSE_S)
            if not waiting:
                self._thread = None
                if not waiting:  # else somebody began right now, and saw a thread at work
                    return
            self.collect(streams)


_not_before = [-math.inf]  # in the whole process
