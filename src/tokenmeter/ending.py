"""What is done when a process ends normally: what waits is reported, and what was taken in advance is given back.

That is at the interpreter's exit; and in children of ``multiprocessing``, which end without it, as one of that module's
finalizers. Nothing here imports ``multiprocessing``: a program without it pays only for a look into ``sys.modules``.
"""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Callable
from typing import Any

from tokenmeter.faults import swallow
from tokenmeter.forks import in_child

TIMEOUT_S = 2.0  # for all of it together

_Work = Callable[[float], object]
_works: list[tuple[int, _Work]] = []
_MODULE = "multiprocessing.util"


def at_end(place: int, work: _Work) -> None:
    """Have it called at the end, those with a lower ``place`` first. It is given the seconds that are left."""
    _works.append((place, work))
    _works.sort(key=_place)


def end() -> None:
    """Do it all; a later end does it again."""
    until_s = time.monotonic() + TIMEOUT_S
    for _, work in list(_works):
        try:
            work(max(0.0, until_s - time.monotonic()))
        except Exception as fault:  # noqa: BLE001 - the rest is to be done as well
            swallow(fault, "ending the process")


def _place(each: tuple[int, _Work]) -> int:
    return each[0]


class _Children:
    """Makes sure that children of ``multiprocessing`` do it too."""

    def __init__(self) -> None:
        self._inherits = False
        self.watch()

    def watch(self) -> None:
        """Do it at the end of this process, if it is such a child, and of those that are forked from it."""
        util: Any = sys.modules.get(_MODULE)
        if util is None:
            return
        self.finalize()
        if not self._inherits:
            self._inherits = True
            util.register_after_fork(self, _Children.finalize)

    def finalize(self) -> None:
        """Let the module do it at the end of this process; a child begins with an empty list of finalizers."""
        util: Any = sys.modules.get(_MODULE)
        if util is not None:
            # The lowest that goes before the process waits for children of its own: finalizers of the program come
            # first, because they may still make calls.
            util.Finalize(None, end, exitpriority=0)


_children = _Children()
atexit.register(end)
in_child(_children.watch)
