"""The hold of a call: its worst case on every budget that applies, and what to do about a budget that can't pay for it.

Pure: what the store is to do is yielded, as in the story that this is a part of.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, NoReturn

from tokenmeter import wire
from tokenmeter.attribution import Scope
from tokenmeter.budgets.budget import Budget
from tokenmeter.budgets.clamp import lower_cap
from tokenmeter.budgets.downgrade import next_model
from tokenmeter.budgets.extension import begin
from tokenmeter.budgets.policy import Claim, Facts, Need
from tokenmeter.budgets.runs import counted, counted_short, guard_of, run_claims
from tokenmeter.budgets.store import Held, Short
from tokenmeter.effects import Brake, Effect, Hold, Now, Queue
from tokenmeter.errors import BudgetExceeded, UnpricedModel
from tokenmeter.loops.findings import Facts as LoopFacts
from tokenmeter.loops.findings import refused
from tokenmeter.loops.guard import standing
from tokenmeter.money import usd
from tokenmeter.notes import Call, House
from tokenmeter.pricing import Price, Rate, max_output_tokens
from tokenmeter.wire import Ask

FIRST_TOKENS = 256
"""The output that is held first for a stream whose hold grows, over all choices."""

_SLEW_S = 0.05  # by how much a clock that is being set right may go slow meanwhile


def hold(house: House, call: Call) -> Generator[Effect, Any, None]:
    """Reserve the worst case on all budgets that apply, or on none.

    Where only other calls' holds stand in the way, wait for them. Where the budget can't pay for the call as it is,
    make it smaller if that is allowed: a cheaper model, then a lower output cap. Otherwise refuse.
    """
    call.rate = rate_of(house, call, call.model, call.ask.price_context)
    facts: dict[str, str | None] = {}
    if house.policy.budgets:
        facts = facts_of(call)
        if call.rate is None:
            _must_be_priced(house, call, facts)
    at_s = call.request.at_s
    _claim(house, call, facts, at_s)
    if not call.claims:
        return
    verdict: Held | Short = yield Hold(call.id, call.claims, call.note)
    may_wait = True
    while isinstance(verdict, Short):
        if guard_of(verdict.claim) is not None:
            _run_is_over(house, call, verdict)
        wait_s = max(verdict.claim.budget.wait_s, house.patience_s)
        if may_wait and wait_s > 0 and not verdict.spent_out:
            verdict, at_s, may_wait = yield from _in_line(house, call, facts, verdict, at_s, wait_s=wait_s)
        elif _downgraded(house, call, verdict) or _lowered(call, verdict):
            facts["model"] = call.model
            _claim(house, call, facts, at_s)
            verdict = yield Hold(call.id, call.claims, call.note)
        else:
            raise exceeded(verdict, call.scope, call.model)
    call.held = verdict
    if verdict.warned:
        yield from _warned(house, call, verdict)


def _in_line(
    house: House, call: Call, facts: dict[str, str | None], short: Short, at_s: float, *, wait_s: float
) -> Generator[Effect, Any, tuple[Held | Short, float, bool]]:
    """Wait for others to settle. What came of it, the moment whose windows count now, and whether to wait once more."""
    ends_s = _window_end(short)
    call.waited = True
    verdict: Held | Short = yield Queue(call.id, call.claims, call.note, wait_s, ends_s - at_s + _SLEW_S)
    if isinstance(verdict, Held) or verdict.spent_out:
        return verdict, at_s, True
    now_s: float = (yield Now()) if ends_s < math.inf else -math.inf
    if now_s < ends_s:
        return verdict, at_s, False
    _claim(house, call, facts, now_s)  # in the next window there may be room
    return (yield Hold(call.id, call.claims, call.note)), now_s, True


def _window_end(short: Short) -> float:
    """When the first window ends of those in which others stand in the way."""
    ends = [claim.resets_at for claim, _ in short.in_the_way]
    return min((end_s for end_s in ends if end_s is not None), default=math.inf)


def _run_is_over(house: House, call: Call, short: Short) -> NoReturn:
    """Refuse a call whose run has reached its limit."""
    facts = loop_facts(call, *counted_short(short))
    found = standing(house.loops, house.memory, facts)
    refusal = next(each for each in found if each.guard == guard_of(short.claim))
    call.findings = (*call.findings, refusal)
    raise refused(refusal, facts)


def _warned(house: House, call: Call, held: Held) -> Generator[Effect, Any, None]:
    """Note that the run has reached a limit that doesn't refuse, and slow it down if that is what the limit does."""
    over = [guard_of(claim) for claim in held.warned]
    if not any(over):
        return
    facts = loop_facts(call, *counted(call.claims, held.states))
    found = tuple(each for each in standing(house.loops, house.memory, facts) if each.guard in over)
    call.findings = (*call.findings, *found)
    pause_s = max((each.pause_s for each in found), default=0.0)
    if pause_s:
        call.waited = True
        yield Brake(pause_s)


