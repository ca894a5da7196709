"""The kill switch as calls see it: what the store says is paused, looked at twice a second beside their way.

A call asks `Pauses.stops`, which waits for nobody. A thread reads the store; while the store is gone, what it said
last stays in force, so that an outage neither lifts a pause nor makes one. Books in the memory of this process are
read at each ask, so that a pause there holds at once.
"""

from __future__ import annotations

import itertools
import logging
import shlex
import weakref
from datetime import UTC, datetime
from typing import NamedTuple

from tokenmeter.attribution import Scope
from tokenmeter.budgets.store import Pause, Store
from tokenmeter.errors import Paused, StoreUnavailable
from tokenmeter.faults import swallow
from tokenmeter.forks import each_in_child
from tokenmeter.rounds import Rounds
from tokenmeter.turn import Turn, in_turn

logger = logging.getLogger("tokenmeter")

INTERVAL_S = 0.5
_LAST_S = 253_402_300_799  # the last second that a date can tell

TARGETS = ("agent", "user", "team")
"""What a pause can be for, beside ``all``: ``agent=NAME``."""


class _View(NamedTuple):
    """The pauses by what they stop."""

    all: Pause | None
    agents: dict[str, Pause]
    users: dict[str, Pause]
    teams: dict[str, Pause]


class Pauses:
    """The pauses of a store, ready to be asked before every call; an ask takes well under a microsecond.

    The first ask starts the thread, which looks at once and then every ``interval_s``. Until its first look nothing
    is known to be paused: ``refresh`` reads at once, and is meant for the start. A forked child has a thread of its
    own and knows what its parent knew. ``close``, or losing the last reference, ends the thread.
    """

    def __init__(self, store: Store, *, interval_s: float = INTERVAL_S) -> None:
        self._store = store
        self._here = store.instant  # then a read costs nothing, and there is no thread
        self._interval_s = interval_s
        self._read: list[Pause] = []
        self._view: _View | None = None  # nothing is paused
        self._start_afresh()
        _all.add(self)

    def _start_afresh(self) -> None:
        self._rounds = Rounds(self._round, name="pauses", doing="reading what is paused")
        self._turn = Turn()
        self._numbers = itertools.count(1)
        self._newest = 0
        self._told = False

    def stops(self, agent: str | None, user: str | None, team: str | None) -> Pause | None:
        """The pause that stops a call of these, or None. Never waits and never raises."""
        if self._here:
            if self._read or self._store.pauses():
                self._look()
        elif self._rounds.thread is None:
            self._rounds.start()
        view = self._view
        if view is None:
            return None
        return (
            view.all
            or (None if agent is None else view.agents.get(agent))
            or (None if user is None else view.users.get(user))
            or (None if team is None else view.teams.get(team))
        )

    def refusal(self, scope: Scope) -> Paused | None:
        """The refusal of a call of this scope, if a pause stops it."""
        pause = self.stops(scope.agent, scope.user, scope.team)
        if pause is None and scope.depth > 1:  # a paused agent doesn't go on through the agents that it calls
            pause = next((found for name in scope.path if (found := self.stops(name, None, None))), None)
        if pause is None:
            return None
        return paused(pause, agent=scope.agent, user=scope.user, team=scope.team, run=scope.run)

    def refresh(self) -> bool:
        """Read the store now, on this thread, as long as the store itself takes. False: it could not be read."""
        return self._look()

    def close(self) -> None:
        """End the thread, without waiting for it. What was known stays known."""
        self._rounds.end()

    # -- inside

    def _look(self) -> bool:
        number = next(self._numbers)
        try:
            found = self._store.pauses()
        except StoreUnavailable as error:
            self._complain(error)
            return False
        except Exception as error:  # noqa: BLE001 - a call must not fail because nobody knows whether it is paused
            if not self._rounds.ended:
                swallow(error, "reading what is paused")
            return False
        if self._told:
            self._told = False
            logger.info("tokenmeter can read what is paused again")
        if found != self._read or not self._here:
            self._take(number, found)
        return True

    @in_turn
    def _take(self, number: int, found: list[Pause]) -> None:
        """Go by what was found, unless a look that began later has ended before."""
        if number > self._newest:
            self._newest = number
            if found != self._read:
                self._view = _viewed(found)
                self._read = found

    def _complain(self, error: StoreUnavailable) -> None:
        if not self._told and not self._rounds.ended:
            self._told = True
            logger.warning(
                "tokenmeter can't read what is paused, and goes by what it knew last (%d in force): %s",
                len(self._read),
                error,
            )

    def _round(self) -> float:
        self._look()
        return self._interval_s


def paused(pause: Pause, *, agent: str | None, user: str | None, team: str | None, run: str | None = None) -> Paused:
    """The refusal of a call that a pause stops: what, since when, by whom and why, and how it is undone."""
    since = datetime.fromtimestamp(min(max(pause.at_s, 0), _LAST_S), UTC).strftime("%Y-%m-%d %H:%M:%S")
    by = f" by {pause.by}" if pause.by else ""
    why = f": {pause.reason}" if pause.reason else ""
    return Paused(
        f"{pause.target} is paused since {since} UTC{by}{why}. Nothing goes out until somebody lifts it: "
        f"tokenmeter resume {shlex.quote(pause.target)}",
        target=pause.target,
        reason=pause.reason,
        by=pause.by,
        since=pause.at_s,
        agent=agent,
        user=user,
        team=team,
        run=run,
    )


def _viewed(found: list[Pause]) -> _View | None:
    """The pauses by what they stop; a target that this version doesn't know stops nothing."""
    view: dict[str, dict[str, Pause]] = {kind: {} for kind in TARGETS}
    everything = None
    for pause in found:
        kind, sign, name = pause.target.partition("=")
        if pause.target == "all":
            everything = pause
        elif sign and kind in view:
            view[kind][name] = pause
    if everything is None and not any(view.values()):
        return None
    return _View(everything, view["agent"], view["user"], view["team"])


_all: weakref.WeakSet[Pauses] = weakref.WeakSet()


each_in_child(_all, lambda pauses: pauses._start_afresh())
