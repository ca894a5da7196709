"""The story of one call: recognise → attribute → guard → hold → send → read → settle → record.

Pure: `story` does no I/O, reads no clock and knows no ``async``. It yields what is to be done (``effects``) and is
sent what came of it. Two short drivers in ``clients/drive.py`` carry the effects out, one of them with ``await``.

    recognise  wire        the client's seam asks `wire.recognise`; only model calls get a story
    attribute  here        the scope in force, or else the request's own fields
    guard      loops       pauses and loops; refuses, slows down or goes on
    hold       holding     the worst case, on every budget that applies, all or none
    send       client      the caller's request
    read       wire        usage from the body, whole or as it streams by
    settle     charging    the hold becomes the true cost, exactly once
    record     telemetry   one span, the metrics, one row
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Generator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from tokenmeter import wire
from tokenmeter.attribution import MAX_VALUE_CHARS, plain_text
from tokenmeter.budgets.thresholds import Crossing
from tokenmeter.charging import Charge, amounts_of, charge, fingerprint_of, learn, note_of, row_of
from tokenmeter.effects import Brake, Effect, Open, Record, Relay, Release, Send, Sent, Settle, Story, Write
from tokenmeter.errors import Refused
from tokenmeter.holding import hold, loop_facts
from tokenmeter.loops.findings import refused
from tokenmeter.loops.guard import judge
from tokenmeter.notes import Answer, Call, House, Request
from tokenmeter.record import encode
from tokenmeter.wire import Ask

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def story(house: House, request: Request) -> Story:
    """Tell one call from its request to its row. Raises only `Refused`, or what the store's policy asked for."""
    call = _attribute(request)
    yield Open(call)
    try:
        pause_s = _guard(house, call)
        if pause_s:
            call.waited = True
            yield Brake(pause_s)
        yield from _held(house, call) if house.rows_last else hold(house, call)
        if call.waited:
            yield from _look_again(house, call)
    except Refused as refusal:
        call.refusal = refusal
        try:
            yield from _unsent(house, call, Charge("refused", error_type=type(refusal).__name__))
        except Exception as fault:  # whatever becomes of its row, it stays refused
            raise refusal from fault
        raise
    except GeneratorExit:
        raise
    except BaseException as error:  # given up while it waited
        yield from _unsent(house, call, Charge("error", error_type=type(error).__name__))
        raise
    answer: Answer = yield from _send(house, call)
    request.headers = _NO_HEADERS  # the client's own: what is reported later keeps nothing of it alive
    if answer.streams:
        answer = yield Relay(call)
    yield from _settle(house, call, answer)


def _attribute(request: Request) -> Call:
    """Who and what: the scope in force wins over the request's own fields."""
    route, body = request.route, request.body
    if body is None:
        ask = Ask(model=route.model, stream=bool(route.stream), readable=False)
    else:
        ask = wire.read_request(route, body, None if body[:1] == b"{" else request.headers.get("content-type"))
    scope = request.scope
    meta = ask.metadata
    if ask.user is not None or meta:
        scope = replace(
            scope,
            agent=scope.agent or _named(meta.get("agent") or meta.get("agent_name")),
            user=scope.user or _named(ask.user or meta.get("user") or meta.get("user_id")),
            team=scope.team or _named(meta.get("team")),
            run=scope.run or _named(meta.get("run") or meta.get("run_id")),
        )
    return Call(request.id or uuid.uuid4().hex, request, route, ask, scope, ask.model or route.model)


def _named(value: str | None) -> str | None:
    """A name from the request itself; a long one is cut, and stays distinct."""
    if value is None:
        return None
    value = plain_text(value)
    if len(value) <= MAX_VALUE_CHARS:
        return value
    digest = hashlib.sha256(value.encode()).hexdigest()[:32]
    return f"{value[: MAX_VALUE_CHARS - 33]}…{digest}"


