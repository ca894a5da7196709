"""One CLIENT span a call.

Two libraries may have opened a span for the same call before: an instrumentation that follows the contract of
opentelemetry-util-genai, and the Anthropic SDK. Then theirs gets our attributes and none is opened here.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from contextvars import Token
from typing import Any

from msgspec import Struct
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import (
    NoOpTracer,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
)
from opentelemetry.util.types import AttributeValue

from tokenmeter import attribution
from tokenmeter.budgets.runs import guard_of
from tokenmeter.budgets.thresholds import Crossing
from tokenmeter.effects import Record
from tokenmeter.errors import BudgetExceeded, LoopDetected
from tokenmeter.loops.carriers import KEY as LINEAGE
from tokenmeter.notes import Call
from tokenmeter.record import CallRecord
from tokenmeter.telemetry import names as n
from tokenmeter.telemetry.people import user_hash

# The keys of opentelemetry-util-genai, and the names of the data that stand under them.
UTIL_GENAI = {"embeddings": ("opentelemetry.genai.client.embedding.context", "EmbeddingData")}
UTIL_GENAI_INFERENCE = ("opentelemetry.genai.client.inference.context", "InferenceData")
_OURS = otel_context.create_key("tokenmeter-inference")  # tells another meter's from an instrumentation's
ANTHROPIC_SCOPE = "com.anthropic.sdk.python"


class Recording(Struct):
    """The span of one call, and whose it is."""

    span: Span
    ours: bool
    context: Context | None = None  # to be in force while the request is out; None: leave what is
    inference: Any = None  # the InferenceData of an instrumentation further out


class Spans:
    """Opens and ends the spans of a meter."""

    def __init__(
        self,
        provider: TracerProvider | None,
        version: str,
        *,
        user_key: bytes | None = None,
        propagate_baggage: bool = False,
    ) -> None:
        self._tracer: Tracer = trace.get_tracer("tokenmeter", version, provider)
        self._user_key = user_key
        self._propagate_baggage = propagate_baggage

    def open(self, call: Call) -> Recording | None:
        """Open the span of a call, or find the one that stands for it already. None: nobody listens."""
        here = otel_context.get_current()
        if attribution.is_alone(here) and isinstance(getattr(self._tracer, "_tracer", self._tracer), NoOpTracer):
            return None  # no pipeline is set up, and nobody else's span stands here
        bare = None
        carried = baggage.get_all(here)
        if carried and not self._propagate_baggage:
            bare = baggage.clear(here)
        elif LINEAGE in carried:  # never for a provider: OpenTelemetry read it from the caller's request
            bare = baggage.remove_baggage(LINEAGE, here)
        key, data = UTIL_GENAI.get(call.route.operation, UTIL_GENAI_INFERENCE)
        inference = here.get(key)
        if inference is not None and hasattr(inference, "usage_input_tokens") and here.get(_OURS) is not inference:
            return Recording(trace.get_current_span(here), ours=False, context=bare, inference=inference)
        outer = trace.get_current_span(here)
        scope = getattr(outer, "instrumentation_scope", None)
        if scope is not None and scope.name == ANTHROPIC_SCOPE and outer.is_recording():
            return Recording(outer, ours=False, context=bare)

        route, request = call.route, call.request
        attributes: dict[str, AttributeValue] = {
            n.OPERATION_NAME: route.operation,
            n.PROVIDER_NAME: route.provider,
            n.SERVER_ADDRESS: request.host,
        }
        if call.model is not None:
            attributes[n.REQUEST_MODEL] = call.model
        if request.port is not None:
            attributes[n.SERVER_PORT] = request.port
        name = route.operation if call.model is None else f"{route.operation} {call.model}"
        span = self._tracer.start_span(name, context=here, kind=SpanKind.CLIENT, attributes=attributes)
        if not span.get_span_context().is_valid:
            return Recording(span, ours=True, context=bare)
        inside = trace.set_span_in_context(span, bare or here)
        util_genai = sys.modules.get("opentelemetry.util.genai.invocation")
        if util_genai is not None:
            mine = getattr(util_genai, data)()
            inside = otel_context.set_value(_OURS, mine, otel_context.set_value(key, mine, inside))
        return Recording(span, ours=True, context=inside)

    def close(self, recording: Recording, told: Record) -> None:
        """Write what became of the call, and end the span if it is ours."""
        try:
            self._write(recording, told)
        finally:
            if recording.ours:
                recording.span.end()

    def _write(self, recording: Recording, told: Record) -> None:
        span, call, row = recording.span, told.call, told.row
        if recording.inference is not None:
            _publish(recording.inference, row, self._attributes(call, row))
        elif span.is_recording():
            span.set_attributes(self._attributes(call, row))
            for crossing in told.crossings:
                span.add_event(n.THRESHOLD_EVENT, _crossing(crossing))
            if row.error_type is not None and recording.ours:
                span.set_status(Status(StatusCode.ERROR, _description(call)))

    def _attributes(self, call: Call, row: CallRecord) -> dict[str, AttributeValue]:
        out: dict[str, AttributeValue] = {n.CALL_ID: row.id}
        _who(out, row, call.scope.depth, self._user_key)
        if row.stream:
            out[n.REQUEST_STREAM] = True
        cap = row.output_cap if row.output_cap is not None else call.ask.max_output_tokens
        if cap:
            out[n.REQUEST_MAX_TOKENS] = cap
        if call.ask.choices > 1:
            out[n.REQUEST_CHOICE_COUNT] = call.ask.choices
        if row.response_model is not None:
            out[n.RESPONSE_MODEL] = row.response_model
        if row.response_id is not None:
            out[n.RESPONSE_ID] = row.response_id
        if row.status == "incomplete" and row.stream:
            out[n.RESPONSE_FINISH_REASONS] = ["error"]
        elif row.finish_reasons:
            out[n.RESPONSE_FINISH_REASONS] = list(row.finish_reasons)
        if row.time_to_first_chunk_s is not None:
            out[n.RESPONSE_TIME_TO_FIRST_CHUNK] = row.time_to_first_chunk_s
        if row.http_status is not None and row.http_status >= 400:
            out[n.HTTP_STATUS_CODE] = row.http_status
        if row.error_type is not None:
            out[n.ERROR_TYPE] = row.error_type
        _usage(out, row)
        _budgets(out, call, row)
        return out


def before_the_end(recording: Recording, settle: Callable[[], object]) -> None:
    """Have a call settled before its span ends, where somebody else will end it."""
    span = recording.span
    if recording.ours or recording.inference is not None or not span.is_recording():
        return
    end = span.end

    def settled(*args: Any, **kwargs: Any) -> None:
        with contextlib.suppress(AttributeError):
            del span.end
        settle()
        end(*args, **kwargs)

    with contextlib.suppress(AttributeError):  # a span of another make
        span.end = settled  # type: ignore[method-assign]


def attach(recording: Recording) -> Token[Context] | None:
    """Put the span in force while the request is out."""
    return None if recording.context is None else otel_context.attach(recording.context)


def detach(token: Token[Context]) -> None:
    """Undo `attach`."""
    otel_context.detach(token)


def _who(out: dict[str, AttributeValue], row: CallRecord, depth: int, user_key: bytes | None) -> None:
    if row.agent is not None:
        out[n.AGENT_NAME] = row.agent
    if row.user is not None:
        if user_key is None:
            out[n.USER_ID] = row.user
        else:
            out[n.USER_HASH] = user_hash(row.user, user_key)
    if row.team is not None:
        out[n.TEAM] = row.team
    if row.run is not None:
        out[n.RUN_ID] = row.run
    if depth:
        out[n.DEPTH] = depth
    if row.path:
        out[n.PATH] = list(row.path[-32:])
    for name, value in row.tags.items():
        out[n.TAG_PREFIX + name] = value


def _usage(out: dict[str, AttributeValue], row: CallRecord) -> None:
    usage = row.usage
    if usage is None:
        return
    for name, value in (
        (n.USAGE_INPUT_TOKENS, usage.input_tokens),
        (n.USAGE_OUTPUT_TOKENS, usage.output_tokens),
        (n.USAGE_CACHE_READ, usage.cache_read_tokens),
        (n.USAGE_CACHE_WRITE, usage.cache_write_tokens),
        (n.USAGE_REASONING, usage.reasoning_tokens),
    ):
        if value is not None:
            out[name] = value
    if usage.estimated:
        out[n.ESTIMATED] = True
    if row.cost_nanos is not None:
        out[n.COST_AMOUNT] = row.cost_nanos / 1e9
        out[n.COST_CURRENCY] = "USD"
        if row.price_source is not None:
            out[n.COST_SOURCE] = row.price_source


def _budgets(out: dict[str, AttributeValue], call: Call, row: CallRecord) -> None:
    if row.output_cap is not None:
        out[n.BUDGET_OUTPUT_CAP] = row.output_cap
    names = [claim.budget.name for claim in call.claims if guard_of(claim) is None]
    if names:
        out[n.BUDGET_NAMES] = names
    if names and call.held is not None:
        states = call.held.states[: len(names)]  # the counters of the run stand behind the budgets
        out[n.BUDGET_REMAINING] = [_left(state.posted, state.held, state.limit) for state in states]
        money = [claim.amount for claim in call.claims[: len(names)] if claim.budget.unit == "usd"]
        if money and call.rate is not None:
            out[n.BUDGET_HELD_USD] = max(money) / 1e9
    if row.warned:
        out[n.BUDGET_WARNED] = list(row.warned)
    if row.guards:
        out[n.LOOP_GUARDS] = list(row.guards)
    if row.downgraded_from is not None:
        out[n.BUDGET_DOWNGRADED_FROM] = row.downgraded_from
        out[n.REQUEST_MODEL] = row.model or ""
    refusal = call.refusal
    if refusal is not None:
        out[n.REFUSAL_REASON] = refusal.reason
        if isinstance(refusal, LoopDetected):
            out[n.LOOP_COUNT] = float(refusal.count or 0)
            out[n.LOOP_LIMIT] = float(refusal.limit or 0)
        if isinstance(refusal, BudgetExceeded):
            out[n.REFUSAL_BUDGET] = refusal.budget
            out[n.REFUSAL_SCOPE] = refusal.scope


def _crossing(crossing: Crossing) -> dict[str, AttributeValue]:
    return {
        n.EVENT_BUDGET: crossing.budget,
        n.EVENT_SCOPE: crossing.scope,
        n.EVENT_PERCENT: float(crossing.percent),
        n.EVENT_SPENT: float(crossing.spent),
        n.EVENT_LIMIT: float(crossing.limit),
    }


def _left(posted: int, held: int, limit: int) -> float:
    """The share of the limit that is neither spent nor held."""
    return max(0, limit - posted - held) / limit if limit else 0.0


def _description(call: Call) -> str | None:
    return None if call.refusal is None else str(call.refusal)


def _publish(data: Any, row: CallRecord, attributes: dict[str, AttributeValue]) -> None:
    """Give an instrumentation further out what it would not see: it writes the span."""
    usage = row.usage
    found: dict[str, Any] = {
        "response_model": row.response_model,
        "response_id": row.response_id,
        "response_finish_reasons": list(row.finish_reasons) or None,
        "error_type": row.error_type,
    }
    if usage is not None:
        found["usage_input_tokens"] = usage.input_tokens
        found["usage_output_tokens"] = usage.output_tokens
        found["usage_cache_read_input_tokens"] = usage.cache_read_tokens
        found["usage_cache_write_input_tokens"] = usage.cache_write_tokens
        found["usage_reasoning_output_tokens"] = usage.reasoning_tokens
    for name, value in found.items():
        if value is not None and hasattr(data, name):
            setattr(data, name, value)
    data.attributes.update(
        (name, value) for name, value in attributes.items() if not name.startswith("gen_ai.") or "cost" in name
    )
    if row.agent is not None:
        data.attributes[n.AGENT_NAME] = row.agent
