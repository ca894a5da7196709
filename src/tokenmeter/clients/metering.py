"""What a seam needs of a meter."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct, field

from tokenmeter.budgets import Claim, Held, Settled, Store
from tokenmeter.budgets.thresholds import Crossing
from tokenmeter.clients.dropped import Dropped
from tokenmeter.clients.later import Later
from tokenmeter.effects import Record
from tokenmeter.ending import at_end
from tokenmeter.faults import swallow
from tokenmeter.forks import each_in_child
from tokenmeter.ledger import MemoryLedger
from tokenmeter.loops.findings import Finding
from tokenmeter.notes import Call, House
from tokenmeter.record import Recorder
from tokenmeter.telemetry import Metrics, Spans
from tokenmeter.telemetry.spans import Recording

logger = logging.getLogger("tokenmeter")

WARN_AT_PERCENT = 80
MAX_TOLD = 4_096


class Clock(Protocol):
    """Tells the time of day."""

    def now_s(self) -> float:
        """Seconds since the epoch."""
        ...


class Stream(Protocol):
    """A stream that is under way."""

    def peek(self) -> None:
        """Settle with what was read so far."""

    def leave(self) -> None:
        """Never settle: that is left to the process that this one was forked from."""


class Metering(Struct, eq=False, weakref=True):
    """The rooms with effects: what the drivers of a meter's stories work on. Only ``house`` is ever replaced."""

    house: House
    store: Store
    spans: Spans
    metrics: Metrics
    ledger: MemoryLedger
    recorders: Sequence[Recorder]
    clock: Clock
    propagate_baggage: bool = False
    on_threshold: Callable[[Crossing], object] | None = None
    told: set[tuple[str, str | None, str | None]] = field(default_factory=set)
    later: Later = field(default_factory=Later)
    follow: Callable[[], object] | None = None  # brings the house up to date with its file
    try_hold: Callable[..., Held | None] | None = None  # of a store that can often hold at once
    try_sent: Callable[[str], bool] | None = None
    # The streams that are under way. What is in here is no garbage, whatever the caller drops: a story that were
    # collected together with its response could not be told to its end.
    streams: set[Stream] = field(default_factory=set)
    dropped: Dropped = field(default_factory=Dropped)

    def __post_init__(self) -> None:
        _all.add(self)

    def current(self) -> House:
        """The rooms of the next call."""
        if self.follow is not None:
            try:
                self.follow()
            except Exception as fault:
                swallow(fault, "following the configuration")
        return self.house

    def open(self, call: Call) -> Recording | None:
        """Open the span."""
        try:
            return self.spans.open(call)
        except Exception as fault:
            swallow(fault, "opening a span")
            return None

    def _tell(self, finding: Finding, call: Call) -> None:
        """Log what a guard found and let pass: once for each guard, agent and run.

        It is a warning where the policy says so, or the call was slowed down; else it is only something to know.
        """
        key = (finding.guard, call.scope.agent, call.scope.run)
        if key not in self.told:
            if len(self.told) >= MAX_TOLD:
                self.told.clear()
            self.told.add(key)
            asked_for = finding.action == "brake" or finding.guard in self.house.loops.of(call.scope.agent).actions
            logger.log(logging.WARNING if asked_for else logging.INFO, "%s", finding.message)

    def watched(self, recording: Recording | None) -> bool:
        """Whether somebody looks at each call as it ends, so that its story is told to the end at once."""
        if self.recorders:
            return True
        return recording is not None and (recording.inference is not None or recording.span.is_recording())

    def record(self, recording: Recording | None, told: Record) -> None:
        """End the span, queue the metrics, add the row up, and tell who listens."""
        row = told.row
        self.ledger.record(row)
        for finding in told.call.findings:
            if finding.action != "refuse":
                self._tell(finding, told.call)
        if told.crossings:
            self.report(told.crossings)
        if recording is not None:
            try:
                self.spans.close(recording, told)
            except Exception as fault:
                swallow(fault, "ending a span")
        try:
            self.metrics.record(row, elsewhere=recording is not None and recording.inference is not None)
        except Exception as fault:
            swallow(fault, "recording metrics")
        for recorder in self.recorders:
            try:
                recorder.record(row)
            except Exception as fault:
                swallow(fault, "calling a recorder")

    def drawn(self, claims: Sequence[Claim], settled: Settled) -> None:
        """Report what leased calls of this process crossed, now that the store knows what they spent."""
        self.report(self.house.thresholds.crossed(claims, settled, self.clock.now_s()))

    def report(self, crossings: Sequence[Crossing]) -> None:
        """Log what was crossed, and tell who listens."""
        for crossing in crossings:
            logger.log(logging.INFO if crossing.percent < WARN_AT_PERCENT else logging.WARNING, "%s", crossing.message)
            if self.on_threshold is not None:
                try:
                    self.on_threshold(crossing)
                except Exception as fault:
                    swallow(fault, "calling on_threshold")


_all: weakref.WeakSet[Metering] = weakref.WeakSet()


def _end_streams(left_s: float) -> None:
    """What is still open when the program ends is told with what was read so far."""
    for metering in list(_all):
        for stream in list(metering.streams):
            stream.peek()


def _leave_streams(metering: Metering) -> None:
    """In a forked child: what is open is the parent's, and so are its holds."""
    while metering.streams:
        metering.streams.pop().leave()


at_end(-1, _end_streams)
each_in_child(_all, _leave_streams)
