"""What a call comes to: the provider's figures, or an estimate that says so; and its row. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from tokenmeter.budgets.policy import Need, Policy
from tokenmeter.holding import bound, kind_of, need_of
from tokenmeter.notes import Answer, Call, House
from tokenmeter.pricing import Rate
from tokenmeter.pricing.expected import Expected
from tokenmeter.record import DIED, CallRecord, Status, encode
from tokenmeter.usage import Usage
from tokenmeter.wire import Beside, Reading


class Charge(Struct, frozen=True, gc=False):
    """What a call is charged. ``usage`` None: nothing, because nothing was billed."""

    status: Status
    usage: Usage | None = None
    cost_nanos: int | None = None
    rate: Rate | None = None
    error_type: str | None = None
    beside_tokens: int = 0  # that were billed beside the usage, and are in the cost


def charge(house: House, call: Call, answer: Answer) -> Charge:
    """What went out is charged, by the provider's figures or by estimate; what didn't go out isn't."""
    outcome, reading = _charge(house, call, answer), answer.reading
    if reading is None or not reading.beside or outcome.usage is None:
        return outcome
    return _with_beside(house, call, outcome, reading.beside)


def _charge(house: House, call: Call, answer: Answer) -> Charge:
    if answer.status is not None and not 200 <= answer.status < 300:
        return Charge("error", error_type=str(answer.status))
    if answer.failure is not None and answer.reading is None:
        error = type(answer.failure).__name__
        return Charge("error", error_type=error) if answer.unsent else _estimate(house, call, None, error)
    reading = answer.reading
    if reading is None:
        return _estimate(house, call, None, None)
    error_type = type(answer.failure).__name__ if answer.failure is not None else reading.failed
    if reading.usage is None:
        if reading.failed and not reading.output_bytes:
            return Charge("error", error_type=reading.failed)
        return _estimate(house, call, reading, error_type)
    if not (reading.complete or reading.finish_reasons):
        return _estimate(house, call, reading, error_type)  # the counters stopped half-way
    usage = reading.usage
    if usage.input_tokens is None and usage.output_tokens is not None:  # there is no answer to nothing
        bound(house, call)
        usage = Usage({**usage.counts, "input_tokens": _input(house, call)}, estimated=True)
    elif usage.output_tokens is None and _said_something(call, reading):
        bound(house, call)
        usage = Usage({**usage.counts, "output_tokens": _output(house, call, reading)}, estimated=True)
    rate = _settled_rate(house, call, reading)
    cost = None if rate is None else rate.cost_nanos(usage.counts)
    return Charge("error" if reading.failed else "ok", usage, cost, rate, error_type)


def _with_beside(house: House, call: Call, outcome: Charge, beside: Sequence[Beside]) -> Charge:
    """With side work added, at the price of the model that did it; if that has no price, at the call's own."""
    cost, rate = outcome.cost_nanos, outcome.rate
    if cost is not None and rate is not None:
        cost += sum([(_own_rate(house, call, each) or rate).cost_nanos(each.usage.counts) for each in beside])
    return replace(outcome, cost_nanos=cost, beside_tokens=sum([_tokens(each.usage) for each in beside]))


def _own_rate(house: House, call: Call, beside: Beside) -> Rate | None:
    if beside.model is None or beside.model == call.model:
        return None
    at, context = call.request.at_s, call.ask.price_context
    return house.prices.rate(call.route.price_provider, beside.model, at=at, context=context)


def _tokens(usage: Usage) -> int:
    return (usage.input_tokens or 0) + (usage.output_tokens or 0)


def _estimate(house: House, call: Call, reading: Reading | None, error_type: str | None) -> Charge:
    """The usage that never came: what was seen of it, or else the most that the bytes that passed by can amount to."""
    bound(house, call)
    model = call.model
    seen: Mapping[str, int] = reading.usage.counts if reading is not None and reading.usage is not None else {}
    counts = dict(seen)
    if not counts.get("input_tokens"):  # some servers begin a stream with zeros, and tell the input at its end
        counts["input_tokens"] = _input(house, call)
    if reading is None or reading.pending:
        typical = house.bounds.typical_output(call.route.provider, model)
        output = call.output_bound if typical is None else min(typical, call.output_bound)
    else:
        output = max(counts.get("output_tokens", 0), _output(house, call, reading))
    counts["output_tokens"] = output
    usage = Usage(counts, estimated=True)
    rate = _settled_rate(house, call, reading)
    cost = None if rate is None else rate.cost_nanos(counts)
    finished = reading is not None and reading.complete and not reading.failed
    return Charge("ok" if finished else "incomplete", usage, cost, rate, error_type)


def _input(house: House, call: Call) -> int:
    """The input of a call that is bound, where nobody counted it."""
    return min(call.input_bound, house.bounds.estimate_input(call.ask, call.route))


