"""One process as Redis knows it: alive as long as it says so, and its holds ended by the others when it doesn't."""

from __future__ import annotations

import contextlib
import uuid

from tokenmeter.budgets import redis_scripts as scripts
from tokenmeter.budgets.lasting import raw
from tokenmeter.budgets.redis_room import Room
from tokenmeter.budgets.redis_words import bulk, number
from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.rounds import Rounds

_BEATS_A_LEASE = 5
_BEATS_A_LOOK = 20
_MAX_LATER = 10_000


class Owner:
    """Its id, the thread that says that it lives, and what that thread has to do besides."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._lease_ms = int(room.options.lease_s * 1000)
        self._pause_s = room.options.lease_s / _BEATS_A_LEASE
        self.forget()

    def forget(self) -> None:
        """In a forked child: another one. The parent's holds are the parent's."""
        self.id = uuid.uuid4().hex.encode()
        self.words = (bulk(self.id), number(self._lease_ms))
        self._doubtful: dict[str, None] = {}
        self._later: dict[str, None] = {}
        self._heart = Rounds(
            self.round, name="redis-heartbeat", doing="keeping holds in Redis alive", first_s=self._pause_s
        )
        self._beats = 0

    def begin(self) -> None:
        """Say from now on that this process lives."""
        self._heart.start()  # without a thread, what is held for longer is ended by the others

    def end(self) -> None:
        """Let the others end what is still held, from now on."""
        self._heart.end()
        if self._heart.thread is not None:
            with contextlib.suppress(StoreUnavailable):
                self._room.run(scripts.leave, self.words[0])

    @property
    def ended(self) -> bool:
        """Whether it said that it is gone."""
        return self._heart.ended

    # -- holds that may be made, or not

    def doubt(self, hold_id: str) -> None:
        """The answer to this hold was never heard."""
        self._doubtful[hold_id] = None
        while len(self._doubtful) > _MAX_LATER:
            self._doubtful.pop(next(iter(self._doubtful)), None)

    def doubts(self, hold_id: str) -> bool:
        """Whether a hold of that id may be there."""
        return hold_id in self._doubtful

    def trust(self, hold_id: str) -> None:
        """An answer was heard."""
        self._doubtful.pop(hold_id, None)
        self._later.pop(hold_id, None)

    def release_later(self, hold_id: str) -> None:
        """Give a hold back as soon as Redis answers."""
        self._later[hold_id] = None
        while len(self._later) > _MAX_LATER:
            self._later.pop(next(iter(self._later)), None)

    # -- the dead

    def recover(self, deadline: float | None = None) -> int:
        """End the holds of the dead; how many."""
        if self._heart.thread is not None and not self.ended:
            self.beat(deadline)  # so as not to be taken for dead by oneself
        count = 0
        while True:
            _, dead, *ids = self._room.run(scripts.dead, deadline=deadline)
            if ids:
                answer = self._room.run(scripts.bury, *map(bulk, ids), ids=tuple(ids), deadline=deadline)
                count += int(answer[2:])
            if not dead:
                return count

    def beat(self, deadline: float | None = None) -> None:
        """Say once that this process lives."""
        self._room.run(scripts.beat, *self.words, deadline=deadline)

    def round(self) -> float:
        """What the thread does each time."""
        self._beats += 1
        with contextlib.suppress(StoreUnavailable, ConfigError):  # those who call will hear of it
            if self._beats % _BEATS_A_LOOK == 0:
                self._room.look()
            self.beat()
            for hold_id in list(self._later):
                self._room.run(scripts.release, bulk(raw(hold_id)))
                self.trust(hold_id)
            self.recover()
        return self._pause_s
