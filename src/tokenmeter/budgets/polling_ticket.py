"""One who waits in a `Line`, as a thread or as a task of asyncio."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Held, Short
from tokenmeter.budgets.waiting import resolve, stands_in_line

if TYPE_CHECKING:
    import asyncio

    from tokenmeter.budgets.polling import Line

FIRST_S = 0.005
Look = Callable[[frozenset[str]], Short]


class Place:
    """One who waits."""

    __slots__ = (
        "__weakref__",
        "amounts",
        "gate",
        "held",
        "hold_id",
        "look",
        "loop",
        "over",
        "pace_s",
        "release",
        "short",
        "sleeper",
        "stirred",
        "try_hold",
        "trying",
        "vain",
    )

    def __init__(
        self,
        hold_id: str,
        claims: Sequence[Claim],
        try_hold: Callable[[], Held | Short],
        release: Callable[[], object],
        look: Look,
        *,
        short: Short,
    ) -> None:
        self.hold_id = hold_id
        self.amounts = {claim.key: claim.amount for claim in claims if stands_in_line(claim)}
        self.try_hold = try_hold
        self.release = release
        self.look = look
        self.short = short  # the last that was heard
        self.pace_s = FIRST_S
        self.stirred = False  # there may be news
        self.vain = False  # a book may be spent out
        self.over = False  # out of line
        self.trying = False  # a hold may stand that nobody knows of
        self.held = False  # a hold stands that the caller hasn't got yet
        self.loop: asyncio.AbstractEventLoop | None = None
        self.sleeper: asyncio.Future[None] | None = None
        # A bare lock, not an Event: its release takes no lock that a signal handler could find taken.
        self.gate = threading.Lock()
        self.gate.acquire()

    @property
    def gone(self) -> bool:
        """Whether nobody can hear an answer any more."""
        return self.loop is not None and self.loop.is_closed()

    def wake(self) -> None:
        """Let it look again, now; harmless when done twice."""
        self.stirred = True
        with contextlib.suppress(RuntimeError):  # open already
            self.gate.release()
        loop, sleeper = self.loop, self.sleeper
        if loop is not None and sleeper is not None:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(resolve, sleeper)


class PollingTicket:
    """A place in a `Line`."""

    __slots__ = ("__weakref__", "_done", "_line", "_place")

    def __init__(self, line: Line, place: Place) -> None:
        self._line = line
        self._place = place
        self._done = False

    def wait(self, timeout_s: float) -> Held | Short:
        """Wait on this thread."""
        line, place = self._line, self._place
        until_s = time.monotonic() + timeout_s
        try:
            while True:
                pause_s = line.pause_s(place, until_s)
                if pause_s:
                    place.gate.acquire(timeout=pause_s)
                place.stirred = False  # first, so that no wake-up is missed
                if line.asks(place, until_s):
                    answer = line.ask(place, until_s)
                    if answer is not None:
                        break
        except BaseException:
            line.give_up(place, here=True)
            self._done = True
            raise
        self._done = True
        return answer

    async def wait_async(self, timeout_s: float) -> Held | Short:
        """Wait as a task of asyncio; the store is asked on a thread. Under another event loop, Short at once."""
        import asyncio

        line, place = self._line, self._place
        until_s = time.monotonic() + timeout_s
        try:
            try:
                place.loop = asyncio.get_running_loop()
            except RuntimeError:
                line.give_up(place, here=True)
                self._done = True
                return place.short
            while True:
                await _sleep(place, line.pause_s(place, until_s))
                place.stirred = False
                if line.asks(place, until_s):
                    answer = await _ask(line, place, until_s)
                    if answer is not None:
                        break
        except BaseException as error:
            line.give_up(place, here=False, aside=isinstance(error, asyncio.CancelledError))
            self._done = True
            raise
        self._done = True
        return answer

    def __del__(self) -> None:
        if not getattr(self, "_done", True):  # where its making was interrupted, it stands in no line
            self._line.give_up(self._place, here=True)


async def _sleep(place: Place, pause_s: float) -> None:
    assert place.loop is not None  # noqa: S101 - for the type checkers
    if not pause_s:
        return
    place.sleeper = sleeper = place.loop.create_future()
    if place.stirred:  # looked at after the sleeper is known: no wake-up is missed
        return
    timer = place.loop.call_later(pause_s, resolve, sleeper)
    try:
        await sleeper
    finally:
        timer.cancel()


async def _ask(line: Line, place: Place, until_s: float) -> Held | Short | None:
    loop = place.loop
    assert loop is not None  # noqa: S101 - for the type checkers
    landed: asyncio.Future[Held | Short | None] = loop.create_future()

    def ask(place: Place) -> None:
        try:
            answer, error = line.ask(place, until_s), None
        except BaseException as found:  # noqa: BLE001 - raised where it is awaited
            answer, error = None, found
        try:
            loop.call_soon_threadsafe(_land, landed, answer, error)
        except RuntimeError:  # it was closed: nobody hears of it
            line.give_up(place, here=True)

    line.in_thread(ask, place)
    return await landed


def _land(
    landed: asyncio.Future[Held | Short | None], answer: Held | Short | None, error: BaseException | None
) -> None:
    if landed.done():
        return  # cancelled
    if error is not None:
        landed.set_exception(error)
    else:
        landed.set_result(answer)
