"""The story of one call: recognise → attribute → guard → hold → send → read → settle → record.

Pure: `story` does no I/O, reads no clock and knows no ``async``. It yields what shall be done (the effects below)
and is sent what came of it. Two short drivers in ``clients/drive.py`` do the effects, one of them with ``await``.

    recognise  wire        the client's seam asks `wire.recognise`; only model calls get a story
    attribute  here        the scope in force, else the request's own fields
    guard      loops       depth; refuses or goes on
    hold       budgets     the worst case, on every budget that applies, all or none
    send       client      the caller's request
    read       wire        usage from the body, whole or as it streams by
    settle     budgets     the hold becomes the true cost, exactly once
    record     telemetry   one span, the metrics, one row
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from msgspec import Struct

from tokenmeter import wire
from tokenmeter.attribution import MAX_VALUE_CHARS, Scope
from tokenmeter.budgets.policy import Claim, Need, Policy
from tokenmeter.budgets.store import Held, Short
from tokenmeter.errors import Refused, UnpricedModel
from tokenmeter.holding import Affordable, exceeded, reduced
from tokenmeter.loops import LoopPolicy
from tokenmeter.pricing import InputBound, Price, PriceBook, Rate
from tokenmeter.record import CallRecord, Status
from tokenmeter.usage import Usage
from tokenmeter.wire import Ask, Reading, Route

# -- what the story asks for -------------------------------------------------------------------------------------


class Open(Struct, frozen=True):
    """Open the span."""

    call: Call


class Hold(Struct, frozen=True):
    """Reserve on all budgets or on none. → ``Held | Short``"""

    hold_id: str
    claims: tuple[Claim, ...]


class Queue(Struct, frozen=True):
    """As `Hold`, waiting in line while only other calls' holds stand in the way. → ``Held | Short``"""

    hold_id: str
    claims: tuple[Claim, ...]
    wait_s: float


class Send(Struct, frozen=True):
    """Send the request, with another body if one is given. → `Answer`"""

    call: Call
    body: bytes | None
    hide_usage: bool


class Relay(Struct, frozen=True):
    """Hand the response to the caller and come back when its body has passed by. → `Answer`"""

    call: Call


class Settle(Struct, frozen=True):
    """Turn the hold into what was spent."""

    hold_id: str
    amounts: tuple[int, ...]


class Release(Struct, frozen=True):
    """Give the hold back."""

    hold_id: str


class Record(Struct, frozen=True):
    """End the span, count the metrics, write the row."""

    call: Call
    row: CallRecord


Effect = Open | Hold | Queue | Send | Relay | Settle | Release | Record
Story = Generator[Effect, Any, None]


class Answer(Struct, frozen=True):
    """What came back. Exactly one of ``reading``, ``streams`` and ``failure`` says how far it got."""

    status: int | None = None
    reading: Reading | None = None  # the body was there as a whole, or has passed by
    streams: bool = False  # the body is still to come
    failure: BaseException | None = None  # the request, or the body on its way, failed with this
    unsent: bool = False  # the failure came before the request left
    rejected: bool = False  # the provider refused the usage option that was added
    time_to_first_chunk_s: float | None = None
    duration_s: float = 0.0


# -- what the story knows ----------------------------------------------------------------------------------------


class Request(Struct, frozen=True):
    """A request that was recognised as a model call, as its client is about to send it."""

    route: Route
    body: bytes | None  # None: it can't be read without disturbing it
    headers: Mapping[str, str]  # looked up without regard to case
    scope: Scope
    at_s: float
    host: str
    port: int | None
    id: str = ""  # of the call, unlike any other; "": one is drawn

    @property
    def rewritable(self) -> bool:
        """Whether its body may be replaced: it is neither compressed nor signed."""
        headers = self.headers
        return "content-encoding" not in headers and not headers.get("authorization", "").startswith("AWS4-")


class UsageOption:
    """Remembers the hosts that reject ``stream_options``, and those that are known to take it."""

    __slots__ = ("_known", "enabled")

    MAX_HOSTS = 1_024

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._known: dict[tuple[str, int | None], bool] = {}

    def allowed(self, host: str, port: int | None) -> bool:
        return self.enabled and self._known.get((host, port), True)

    def remember(self, host: str, port: int | None, takes_it: bool) -> None:
        if len(self._known) >= self.MAX_HOSTS:
            self._known.clear()
        self._known[host, port] = takes_it


@dataclass(frozen=True, slots=True)
class House:
    """The rooms that the story walks through."""

    prices: PriceBook
    bounds: InputBound
    policy: Policy
    loops: LoopPolicy
    unpriced: Literal["refuse", "allow"] | Price = "refuse"
    usage_option: UsageOption = field(default_factory=UsageOption)


