"""One verb of the books in memory at a time, whatever comes in between.

A lock guards the books, and three things could get in its way, because Python may run other code between two
steps of a verb: a finalizer (the garbage collector closes an abandoned stream, which settles), a signal
handler, and the ``KeyboardInterrupt`` that it raises. So:

- The turn may be taken again by the thread that has it, and ``_busy`` tells that thread that it is in the
  middle of a verb. What must not wait (settle, release, post, leaving the line) is then put in
  ``_deferred`` and done by the interrupted verb at its end. What needs an answer (hold, queue, adjust)
  raises ``StoreUnavailable``.
- A verb computes aside and commits in a few statements without a call between them. CPython runs signal
  handlers and collects garbage only at calls, loops and allocations of containers: a verb is done or not,
  never half.
- What remains to be done after a commit (serving those who wait) stands in ``_recheck`` before it, and can
  be done twice; an interrupted verb leaves it to its own clean-up or to the next verb.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tokenmeter.errors import StoreUnavailable
from tokenmeter.turn import Turn, in_turn

_T = TypeVar("_T")
_Deferred = tuple[Callable[..., object], tuple[Any, ...]]


class OneVerbAtATime:
    """The lock, and what must be done later. All that is given to ``_answer`` runs with the lock held."""

    def __init__(self) -> None:
        self._recheck: dict[str, None] = {}  # books whose line must be looked at, in order
        self._deferred: dict[object, _Deferred] = {}  # by what they end: a hold, an entry or a waiter
        self._busy: str | None = None  # in a verb; the id while one is ended or charged, "" else
        self._turn = Turn()

    def _serve(self, key: str) -> None:
        """Look at the line of a book, and take it out of ``_recheck``."""
        raise NotImplementedError

    def _answer(self, busy: str, verb: Callable[..., _T], *args: Any) -> _T:
        if self._busy is not None:
            raise StoreUnavailable(
                "the budgets were asked by a finalizer or a signal handler that had interrupted them on the "
                "same thread; make the call elsewhere"
            )
        try:
            self._busy = busy
            return verb(*args)
        finally:
            self._busy = None
            if self._recheck or self._deferred:
                self._catch_up()

    def _catch_up(self) -> None:
        while self._recheck or self._deferred:
            try:
                self._busy = ""
                for ending in list(self._deferred):
                    verb, args = self._deferred[ending]
                    verb(*args)
                    del self._deferred[ending]  # only now: each of these verbs can be done twice
                if self._recheck:
                    self._serve(next(iter(self._recheck)))
            finally:
                self._busy = None

    @in_turn
    def _do(self, ending: object, verb: Callable[..., object], *args: Any) -> None:
        """Now, or at the end of the verb that was interrupted."""
        if self._busy is None:
            self._answer("", verb, *args)
        else:
            self._defer(ending, verb, *args)

    def _defer(self, ending: object, verb: Callable[..., object], *args: Any) -> bool:
        """Leave a verb to the one that was interrupted. False when that, or another deferred one, ends the same."""
        deferred = (verb, args)
        # One step, so that a handler that interrupts this one finds it done or not done.
        return self._busy != ending and self._deferred.setdefault(ending, deferred) is deferred

    def _start_afresh(self) -> None:
        """In a forked child, where the threads that waited or had the lock are not. Each commit is whole."""
        self._turn = Turn()
        self._busy = None
        self._recheck.clear()
        self._deferred.clear()
