"""A clock that stands still until a test moves it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

_START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """Time as a test wants it; starts at 2026-01-01 00:00 UTC unless told otherwise. Safe for threads."""

    def __init__(self, start: datetime = _START) -> None:
        self._lock = threading.Lock()
        self._now_s = _epoch_s(start)
        self._monotonic_s = 0.0

    def now_s(self) -> float:
        """Seconds since the epoch."""
        with self._lock:
            return self._now_s

    def monotonic_s(self) -> float:
        """Seconds since the clock was made; never goes back."""
        with self._lock:
            return self._monotonic_s

    def now(self) -> datetime:
        """The same as `now_s`, as a datetime in UTC."""
        return datetime.fromtimestamp(self.now_s(), UTC)

    def advance(self, seconds: float) -> None:
        """Let time pass. Raises ValueError for a negative span: use `set` to turn the wall clock back."""
        if not seconds >= 0:
            raise ValueError(f"time can't advance by {seconds!r} s")
        with self._lock:
            self._now_s += seconds
            self._monotonic_s += seconds

    def set(self, moment: datetime) -> None:
        """Move to a moment, which needs a time zone. Going back turns only the wall clock back."""
        now_s = _epoch_s(moment)
        with self._lock:
            self._monotonic_s += max(0.0, now_s - self._now_s)
            self._now_s = now_s


def _epoch_s(moment: datetime) -> float:
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone: give it one, for example tzinfo=datetime.UTC")
    return moment.timestamp()
