"""The metrics of a call, recorded off the caller's path.

A row is queued; a thread of this module, the SDK's own collection, `flush` or `close` writes what is queued, so
that a reader never misses one. Where no metrics pipeline is set up nothing is queued at all.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, MeterProvider, NoOpMeterProvider, Observation
from opentelemetry.util.types import AttributeValue

from tokenmeter.errors import ConfigError
from tokenmeter.faults import swallow
from tokenmeter.forks import each_in_child, start_thread
from tokenmeter.record import CallRecord
from tokenmeter.telemetry import names as n
from tokenmeter.telemetry.people import user_hash
from tokenmeter.turn import Turn

LABELS = ("agent", "user", "team", "run")
OTHER = "(other)"
MAX_NAMES = 1_000
MAX_QUEUED = 10_000
WAKE_AT = 512
INTERVAL_S = 1.0


class Metrics:
    """Writes the metrics of a meter.

    ``labels`` are the scope fields to add, each with a bound on its values; under ``user_key`` a user is only hashed.
    """

    def __init__(
        self,
        provider: MeterProvider | None,
        version: str,
        *,
        labels: Sequence[str] = (),
        max_label_values: int = 100,
        user_key: bytes | None = None,
    ) -> None:
        if isinstance(max_label_values, bool) or not isinstance(max_label_values, int) or max_label_values < 0:
            raise ConfigError(f"max_label_values is {max_label_values!r}; give a whole number of at least 0")
        if isinstance(labels, str):
            raise ConfigError(f"metric labels are {labels!r}; give a list of them, such as [{labels!r}]")
        for label in labels:
            if label not in LABELS:
                raise ConfigError(f"metric label {label!r} is unknown; choose from {', '.join(LABELS)}")
        self._labels = {label: _ATTRIBUTE[label] for label in labels}
        self._user_key = user_key
        if user_key is not None and "user" in labels:
            self._labels["user"] = n.USER_HASH
        self._max_label_values = max_label_values
        self._seen: dict[str, set[str]] = {label: set() for label in labels}
        self._named: dict[str, set[str]] = {name: set() for name in _ANYBODYS}
        self._queue: deque[CallRecord | _CostOnly] = deque()
        self._dropped = 0
        self._writing = Turn()
        self._bell: SimpleQueue[bool] = SimpleQueue()  # its put can't be caught half-way by a finalizer
        self._ring_at = WAKE_AT  # rows in the queue
        self._closed = False
        self._thread: threading.Thread | None = None
        self.before_flush: Callable[[], object] | None = None  # brings what is still to be queued

        self._silent = isinstance(provider, NoOpMeterProvider)
        meter = metrics.get_meter("tokenmeter", version, provider)
        self._tokens = meter.create_histogram(
            n.TOKEN_USAGE_METRIC,
            unit="{token}",
            description="Tokens of a call, by kind",
            explicit_bucket_boundaries_advisory=n.TOKEN_USAGE_BOUNDARIES,
        )
        self._duration = meter.create_histogram(
            n.DURATION_METRIC,
            unit="s",
            description="Duration of a call",
            explicit_bucket_boundaries_advisory=n.DURATION_BOUNDARIES,
        )
        self._first_chunk = meter.create_histogram(
            n.TIME_TO_FIRST_CHUNK_METRIC,
            unit="s",
            description="Time to the first chunk of a stream",
            explicit_bucket_boundaries_advisory=n.DURATION_BOUNDARIES,
        )
        self._cost = meter.create_counter(n.COST_METRIC, unit="USD", description="Cost of the calls")
        self._refusals = meter.create_counter(n.REFUSALS_METRIC, unit="{call}", description="Calls not sent")
        self._loops = meter.create_counter(n.LOOPS_METRIC, unit="{call}", description="Findings of loop guards")
        meter.create_observable_counter(
            n.DROPPED_METRIC,
            callbacks=[_on_collection],
            unit="{call}",
            description="Calls whose metrics were dropped because the queue was full",
        )
        _LIVE.add(self)

    def record(self, row: CallRecord, *, elsewhere: bool) -> None:
        """Queue a row. ``elsewhere``: an instrumentation further out measures this call, so only cost is counted."""
        if self._silent or not _listened_to(self._tokens):
            return
        if len(self._queue) >= MAX_QUEUED:
            self._dropped += 1
            return
        self._queue.append(row if not elsewhere else _CostOnly(row))
        if self._closed:
            return
        if self._thread is None:
            self._start()
        elif len(self._queue) >= self._ring_at:
            self._ring_at = sys.maxsize
            self._bell.put(True)

    def flush(self) -> None:
        """Write all that is queued; a signal handler that interrupts its own thread at it leaves it to that."""
        if self.before_flush is not None:
            self.before_flush()
        self._write_queue()

    def _write_queue(self) -> None:
        self._writing.take(self._write_all, None, -1.0)

    def _write_all(self) -> None:
        queue = self._queue
        costs: dict[frozenset[tuple[str, AttributeValue]], int] = {}
        while queue:
            try:
                self._write(queue.popleft(), costs)
            except Exception as fault:  # noqa: BLE001  a pipeline's fault; the rows behind it shall pass
                swallow(fault, "writing metrics")
        for base, nanos in costs.items():  # added up as integers, and one `add` for many calls
            try:
                self._cost.add(nanos / 1e9, dict(base))
            except Exception as fault:  # noqa: BLE001
                swallow(fault, "writing metrics")

    def close(self) -> None:
        """Write all that is queued and end the thread."""
        self._closed = True
        self._bell.put(False)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)
        self.flush()

    def _start(self) -> None:
        bell = self._bell
        ref = weakref.ref(self, lambda _: bell.put(False))
        self._thread = start_thread(_work, ref, bell, name="metrics")
        if self._thread is None:
            self._write_queue()

    def _after_fork(self) -> None:
        """The parent's thread is not here, and may have held the lock; the parent writes what it queued."""
        self._writing = Turn()
        self._bell = SimpleQueue()
        self._thread = None
        self._queue.clear()

    def _write(self, row: CallRecord | _CostOnly, costs: dict[frozenset[tuple[str, AttributeValue]], int]) -> None:
        cost_only = isinstance(row, _CostOnly)
        if isinstance(row, _CostOnly):
            row = row.row
        base = self._base(row)
        for guard in row.guards:
            self._loops.add(1, {**base, n.LOOP_GUARDS: guard})
        if row.status == "refused":
            self._refusals.add(1, {**base, n.ERROR_TYPE: row.error_type or "refused"})
            return
        if row.cost_nanos:
            of_kind = frozenset(base.items())
            costs[of_kind] = costs.get(of_kind, 0) + row.cost_nanos
        if cost_only:
            return
        usage = row.usage
        if usage is not None:
            for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
                if count is not None:
                    self._tokens.record(count, {**base, n.TOKEN_TYPE: kind})
        if row.error_type is not None:
            base = {**base, n.ERROR_TYPE: row.error_type}
        self._duration.record(row.duration_s, base)
        if row.time_to_first_chunk_s is not None:
            self._first_chunk.record(row.time_to_first_chunk_s, base)

    def _base(self, row: CallRecord) -> dict[str, AttributeValue]:
        base: dict[str, AttributeValue] = {n.OPERATION_NAME: row.operation, n.PROVIDER_NAME: row.provider}
        if row.port is not None:
            base[n.SERVER_PORT] = row.port
        for field, attribute in _ANYBODYS.items():
            name: str | None = getattr(row, field)
            if name is not None:
                base[attribute] = _bounded(name, self._named[field], MAX_NAMES)
        for label, attribute in self._labels.items():
            value = getattr(row, label)
            if value is None:
                continue
            if label == "user" and self._user_key is not None:
                value = user_hash(value, self._user_key)
            base[attribute] = _bounded(value, self._seen[label], self._max_label_values)
        return base


