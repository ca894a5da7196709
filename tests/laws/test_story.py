"""The story of a call, told purely: whatever happens between its effects, the laws of the books hold."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from tokenmeter import Budget, LoopPolicy, Price, Refused, StoreUnavailable, Usage, wire
from tokenmeter.attribution import NOBODY, Scope
from tokenmeter.budgets import Held, MemoryStore, Policy, Short
from tokenmeter.call import story
from tokenmeter.effects import Effect, Hold, Now, Open, Queue, Record, Relay, Release, Send, Settle
from tokenmeter.notes import Answer, House, Request
from tokenmeter.pricing import InputBound, PriceBook
from tokenmeter.record import CallRecord
from tokenmeter.wire import Reading

NOW_S = 1_780_000_000.0
PRICE = Price("1.000001", "3.7", cache_read="0.1", cache_write="1.25", per_request="0.0000013", max_output_tokens=3_000)
FAILURES: tuple[type[BaseException], ...] = (RuntimeError, KeyboardInterrupt, asyncio.CancelledError, StoreUnavailable)
ROUTE = wire.recognise("POST", "127.0.0.1", "/v1/chat/completions")
assert ROUTE is not None


def house(*budgets: Budget, max_depth: int = 3) -> House:
    return House(
        prices=PriceBook({"m": PRICE}),
        bounds=InputBound(exact=False),
        policy=Policy(budgets),
        loops=LoopPolicy(max_depth=max_depth),
    )


def request(prompt: str = "hi", *, cap: int | None = None, stream: bool = False, scope: Scope = NOBODY) -> Request:
    asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    if cap is not None:
        asked["max_tokens"] = cap
    if stream:
        asked["stream"] = True
    assert ROUTE is not None
    return Request(
        route=ROUTE,
        body=json.dumps(asked).encode(),
        headers={"content-type": "application/json"},
        scope=scope,
        at_s=NOW_S,
        host="127.0.0.1",
        port=80,
    )


class Books:
    """A store that notes who was granted what, and how each hold ended."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.granted: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        self.posted: dict[str, int] = {}
        self._claims: dict[str, Any] = {}

    def noted(self, hold_id: str, claims: Any, verdict: Held | Short) -> Held | Short:
        if isinstance(verdict, Held):
            self.granted[hold_id] = self.granted.get(hold_id, 0) + 1
            self._claims[hold_id] = claims
        return verdict

    def settle(self, hold_id: str, amounts: tuple[int, ...]) -> None:
        if self.store.settle(hold_id, amounts):
            self.ended[hold_id] = self.ended.get(hold_id, 0) + 1
            for claim, amount in zip(self._claims[hold_id], amounts, strict=True):
                self.posted[claim.key] = self.posted.get(claim.key, 0) + amount

    def release(self, hold_id: str) -> None:
        if self.store.release(hold_id):
            self.ended[hold_id] = self.ended.get(hold_id, 0) + 1


class Telling:
    """One story, told step by step; cleans up after a broken one as the drivers do."""

    def __init__(self, house: House, asked: Request, books: Books) -> None:
        self.books = books
        self.story = story(house, asked)
        self.effect: Effect | None = None
        self.seen: list[Effect] = []
        self.ticket: Any = None
        self.held: tuple[str, tuple[int, ...]] | None = None
        self.sent = False
        self.ended_with: BaseException | None = None
        self.broken = False  # something was thrown in, or it was closed
        self._go(lambda: next(self.story))

    @property
    def row(self) -> CallRecord:
        [row] = [effect.row for effect in self.seen if isinstance(effect, Record)]
        return row

    def step(self, answer: Callable[[Send | Relay], Answer]) -> None:
        """Do the effect that is asked for, and go on."""
        effect, books = self.effect, self.books
        result: object = None
        if isinstance(effect, Hold):
            result = self._noted(effect, books.store.hold(effect.hold_id, effect.claims, NOW_S))
        elif isinstance(effect, Queue):
            if self.ticket is None:
                found = books.store.queue(effect.hold_id, effect.claims, NOW_S)
                if not isinstance(found, Held | Short):
                    self.ticket = found
                    return  # it stands in line; the next step ends its waiting, with a hold or without
                result = self._noted(effect, found)
            else:
                ticket, self.ticket = self.ticket, None
                result = self._noted(effect, ticket.wait(0))
        elif isinstance(effect, Now):
            result = NOW_S
        elif isinstance(effect, Send):
            self.sent = True
            result = answer(effect)
        elif isinstance(effect, Relay):
            result = answer(effect)
        elif isinstance(effect, Settle):
            self.held = None
            books.settle(effect.hold_id, effect.amounts)
        elif isinstance(effect, Release):
            self.held = None
            books.release(effect.hold_id)
        self._go(lambda: self.story.send(result))

    def throw(self, error: BaseException) -> None:
        """The effect fails with this; it has not been done."""
        self.broken = True
        self.ticket = None  # dropped, it leaves the line
        self._go(lambda: self.story.throw(error))

    def close(self) -> None:
        """The story is given up where it stands."""
        self.broken = True
        self.ticket = None
        self.story.close()
        self._finished(None)

    def _noted(self, effect: Hold | Queue, verdict: Held | Short) -> Held | Short:
        if isinstance(verdict, Held):
            self.held = effect.hold_id, tuple(claim.amount for claim in effect.claims)
        return self.books.noted(effect.hold_id, effect.claims, verdict)

    def _go(self, go: Callable[[], Effect]) -> None:
        try:
            self.effect = go()
        except StopIteration:
            self._finished(None)
        except BaseException as error:
            self._finished(error)
        else:
            self.seen.append(self.effect)

    def _finished(self, error: BaseException | None) -> None:
        self.effect, self.ended_with = None, error
        held, self.held = self.held, None
        if held is not None:
            if self.sent:
                self.books.settle(*held)
            else:
                self.books.release(held[0])


