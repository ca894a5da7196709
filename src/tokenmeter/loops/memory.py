"""What this process remembers of requests: fingerprints with counts, and how many calls and runs each agent made.

Bounded in number and in age, whatever comes by: the oldest is forgotten first. No text is kept.

The same request counts again only when it begins while none of its like is under way: a loop waits for its answer,
samples that are drawn side by side do not. A request that failed doesn't count, for a retry is no loop.

An answer may be told from a finalizer, which can interrupt any line here, in the same thread: it never waits, it only
leaves a note that the next request reads. A child of a fork starts with a lock of its own.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import OrderedDict, deque
from typing import Final

from msgspec import Struct

from tokenmeter.loops.fingerprints import Prints

_STALE_S: Final = 900.0  # a request under way for so long is taken for lost
_MAX_AGENTS_KEPT: Final = 4
_NO_TURNS: Final[tuple[int, tuple[str, ...]]] = (0, ())


class Asker(Struct, frozen=True, gc=False):
    """Whose request it is, and when."""

    agent: str | None
    run: str | None
    at_s: float

    @property
    def owner(self) -> int:
        """What the counts of a request are kept for: the run, and without one the agent."""
        return hash((self.run, self.agent if self.run is None else None))


class Tally(Struct, frozen=True, gc=False):
    """How often something was asked before, and since when."""

    times: int
    since_s: float
    agents: tuple[str, ...] = ()


NEVER: Final = Tally(0, 0.0)


class Known(Struct, frozen=True, gc=False):
    """What is remembered that bears on one request, which is not counted in it."""

    exact: Tally = NEVER
    near: Tally = NEVER
    calls_in_minute: int = 0
    runs_in_minute: int = 0


_UNKNOWN: Final = Known()


class _Entry(Struct, gc=False):
    """Requests that are nearly the same, one row of rounds; the last of them in the words it had."""

    times: int
    open: int
    first_s: float
    last_s: float
    agents: tuple[str, ...]  # the agents that asked, at most four
    exact: int
    exact_times: int = 1
    exact_first_s: float = 0.0
    ticked: int = 0
    ticked_times: int = 0
    ticked_round: int = 0


class _Minute(Struct, gc=False):
    """What an agent did in a sliding minute, from the counts of the last two whole ones."""

    start_s: float = 0.0
    calls: int = 0
    runs: int = 0
    calls_before: int = 0
    runs_before: int = 0

    def left(self, at_s: float) -> float:
        """The share of the minute before that still counts; a whole minute that passed becomes the one before."""
        passed = at_s - self.start_s
        if passed >= 60:
            self.calls_before, self.runs_before = (self.calls, self.runs) if passed < 120 else (0, 0)
            self.calls = self.runs = 0
            self.start_s = at_s - at_s % 60
            passed = at_s - self.start_s
        return max(0.0, 1 - passed / 60)


_memories: weakref.WeakSet[Seen] = weakref.WeakSet()


def _after_fork() -> None:
    for seen in list(_memories):
        seen.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Seen:
    """The memory of one process. All methods but `end` take a short lock.

    A method that interrupts another one of the same thread finds the tables half written: it leaves them alone and
    says that nothing is known.
    """

    def __init__(self, max_prints: int = 8_192, max_agents: int = 1_024, max_runs: int = 4_096) -> None:
        self._max_prints = max_prints
        self._max_agents = max_agents
        self._max_runs = max_runs
        self._lock = threading.RLock()
        self._inside = False  # somebody who holds the lock is at work
        self._ended: deque[tuple[int, int, bool]] = deque(maxlen=65_536)  # answers that no request has read yet
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._minutes: OrderedDict[str, _Minute] = OrderedDict()  # by agent
        self._runs: OrderedDict[int, None] = OrderedDict()
        self._spent: dict[str, tuple[int, int]] = {}
        self._quiet: OrderedDict[int, tuple[int, tuple[str, ...]]] = OrderedDict()
        self._brakes: OrderedDict[str, tuple[int, float]] = OrderedDict()
        _memories.add(self)

    def run(self, root: str) -> tuple[int, int]:
        """The calls and the spend of a run in this process so far, in nanodollars; its calls are counted by it."""
        runs = self._spent
        found = runs.get(root)
        if found is None:
            if len(runs) >= self._max_runs:
                with contextlib.suppress(KeyError, RuntimeError, StopIteration):  # another thread was at it
                    del runs[next(iter(runs))]
            runs[root] = (1, 0)
            return 0, 0
        runs[root] = (found[0] + 1, found[1])
        return found

    def spent(self, root: str, nanos: int) -> None:
        """Add what a call of a run came to."""
        found = self._spent.get(root)
        if found is not None and nanos:
            self._spent[root] = (found[0], found[1] + nanos)

    def begin(self, asker: Asker, prints: Prints | None, window_s: float) -> Known:
        """Count a request that is about to go out; what was known before it."""
        agent, run, at_s = asker.agent or "", asker.run, asker.at_s
        with self._lock:
            if self._inside:
                return _UNKNOWN
            try:
                self._inside = True
                if self._ended:
                    self._read_ended()
                minute = self._minute(agent)
                left = minute.left(at_s)
                calls, runs = minute.calls + int(minute.calls_before * left), 0
                minute.calls += 1
                if run is not None and self._is_new_run(run, agent):
                    runs = minute.runs + int(minute.runs_before * left)
                    minute.runs += 1
                if prints is None:
                    return Known(NEVER, NEVER, calls, runs)
                exact, near = self._count(prints, asker, window_s)
                return Known(exact, near, calls, runs)
            finally:
                self._inside = False

    def note(self, asker: Asker, prints: Prints, ticked: int) -> int:
        """How often the request went out before but for times and the like, as far as anybody looked that closely."""
        with self._lock:
            if self._inside:
                return 0
            try:
                self._inside = True
                entry = self._entries.get(prints.near ^ asker.owner)
                if entry is None:
                    return 0
                if entry.ticked != ticked:
                    entry.ticked, entry.ticked_times = ticked, 0
                if entry.ticked_round != entry.times:
                    entry.ticked_round = entry.times
                    entry.ticked_times += 1
                return entry.ticked_times - 1
            finally:
                self._inside = False

    def turn(self, asker: Asker) -> tuple[int, tuple[str, ...]]:
        """How many requests of a run in a row brought nothing new, this one among them, and which agents made them."""
        with self._lock:
            if self._inside:
                return _NO_TURNS
            try:
                self._inside = True
                owner, agent = asker.owner, asker.agent or ""
                count, agents = self._quiet.pop(owner, _NO_TURNS)
                if agent not in agents and len(agents) < _MAX_AGENTS_KEPT:
                    agents = (*agents, agent)
                self._quiet[owner] = count + 1, agents
                if len(self._quiet) > self._max_runs:
                    self._quiet.popitem(last=False)
                return count + 1, agents
            finally:
                self._inside = False

    def news(self, asker: Asker) -> tuple[int, tuple[str, ...]]:
        """A request of a run brought something new."""
        if self._quiet:
            with self._lock:
                if not self._inside:
                    try:
                        self._inside = True
                        self._quiet.pop(asker.owner, None)
                    finally:
                        self._inside = False
        return _NO_TURNS

    def end(self, asker: Asker, prints: Prints, failed: bool) -> None:
        """A request that began has its answer, or failed; a refused one failed. Never waits for anybody."""
        self._ended.append((prints.near ^ asker.owner, prints.exact, failed))

    def brake(self, what: str, at_s: float, first_s: float = 0.5, most_s: float = 30.0) -> float:
        """How long to pause now: twice as long as the last time, from the start after a quiet minute."""
        with self._lock:
            if self._inside:
                return first_s
            try:
                self._inside = True
                times, last_s = self._brakes.pop(what, (0, at_s))
                if at_s - last_s > 60 + most_s:
                    times = 0
                self._brakes[what] = (times + 1, at_s)
                if len(self._brakes) > self._max_agents:
                    self._brakes.popitem(last=False)
            finally:
                self._inside = False
        return float(min(most_s, first_s * 2 ** min(times, 16)))

    def renew(self) -> None:
        """In a child of a fork: the threads that held the lock or wait for an answer are not there."""
        self._lock = threading.RLock()
        self._inside = False
        self._ended.clear()
        for entry in self._entries.values():
            entry.open = 0

    def __len__(self) -> int:
        kept = (self._entries, self._minutes, self._runs, self._quiet, self._brakes)
        return sum(len(each) for each in kept)

    def _read_ended(self) -> None:
        """What became of the requests that ended since the last one began."""
        ended, entries = self._ended, self._entries
        for _ in range(len(ended)):
            key, exact, failed = ended.popleft()
            entry = entries.get(key)
            if entry is None:
                continue
            entry.open = max(0, entry.open - 1)
            if failed and entry.open == 0:
                entry.times = max(0, entry.times - 1)
                entry.ticked_times = max(0, entry.ticked_times - 1)
                entry.ticked_round = -1
                if entry.exact == exact:
                    entry.exact_times = max(0, entry.exact_times - 1)

    def _minute(self, agent: str) -> _Minute:
        minutes = self._minutes
        found = minutes.get(agent)
        if found is None:
            found = minutes[agent] = _Minute()
            if len(minutes) > self._max_agents:
                minutes.popitem(last=False)
        else:
            minutes.move_to_end(agent)
        return found

    def _is_new_run(self, run: str, agent: str) -> bool:
        runs = self._runs
        key = hash((run, agent))
        if key in runs:
            runs.move_to_end(key)
            return False
        runs[key] = None
        if len(runs) > self._max_runs:
            runs.popitem(last=False)
        return True

    def _count(self, prints: Prints, asker: Asker, window_s: float) -> tuple[Tally, Tally]:
        entries, agent, at_s = self._entries, asker.agent or "", asker.at_s
        key = prints.near ^ asker.owner
        entry = entries.get(key)
        if entry is None or at_s - entry.last_s > window_s:
            entries[key] = _Entry(1, 1, at_s, at_s, (agent,), prints.exact, 1, at_s)
            if entry is not None:
                entries.move_to_end(key)
            elif len(entries) > self._max_prints:
                entries.popitem(last=False)
            return NEVER, NEVER
        if entry.open and at_s - entry.last_s > _STALE_S:
            entry.open = 0
        agents = entry.agents
        near = Tally(entry.times - bool(entry.open), entry.first_s, agents)
        if entry.exact != prints.exact:
            entry.exact, entry.exact_times, entry.exact_first_s = prints.exact, 0, at_s
        exact = Tally(max(0, entry.exact_times - bool(entry.open)), entry.exact_first_s, agents)
        if not entry.open:  # side by side with its like, it is the same round
            entry.times += 1
            entry.exact_times += 1
        entry.open += 1
        entry.last_s = at_s
        if agent not in agents and len(agents) < _MAX_AGENTS_KEPT:
            entry.agents = (*agents, agent)
        entries.move_to_end(key)
        return exact, near
