"""A list of the calls that were metered."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from tokenmeter.record import CallRecord


class CapturedCalls(Sequence["CallRecord"]):
    """Keeps the record of each metered call, oldest first. Safe for threads.

    Holds at most ``max_calls`` records; older ones make room and are counted in ``dropped``.
    """

    def __init__(self, max_calls: int = 10_000) -> None:
        self._rows: deque[CallRecord] = deque(maxlen=max_calls)
        self._total = 0
        self._changed = threading.Condition()

    def record(self, row: CallRecord) -> None:
        """Take the record of one call; this is what a meter calls."""
        with self._changed:
            self._rows.append(row)
            self._total += 1
            self._changed.notify_all()

    def where(self, **fields: Any) -> list[CallRecord]:
        """The records whose fields have these values. Raises AttributeError for a field that there isn't."""
        return [row for row in self._snapshot() if all(getattr(row, name) == v for name, v in fields.items())]

    @property
    def cost_nanos(self) -> int:
        """What all records cost, in nanodollars; a record without a price adds nothing."""
        return sum(row.cost_nanos or 0 for row in self._snapshot())

    @property
    def dropped(self) -> int:
        """How many records had to make room since the last `clear`."""
        with self._changed:
            return self._total - len(self._rows)

    def wait_for(self, n: int, timeout_s: float = 10.0) -> list[CallRecord]:
        """Wait until ``n`` calls were recorded since the last `clear`. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._total >= n, timeout_s):
                raise TimeoutError(f"{self._total} of {n} calls were recorded within {timeout_s} s")
            return list(self._rows)

    def clear(self) -> None:
        """Forget all records."""
        with self._changed:
            self._rows.clear()
            self._total = 0

    @overload
    def __getitem__(self, index: int) -> CallRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[CallRecord]: ...
    def __getitem__(self, index: int | slice) -> CallRecord | list[CallRecord]:
        return self._snapshot()[index]

    def __len__(self) -> int:
        with self._changed:
            return len(self._rows)

    def __iter__(self) -> Iterator[CallRecord]:
        return iter(self._snapshot())

    def __repr__(self) -> str:
        return f"CapturedCalls({self._snapshot()!r})"

    def _snapshot(self) -> list[CallRecord]:
        with self._changed:
            return list(self._rows)
