"""A circuit breaker before a store: while the store doesn't answer, few callers wait to find that out."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ParamSpec, Protocol, TypeVar

from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Book, Drawn, Entry, Grant, Held, Note, Pause, Settled, Short, State, Store, Ticket
from tokenmeter.errors import StoreUnavailable
from tokenmeter.turn import Turn

logger = logging.getLogger("tokenmeter")

_P = ParamSpec("_P")
_T = TypeVar("_T")

FAILURES = 3
FIRST_S = 1.0
LONGEST_S = 10.0


class NotAsked(StoreUnavailable):
    """The store was not asked at all: it failed a moment ago."""


class Breaker:
    """Opens after three failures in a row, for a second at first and ten at the most; then one caller tries."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._until_s = 0.0
        self._pause_s = FIRST_S
        self._why = ""
        self._told = False
        self._probe = Turn()
        self.shut = False
        """Whether nothing more shall go to the store."""

    @property
    def open(self) -> bool:
        """Whether the store is taken for gone."""
        return self._failures >= FAILURES

    @property
    def wait_s(self) -> float:
        """How long until it makes sense to try."""
        return max(0.0, self._until_s - self._clock()) if self.open else 0.0

    def __call__(self, verb: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do it, or raise `NotAsked`."""
        if self.shut:
            raise NotAsked("the time for telling the store is over")
        if self._failures < FAILURES:
            return self._do(verb, *args, **kwargs)
        answer: tuple[_T] | None = None
        if not self.wait_s:
            answer = self._probe.take(lambda: (self._do(verb, *args, **kwargs),), None)
        if answer is None:
            raise NotAsked(f"the store did not answer {self._failures} times in a row, last: {self._why}")
        return answer[0]

    def failed(self, error: StoreUnavailable) -> None:
        """Count a failure."""
        if isinstance(error, NotAsked):
            return
        self._why = str(error)
        self._failures += 1
        if self._failures >= FAILURES and not self.wait_s:
            if not self._told:
                self._told = True
                logger.warning("tokenmeter's store does not answer: %s", error)
            self._until_s = self._clock() + self._pause_s
            self._pause_s = min(LONGEST_S, self._pause_s * 2)

    def passed(self) -> None:
        """Count an answer."""
        if self._failures:
            self._failures = 0
            self._pause_s = FIRST_S
            if self._told:
                self._told = False
                logger.warning("tokenmeter's store answers again")

    def start_afresh(self) -> None:
        """In a forked child, where whoever tried is not."""
        self._probe = Turn()

    def _do(self, verb: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            answer = verb(*args, **kwargs)
        except StoreUnavailable as error:
            self.failed(error)
            raise
        except Exception:
            self.passed()  # a refusal is an answer
            raise
        if self._failures:
            self.passed()
        return answer


class Via(Protocol):
    """Does a verb, or raises `StoreUnavailable`."""

    def __call__(self, verb: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do it."""
        ...


def _at_once(verb: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    return verb(*args, **kwargs)


class Through:
    """A store all of whose verbs go to another one, through a function if one is given.

    Each does what `Store` says of it, and so none says it again here.
    """

    def __init__(self, inner: Store, via: Via | None = None) -> None:
        self.inner = inner
        self.instant = inner.instant
        self.keeps_rows = inner.keeps_rows
        self._via: Via = via or _at_once

    def hold(self, hold_id: str, claims: Sequence[Claim], now_s: float, note: Note | None = None) -> Held | Short:
        return self._via(self.inner.hold, hold_id, claims, now_s, note)

    def queue(
        self, hold_id: str, claims: Sequence[Claim], now_s: float, note: Note | None = None
    ) -> Held | Short | Ticket:
        return self._via(self.inner.queue, hold_id, claims, now_s, note)

    def sent(self, hold_id: str) -> bool:
        return self._via(self.inner.sent, hold_id)

    def settle(self, hold_id: str, amounts: Sequence[int], row: bytes = b"") -> Settled | None:
        return self._via(self.inner.settle, hold_id, amounts, row)

    def release(self, hold_id: str) -> bool:
        return self._via(self.inner.release, hold_id)

    def adjust(self, hold_id: str, amounts: Sequence[int]) -> Held | Short:
        return self._via(self.inner.adjust, hold_id, amounts)

    def post(self, entry_id: str, claims: Sequence[Claim], amounts: Sequence[int], row: bytes = b"") -> Settled | None:
        return self._via(self.inner.post, entry_id, claims, amounts, row)

    def draw(self, hold_ids: Sequence[str], entries: Sequence[Entry]) -> tuple[Drawn, ...]:
        return self._via(self.inner.draw, hold_ids, entries)

    def write(self, entries: Sequence[Entry]) -> None:
        self._via(self.inner.write, entries)

    def read(self, keys: Iterable[str]) -> tuple[State, ...]:
        return self._via(self.inner.read, keys)

    def books(self) -> list[Book]:
        return self._via(self.inner.books)

    def entries(self, after: str = "") -> Iterator[tuple[str, Entry]]:
        return self._via(self.inner.entries, after)

    def grant(self, grant: Grant) -> None:
        self._via(self.inner.grant, grant)

    def grants(self) -> list[Grant]:
        return self._via(self.inner.grants)

    def pause(self, pause: Pause) -> None:
        self._via(self.inner.pause, pause)

    def resume(self, target: str) -> bool:
        return self._via(self.inner.resume, target)

    def pauses(self) -> list[Pause]:
        return self._via(self.inner.pauses)

    def recover(self) -> int:
        return self._via(self.inner.recover)

    def time_s(self) -> float:
        return self._via(self.inner.time_s)

    def close(self) -> None:
        """Close it; one that is gone has nothing to close."""
        with contextlib.suppress(StoreUnavailable):
            self.inner.close()