# -- what can come back

shares = st.integers(0, 1_000)  # thousandths
statuses = st.sampled_from([301, 400, 401, 404, 408, 429, 500, 503])


@st.composite
def readings(draw: st.DrawFn, within: tuple[int, int] | None = None) -> Callable[[Any], Reading]:
    """What a body reports, as parts of what was held for it; or nothing, or half of it."""
    given_in, given_out, cached, written = draw(shares), draw(shares), draw(shares), draw(shares)
    kind = draw(st.sampled_from(["whole", "whole", "whole", "nothing", "half", "failed", "failed late"]))
    text_bytes = draw(st.integers(0, 20_000))
    complete = draw(st.booleans())
    left_out = draw(st.sampled_from([(), ("input_tokens",), ("output_tokens",)])) if kind == "half" else ()

    def reading(call: Any) -> Reading:
        bound_in, bound_out = call.input_bound, call.output_bound
        tokens_in, tokens_out = bound_in * given_in // 1_000, bound_out * given_out // 1_000
        read = tokens_in * cached // 1_000
        counts = {
            "input_tokens": tokens_in,
            "cache_read_tokens": read,
            "cache_write_tokens": (tokens_in - read) * written // 1_000,
            "output_tokens": tokens_out,
        }
        usage = Usage({key: value for key, value in counts.items() if key not in left_out})
        if kind == "nothing":
            return Reading(output_bytes=text_bytes, complete=complete)
        if kind == "half":
            return Reading(usage=usage, output_bytes=text_bytes, complete=False)
        if kind == "failed":
            return Reading(failed="server_error")
        if kind == "failed late":
            return Reading(usage=usage, failed="server_error", output_bytes=text_bytes, complete=complete)
        return Reading(usage=usage, model="m", finish_reasons=("stop",), output_bytes=text_bytes)

    return reading


@st.composite
def answers(draw: st.DrawFn) -> Callable[[Send | Relay], Answer]:
    """What a server, or the way to it, does with a request."""
    kind = draw(st.sampled_from(["reading"] * 4 + ["streams"] * 3 + ["status", "unsent", "lost", "rejected"]))
    status, reading, cut = draw(statuses), draw(readings()), draw(st.booleans())
    failure = ConnectionResetError() if draw(st.booleans()) else asyncio.CancelledError()

    def answer(effect: Send | Relay) -> Answer:
        if isinstance(effect, Relay):
            return Answer(status=200, reading=reading(effect.call), failure=failure if cut else None)
        if kind == "reading":
            return Answer(status=200, reading=reading(effect.call))
        if kind == "streams":
            return Answer(status=200, streams=True)
        if kind == "rejected" and effect.hide_usage:
            return Answer(status=400, rejected=True)
        if kind == "unsent":
            return Answer(failure=ConnectionRefusedError(), unsent=True)
        if kind == "lost":
            return Answer(failure=failure)
        return Answer(status=status)

    return answer


