"""Money budgets under a crowd, and all that a budget can do to one call, seen at the server and in the row."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.laws.crowd import LONG_S, Clients, Crowd, Line, body
from tests.support.llama import MODEL as LLAMA_MODEL
from tests.support.llama import PROMPT_TOKENS, Llama
from tokenmeter import Budget, BudgetExceeded, Meter, Price, UnpricedModel
from tokenmeter.pricing import InputBound
from tokenmeter.testing import CapturedCalls, FakeClock, Reply, ScriptedProvider

CALLERS, WORTH = 50, 10

ENGLISH = "The committee met on Tuesday and agreed, after a long debate, to postpone the vote until spring. " * 8
CHINESE = "委員會在星期二開會,經過長時間的辯論後,決定把表決推遲到春天再進行。" * 8
JSON_TEXT = json.dumps([{"id": i, "name": f"item-{i}", "tags": ["a", "b"], "price": i * 1.25} for i in range(12)])
BASE64_TEXT = base64.b64encode(bytes(range(256)) * 2).decode()
CODE = "def merge(a, b):\n    out = []\n    while a and b:\n        out.append((a if a[0] < b[0] else b).pop(0))\n" * 6
PROMPTS = {"english": ENGLISH, "chinese": CHINESE, "json": JSON_TEXT, "base64": BASE64_TEXT, "code": CODE}
WAITING = pytest.mark.parametrize("wait_s", [None, 0], ids=["waiting", "not waiting"])


def dollars(nanos: int) -> str:
    """An amount as a limit."""
    return f"${Decimal(nanos).scaleb(-9):f}"


def _storm(meter: Meter, calls: CapturedCalls, clients: Clients, prompt: str, wait_s: float | None) -> Any:
    """Fifty at once; gives the usages that the server reported, after what is the same for every tokenizer."""
    callers = clients.callers
    outcome = Crowd([partial(callers[i % 3], f"{i:02} {prompt}") for i in range(CALLERS)]).join()
    clients.close()
    meter.close()
    assert len(outcome.answers) + len(outcome.errors) == CALLERS
    [state] = meter.remaining()
    assert state.held == 0
    assert state.spent == meter.spend().usd == Decimal(calls.cost_nanos).scaleb(-9)
    assert state.spent <= state.limit
    assert len(calls.where(status="ok", estimated=False)) == len(outcome.answers)
    needed = []
    for error in outcome.errors:
        assert type(error) is BudgetExceeded, error
        needed.append(error.needed)
        assert error.spent + error.held <= error.limit
        if wait_s is None:
            assert error.limit - error.spent < error.needed  # refused only for what is spent
        else:
            assert error.limit - error.spent - error.held < error.needed
    if wait_s is None:  # admitted until what is left is less than one worst case
        assert state.limit - state.spent < max(needed)
    return outcome.answers


def _report(what: str, wait_s: float | None, answers: list[Any], limit: int, spent: int) -> None:
    mode = "waiting" if wait_s is None else "wait_s=0"
    print(
        f"\n  {what:24} {mode:9} {len(answers):2} of {CALLERS} got through (worth {WORTH}),"
        f" {100 * (limit - spent) / limit:5.1f} % unused",
        end="",
    )


@WAITING
@pytest.mark.parametrize("kind", PROMPTS)
def test_the_worst_tokenizer_never_passes_the_limit(llama: Llama, kind: str, wait_s: float | None) -> None:
    """Every byte is a token: the bound has no slack but the template's."""
    cap, input_nanos, output_nanos = 16, 1_000, 2_000
    prompt = PROMPTS[kind]
    each = (len(f"00 {prompt}".encode()) + PROMPT_TOKENS) * input_nanos + cap * output_nanos
    limit = WORTH * each
    calls = CapturedCalls()
    budget = Budget(dollars(limit)) if wait_s is None else Budget(dollars(limit), wait_s=wait_s)
    meter = Meter([budget], prices={LLAMA_MODEL: Price("1", "2")}, recorders=[calls])
    answers = _storm(meter, calls, Clients(meter, llama.openai_url, model=LLAMA_MODEL, cap=cap), prompt, wait_s)
    truth = sum(u["prompt_tokens"] * input_nanos + u["completion_tokens"] * output_nanos for u in answers)
    assert truth == calls.cost_nanos <= limit
    assert 1 <= len(answers) <= WORTH
    _report(f"byte tokens, {kind}", wait_s, answers, limit, truth)