class Call(Struct):
    """The notes on one call, filled in as the story goes on."""

    id: str
    request: Request
    route: Route
    ask: Ask
    scope: Scope
    model: str | None
    rate: Rate | None = None
    input_bound: int = 0
    output_bound: int = 0  # over all choices
    tool_calls: int = 0  # paid calls of server-side tools to allow for
    worst_nanos: int | None = None
    claims: tuple[Claim, ...] = ()
    held: Held | None = None
    output_cap: int | None = None  # the cap that was written into the request here
    refusal: Refused | None = None


# -- the story ---------------------------------------------------------------------------------------------------


def story(house: House, request: Request) -> Story:
    """Tell one call from its request to its row. Raises only `Refused`, or what the store's policy asked for."""
    call = _attribute(request)
    yield Open(call)
    try:
        house.loops.guard(call.scope)
        yield from _hold(house, call)
    except Refused as refusal:
        call.refusal = refusal
        yield Record(call, _row(call, Charge("refused", error_type=type(refusal).__name__), Answer()))
        raise
    except GeneratorExit:
        raise
    except BaseException as error:  # given up while it waited
        yield Record(call, _row(call, Charge("error", error_type=type(error).__name__), Answer()))
        raise

    answer: Answer = yield from _send(house, call)
    if answer.streams:
        answer = yield Relay(call)

    charge = _charge(house, call, answer)
    broken: BaseException | None = None
    if call.held is not None:
        try:
            if charge.usage is None:
                yield Release(call.id)
            else:
                spent = Need(charge.cost_nanos, _tokens(charge.usage), 1)
                yield Settle(call.id, house.policy.amounts(call.claims, spent))
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - the books failed; the row is written all the same
            broken = error
    yield Record(call, _row(call, charge, answer))
    if broken is not None:
        raise broken
    if charge.usage is not None and not charge.usage.estimated and answer.reading is not None:
        house.bounds.learn(call.route, call.ask, call.input_bound, answer.reading)


def _attribute(request: Request) -> Call:
    """Who and what: the scope in force wins, then the request's own fields."""
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
    """A name of the request's own; a long one is cut, and stays a name of its own."""
    if value is None or len(value) <= MAX_VALUE_CHARS:
        return value
    digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()[:32]
    return f"{value[: MAX_VALUE_CHARS - 33]}…{digest}"


def _hold(house: House, call: Call) -> Generator[Effect, Any, None]:
    """Reserve the worst case, or a smaller one under an output cap; wait where only holds stand; else refuse."""
    call.rate = _rate(house, call, call.model, call.ask.price_context)
    if not house.policy.budgets:
        return
    facts = _facts(call)
    if call.rate is None and house.unpriced == "refuse" and house.policy.applies_money(facts):
        raise UnpricedModel(
            f"model {call.model!r} of {call.route.provider!r} has no known price, and a money budget applies. "
            "Give its price (Meter(prices={…})), or choose Meter(unpriced='allow') to meter its tokens only.",
            model=call.model,
            provider=call.route.provider,
            agent=call.scope.agent,
        )
    _bound(house, call)
    output = call.output_bound
    need = _need(call, output)
    call.claims = claims = house.policy.claims(facts, need, call.request.at_s)
    if not claims:
        return
    verdict: Held | Short = yield Hold(call.id, claims)
    may_wait = True
    while isinstance(verdict, Short):
        blocking = verdict.claim.budget
        only_holds = not verdict.spent_out
        if only_holds and may_wait and blocking.wait_s > 0:
            verdict = yield Queue(call.id, call.claims, blocking.wait_s)
            may_wait = isinstance(verdict, Short) and verdict.spent_out
            continue
        affordable = _affordable(call, verdict)
        if affordable is None or affordable.output_tokens >= output:
            raise exceeded(verdict, call.scope, call.model)
        output = affordable.output_tokens
        call.output_cap = affordable.cap
        need = _need(call, output)
        call.claims = house.policy.claims(facts, need, call.request.at_s)
        verdict = yield Hold(call.id, call.claims)
    call.held = verdict
    call.output_bound = output
    call.worst_nanos = need.usd_nanos


def _send(house: House, call: Call) -> Generator[Effect, Any, Answer]:
    """Send; ask for the usage of a stream where the protocol reports it only on request."""
    request = call.request
    body = request.body
    rewritten = None
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
            option.remember(request.host, request.port, takes_it=False)
    return answer


# -- what it comes to --------------------------------------------------------------------------------------------


class Charge(Struct, frozen=True):
    """What a call is charged. ``usage`` None: nothing, because nothing was billed."""

    status: Status
    usage: Usage | None = None
    cost_nanos: int | None = None
    rate: Rate | None = None
    error_type: str | None = None


