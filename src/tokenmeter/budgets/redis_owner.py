"""One process as Redis knows it: alive as long as it says so, and its holds ended by the others when it doesn't."""

from __future__ import annotations

import contextlib
import threading
import uuid
import weakref

from tokenmeter.budgets import redis_scripts as scripts
from tokenmeter.budgets.lasting import raw
from tokenmeter.budgets.redis_room import Room
from tokenmeter.budgets.redis_words import bulk, number
from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.faults import swallow
from tokenmeter.forks import start_thread

_BEATS_A_LEASE = 5
_ROUNDS_A_LOOK = 20
_MAX_LATER = 10_000


class Owner:
    """Its id, the thread that says that it lives, and what that thread has to do besides."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._lease_ms = int(room.options.lease_s * 1000)
        self.forget()

    def forget(self) -> None:
        """In a forked child: another one. The parent's holds are the parent's."""
        self.id = uuid.uuid4().hex.encode()
        self.words = (bulk(self.id), number(self._lease_ms))
        self._doubtful: dict[str, None] = {}
        self._later: dict[str, None] = {}
        self._thread: threading.Thread | None = None
        self._gone = threading.Event()
        self._rounds = 0

    def begin(self) -> None:
        """Say from now on that this process lives."""
        if self._thread is not None:
            return
        # Without a thread, what is held for longer is ended by the others.
        pause_s = self._room.options.lease_s / _BEATS_A_LEASE
        self._thread = start_thread(_beat, weakref.ref(self), self._gone, pause_s, name="redis-heartbeat")

    def end(self) -> None:
        """Let the others end what is still held, from now on."""
        self._gone.set()
        if self._thread is not None:
            with contextlib.suppress(StoreUnavailable):
                self._room.run(scripts.leave, self.words[0])

    @property
    def ended(self) -> bool:
        """Whether it said that it is gone."""
        return self._gone.is_set()

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
        if self._thread is not None and not self.ended:
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

    def round(self) -> None:
        """What the thread does each time."""
        self._rounds += 1
        if self._rounds % _ROUNDS_A_LOOK == 0:
            self._room.look()
        self.beat()
        for hold_id in list(self._later):
            self._room.run(scripts.release, bulk(raw(hold_id)))
            self.trust(hold_id)
        self.recover()


def _beat(owner: weakref.ref[Owner], gone: threading.Event, pause_s: float) -> None:
    while not gone.wait(pause_s):
        found = owner()
        if found is None:
            return
        try:
            found.round()
        except (StoreUnavailable, ConfigError):
            pass  # those who call will hear of it
        except Exception as error:  # noqa: BLE001 - a thread of our own: nobody else would see it
            swallow(error, "keeping holds in Redis alive")
        del found
