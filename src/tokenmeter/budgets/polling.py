"""Waiting for books that other processes change too: first come, first served within one process.

Nobody tells this process when another one settles. So who is first in line for all its books asks the store again,
after 5 milliseconds and then less and less often, down to twenty times a second; at once when this process gives
something back. Those behind sleep.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.polling_ticket import FIRST_S, Look, Place, PollingTicket
from tokenmeter.budgets.store import Held, Short, Ticket, in_use
from tokenmeter.budgets.waiting import stands_in_line
from tokenmeter.errors import StoreUnavailable
from tokenmeter.turn import Turn, in_turn

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

LONGEST_S = 0.05
_GROWTH = 1.5
_MANY = 8  # with more books waited for, each is asked about less often
_BEHIND_S = 1.0  # how long who isn't first sleeps, if nobody wakes him
_THREADS = 4
_NOBODY: frozenset[str] = frozenset()


class Line:
    """Those who wait in one process, in the lines of all books they need.

    The store's ``hold`` must not overtake them: it asks `waited_for`, and its ``release`` tries `leave` first.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a forked child: those who wait are the parent's."""
        # It may be taken again by a finalizer that interrupts the thread that has it; all below bears that.
        self._turn = Turn()
        self._places: dict[str, Place] = {}
        self._lines: dict[str, OrderedDict[Place, None]] = {}
        self._rooms: dict[str, int] = {}  # by book: what was left beside the holds when somebody asked last
        self._stirs = 0
        self._threads: ThreadPoolExecutor | None = None

    def __contains__(self, hold_id: str) -> bool:
        return hold_id in self._places

    def queue(
        self,
        try_hold: Callable[[], Held | Short],
        release: Callable[[], object],
        hold_id: str,
        claims: Sequence[Claim],
        look: Look,
    ) -> Held | Short | Ticket:
        """Hold, or get in line where only other calls stand in the way.

        ``try_hold`` asks the store, whoever waits. ``release`` undoes it; it may be done twice. ``look`` gives
        the `Short` of one before whom others wait for the books given, and holds nothing; its ``spent_out`` says
        whether waiting is in vain.
        """
        if hold_id in self._places:
            raise in_use(hold_id)
        stirs = self._stirs
        behind = self.waited_for(claims)
        answer = look(behind) if behind else try_hold()
        if isinstance(answer, Held) or answer.spent_out:
            return answer
        place = Place(hold_id, claims, try_hold, release, look, short=answer)
        ticket = PollingTicket(self, place)  # first, so that an interrupt that drops it leaves the line
        self._join(place)
        if behind or self._stirs != stirs:
            place.stirred = True
        return ticket

    def waited_for(self, claims: Iterable[Claim]) -> frozenset[str]:
        """The books of these claims that somebody waits for."""
        if not self._lines:
            return _NOBODY
        return frozenset([claim.key for claim in claims if stands_in_line(claim) and self._first(claim.key)])

    def stir(self) -> None:
        """Something was given back: who is first asks at once."""
        self._stirs += 1
        if not self._lines:
            return
        for key in list(self._lines):
            first = self._first(key)
            if first is not None and not self._behind(first):
                first.wake()

    def leave(self, hold_id: str) -> bool:
        """Send one who waits away. False if nobody waits by that id."""
        place = self._sent_away(hold_id)
        if place is None:
            return False
        place.wake()
        return True

    @in_turn
    def _sent_away(self, hold_id: str) -> Place | None:
        place = self._places.get(hold_id)
        if place is None or place.over:
            return None
        self._leave(place)
        return place

    def close(self) -> None:
        """Send everybody away."""
        for hold_id in list(self._places):
            self.leave(hold_id)
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)

    # -- for tickets

    def pause_s(self, place: Place, until_s: float) -> float:
        """How long to sleep now."""
        left_s = until_s - time.monotonic()
        if place.over or place.stirred or left_s <= 0:
            place.pace_s = FIRST_S
            return 0.0
        if self._behind(place):
            return min(left_s, _BEHIND_S)
        pause_s = place.pace_s * random.uniform(0.75, 1.25)  # noqa: S311 - against processes in step
        place.pace_s = min(LONGEST_S * max(1.0, len(self._lines) / _MANY), place.pace_s * _GROWTH)
        return min(left_s, pause_s)

    def asks(self, place: Place, until_s: float) -> bool:
        """Whether it is time to ask the store."""
        return place.over or place.vain or time.monotonic() >= until_s or not self._behind(place)

    def ask(self, place: Place, until_s: float) -> Held | Short | None:
        """Ask the store; None to wait on."""
        if place.over:
            return place.short
        last = time.monotonic() >= until_s
        place.vain = False
        behind = self._behind(place)
        if behind:
            answer: Held | Short = place.look(behind)
        else:
            place.trying = True
            try:
                answer = place.try_hold()
            except Exception:
                place.trying = False
                if not place.over:
                    raise
                self._undo(place)  # nobody hears of it, and the hold may have been made
                return place.short
        if self._turn.run(self._heard, place, answer, last):
            if isinstance(answer, Held):
                self._undo(place)
            return place.short
        if isinstance(answer, Short) and not behind:
            self._tell_the_vain(answer)
        return answer if place.over else None

    def give_up(self, place: Place, *, here: bool, aside: bool = False) -> None:
        """Leave the line, and give back what was got. ``here``: no other thread asks for this place."""
        undo = self._turn.run(self._given_up, place, here)
        if undo and aside:
            self.in_thread(self._undo, place)
        elif undo:
            self._undo(place)

    def _heard(self, place: Place, answer: Held | Short, last: bool) -> bool:
        """Note what the store said. Whether nobody waits for it any more."""
        gone = place.over
        place.held = isinstance(answer, Held) and not gone
        if isinstance(answer, Short):
            place.short = answer
        if last or place.held or place.short.spent_out:
            self._leave(place)
        place.trying = False
        return gone

    def _given_up(self, place: Place, here: bool) -> bool:
        """Take a place out of line. Whether a hold may stand for it."""
        self._leave(place)
        undo = place.held or (here and place.trying)
        place.held = False
        return undo

    def in_thread(self, work: Callable[[Place], object], place: Place) -> None:
        """Do it on a thread, or here where no more can be started."""
        try:
            if self._threads is None:
                from concurrent.futures import ThreadPoolExecutor

                self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tokenmeter-line")
            self._threads.submit(work, place)
        except RuntimeError:  # the interpreter ends, or no thread is to be had
            work(place)

    # -- inside

    @in_turn
    def _join(self, place: Place) -> None:
        self._places[place.hold_id] = place
        for key in place.amounts:
            self._rooms.pop(key, None)
            self._lines.setdefault(key, OrderedDict())[place] = None

    def _leave(self, place: Place) -> None:
        """Harmless when done twice. Those who are first now are woken."""
        place.over = True
        if self._places.get(place.hold_id) is place:
            del self._places[place.hold_id]
        for key in place.amounts:
            line = self._lines.get(key)
            if line is None:
                continue
            line.pop(place, None)
            if not line:
                self._lines.pop(key, None)
                self._rooms.pop(key, None)
        for key in place.amounts:
            first = self._first(key)
            if first is not None and not self._behind(first):
                first.wake()

    @in_turn
    def _first(self, key: str) -> Place | None:
        """Who is first in line for a book, without those who can't hear any more."""
        while True:
            first = next(iter(self._lines.get(key, ())), None)
            if first is None or not first.gone:
                return first
            self._leave(first)

    def _behind(self, place: Place) -> frozenset[str]:
        """The books for which others wait before this one."""
        found = [key for key in place.amounts if self._first(key) not in (None, place)]
        return frozenset(found) if found else _NOBODY

    def _tell_the_vain(self, short: Short) -> None:
        """Wake those behind who want more than is left beside the holds."""
        for claim, room in zip(short.claims, short.if_settled, strict=True):
            line = self._lines.get(claim.key)
            if line is None:
                continue
            before = self._rooms.get(claim.key)
            self._rooms[claim.key] = room
            if before is None or room < before:
                for other in list(line):
                    if other.amounts[claim.key] > room:
                        other.vain = True
                        other.wake()

    def _undo(self, place: Place) -> None:
        with contextlib.suppress(StoreUnavailable):  # the caller releases it too
            place.release()