limits = st.sampled_from(
    ["$0", "$0.001", "$0.005", "$0.02", "$0.1", "0 tokens", "1k tokens", "5k tokens", "40k tokens", "1 call", "3 calls"]
)


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    return Budget(
        draw(limits),
        per=draw(st.sampled_from(["total", "total", "day", "run", "call"])),
        scope=draw(st.sampled_from([None, "agent", "model", ("agent", "user")])),
        on_exceed=draw(st.sampled_from(["refuse", "refuse", "clamp", "warn"])),
        wait_s=draw(st.sampled_from([0, 30])),
        min_output_tokens=draw(st.sampled_from([1, 256])),
    )


class Stories(RuleBasedStateMachine):
    """Any number of stories told at once, each step at any time, each effect failing at will."""

    def __init__(self) -> None:
        super().__init__()
        self.books = Books()
        self.tellings: list[Telling] = []

    @initialize(found=st.lists(budgets(), min_size=1, max_size=3))
    def build(self, found: list[Budget]) -> None:
        self.house = house(*found)
        self.unenforced = {b.name for b in self.house.policy.budgets if b.on_exceed == "warn"}
        self.per_call = {b.name for b in self.house.policy.budgets if b.per == "call"}

    @property
    def under_way(self) -> list[Telling]:
        return [telling for telling in self.tellings if telling.effect is not None]

    @rule(
        size=st.integers(0, 2_000),
        cap=st.sampled_from([None, None, 1, 50, 1_000]),
        stream=st.booleans(),
        path=st.sampled_from([(), ("a",), ("b",), ("a", "b"), ("a", "b", "a", "b")]),
    )
    def begin(self, size: int, cap: int | None, stream: bool, path: tuple[str, ...]) -> None:
        if len(self.under_way) < 8:
            scope = Scope(agent=path[-1] if path else None, run="r" if path else None, path=path)
            self.tellings.append(
                Telling(self.house, request("x" * size, cap=cap, stream=stream, scope=scope), self.books)
            )

    def _one(self, data: st.DataObject) -> Telling:
        return data.draw(st.sampled_from(self.under_way))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), answer=answers(), times=st.integers(1, 6))
    def go_on(self, data: st.DataObject, answer: Callable[[Send | Relay], Answer], times: int) -> None:
        telling = self._one(data)
        for _ in range(times):
            if telling.effect is not None:
                telling.step(answer)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), failure=st.sampled_from(FAILURES))
    def fail(self, data: st.DataObject, failure: type[BaseException]) -> None:
        telling, error = self._one(data), failure()
        telling.throw(error)
        if telling.effect is None and telling.ended_with is not None:
            assert telling.ended_with is error or isinstance(telling.ended_with, Refused)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        self._one(data).close()

    @invariant()
    def never_more_than_the_limit(self) -> None:
        for state in [book.state for book in self.books.store.books()]:
            assert state.posted >= 0
            assert state.held >= 0
        for effect in (e for t in self.tellings for e in t.seen if isinstance(e, Hold | Queue)):
            for claim in effect.claims:
                [state] = self.books.store.read([claim.key])
                if claim.budget.name not in self.unenforced | self.per_call:
                    assert state.posted + state.held <= claim.limit, claim

    @invariant()
    def each_story_is_whole(self) -> None:
        for telling in self.tellings:
            _check(telling)

    def teardown(self) -> None:
        quiet = Answer(status=200, reading=Reading(usage=Usage({"input_tokens": 1, "output_tokens": 1})))
        for telling in self.tellings:
            while telling.effect is not None:
                telling.step(lambda effect: quiet)
        if self.tellings:
            self.never_more_than_the_limit()
            self.each_story_is_whole()
        store: Any = self.books.store
        assert not store._holds
        assert not store._waiters
        assert self.books.ended == self.books.granted
        assert set(self.books.ended.values()) <= {1}
        for key, state in [(book.key, book.state) for book in store.books()]:
            assert (state.posted, state.held) == (self.books.posted.get(key, 0), 0)


def _check(telling: Telling) -> None:
    kinds = [type(effect) for effect in telling.seen]
    assert kinds.count(Open) == 1
    assert kinds[0] is Open
    assert kinds.count(Record) <= 1
    assert kinds.count(Settle) + kinds.count(Release) <= 1
    if telling.effect is not None:
        return
    if not telling.broken:
        assert kinds[-1] is Record
    if isinstance(telling.ended_with, Refused):
        assert Send not in kinds
        assert telling.row.status == "refused"
        assert telling.row.error_type == type(telling.ended_with).__name__
        assert telling.row.cost_nanos is None
    elif Send in kinds and not telling.broken:
        assert telling.row.status in ("ok", "error", "incomplete")
        settled = [effect for effect in telling.seen if isinstance(effect, Settle)]
        if settled:
            assert telling.row.usage is not None
            cap = telling.row.output_cap
            bodies = [effect.body for effect in telling.seen if isinstance(effect, Send)]
            assert cap is None or all(body and json.loads(body)["max_tokens"] == cap for body in bodies)