def loop_facts(
    call: Call, run_calls: int | None = None, run_nanos: int | None = None, run_since_s: float | None = None
) -> LoopFacts:
    """What the guards get to know of a call, and of its run as far as that is known."""
    scope, request = call.scope, call.request
    route = call.route
    return LoopFacts(
        request.at_s,
        scope.agent,
        scope.root or scope.run,
        scope.path,
        scope.depth,
        route.operation,
        route.protocol,
        request.body,
        run_calls,
        run_nanos,
        run_since_s,
    )


def _must_be_priced(house: House, call: Call, facts: Facts) -> None:
    if house.unpriced == "refuse" and house.policy.applies_money(facts):
        raise UnpricedModel(
            f"model {call.model!r} of {call.route.provider!r} has no known price, and a money budget applies. "
            "Give its price (Meter(prices={…})), or choose Meter(unpriced='allow') to meter its tokens only.",
            model=call.model,
            provider=call.route.provider,
            agent=call.scope.agent,
        )


def _claim(house: House, call: Call, facts: Facts, at_s: float) -> None:
    """Work out the worst case of the call as it stands, and what it asks of each budget and of its run at a moment."""
    policy, scope = house.policy, call.scope
    # In one process the guards count by themselves, which is cheaper.
    call.claims = of_run = run_claims(house.loops, scope.agent, scope.root or scope.run) if house.rows_last else ()
    if not policy.budgets:
        return
    bound(house, call)
    need = need_of(call, call.input_bound, call.output_bound)
    call.worst_nanos = need.usd_nanos
    call.claims = policy.claims(facts, need, at_s)
    if policy.expects or policy.extends:
        _make_smaller(house, call)
    call.claims += of_run
    if call.stage is not None:
        call.stage = call.stage.beside([claim.amount for claim in of_run])


def _make_smaller(house: House, call: Call) -> None:
    """Hold what the call will probably use, or the beginning of a stream, on the budgets that want that."""
    policy, worst = house.policy, call.claims
    expected = first = None
    if policy.expects:
        call.expected = found = house.expected.expect(kind_of(call), call.input_bound, call.output_bound)
        expected = need_of(call, found.input_tokens, found.output_tokens) if found.learned else None
    first_tokens = min(FIRST_TOKENS, call.output_bound)
    if policy.extends and call.ask.stream and call.request.ends_with_its_reader:
        first = need_of(call, call.input_bound, first_tokens)
    call.claims = policy.sized(worst, expected, first)
    if first is not None:
        amounts = [claim.amount for claim in call.claims]
        pairs = zip(worst, amounts, strict=True)
        last = [claim.amount if claim.budget.extend_streams else amount for claim, amount in pairs]
        call.stage = begin(amounts, first_tokens, last, call.output_bound)


def _downgraded(house: House, call: Call, short: Short) -> bool:
    """Whether a budget that stands in the way names a cheaper model, which the call asks for from now on."""
    request = call.request
    cheaper = next_model(short, call.model, call.tried_models)
    if cheaper is None or request.body is None or not request.rewritable:
        return False
    body = wire.with_model(call.route, request.body, cheaper)
    rate = rate_of(house, call, cheaper, call.ask.price_context)
    if body is None or (rate is None and house.unpriced == "refuse"):
        return False
    call.tried_models = (*call.tried_models, call.model or "")
    call.model, call.rate, call.input_bound, call.body = cheaper, rate, 0, body
    return True


def _lowered(call: Call, short: Short) -> bool:
    """Whether the budgets can still pay for a smaller output, to which the call is held from now on."""
    ask, rate = call.ask, call.rate
    if not (ask.can_cap and call.request.rewritable):
        return False

    def output_for(nanos: int) -> int:
        if rate is None:
            return -1
        return rate.output_tokens_for(nanos, call.input_bound, media=_has_media(ask), tool_calls=call.tool_calls)

    choices, callers_cap = _answers(ask), ask.max_output_tokens
    cap = lower_cap(
        short, output_for=output_for, input_tokens=call.input_bound, choices=choices, callers_cap=callers_cap
    )
    if cap is None or cap * choices >= call.output_bound:
        return False
    call.output_bound, call.output_cap = cap * choices, cap
    return True