@pytest.fixture(scope="module")
def o200k() -> Callable[[str], int]:
    """The tokenizer that the scripted provider bills by."""
    encode = pytest.importorskip("bpe_openai").get_encoding("o200k_base").encode
    return lambda text: len(encode(text))


@WAITING
@pytest.mark.parametrize("exact", [True, False], ids=["tokenizer", "bytes"])
@pytest.mark.parametrize("kind", PROMPTS)
def test_a_real_tokenizer_never_passes_the_limit(
    o200k: Callable[[str], int], kind: str, exact: bool, wait_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that bills real o200k tokens, with and without the same tokenizer on our side."""
    cap, said, input_nanos, output_nanos = 16, 12, 2_500, 10_000
    prompt = PROMPTS[kind]

    def reply(request: Any) -> Reply:
        tokens = sum(o200k(message["content"]) for message in request.json["messages"]) + 7
        return Reply("so " * said, input_tokens=tokens, output_tokens=said)

    monkeypatch.setattr("tokenmeter.meter.InputBound", functools.partial(InputBound, exact=exact))
    each = (o200k(f"00 {prompt}") + 7) * input_nanos + said * output_nanos
    limit = WORTH * each
    calls = CapturedCalls()
    budget = Budget(dollars(limit)) if wait_s is None else Budget(dollars(limit), wait_s=wait_s)
    meter = Meter([budget], prices={"gpt-4o": Price("2.5", "10")}, recorders=[calls])
    meter._bounds.preload()
    with ScriptedProvider(reply) as provider:
        port = httpx2.URL(provider.url).port
        clients = Clients(meter, "http://api.openai.com/v1", model="gpt-4o", cap=cap, port=port)
        answers = _storm(meter, calls, clients, prompt, wait_s)
        billed = provider.wait_idle()
    assert billed.input_tokens * input_nanos + billed.output_tokens * output_nanos == calls.cost_nanos <= limit
    assert 1 <= len(answers) <= WORTH
    _report(f"o200k{' known' if exact else ''}, {kind}", wait_s, answers, limit, calls.cost_nanos)


# -- what a budget does to one call


class House:
    """A meter with one sync client, whose requests, rows and spans can be seen."""

    def __init__(self, provider: ScriptedProvider, *budgets: Budget, **options: Any) -> None:
        self.provider = provider
        self.calls = CapturedCalls()
        self.exporter = InMemorySpanExporter()
        spans = TracerProvider()
        spans.add_span_processor(SimpleSpanProcessor(self.exporter))
        options = {"prices": {"scripted": Price("1", "2", max_output_tokens=10_000)}} | options
        self.meter = Meter(budgets, recorders=[self.calls], tracer_provider=spans, **options)
        self.http = self.meter.wrap(httpx2.Client(verify=False, timeout=LONG_S))
        self.url = provider.openai_url + "/chat/completions"

    def ask(self, prompt: str = "hi", *, model: str = "scripted", cap: int | None = None, **more: Any) -> Any:
        return self.http.post(self.url, json=body(prompt, model, cap) | more)

    def refused(self, prompt: str = "hi", **more: Any) -> BudgetExceeded:
        """The refusal of a call; nothing was sent."""
        before = self.provider.received
        with pytest.raises(BudgetExceeded) as caught:
            self.ask(prompt, **more)
        assert self.provider.received == before
        assert self.calls[-1].status == "refused"
        return caught.value

    @property
    def span(self) -> Any:
        """The attributes of the last span."""
        return self.exporter.get_finished_spans()[-1].attributes

    @property
    def sent(self) -> Any:
        """The last request as it arrived."""
        return self.provider.requests[-1].json


@pytest.fixture
def make(provider: ScriptedProvider) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def make(*budgets: Budget, **options: Any) -> House:
        houses.append(House(provider, *budgets, **options))
        return houses[-1]

    yield make
    for house in houses:
        assert all(state.held == 0 for state in house.meter.remaining())
        store: Any = house.meter._store
        assert not store._holds
        house.http.close()
        house.meter.close()


def test_a_request_without_a_cap_gets_the_one_that_can_be_paid(make: Any, provider: ScriptedProvider) -> None:
    provider.reply = Reply("word " * 20, output_tokens=9_999)  # as much as it may
    house = make(Budget("$0.005"))
    assert house.ask().status_code == 200
    cap = house.sent["max_tokens"]
    [row] = house.calls
    assert (
        row.output_cap == cap == house.span["tokenmeter.budget.output_cap"] == house.span["gen_ai.request.max_tokens"]
    )
    # $0.005 pays 2,500 tokens of output; the input bound takes its share.
    assert 2_400 < cap < 2_500
    assert row.usage is not None
    assert row.usage.output_tokens == cap
    assert row.cost_nanos is not None
    assert 4_900_000 < row.cost_nanos <= 5_000_000
    assert house.refused().limit == Decimal("0.005")


def test_the_model_s_maximum_goes_out_without_a_cap_when_it_can_be_paid(make: Any) -> None:
    house = make(Budget("$0.1"))
    house.ask()
    assert "max_tokens" not in house.sent
    assert house.calls[0].output_cap is None
    assert "tokenmeter.budget.output_cap" not in house.span


@pytest.mark.parametrize(("least", "passes"), [(200, True), (256, False)])
def test_less_than_the_least_output_is_refused(make: Any, least: int, passes: bool) -> None:
    house = make(Budget("$0.0005", min_output_tokens=least))  # pays about 230 tokens
    if passes:
        house.ask()
        assert 200 <= house.sent["max_tokens"] < 256
    else:
        assert house.refused().needed > Decimal("0.02")  # the model's maximum


def test_a_stream_gets_a_cap_and_is_asked_for_its_usage(make: Any) -> None:
    house = make(Budget("$0.005"))
    with house.http.stream("POST", house.url, json=body("hi", "scripted", None, stream=True)) as response:
        lines = [line for line in response.iter_lines() if line]
    assert not any('"usage"' in line for line in lines)
    assert house.sent["stream_options"] == {"include_usage": True}
    assert house.calls[0].output_cap == house.sent["max_tokens"]
    assert not house.calls[0].estimated


def test_several_choices_share_what_is_left(make: Any, provider: ScriptedProvider) -> None:
    provider.reply = Reply("word " * 20, output_tokens=9_999)
    house = make(Budget("$0.005"))
    house.ask(n=4)
    assert 600 < house.sent["max_tokens"] < 625
    assert house.calls[0].cost_nanos <= 5_000_000


def test_a_token_budget_gives_a_cap_too(make: Any, provider: ScriptedProvider) -> None:
    provider.reply = Reply("word " * 20, output_tokens=9_999)
    house = make(Budget("2k tokens"))
    house.ask()
    assert 1_800 < house.sent["max_tokens"] < 2_000
    [state] = house.meter.remaining()
    assert state.spent <= 2_000


@pytest.mark.parametrize("on_exceed", ["clamp", "refuse", "warn"])
def test_a_caller_s_own_cap(make: Any, on_exceed: Any) -> None:
    house = make(Budget("$0.005", on_exceed=on_exceed, name="pocket"))
    if on_exceed == "refuse":
        assert house.refused(cap=5_000).budget == "pocket"
        return
    house.ask(cap=5_000)
    [row] = house.calls
    if on_exceed == "clamp":
        assert 2_400 < house.sent["max_tokens"] < 2_500
        assert row.output_cap == house.sent["max_tokens"]
        assert row.warned == ()
    else:
        assert house.sent["max_tokens"] == 5_000
        assert row.output_cap is None
        assert row.warned == ("pocket",)
        assert house.span["tokenmeter.budget.warned"] == ("pocket",)


def test_a_caller_s_cap_is_never_raised(make: Any) -> None:
    house = make(Budget("$0.005", on_exceed="clamp"))
    house.ask(cap=100)
    assert house.sent["max_tokens"] == 100
    assert house.calls[0].output_cap is None


def test_a_warning_budget_counts_on_past_its_limit(make: Any) -> None:
    house = make(Budget("2 calls", on_exceed="warn", name="soft"))
    for _ in range(4):
        house.ask()
    assert [row.warned for row in house.calls] == [(), (), ("soft",), ("soft",)]
    [state] = house.meter.remaining()
    assert (state.spent, state.left) == (4, 0)


def test_a_budget_per_call_doesn_t_add_up(make: Any) -> None:
    house = make(Budget("400 tokens", per="call"))
    for _ in range(5):
        house.ask(cap=50)
    error = house.refused("x" * 400, cap=50)
    assert (error.limit, error.spent, error.held) == (400, 0, 0)
    assert error.needed > 450
    house.ask(cap=50)


@pytest.mark.parametrize(("per", "seconds"), [("hour", 3_600), ("day", 86_400), ("week", 7 * 86_400)])
def test_windows_roll_over(make: Any, clock: FakeClock, per: Any, seconds: int) -> None:
    house = make(Budget("2 calls", per=per), clock=clock)
    for _ in range(2):
        house.ask()
    error = house.refused()
    assert error.resets_at is not None
    assert clock.now_s() < error.resets_at <= clock.now_s() + seconds
    clock.advance(error.resets_at - clock.now_s() - 1)
    house.refused()
    clock.advance(1)
    [state] = house.meter.remaining()
    assert (state.spent, state.left) == (0, 2)
    for _ in range(2):
        house.ask()
    house.refused()
    assert house.meter.spend().calls == 4


def test_a_call_is_charged_to_the_window_that_it_began_in(
    make: Any, clock: FakeClock, provider: ScriptedProvider
) -> None:
    house = make(Budget("1 call", per="hour"), clock=clock)
    provider.hold()
    running = Crowd([house.ask])
    provider.wait_for(1)
    clock.advance(3_600)
    provider.release()
    assert not running.join().errors
    [state] = house.meter.remaining()
    assert (state.spent, state.left) == (0, 1)
    house.ask()
    house.refused()


@pytest.mark.parametrize("scope", ["agent", "user", "team", "run", "tag:feature"])
def test_each_has_a_budget_of_its_own(make: Any, scope: str) -> None:
    house = make(Budget("2 calls", scope=scope))

    def under(value: str) -> Any:
        given: dict[str, Any] = {"user": "u", "team": "t", "run": "r", "feature": "f"}
        given[scope.removeprefix("tag:")] = value
        return house.meter.agent(given.pop("agent", "a"), **given)

    for who in ("one", "two"):
        with under(who):
            for _ in range(2):
                house.ask()
            assert house.refused().scope == f"{scope}={who}"
    with under("three"):
        house.ask()
    assert house.provider.received == 5


def test_each_model_has_a_budget_of_its_own(make: Any) -> None:
    house = make(Budget("1 call", scope="model"), prices={"*": Price("1", "2", max_output_tokens=100)})
    for model in ("small", "large"):
        house.ask(model=model)
        assert house.refused(model=model).scope == f"model={model}"


def test_a_match_limits_some_calls_only(make: Any) -> None:
    house = make(Budget("1 call", match={"model": "big-*"}), prices={"*": Price("1", "2", max_output_tokens=100)})
    house.ask(model="big-1")
    house.refused(model="big-2")
    for _ in range(3):
        house.ask(model="small")


def test_all_budgets_that_apply_are_held_or_none(make: Any) -> None:
    house = make(Budget("3 calls"), Budget("1 call", scope="agent"))
    with house.meter.agent("a"):
        house.ask()
        for _ in range(3):
            house.refused()  # takes nothing of the budget over all
    with house.meter.agent("b"):
        house.ask()
    with house.meter.agent("c"):
        house.ask()
    with house.meter.agent("d"):
        assert house.refused().scope == "global"


def test_calls_of_nobody_share_a_bucket(make: Any) -> None:
    house = make(Budget("2 calls", scope="agent"))
    house.ask()
    house.ask()
    assert house.refused().scope == "agent=(none)"
    with house.meter.agent("somebody"):
        house.ask()
    assert house.meter.unattributed().calls == 2


def test_a_model_without_a_price_is_refused_under_a_money_budget(make: Any, provider: ScriptedProvider) -> None:
    house = make(Budget("$1"), Budget("1M tokens"))
    with pytest.raises(UnpricedModel, match="nobody-knows") as caught:
        house.ask(model="nobody-knows")
    assert (caught.value.model, caught.value.provider) == ("nobody-knows", "openai")
    assert not provider.received
    assert house.calls[0].status == "refused"
    assert house.span["error.type"] == "UnpricedModel"


def test_a_model_without_a_price_passes_where_no_money_is_counted(make: Any) -> None:
    house = make(Budget("1M tokens"), Budget("$1", match={"agent": "rich"}))
    house.ask(model="nobody-knows", cap=10)
    assert house.calls[0].cost_nanos is None
    assert house.calls[0].usage.input_tokens


def test_a_model_without_a_price_may_be_allowed(make: Any) -> None:
    house = make(Budget("$1"), Budget("1M tokens"), unpriced="allow")
    house.ask(model="nobody-knows", cap=10)
    money, tokens = house.meter.remaining()
    [row] = house.calls
    assert row.cost_nanos is None
    assert money.spent == 0
    assert tokens.spent == row.usage.input_tokens + row.usage.output_tokens > 0
    assert house.meter.spend().unpriced_calls == 1


def test_a_model_without_a_price_may_be_given_one(make: Any, provider: ScriptedProvider) -> None:
    provider.reply = Reply(input_tokens=5, output_tokens=7)
    house = make(Budget("$1"), unpriced=Price("3", "11"))
    house.ask(model="nobody-knows", cap=10)
    [row] = house.calls
    assert (row.cost_nanos, row.price_source) == (5 * 3_000 + 7 * 11_000, "fallback")


def test_what_goes_beyond_the_bound_is_charged_all_the_same(make: Any, provider: ScriptedProvider) -> None:
    """A provider may report more than any bound foresaw: the books tell it, and nothing more goes out."""
    provider.reply = Reply(input_tokens=2_000_000, output_tokens=10)
    house = make(Budget("$1"))
    house.ask(cap=10)
    [state] = house.meter.remaining()
    assert state.spent == Decimal("2.00002") == house.meter.spend().usd
    assert (state.held, state.left) == (0, 0)
    assert house.refused(cap=10).spent == state.spent


@pytest.mark.parametrize("reply", [Reply(status=500), Reply(status=429), Reply(status=400), Reply(status=401)])
def test_what_the_provider_refuses_is_given_back_at_once(make: Any, provider: ScriptedProvider, reply: Reply) -> None:
    provider.reply = [reply, Reply()]
    house = make(Budget("1 call"))
    assert house.ask().status_code == reply.status
    assert house.ask().status_code == 200
    house.refused()
    assert house.calls[0].usage is None
    assert house.calls[0].error_type == str(reply.status)


def test_a_connection_that_fails_is_given_back_at_once(make: Any) -> None:
    house = make(Budget("1 call"))
    good, house.url = house.url, "http://127.0.0.1:9/v1/chat/completions"
    for _ in range(3):
        with pytest.raises(httpx2.ConnectError):
            house.ask()
    house.url = good
    house.ask()
    assert [row.error_type for row in house.calls] == ["ConnectError"] * 3 + [None]


# -- waiting


def test_a_call_that_is_given_back_lets_the_next_in_line_pass(make: Any, provider: ScriptedProvider) -> None:
    provider.reply = [Reply(status=500), Reply()]
    house = make(Budget("1 call"))
    line = Line(house.meter)
    provider.hold()
    running = Crowd([house.ask] * 3)
    provider.wait_for(1)
    line.wait_for(2)
    provider.release()
    outcome = running.join()
    assert sorted(response.status_code for response in outcome.answers) == [200, 500]
    [error] = outcome.errors
    assert isinstance(error, BudgetExceeded)
    assert (error.spent, error.held) == (1, 0)


async def _cancelled_in_line(provider: ScriptedProvider) -> None:
    provider.reply = [Reply(status=500), Reply()]
    calls = CapturedCalls()
    meter = Meter([Budget("1 call")], recorders=[calls])
    line = Line(meter)
    provider.hold()
    async with httpx2.AsyncClient(verify=False, timeout=LONG_S) as bare:
        client = meter.wrap(bare)

        async def ask(name: str) -> Any:
            return await client.post(provider.openai_url + "/chat/completions", json=body(name, "scripted", 5))

        first = asyncio.create_task(ask("first"))
        await asyncio.to_thread(provider.wait_for, 1)
        second = asyncio.create_task(ask("second"))
        await asyncio.to_thread(line.wait_for, 1)
        third = asyncio.create_task(ask("third"))
        await asyncio.to_thread(line.wait_for, 2)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        [row] = calls
        assert (row.status, row.error_type, row.usage, row.cost_nanos) == ("error", "CancelledError", None, None)
        [state] = meter.remaining()
        assert (state.spent, state.held) == (0, 1)
        provider.release()
        assert (await first).status_code == 500
        assert (await third).status_code == 200
    [state] = meter.remaining()
    assert (state.spent, state.held) == (1, 0)
    assert [request.json["messages"][0]["content"] for request in provider.requests] == ["first", "third"]
    assert len(calls) == 3
    meter.close()


def test_a_task_that_is_cancelled_in_line_leaves_it(provider: ScriptedProvider) -> None:
    asyncio.run(_cancelled_in_line(provider))


def test_who_waits_inside_an_own_stream_is_refused_in_the_end(make: Any) -> None:
    house = make(Budget("1 call", wait_s=0.02))
    with house.http.stream("POST", house.url, json=body("hi", "scripted", 5, stream=True)) as response:
        lines = response.iter_lines()
        assert next(lines)
        error = house.refused()
        assert (error.spent, error.held) == (0, 1)
        assert "wait_s=0.02" in str(error)
        assert "data: [DONE]" in list(lines)
    assert house.refused().spent == 1


async def _inside_an_own_stream(provider: ScriptedProvider) -> None:
    meter = Meter([Budget("1 call", wait_s=0.02)])
    url = provider.openai_url + "/chat/completions"
    async with httpx2.AsyncClient(verify=False, timeout=LONG_S) as bare:
        client = meter.wrap(bare)
        async with client.stream("POST", url, json=body("hi", "scripted", 5, stream=True)) as response:
            lines = response.aiter_lines()
            assert await anext(lines)
            with pytest.raises(BudgetExceeded) as caught:
                await client.post(url, json=body("hi", "scripted", 5))
            assert (caught.value.spent, caught.value.held) == (0, 1)
            assert "data: [DONE]" in [line async for line in lines]
    assert provider.received == 1
    [state] = meter.remaining()
    assert (state.spent, state.held) == (1, 0)
    meter.close()


def test_a_task_that_waits_inside_its_own_stream_is_refused_in_the_end(provider: ScriptedProvider) -> None:
    asyncio.run(_inside_an_own_stream(provider))


def test_the_loop_goes_on_while_tasks_wait(provider: ScriptedProvider) -> None:
    """Waiting in line doesn't block the event loop."""

    async def main() -> None:
        meter = Meter([Budget("1 call")])
        line = Line(meter)
        provider.hold()
        async with httpx2.AsyncClient(verify=False, timeout=LONG_S) as bare:
            client = meter.wrap(bare)
            url = provider.openai_url + "/chat/completions"
            tasks = [asyncio.create_task(client.post(url, json=body("x", "scripted", 5))) for _ in range(20)]
            await asyncio.to_thread(line.wait_for, 19)
            for _ in range(100):
                await asyncio.sleep(0)  # the loop turns
            assert not any(task.done() for task in tasks)
            provider.release()
            found = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(one, BudgetExceeded) for one in found) == 19
        meter.close()

    asyncio.run(main())
