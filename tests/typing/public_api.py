"""The public API as users write it. Never run: checkers read it, see `test_typing.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Literal, assert_type

import httpx
import httpx2
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI, OpenAI
from openai.types.chat import ChatCompletion

import tokenmeter
from tokenmeter import Budget, LoopPolicy, Meter, Price
from tokenmeter.testing import Billed, CapturedCalls, FakeClock, Reply, Request, ScriptedProvider

# -- what is built -----------------------------------------------------------------------------------------------

budget = Budget("$5", per="day", scope="agent")
Budget("200k tokens", per="month", scope=["user", "tag:project"], match={"model": "gpt-*"}, tz="Europe/Berlin")
Budget("10 calls", match={"agent": ["mail-*", "chat-*"]}, on_exceed="clamp", wait_s=0, min_output_tokens=64, name="x")
Budget("$5", on_exceed="downgrade", downgrade={"gpt-5": "gpt-5-mini"}, hold="expected", extend_streams=True)
Budget("$5", on_store_error="local", local_limit="$1", thresholds=[50, 99.9])
assert_type(budget.downgrade, tuple[tuple[str, str], ...])
assert_type(budget.local_limit_amount, int | None)
assert_type(budget.thresholds, tuple[int | float, ...])
assert_type(budget.unit, Literal["usd", "tokens", "calls"])
assert_type(budget.limit_amount, int)
assert_type(budget.scope, tuple[str, ...])

price = Price(input="1.25", output=10, cache_read=Decimal("0.125"), max_output_tokens=4_096)
assert_type(price.input, Decimal)
assert_type(price.cache_read, Decimal | None)


class Rows:
    def record(self, row: tokenmeter.CallRecord) -> None:
        assert_type(row.status, Literal["ok", "error", "incomplete", "refused"])
        assert_type(row.cost_nanos, int | None)
        assert_type(row.usage, tokenmeter.Usage | None)
        assert_type(row.path, tuple[str, ...])


meter = Meter(
    [budget],
    loops=LoopPolicy(max_depth=None),
    store="memory://",
    prices={"gpt-5": price, "house-*": {"input": "1", "output": "2"}},
    unpriced=price,
    ask_stream_usage=False,
    metric_labels=["agent"],
    user_key=b"secret",
    recorders=[Rows(), CapturedCalls()],
    clock=FakeClock(),
)
Meter()
Meter((budget,), unpriced="allow", prices="prices.toml")
with Meter() as opened:
    assert_type(opened, Meter)

# -- clients keep their types ------------------------------------------------------------------------------------

client = meter.wrap(OpenAI())
assert_type(client, OpenAI)
assert_type(meter.wrap(AsyncOpenAI()), AsyncOpenAI)
assert_type(meter.wrap(AzureOpenAI()), AzureOpenAI)
assert_type(meter.wrap(AsyncAzureOpenAI()), AsyncAzureOpenAI)
assert_type(meter.wrap(Anthropic()), Anthropic)
assert_type(meter.wrap(AsyncAnthropic()), AsyncAnthropic)
assert_type(meter.wrap(httpx.Client()), httpx.Client)
assert_type(meter.wrap(httpx.AsyncClient()), httpx.AsyncClient)
assert_type(meter.wrap(httpx2.Client()), httpx2.Client)
assert_type(meter.wrap(httpx2.AsyncClient()), httpx2.AsyncClient)
answer = client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "Hello"}])
assert_type(answer, ChatCompletion)
assert_type(client.with_options(timeout=5), OpenAI)
meter.instrument()
meter.uninstrument()

# -- attribution: what is decorated keeps its signature ------------------------------------------------------------

with meter.agent("triage", user="alice", team="support", run="r1", project="billing") as scope:
    assert_type(scope.agent, str | None)
    assert_type(scope.depth, int)


@meter.agent("triage")
def plain(mail: str, *, urgent: bool = False) -> int:
    return len(mail) + urgent


@meter.agent("triage")
async def awaited(mail: str) -> bytes:
    async with meter.agent("helper"):
        return mail.encode()


@meter.agent("triage")
def generated(n: int) -> Iterator[int]:
    yield from range(n)


@meter.agent("triage")
async def async_generated(n: int) -> AsyncIterator[str]:
    for i in range(n):
        yield str(i)


async def uses() -> None:
    assert_type(plain("a", urgent=True), int)
    assert_type(await awaited("a"), bytes)
    assert_type(generated(3), Iterator[int])
    async for text in async_generated(3):
        assert_type(text, str)


# A call that doesn't fit is an error: the ignore is needed, and the checkers complain about those that aren't.
plain(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
meter.agent()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
meter.agent("triage", project=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Budget("$5", per="dya")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Budget("$5", hold="best")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Budget(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Budget("$5", "day")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Price(input=1.25, output="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Meter(unpriced="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
meter.spend(agnet="triage")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

# -- what was spent ----------------------------------------------------------------------------------------------

spend = meter.spend()
assert_type(spend, tokenmeter.Spend)
assert_type(spend.usd, Decimal)
assert_type(spend.calls, int)
assert_type(meter.spend(agent=None, user="alice", tags={"project": "billing"}), tokenmeter.Spend)
assert_type(meter.unattributed(), tokenmeter.Spend)
assert_type(meter.remaining(agent="triage"), tuple[tokenmeter.Remaining, ...])
for left in meter.remaining():
    assert_type(left.left, Decimal | int)
    assert_type(left.resets_at, float | None)

# -- refusals ----------------------------------------------------------------------------------------------------

try:
    plain("a")
except tokenmeter.BudgetExceeded as exceeded:
    assert_type(exceeded.budget, str)
    assert_type(exceeded.needed, Decimal | int)
    assert_type(exceeded.resets_at, float | None)
except tokenmeter.DepthExceeded as deep:
    assert_type(deep.path, tuple[str, ...])
except tokenmeter.UnpricedModel as unpriced:
    assert_type(unpriced.model, str | None)
except tokenmeter.Refused as refused:
    assert_type(refused.agent, str | None)
    assert_type(refused.reason, str)
except tokenmeter.ConfigError as wrong:
    bad_value: ValueError = wrong

# -- parts for tests ---------------------------------------------------------------------------------------------


def script(request: Request) -> Reply:
    return Reply(f"You asked for {request.model}.", input_tokens=1)


with ScriptedProvider(script) as provider:
    assert_type(provider.openai_url, str)
    assert_type(provider.billed, Billed)
ScriptedProvider(["one", Reply("two", status=500)])
calls = CapturedCalls()
assert_type(calls[0], tokenmeter.CallRecord)
assert_type(calls.where(agent="triage"), list[tokenmeter.CallRecord])
