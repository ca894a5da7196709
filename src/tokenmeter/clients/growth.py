"""The hold of a stream grows as the stream flows; where a budget can't pay more of it, the stream ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from tokenmeter.budgets import Held
from tokenmeter.budgets.extension import Extension
from tokenmeter.clients.metering import Metering
from tokenmeter.errors import Refused, StoreUnavailable
from tokenmeter.faults import swallow
from tokenmeter.holding import exceeded
from tokenmeter.notes import Call
from tokenmeter.wire import Reading

PAUSE_S = 0.05  # between two tries where only other calls' holds stand in the way


class Growth:
    """The stages of one stream's hold."""

    __slots__ = ("_call", "_metering", "_stage")

    def __init__(self, metering: Metering, call: Call, stage: Extension) -> None:
        self._metering = metering
        self._call = call
        self._stage: Extension | None = stage

    def due(self, peek: Callable[[], Reading]) -> Extension | None:
        """The stage to go on to before what was read may pass; None while the hold is large enough."""
        stage = self._stage
        if stage is None or stage.is_last:
            return None
        try:
            reading, call = peek(), self._call
            counted = (reading.usage.output_tokens or 0) if reading.usage is not None else 0
            estimate = self._metering.house.bounds.estimate_output(call.route, call.model, reading.output_bytes)
            return stage.after(max(counted, estimate))
        except Exception as fault:
            self._stage = None
            swallow(fault, "watching the hold of a stream")
            return None

    def grow(self, stage: Extension) -> None:
        """Go on to a stage; wait while only other calls' holds stand in the way.

        Raises `BudgetExceeded` where the budget refuses it, and `StoreUnavailable` where its policy does.
        """
        call, store = self._call, self._metering.store
        deadline_s: float | None = None
        while True:
            try:
                answer = store.adjust(call.id, stage.amounts)
            except LookupError:  # taken for dead, or settled: nothing is left to grow
                self._stage = None
                return
            except (Refused, StoreUnavailable):
                raise
            except Exception as fault:
                self._stage = None
                swallow(fault, "enlarging the hold of a stream")
                return
            if isinstance(answer, Held):
                self._stage = stage
                return
            now_s = time.monotonic()
            deadline_s = deadline_s or now_s + answer.claim.budget.wait_s
            if answer.spent_out or now_s >= deadline_s:
                call.refusal = refusal = exceeded(answer, call.scope, call.model)
                raise refusal
            if not self._metering.later.flush():
                time.sleep(min(PAUSE_S, deadline_s - now_s))
