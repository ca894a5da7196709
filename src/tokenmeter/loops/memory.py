"""What this process remembers of requests: fingerprints with counts, and how many calls and runs each agent made.

Bounded in number and in age, whatever comes by: the oldest is forgotten first. No text is kept.

The same request counts again only when it begins while none of its like is under way: a loop waits for its answer,
samples that are drawn side by side do not. A request that failed doesn't count, for a retry is no loop.

An answer may be told from a finalizer, which can interrupt any line here, in the same thread: it never waits, it only
leaves a note that the next request reads. A child of a fork starts with a lock of its own.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, deque
from typing import Final

from msgspec import Struct

from tokenmeter.forks import each_in_child
from tokenmeter.loops.fingerprints import Prints
from tokenmeter.turn import Turn, in_turn, in_turn_or

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_STALE_S: Final = 900.0  # a request under way for so long is taken for lost
_MAX_AGENTS_KEPT: Final = 4
_MANY_ENDED: Final = 64
_NO_TURNS: Final[tuple[int, tuple[str, ...]]] = (0, ())


class Asker(Struct, frozen=True, gc=False):
    """Whose request it is, and when."""

    agent: str | None
    run: str | None
    at_s: float

    @property
    def owner(self) -> int:
        """What the counts of a request are kept for: the run, and without one the agent."""
        run = self.run
        return hash((run, self.agent if run is None else None))


class Tally(Struct, frozen=True, gc=False):
    """How often something was asked before, and since when."""

    times: int
    since_s: float
    agents: tuple[str, ...] = ()


NEVER: Final = Tally(0, 0.0)


class Known(Struct, frozen=True, gc=False):
    """What is remembered that bears on one request, which is not counted in it."""

    alike: Tally = NEVER  # requests of the same owner and key
    ticket: int | None = None  # how it is known again when its answer comes; None where no answer is waited for
    calls_in_minute: int = 0
    runs_in_minute: int = 0


_UNKNOWN: Final = Known()


class _Entry(Struct, gc=False):
    """Requests of the same key: one row of rounds."""

    times: int
    open: int
    first_s: float
    last_s: float
    agents: tuple[str, ...]  # the agents that asked, at most four
    rows: tuple[_Row, ...] = ()  # one for each kind of fingerprint
    noted: int = 0  # the round that they were last counted in


class _Row(Struct, gc=False):
    """Rounds one after the other that had the same fingerprint, as far as anybody looked."""

    first_s: float
    print: int | None = None  # None where nobody looked
    times: int = 0
    unseen: int = 1  # rounds before, which nobody looked at

    def note(self, found: int | None, entry: _Entry, fresh: bool, at_s: float) -> Tally:
        """Count a round, if it is one; how many there were before it."""
        if found is None or self.print not in (None, found):
            self.times, self.unseen, self.first_s = 0, 0, at_s
        self.print = found
        self.times += fresh
        return Tally(max(0, min(entry.times, self.unseen + self.times) - 1), self.first_s, entry.agents)


class _Run(Struct, gc=False):
    """What a run came to so far."""

    since_s: float
    calls: int = 0
    nanos: int = 0


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
        return 1 - passed / 60 if passed < 60 else 0.0


_memories: weakref.WeakSet[Seen] = weakref.WeakSet()


each_in_child(_memories, lambda seen: seen.renew())


class Seen:
    """The memory of one process. All methods but `end` take a short lock.

    A method that interrupts another one of the same thread finds the tables half written: it leaves them alone and
    says that nothing is known.
    """

    def __init__(self, max_prints: int = 8_192, max_agents: int = 1_024, max_runs: int = 4_096) -> None:
        self._max_prints = max_prints
        self._max_agents = max_agents
        self._max_runs = max_runs
        self._turn = Turn()
        self._ended: deque[tuple[int, bool]] = deque(maxlen=65_536)  # answers that no request has read yet
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._minutes: OrderedDict[str, _Minute] = OrderedDict()  # by agent
        self._latest: tuple[str, str | None] | None = None  # whose the last request was
        self._minute = _Minute()  # of that agent
        self._runs: OrderedDict[int, None] = OrderedDict()
        self._spent: OrderedDict[str, _Run] = OrderedDict()
        self._quiet: OrderedDict[int, tuple[int, tuple[str, ...]]] = OrderedDict()
        self._brakes: OrderedDict[str, tuple[int, float]] = OrderedDict()
        _memories.add(self)

    @in_turn
    def count_call(self, run: str, at_s: float) -> tuple[int, int, float]:
        """Count a call of a run; the calls and the nanodollars of it in this process before, and since when."""
        found = self._spent.get(run)
        if found is None:
            found = self._spent[run] = _Run(at_s)
            if len(self._spent) > self._max_runs:
                self._spent.popitem(last=False)
        else:
            self._spent.move_to_end(run)
        before = found.calls, found.nanos, found.since_s
        found.calls += 1
        return before

    @in_turn
    def add_spend(self, run: str, nanos: int) -> None:
        """Add what a call of a run came to."""
        found = self._spent.get(run)
        if found is not None:
            found.nanos += nanos

    @in_turn_or(_UNKNOWN)
    def begin(self, asker: Asker, key: int | None, window_s: float) -> Known:
        """Count a request that is about to go out; what was known before it."""
        agent, run, at_s = asker.agent or "", asker.run, asker.at_s
        goes_on = (agent, run) == self._latest
        if not goes_on:
            self._minute = self._minute_of(agent)
            self._latest = agent, run
        minute, runs = self._minute, 0
        left = minute.left(at_s)
        before = minute.calls
        minute.calls = before + 1
        calls = before + int(minute.calls_before * left)
        if not goes_on and run is not None and self._is_new_run(run, agent):
            runs = minute.runs + int(minute.runs_before * left)
            minute.runs += 1
        if len(self._ended) >= _MANY_ENDED:
            self._read_ended()
        if key is None:
            return Known(NEVER, None, calls, runs)
        key ^= asker.owner
        return Known(self._count(key, asker, window_s), key, calls, runs)

    @in_turn_or((NEVER, NEVER, NEVER))
    def note(self, ticket: int | None, prints: Prints, at_s: float) -> tuple[Tally, Tally, Tally]:
        """How often a request that began went out before with the same fingerprints: exact, loose and ticked.

        Nobody looked at the first of a key: it is taken for one like the second.
        """
        entry = None if ticket is None else self._entries.get(ticket)
        if entry is None:
            return NEVER, NEVER, NEVER
        fresh, entry.noted = entry.noted != entry.times, entry.times
        first = not entry.rows
        if first:
            entry.rows = tuple(_Row(entry.first_s) for _ in range(3))
        exact, loose, ticked = entry.rows
        alike = first or loose.print == prints.loose
        return (
            exact.note(prints.exact, entry, fresh, at_s),
            loose.note(prints.loose, entry, fresh, at_s),
            ticked.note(prints.ticked() if alike else None, entry, fresh, at_s),  # slow
        )

    @in_turn_or(_NO_TURNS)
    def turn(self, asker: Asker) -> tuple[int, tuple[str, ...]]:
        """How many requests of a run in a row brought nothing new, this one among them, and which agents made them."""
        owner, agent = asker.owner, asker.agent or ""
        count, agents = self._quiet.pop(owner, _NO_TURNS)
        if agent not in agents and len(agents) < _MAX_AGENTS_KEPT:
            agents = (*agents, agent)
        self._quiet[owner] = count + 1, agents
        if len(self._quiet) > self._max_runs:
            self._quiet.popitem(last=False)
        return count + 1, agents

    def news(self, asker: Asker) -> tuple[int, tuple[str, ...]]:
        """A request of a run brought something new."""
        if self._quiet:
            self._forget_quiet(asker.owner)
        return _NO_TURNS

    @in_turn_or(None)
    def _forget_quiet(self, owner: int) -> None:
        self._quiet.pop(owner, None)

    def end(self, ticket: int, failed: bool) -> None:
        """A request that began has its answer, or failed; a refused one failed. Never waits for anybody."""
        self._ended.append((ticket, failed))

    @in_turn_or(_FIRST_PAUSE_S)
    def brake(self, what: str, at_s: float) -> float:
        """How long to pause now: twice as long as the last time, from the start after a quiet minute."""
        times, last_s = self._brakes.pop(what, (0, at_s))
        if at_s - last_s > 60 + _LONGEST_PAUSE_S:
            times = 0
        self._brakes[what] = (times + 1, at_s)
        if len(self._brakes) > self._max_agents:
            self._brakes.popitem(last=False)
        return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * (1 << min(times, 16)))

    def renew(self) -> None:
        """In a child of a fork: the threads that held the lock or wait for an answer are not there."""
        self._turn = Turn()
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
            key, failed = ended.popleft()
            entry = entries.get(key)
            if entry is None:
                continue
            entry.open = max(0, entry.open - 1)
            if failed and entry.open == 0:
                if entry.noted == entry.times:
                    for row in entry.rows:
                        row.times = max(0, row.times - 1)
                entry.times = max(0, entry.times - 1)
                entry.noted = -1

    def _minute_of(self, agent: str) -> _Minute:
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

    def _count(self, key: int, asker: Asker, window_s: float) -> Tally:
        entries, agent, at_s = self._entries, asker.agent or "", asker.at_s
        entry = entries.get(key)
        if entry is not None and self._ended:
            self._read_ended()
        if entry is None or at_s - entry.last_s > window_s:
            entries[key] = _Entry(1, 1, at_s, at_s, (agent,))
            if entry is not None:
                entries.move_to_end(key)
            elif len(entries) > self._max_prints:
                entries.popitem(last=False)
            return NEVER
        if entry.open and at_s - entry.last_s > _STALE_S:
            entry.open = 0
        agents = entry.agents
        known = Tally(entry.times - bool(entry.open), entry.first_s, agents)
        entry.times += not entry.open  # side by side with its like, it is the same round
        entry.open += 1
        entry.last_s = at_s
        if agent not in agents and len(agents) < _MAX_AGENTS_KEPT:
            entry.agents = (*agents, agent)
        entries.move_to_end(key)
        return known
