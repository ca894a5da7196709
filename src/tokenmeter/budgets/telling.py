"""The side of a guarded store that nobody waits for: a thread tells the store what waits in the journal."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable

from tokenmeter.budgets.breaker import Breaker, Through
from tokenmeter.budgets.journal import Journal
from tokenmeter.budgets.store import Store
from tokenmeter.ending import TIMEOUT_S, at_end
from tokenmeter.errors import StoreUnavailable
from tokenmeter.forks import each_in_child
from tokenmeter.rounds import Rounds
from tokenmeter.turn import Turn

_TICK_S = 15.0  # how often an idle writer looks for what dead processes left


class Telling(Through):
    """A store behind a circuit breaker and before a journal, and the thread that brings one to the other.

    ``through`` is the same store with the breaker alone, for those who would rather have the error. ``clock`` is
    monotonic, in seconds.
    """

    def __init__(self, inner: Store, journal: Journal, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.breaker = Breaker(clock)
        super().__init__(inner, self.breaker)
        self.journal = journal
        self.through = Through(inner, self.breaker)
        self._start_afresh()
        _stores.add(self)
        if journal.has_dead():
            self._rounds.start()

    def _start_afresh(self) -> None:
        self._rounds = Rounds(self._round, name="store", doing="telling the store what was spent")
        self._writing = Turn()
        self._undoing = Turn()
        self._closed = False

    def recover(self) -> int:
        """End the holds of processes that are gone, by what their journals say where they lie here."""
        count = self.through.recover()
        self.journal.replay_dead(self.through)
        return count

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Tell the store what waits. False: the time was over first."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            done = self._work(max(0.0, deadline_s - time.monotonic()))
            left_s = deadline_s - time.monotonic()
            if done or left_s <= 0 or self.breaker.shut:
                return done
            time.sleep(min(0.02, left_s))

    def close(self, timeout_s: float = TIMEOUT_S) -> None:
        """Tell the store what waits, leave the rest in the journal, and close the store."""
        if self._closed:
            return
        self._closed = True
        until_s = time.monotonic() + timeout_s
        if not self.flush(timeout_s):
            self.breaker.shut = True
        self._rounds.end(max(0.0, until_s - time.monotonic()))
        self.through.close()
        self.journal.close()

    def _is_all_told(self) -> None:
        """Called when nothing waits any more."""

    def _work(self, timeout_s: float = -1.0) -> bool:
        """Tell the store what waits. True if nothing is left."""
        return self._writing.take(self._replay, False, timeout_s)

    def _replay(self) -> bool:
        if self.breaker.wait_s:
            return not self.journal.waiting()
        try:
            self.journal.replay_own(self.through, self._undoing)
            self.journal.replay_dead(self.through)
        except StoreUnavailable:
            return not self.journal.waiting()
        if not self.journal.waiting():
            self._is_all_told()
        return True

    def _round(self) -> float:
        self._work()
        if self.journal.waiting():
            return max(0.05, self.breaker.wait_s)
        return _TICK_S

    def _after_fork(self) -> None:
        """In a forked child: the thread and what waits are the parent's."""
        self._start_afresh()
        self.breaker.start_afresh()


_stores: weakref.WeakSet[Telling] = weakref.WeakSet()


def _at_end(left_s: float) -> None:
    until_s = time.monotonic() + left_s
    for store in list(_stores):
        if not store._closed and not (store.flush(max(0.0, until_s - time.monotonic())) and left_s > 0):
            store.breaker.shut = True


at_end(2, _at_end)
each_in_child(_stores, lambda store: store._after_fork())