def _guard(house: House, call: Call) -> float:
    """Refuse what is paused, and what loops, as the loop policy says; or return how long the call must wait."""
    paused = house.stops(call.scope)
    if paused is not None:
        raise paused
    run = None if house.rows_last else call.scope.root or call.scope.run  # else the store counts it
    count_call = house.memory.seen.count_call
    facts = loop_facts(call) if run is None else loop_facts(call, *count_call(run, call.request.at_s))
    judged = judge(house.loops, house.memory, facts)
    if not judged.findings:
        call.ticket = judged.ticket
        return 0.0
    call.findings = judged.findings
    refusal = judged.refusal
    if refusal is not None:
        raise refused(refusal, facts)
    call.ticket = judged.ticket
    return judged.pause_s


def _held(house: House, call: Call) -> Generator[Effect, Any, None]:
    """Hold, and note in persistent books that the request goes out now."""
    call.note = partial(note_of, house, call)
    while True:
        yield from hold(house, call)
        if call.held is None or (yield Sent(call.id)):
            return  # else this process was so slow that it was taken for dead, and its hold is gone


def _look_again(house: House, call: Call) -> Generator[Effect, Any, None]:
    """Refuse what was paused while it waited."""
    paused = house.stops(call.scope)
    if paused is not None:
        if call.held is not None:
            call.held = None
            yield Release(call.id)
        raise paused


def _unsent(house: House, call: Call, outcome: Charge) -> Generator[Effect, Any, None]:
    """The row of a call that never left."""
    house.memory.answered(call.ticket, failed=True)
    call.fingerprint = fingerprint_of(house, call)
    row = row_of(call, outcome, Answer())
    if house.rows_last:
        yield Write(call.id, encode(row))
    yield Record(call, row)


def _send(house: House, call: Call) -> Generator[Effect, Any, Answer]:
    """Send; ask for the usage of a stream where the protocol reports it only on request."""
    request, rewritten = call.request, call.body
    body = request.body if rewritten is None else rewritten
    if call.output_cap is not None and body is not None:
        body = rewritten = wire.with_output_cap(call.route, body, call.output_cap)
    option = house.usage_option
    if not (
        call.ask.can_ask_usage
        and body is not None
        and request.rewritable
        and option.allowed(request.host, request.port)
    ):
        answer: Answer = yield Send(call, rewritten, hide_usage=False)
        return answer
    answer = yield Send(call, wire.with_usage_asked(call.route, body), hide_usage=True)
    if answer.rejected:
        answer = yield Send(call, rewritten, hide_usage=False)
        if answer.status is not None and answer.status < 300:
            option.rejected(request.host, request.port)
    return answer


def _settle(house: House, call: Call, answer: Answer) -> Generator[Effect, Any, None]:
    """Charge what the call came to, exactly once; keep its row; learn from it."""
    outcome = charge(house, call, answer)
    usage = outcome.usage
    if call.ticket is not None:
        house.memory.answered(call.ticket, failed=usage is None)
    if not house.rows_last and outcome.cost_nanos and (run := call.scope.root or call.scope.run) is not None:
        house.memory.seen.add_spend(run, outcome.cost_nanos)
    call.fingerprint = fingerprint_of(house, call)
    row = row_of(call, outcome, answer)
    row_bytes = encode(row) if house.rows_last else b""
    crossings: tuple[Crossing, ...] = ()
    broken: BaseException | None = None
    try:
        if call.held is not None and usage is not None:
            settled = yield Settle(call.id, amounts_of(call, outcome), row_bytes)
            if settled is not None:
                crossings = house.thresholds.crossed(call.claims, settled, call.request.at_s)
        else:
            if call.held is not None:
                yield Release(call.id)
            if house.rows_last:
                yield Write(call.id, row_bytes)
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 - the books failed; the row is written all the same
        broken = error
    yield Record(call, row, crossings)
    if broken is not None:
        raise broken
    reading = answer.reading
    if usage is not None and reading is not None and (reading.complete or not usage.estimated):
        house.bounds.learn(call.route, call.ask, call.input_bound, reading)
    if call.expected is not None and usage is not None:
        learn(house, call, call.expected, outcome)
