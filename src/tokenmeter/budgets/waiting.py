"""Callers that wait: first come, first served for each book, threads and asyncio tasks in one line."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Held, Short

if TYPE_CHECKING:
    import asyncio


class Waiter:
    """One caller in line. It waits while ``answer`` is None; the store writes the answer, under its lock."""

    __slots__ = ("answer", "claims", "excess", "gate", "hold_id", "now_s", "sleeper", "taken")

    def __init__(self, hold_id: str, claims: Sequence[Claim], now_s: float) -> None:
        self.hold_id = hold_id
        self.claims = claims
        self.now_s = now_s
        # By the books it stands in line for; it is spent out once a book's posted + excess
        # is above zero and above what grants add.
        self.excess = {c.key: c.amount - c.limit for c in claims if stands_in_line(c)}
        self.answer: Held | Short | None = None
        self.taken = False
        self.sleeper: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        # A bare lock, not an Event: its release takes no lock that a signal handler could find taken.
        self.gate = threading.Lock()
        self.gate.acquire()  # closed until the answer is there

    @property
    def gone(self) -> bool:
        """Whether nobody can hear an answer any more."""
        return self.sleeper is not None and self.sleeper[0].is_closed()

    def wake(self) -> bool:
        """Tell the caller that the answer is there; harmless when told twice. False: nobody can hear it."""
        with contextlib.suppress(RuntimeError):  # open already
            self.gate.release()
        if self.sleeper is None:
            return True
        loop, future = self.sleeper
        try:
            loop.call_soon_threadsafe(resolve, future)
        except RuntimeError:
            return False  # the loop was closed meanwhile
        return True


class Lines:
    """The line before each book. A waiter stands in the lines of all books it needs, or in none."""

    def __init__(self) -> None:
        self.by_book: dict[str, _Line] = {}

    def __contains__(self, key: str) -> bool:
        return key in self.by_book

    def keys(self) -> list[str]:
        """The books that somebody waits for."""
        return list(self.by_book)

    def clear(self) -> None:
        """Send everybody away, unheard."""
        self.by_book.clear()

    def join(self, waiter: Waiter) -> None:
        """Stand at the end of the lines of all its books."""
        for key, excess in waiter.excess.items():
            line = self.by_book.setdefault(key, _Line())
            line.waiters[waiter] = None
            line.excess = max(line.excess, excess)

    def leave(self, waiter: Waiter) -> None:
        """Step out of all lines; harmless when done twice."""
        for key in waiter.excess:
            line = self.by_book.get(key)
            if line is not None:
                line.waiters.pop(waiter, None)
                if not line.waiters:
                    self.by_book.pop(key, None)

    def head(self, key: str) -> Waiter | None:
        """Who is first in line for a book."""
        line = self.by_book.get(key)
        first = next(iter(line.waiters), None) if line is not None else None
        if line is not None and first is None:  # a caller was interrupted as it joined or left
            self.by_book.pop(key, None)
        return first

    def heads_all(self, waiter: Waiter) -> bool:
        """Whether nobody stands before this one in any of its lines."""
        return all(self.head(key) is waiter for key in waiter.excess)

    def spent_out(self, key: str, posted: int) -> list[Waiter]:
        """Who waits for a book in vain. Looks through the line only when there may be someone."""
        line = self.by_book.get(key)
        if line is None or posted + line.excess <= 0:
            return []
        line.excess = max((waiter.excess[key] for waiter in line.waiters), default=-posted)
        return [waiter for waiter in line.waiters if posted + waiter.excess[key] > 0]


class _Line:
    __slots__ = ("excess", "waiters")

    def __init__(self) -> None:
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self.excess = -(2**63)  # no less than any waiter's


def stands_in_line(claim: Claim) -> bool:
    """Whether calls can be in each other's way at this claim's book."""
    return claim.enforce and claim.budget.per != "call"


def resolve(future: asyncio.Future[None]) -> None:
    """Wake the task that awaits it; harmless when done twice."""
    if not future.done():
        future.set_result(None)