_ATTRIBUTE = {"agent": n.AGENT_NAME, "user": n.USER_ID, "team": n.TEAM, "run": n.RUN_ID}


# What a caller or an answer names is anybody's text.
_ANYBODYS = {"model": n.REQUEST_MODEL, "response_model": n.RESPONSE_MODEL, "host": n.SERVER_ADDRESS}


def _work(ref: weakref.ref[Metrics], bell: SimpleQueue[bool]) -> None:
    """The thread: it ends with its metrics, and keeps them alive as long as something is queued."""
    while (owner := ref()) is not None:
        owner._ring_at = WAKE_AT
        with contextlib.suppress(Empty):
            if not bell.get(timeout=INTERVAL_S):
                break
        owner.flush()
        owner._ring_at = 1
        if owner._queue:
            continue
        del owner
        if not bell.get():
            break
    bell.put(False)  # for another one, should two callers have started it at once


_LIVE: weakref.WeakSet[Metrics] = weakref.WeakSet()


def _on_collection(options: CallbackOptions) -> Iterable[Observation]:
    """For all meters at once: an SDK calls back only whoever registered an instrument first."""
    dropped = 0
    for metrics_of_one in list(_LIVE):
        metrics_of_one.flush()
        dropped += metrics_of_one._dropped
    return [Observation(dropped)]


each_in_child(_LIVE, lambda each: each._after_fork())


def _bounded(value: str, seen: set[str], limit: int) -> str:
    if value not in seen:
        if len(seen) >= limit:
            return OTHER
        seen.add(value)
    return value


class _CostOnly:
    __slots__ = ("row",)

    def __init__(self, row: CallRecord) -> None:
        self.row = row


def _listened_to(instrument: Any) -> bool:
    """Whether a pipeline stands behind an instrument: the API's proxies have none until one is set up."""
    return getattr(instrument, "_real_instrument", instrument) is not None