def _said_something(call: Call, reading: Reading) -> bool:
    """Whether text was generated for an input that is counted; Bedrock leaves out what a guardrail put in its place."""
    counted = reading.usage is not None and reading.usage.input_tokens is not None
    return counted and reading.output_bytes > 0 and not call.route.protocol.startswith("bedrock.")


def _output(house: House, call: Call, reading: Reading) -> int:
    """What was said in an answer, where nobody counted it."""
    by_bytes = house.bounds.estimate_output(call.route, call.model, reading.output_bytes)
    return min(by_bytes, call.output_bound)


def _settled_rate(house: House, call: Call, reading: Reading | None) -> Rate | None:
    """The price of what was served: the model and the tier that the response names. An override stays in force."""
    held = call.rate
    if reading is None or (held is not None and held.source == "override"):
        return held
    context = call.ask.price_context
    if reading.price_context:
        context = {**context, **reading.price_context} if context else reading.price_context
    elif reading.model is None or reading.model == call.model:
        return held
    elif held is not None and call.model is not None and call.model.startswith(f"{reading.model}:"):
        return held  # the suffix says who serves it, or how, and the answer leaves it out
    at = call.request.at_s
    served = house.prices.rate(call.route.price_provider, reading.model or call.model, at=at, context=context)
    if served is None and reading.price_context:
        served = house.prices.rate(call.route.price_provider, call.model, at=at, context=context)
    return served or held


def amounts_of(call: Call, outcome: Charge) -> tuple[int, ...]:
    """What a charge takes of each claim of the call."""
    usage = outcome.usage
    tokens = 0 if usage is None else _tokens(usage) + outcome.beside_tokens
    return Policy.amounts(call.claims, Need(outcome.cost_nanos, tokens, 1))


def row_of(call: Call, charge: Charge, answer: Answer) -> CallRecord:
    scope, reading, request = call.scope, answer.reading, call.request
    return CallRecord(
        id=call.id,
        at_s=request.at_s,
        duration_s=answer.duration_s,
        agent=scope.agent,
        user=scope.user,
        team=scope.team,
        run=scope.run,
        path=scope.path,
        tags=scope.tags,
        provider=call.route.provider,
        operation=call.route.operation,
        model=call.model,
        response_model=reading.model if reading is not None else None,
        response_id=reading.response_id if reading is not None else None,
        stream=call.ask.stream,
        status=charge.status,
        error_type=charge.error_type,
        http_status=answer.status,
        finish_reasons=reading.finish_reasons if reading is not None else (),
        usage=charge.usage,
        cost_nanos=charge.cost_nanos,
        price_source=charge.rate.source if charge.rate is not None else None,
        estimated=charge.usage is not None and charge.usage.estimated,
        output_cap=call.output_cap,
        warned=tuple([claim.budget.name for claim in call.held.warned]) if call.held is not None else (),
        host=request.host,
        port=request.port,
        time_to_first_chunk_s=answer.time_to_first_chunk_s,
        downgraded_from=call.tried_models[0] if call.tried_models else None,
        root=scope.root,
        fingerprint=call.fingerprint,
        guards=tuple([f"{each.guard}:{each.action}" for each in call.findings]),
    )


def fingerprint_of(house: House, call: Call) -> str | None:
    """A keyed hash of the request, by which duplicate work is recognised in persistent rows."""
    body = call.request.body
    if not house.fingerprint_key or body is None:
        return None
    return hashlib.blake2b(body, key=house.fingerprint_key, digest_size=16).hexdigest()


def note_of(house: House, call: Call) -> bytes:
    """The row of a call whose process dies while it is out: its worst case, marked."""
    bound(house, call)
    worst_nanos = need_of(call, call.input_bound, call.output_bound).usd_nanos
    counts = {"input_tokens": call.input_bound, "output_tokens": call.output_bound}
    usage = Usage(counts, estimated=True)
    return encode(row_of(call, Charge("incomplete", usage, worst_nanos, call.rate, DIED), Answer()))


def learn(house: House, call: Call, expected: Expected, outcome: Charge) -> None:
    """Report what came of an expectation."""
    usage = outcome.usage
    if usage is None:
        return
    kind, input_tokens, output_tokens = kind_of(call), usage.input_tokens or 0, usage.output_tokens or 0
    held = need_of(call, expected.input_tokens, expected.output_tokens)
    if held.usd_nanos is not None and outcome.cost_nanos is not None:
        house.expected.settled(kind, expected, held.usd_nanos, outcome.cost_nanos)
    else:
        house.expected.settled(kind, expected, held.tokens, input_tokens + output_tokens)
    if not usage.estimated:
        house.expected.learn(kind, call.input_bound, input_tokens, output_tokens)