def bound(house: House, call: Call) -> None:
    """The most tokens that can go in and come out."""
    if call.input_bound:
        return
    ask, rate = call.ask, call.rate
    call.input_bound = house.bounds.bound(ask, call.route, rate.context_window if rate is not None else None)
    if ask.server_tools:
        call.tool_calls = house.bounds.tool_calls(ask, call.route)
    cap = ask.max_output_tokens
    call.output_bound = (max_output_tokens(rate) if cap is None else cap) * _answers(ask)


def need_of(call: Call, input_tokens: int, output_tokens: int) -> Need:
    """What that many tokens may cost at most."""
    nanos, rate = None, call.rate
    if rate is not None:
        nanos = rate.worst_nanos(input_tokens, output_tokens, media=_has_media(call.ask), tool_calls=call.tool_calls)
    return Need(nanos, input_tokens + output_tokens, 1)


def kind_of(call: Call) -> tuple[str | None, str | None, str]:
    """The key of calls that are expected to cost alike."""
    return call.scope.agent, call.model, call.route.provider


def _answers(ask: Ask) -> int:
    """How many outputs may be paid for, each up to the cap."""
    return max(1, ask.choices) * ask.passes


def _has_media(ask: Ask) -> bool:
    return not ask.text_only and bool(ask.images or ask.media_bytes or ask.remote_media)


def rate_of(house: House, call: Call, model: str | None, context: Mapping[str, str]) -> Rate | None:
    rate = house.prices.rate(call.route.price_provider, model, at=call.request.at_s, context=context)
    if rate is None and isinstance(house.unpriced, Price):
        rate = _fallback(house.unpriced, model or "", call.route.price_provider)
    return rate


@lru_cache(maxsize=256)
def _fallback(price: Price, model: str, provider: str | None) -> Rate:
    return price.rate(model, provider)


def facts_of(call: Call) -> dict[str, str | None]:
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


def exceeded(short: Short, scope: Scope, model: str | None) -> BudgetExceeded:
    """The refusal: which budget, how much, when it resets, and what can be done."""
    claim, state = short.claim, short.state
    budget = claim.budget
    limit, spent, held, needed = (_shown(budget, n) for n in (state.limit, state.posted, state.held, claim.amount))
    what = "limit" if claim.limit == budget.limit_amount else "limit while its store is gone"
    parts = [
        f"budget {budget.name!r} ({claim.scope}) can't pay this call: {what} {limit[1]}, spent {spent[1]}, "
        f"held {held[1]}, needed {needed[1]}"
    ]
    if claim.resets_at is not None:
        parts.append(f"; resets at {datetime.fromtimestamp(claim.resets_at, UTC).isoformat()}")
    if short.spent_out:
        parts.append(f". {_remedy(claim)}")
    elif budget.wait_s > 0:
        parts.append(f". Other calls held the rest for longer than wait_s={budget.wait_s:g}; try again later.")
    else:
        parts.append(". Other calls hold the rest; try again, or give the budget a wait_s to wait for them.")
    return BudgetExceeded(
        "".join(parts),
        budget=budget.name,
        scope=claim.scope,
        limit=limit[0],
        spent=spent[0],
        held=held[0],
        needed=needed[0],
        resets_at=claim.resets_at,
        unit=budget.unit,
        agent=scope.agent,
        user=scope.user,
        team=scope.team,
        run=scope.run,
        model=model,
    )


def _remedy(claim: Claim) -> str:
    """What helps this budget: no smaller call counts for less than one, and not every window ends."""
    ways = ["Raise the limit"]
    if claim.budget.unit != "calls":
        ways.append("lower the request's output cap")
    if claim.resets_at is not None:
        ways.append("wait for the window to reset")
    return ways[0] + "." if len(ways) == 1 else f"{', '.join(ways[:-1])}, or {ways[-1]}."


def _shown(budget: Budget, amount: int) -> tuple[Decimal | int, str]:
    if budget.unit != "usd":
        return amount, f"{amount:,} {budget.unit if amount != 1 else budget.unit[:-1]}"
    dollars = usd(amount)
    return dollars, f"${dollars.normalize():f}"