TestStories = Stories.TestCase
TestStories.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


# -- where a story breaks


def _answer(effect: Send | Relay) -> Answer:
    if isinstance(effect, Send):
        return Answer(status=200, streams=True)
    return Answer(
        status=200,
        reading=Reading(usage=Usage({"input_tokens": 9, "output_tokens": 7}), model="m", finish_reasons=("stop",)),
    )


PLAIN = (Open, Hold, Send, Relay, Settle, Record)


def _to(kind: type[Effect], books: Books, *budgets: Budget) -> Telling:
    """A story that stands at this effect."""
    telling = Telling(house(*budgets or (Budget("3 calls"), Budget("$1"))), request(stream=True), books)
    while not isinstance(telling.effect, kind):
        telling.step(_answer)
    return telling


def test_a_plain_story() -> None:
    books = Books()
    telling = _to(Record, books)
    telling.step(_answer)
    assert tuple(type(effect) for effect in telling.seen) == PLAIN
    assert telling.row.status == "ok"
    assert telling.row.cost_nanos == round(9 * 1000.001 + 7 * 3700 + 1300)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("failure", FAILURES)
def test_an_effect_fails(kind: type[Effect], failure: type[BaseException]) -> None:
    books, error = Books(), failure()
    telling = _to(kind, books)
    telling.throw(error)
    while telling.effect is not None:
        telling.step(_answer)
    assert telling.ended_with is error
    assert books.ended == books.granted
    assert not any(book.state.held for book in books.store.books())
    if kind is Hold:  # given up before anything was sent: a row says so
        assert (telling.row.status, telling.row.error_type) == ("error", type(error).__name__)
    if kind in (Settle, Release):  # what was paid is not lost with the books
        assert telling.row.status == "ok"


@pytest.mark.parametrize("kind", PLAIN)
def test_a_story_is_closed(kind: type[Effect]) -> None:
    books = Books()
    telling = _to(kind, books)
    telling.close()
    assert books.ended == books.granted
    assert not any(book.state.held for book in books.store.books())


def test_a_story_in_line_fails_and_leaves_it() -> None:
    for failure in FAILURES:
        books, error = Books(), failure()
        shared = house(Budget("1 call"))
        first, second, third = (Telling(shared, request(), books) for _ in range(3))
        while not isinstance(first.effect, Send):
            first.step(_answer)
        for telling in (second, third):
            while telling.ticket is None:
                telling.step(_answer)
        second.throw(error)
        while second.effect is not None:
            second.step(_answer)
        assert second.ended_with is error
        assert second.row.status == "error"
        first.step(lambda effect: Answer(status=500))
        while first.effect is not None:
            first.step(_answer)
        assert third.effect is not None
        while third.effect is not None:
            third.step(_answer)
        assert third.row.status == "ok"
        assert books.ended == books.granted


def test_a_rejected_option_is_sent_again_once_and_remembered() -> None:
    books, shared = Books(), house(Budget("9 calls"))
    bodies: list[bytes | None] = []

    def server(effect: Send | Relay) -> Answer:
        if isinstance(effect, Send):
            bodies.append(effect.body)
            return Answer(status=400, rejected=True) if effect.hide_usage else Answer(status=200, streams=True)
        return _answer(effect)

    for _ in range(2):
        telling = Telling(shared, request(stream=True), books)
        while telling.effect is not None:
            telling.step(server)
        assert telling.row.status == "ok"
    assert [body is not None for body in bodies] == [True, False, False]


# -- money


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 400), st.sampled_from([None, 1, 200]))
def test_what_is_charged_never_passes_what_was_held(data: st.DataObject, size: int, cap: int | None) -> None:
    """Whatever a server reports up to the bound, or fails to report."""
    books = Books()
    shared = house(Budget("$1"), Budget("10M tokens"))
    for _ in range(8):  # the bounds learn meanwhile
        telling = Telling(shared, request("x" * size, cap=cap, stream=True), books)
        holds = {}
        while telling.effect is not None:
            if isinstance(telling.effect, Hold):
                holds = {claim.key: claim.amount for claim in telling.effect.claims}
            if isinstance(telling.effect, Settle):
                for amount, held in zip(telling.effect.amounts, holds.values(), strict=True):
                    assert amount <= held
            telling.step(data.draw(answers()))