def _charge(house: House, call: Call, answer: Answer) -> Charge:
    """What went out is charged, by the provider's figures or by estimate; what did not is not."""
    if answer.failure is not None and answer.reading is None:
        error = type(answer.failure).__name__
        return Charge("error", error_type=error) if answer.unsent else _estimate(house, call, None, error)
    if answer.status is not None and not 200 <= answer.status < 300:
        return Charge("error", error_type=str(answer.status))
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
    rate = _settled_rate(house, call, reading)
    cost = None if rate is None else rate.cost_nanos(reading.usage.counts)
    return Charge("error" if reading.failed else "ok", reading.usage, cost, rate, error_type)


def _estimate(house: House, call: Call, reading: Reading | None, error_type: str | None) -> Charge:
    """The usage that never came: what was seen of it, else what the bytes that went by are worth at the most."""
    _bound(house, call)
    model = call.model
    seen: Mapping[str, int] = reading.usage.counts if reading is not None and reading.usage is not None else {}
    counts = dict(seen)
    counts.setdefault("input_tokens", min(call.input_bound, house.bounds.estimate_input(call.ask, call.route)))
    if reading is None:
        typical = house.bounds.typical_output(call.route.provider, model)
        output = call.output_bound if typical is None else min(typical, call.output_bound)
    else:
        by_bytes = house.bounds.estimate_output(call.route, model, reading.output_bytes)
        output = max(counts.get("output_tokens", 0), min(by_bytes, call.output_bound))
    counts["output_tokens"] = output
    usage = Usage(counts, estimated=True)
    rate = _settled_rate(house, call, reading)
    cost = None if rate is None else rate.cost_nanos(counts)
    finished = reading is not None and reading.complete and not reading.failed
    return Charge("ok" if finished else "incomplete", usage, cost, rate, error_type)


def _bound(house: House, call: Call) -> None:
    """The most tokens that can go in and come out."""
    if call.input_bound:
        return
    ask, rate = call.ask, call.rate
    call.input_bound = house.bounds.bound(ask, call.route, rate.context_window if rate is not None else None)
    call.tool_calls = house.bounds.tool_calls(ask, call.route)
    cap = ask.max_output_tokens
    if cap is None:
        cap = house.prices.max_output_tokens(call.route.price_provider, call.model, rate)
    call.output_bound = cap * max(1, ask.choices)


def _need(call: Call, output: int) -> Need:
    nanos = None
    if call.rate is not None:
        nanos = call.rate.worst_nanos(call.input_bound, output, media=_has_media(call.ask), tool_calls=call.tool_calls)
    return Need(nanos, call.input_bound + output, 1)


def _has_media(ask: Ask) -> bool:
    return bool(ask.images or ask.media_bytes or ask.remote_media)


def _affordable(call: Call, short: Short) -> Affordable | None:
    """The output that the budgets can still pay, if the request may be given a cap."""
    ask, rate = call.ask, call.rate
    if not (ask.can_cap and call.request.rewritable):
        return None

    def output_for(nanos: int) -> int:
        if rate is None:
            return -1
        return rate.output_tokens_for(nanos, call.input_bound, media=_has_media(ask), tool_calls=call.tool_calls)

    return reduced(
        short,
        call.claims,
        output_for=output_for,
        input_tokens=call.input_bound,
        choices=max(1, ask.choices),
        callers_cap=ask.max_output_tokens,
    )


def _rate(house: House, call: Call, model: str | None, context: Mapping[str, str]) -> Rate | None:
    rate = house.prices.rate(call.route.price_provider, model, at=call.request.at_s, context=context)
    if rate is None and isinstance(house.unpriced, Price):
        rate = house.unpriced.rate(model or "", call.route.price_provider, source="fallback")
    return rate


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
    at = call.request.at_s
    served = house.prices.rate(call.route.price_provider, reading.model or call.model, at=at, context=context)
    if served is None and reading.price_context:
        served = house.prices.rate(call.route.price_provider, call.model, at=at, context=context)
    return served or held


def _tokens(usage: Usage) -> int:
    return (usage.input_tokens or 0) + (usage.output_tokens or 0)


def _facts(call: Call) -> dict[str, str | None]:
    scope = call.scope
    facts: dict[str, str | None] = {
        "agent": scope.agent,
        "user": scope.user,
        "team": scope.team,
        "run": scope.run,
        "model": call.model,
        "provider": call.route.provider,
    }
    for name, value in scope.tags.items():
        facts["tag:" + name] = value
    return facts


def _row(call: Call, charge: Charge, answer: Answer) -> CallRecord:
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
        warned=tuple(claim.budget.name or "" for claim in call.held.warned) if call.held is not None else (),
        host=request.host,
        port=request.port,
        time_to_first_chunk_s=answer.time_to_first_chunk_s,
    )