rates = st.one_of(
    st.builds(
        Price,
        st.integers(0, 90),
        st.integers(0, 90),
        cache_read=st.none() | st.integers(0, 90),
        cache_write=st.none() | st.integers(0, 90),
        cache_write_1h=st.none() | st.integers(0, 90),
        per_request=st.none() | st.integers(0, 2),
    ),
    st.sampled_from(
        ["openai/gpt-4o", "openai/gpt-5", "anthropic/claude-sonnet-4-5", "google/gemini-2.5-pro", "x-ai/grok-4"]
    ),
)
parts = st.tuples(*[st.integers(0, 400_000)] * 4)
_book = PriceBook()


@settings(max_examples=300, deadline=None)
@given(rates, parts, parts)
def test_cost_never_falls_when_tokens_rise(
    price: Price | str, base: tuple[int, int, int, int], more: tuple[int, int, int, int]
) -> None:
    if isinstance(price, str):
        provider, _, model = price.partition("/")
        rate = _book.rate(provider, model, at=datetime(2026, 6, 1, tzinfo=UTC))
        assert rate is not None, price
    else:
        rate = price.rate("m", None)

    def counts(plain: int, read: int, written: int, output: int) -> Mapping[str, int]:
        return {
            "input_tokens": plain + read + written,
            "cache_read_tokens": read,
            "cache_write_tokens": written,
            "output_tokens": output,
        }

    less = rate.cost_nanos(counts(*base))
    for index in range(4):
        raised = tuple(n + (more[index] if i == index else 0) for i, n in enumerate(base))
        found = counts(*raised)
        cost = rate.cost_nanos(found)
        assert 0 <= less <= cost
        assert cost <= rate.worst_nanos(found["input_tokens"], found["output_tokens"])
    total_in, total_out = base[0] + base[1] + base[2], base[3]
    worst = rate.worst_nanos(total_in, total_out)
    assert (
        worst <= rate.worst_nanos(total_in + more[0], total_out) <= rate.worst_nanos(total_in + more[0], total_out + 1)
    )
    affordable = rate.output_tokens_for(worst, total_in)
    assert affordable >= total_out
    assert affordable == sys.maxsize or rate.worst_nanos(total_in, affordable + 1) > worst


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3_000), st.integers(0, 3_000), st.integers(0, 500), st.integers(0, 500))
def test_a_story_charges_no_less_for_more(given_in: int, made: int, more_in: int, more_out: int) -> None:
    def charged(tokens_in: int, tokens_out: int) -> int:
        usage = Usage({"input_tokens": tokens_in, "output_tokens": tokens_out})
        telling = Telling(house(Budget("$1")), request(), Books())
        while telling.effect is not None:
            telling.step(lambda effect: Answer(status=200, reading=Reading(usage=usage)))
        [settled] = [effect for effect in telling.seen if isinstance(effect, Settle)]
        assert settled.amounts == (telling.row.cost_nanos,)
        return settled.amounts[0]

    assert charged(given_in, made) <= charged(given_in + more_in, made) <= charged(given_in + more_in, made + more_out)


@pytest.mark.parametrize("patience_s", [0.0, 0.5])
def test_what_others_lease_and_do_not_use_is_waited_for(patience_s: float) -> None:
    rooms = replace(house(Budget("1 calls", wait_s=0)), patience_s=patience_s)
    books = Books()

    def answer(effect: Send | Relay) -> Answer:
        raise AssertionError(effect)

    def tell() -> Telling:
        told = Telling(rooms, request(), books)
        while isinstance(told.effect, Open | Hold):
            told.step(answer)
        return told

    first, second = tell(), tell()

    assert isinstance(first.effect, Send)
    if patience_s:
        assert isinstance(second.effect, Queue)
        assert second.effect.wait_s == patience_s
    else:
        assert isinstance(second.effect, Record)
        assert second.row.status == "refused"
    first.close()
    second.close()


def test_who_waits_for_the_next_window_is_there_when_it_has_begun() -> None:
    """Also by a clock that is being set right, and goes slow meanwhile."""
    rooms, books = house(Budget("1 calls", per="hour", wait_s=7_200)), Books()
    first, second = Telling(rooms, request(), books), Telling(rooms, request(), books)
    for told in (first, second):
        while isinstance(told.effect, Open | Hold):
            told.step(_answer)
    asked = second.effect
    assert isinstance(asked, Queue)
    [claim] = asked.claims
    assert claim.resets_at is not None
    assert 0.01 < NOW_S + asked.window_s - claim.resets_at < 1
    first.close()
    second.close()
