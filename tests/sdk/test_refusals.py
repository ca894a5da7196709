"""A refusal reaches the caller as itself, after one attempt, with nothing on the wire: every SDK, every way to call."""

from __future__ import annotations

import pickle
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx
import httpx2
import pytest
from pydantic import BaseModel

from tests.sdk.helpers import ANTHROPIC_MAJOR, OPENAI_MAJOR, Kind, each, of, outcome_of, said, within
from tokenmeter import Budget, BudgetExceeded, DepthExceeded, LoopPolicy, Meter, Price, Refused, UnpricedModel
from tokenmeter.testing import CapturedCalls, ScriptedProvider

MODEL = "scripted"


class Verdict(BaseModel):
    """What a parsed answer shall be."""

    ok: bool


CHAT: Any = {"model": MODEL, "messages": said("hi")}
RESPONSES: Any = {"model": MODEL, "input": "hi"}
MESSAGES: Any = {"model": MODEL, "messages": said("hi"), "max_tokens": 16}


async def _entered(manager: Any) -> None:
    async with within(manager) as found:
        await each(found)


OPENAI: Mapping[str, Callable[[Any], Any]] = {
    "chat": lambda c: of(c.chat.completions.create(**CHAT)),
    "chat with a cap": lambda c: of(c.chat.completions.create(**CHAT, max_tokens=64)),
    "chat streamed": lambda c: of(c.chat.completions.create(**CHAT, stream=True)),
    "chat streamed with usage": lambda c: of(
        c.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    ),
    "chat .stream()": lambda c: _entered(c.chat.completions.stream(**CHAT)),
    "chat .parse()": lambda c: of(c.chat.completions.parse(**CHAT, response_format=Verdict)),
    "chat raw": lambda c: of(c.chat.completions.with_raw_response.create(**CHAT)),
    "chat raw streamed": lambda c: of(c.chat.completions.with_raw_response.create(**CHAT, stream=True)),
    "chat streaming response": lambda c: _entered(c.chat.completions.with_streaming_response.create(**CHAT)),
    "completions": lambda c: of(c.completions.create(model=MODEL, prompt="hi")),
    "responses": lambda c: of(c.responses.create(**RESPONSES)),
    "responses streamed": lambda c: of(c.responses.create(**RESPONSES, stream=True)),
    "responses .stream()": lambda c: _entered(c.responses.stream(**RESPONSES)),
    "responses .parse()": lambda c: of(c.responses.parse(**RESPONSES, text_format=Verdict)),
    "responses raw": lambda c: of(c.responses.with_raw_response.create(**RESPONSES)),
    "responses streaming response": lambda c: _entered(c.responses.with_streaming_response.create(**RESPONSES)),
    "embeddings": lambda c: of(c.embeddings.create(model=MODEL, input="hi")),
    "embeddings raw": lambda c: of(c.embeddings.with_raw_response.create(model=MODEL, input="hi")),
    "with_options": lambda c: of(c.with_options(max_retries=5).chat.completions.create(**CHAT)),
    "copy": lambda c: of(c.copy(timeout=30).chat.completions.create(**CHAT)),
    "post": lambda c: of(c.post("/chat/completions", body=CHAT, cast_to=object)),
}
ANTHROPIC: Mapping[str, Callable[[Any], Any]] = {
    "messages": lambda c: of(c.messages.create(**MESSAGES)),
    "messages streamed": lambda c: of(c.messages.create(**MESSAGES, stream=True)),
    "messages .stream()": lambda c: _entered(c.messages.stream(**MESSAGES)),
    "messages .parse()": lambda c: of(c.messages.parse(**MESSAGES, output_format=Verdict)),
    "messages raw": lambda c: of(c.messages.with_raw_response.create(**MESSAGES)),
    "messages raw streamed": lambda c: of(c.messages.with_raw_response.create(**MESSAGES, stream=True)),
    "messages streaming response": lambda c: _entered(c.messages.with_streaming_response.create(**MESSAGES)),
    "beta": lambda c: of(c.beta.messages.create(**MESSAGES)),
    "beta streamed": lambda c: of(c.beta.messages.create(**MESSAGES, stream=True)),
    "beta .stream()": lambda c: _entered(c.beta.messages.stream(**MESSAGES)),
    "with_options": lambda c: of(c.with_options(max_retries=5).messages.create(**MESSAGES)),
    "copy": lambda c: of(c.copy(timeout=30).messages.create(**MESSAGES)),
}


@dataclass
class Refusing:
    """A meter that refuses everything, for one reason."""

    meter: Meter
    calls: CapturedCalls
    provider: ScriptedProvider
    reason: str
    how: str

    def metered(self, client: Any) -> Any:
        """The client, metered one way or the other."""
        return self.meter.wrap(client) if self.how == "wrap" else client

    async def refuses(self, attempt: Callable[[], Any]) -> Refused:
        """One attempt, nothing on the wire, and the very refusal."""
        with ExitStack() as scopes:
            scopes.enter_context(self.meter.agent("planner", user="alice", team="support", run="r1"))
            scopes.enter_context(self.meter.agent("searcher"))
            error = await outcome_of(attempt)
        assert [row.status for row in self.calls] == ["refused"]
        assert self.calls[0].error_type == type(error).__name__
        assert (self.calls[0].usage, self.calls[0].http_status) == (None, None)
        assert self.provider.received == 0
        assert all(state.held == 0 == state.spent for state in self.meter.remaining())
        assert self.meter.spend().refused == 1
        assert isinstance(error, Refused)
        _has_all_fields(error)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.details) == (type(error), str(error), error.details)
        return error


def _has_all_fields(error: Refused) -> None:
    assert error.agent == "searcher"
    if type(error) is BudgetExceeded:
        assert error.budget == "thimble"
        assert error.scope == "user=alice"
        assert error.limit == Decimal("0.000001")
        assert (error.spent, error.held) == (0, 0)
        assert isinstance(error.needed, Decimal)
        assert error.needed > error.limit
        assert error.resets_at is not None
        assert "'thimble' (user=alice)" in str(error)
        assert {"team": "support", "run": "r1", "unit": "usd"}.items() <= error.details.items()
    elif type(error) is DepthExceeded:
        assert (error.depth, error.max_depth, error.path) == (2, 1, ("planner", "searcher"))
        assert "planner → searcher" in str(error)
    else:
        assert type(error) is UnpricedModel
        assert error.model == MODEL
        assert error.provider in ("openai", "azure.ai.openai", "anthropic")


REASONS: Mapping[str, Any] = {
    "budget": {"budgets": [Budget("$0.000001", per="day", scope="user", name="thimble")]},
    "depth": {"loops": LoopPolicy(max_depth=1)},
    "unpriced": {"budgets": [Budget("$5")], "prices": None},
}


@pytest.fixture(params=["wrap", "instrument"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=REASONS)
def refusing(provider: ScriptedProvider, request: pytest.FixtureRequest, how: str) -> Iterator[Refusing]:
    calls = CapturedCalls()
    options = {"prices": {MODEL: Price("1", "2")}} | REASONS[request.param]
    meter = Meter(**options, recorders=[calls])
    if how == "instrument":
        meter.instrument()
    yield Refusing(meter, calls, provider, request.param, how)
    meter.close()


@pytest.mark.parametrize("way", OPENAI)
async def test_openai(refusing: Refusing, kind: Kind, way: str) -> None:
    client = refusing.metered(kind.openai(refusing.provider.openai_url, max_retries=2))
    await refusing.refuses(lambda: OPENAI[way](client))


@pytest.mark.parametrize("way", ANTHROPIC)
async def test_anthropic(refusing: Refusing, kind: Kind, way: str) -> None:
    client = refusing.metered(kind.anthropic(refusing.provider.anthropic_url, max_retries=2))
    if way == "messages .parse()" and not hasattr(client.messages, "parse"):
        pytest.skip("this version has no messages.parse")
    await refusing.refuses(lambda: ANTHROPIC[way](client))


async def test_azure(refusing: Refusing, kind: Kind) -> None:
    client = refusing.metered(kind.azure(refusing.provider.url, max_retries=2))
    await refusing.refuses(lambda: of(client.chat.completions.create(**CHAT)))


@pytest.mark.skipif(OPENAI_MAJOR < 3, reason="the SDK before is built on httpx anyway")
async def test_openai_on_a_legacy_client(refusing: Refusing, kind: Kind) -> None:
    http = kind.http(httpx)
    client = refusing.metered(kind.openai(refusing.provider.openai_url, max_retries=2, http_client=http))
    await refusing.refuses(lambda: of(client.chat.completions.create(**CHAT)))


RAW: Mapping[str, Callable[[Any, str], Any]] = {
    "post": lambda c, url: of(c.post(url, json=CHAT)),
    "request": lambda c, url: of(c.request("POST", url, json=CHAT)),
    "stream": lambda c, url: _entered(c.stream("POST", url, json=CHAT | {"stream": True})),
    "send": lambda c, url: of(c.send(c.build_request("POST", url, json=CHAT))),
    "send streamed": lambda c, url: of(c.send(c.build_request("POST", url, json=CHAT), stream=True)),
}


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
@pytest.mark.parametrize("way", RAW)
async def test_raw_clients(refusing: Refusing, kind: Kind, library: Any, way: str) -> None:
    client = refusing.metered(kind.http(library))
    error = await refusing.refuses(lambda: RAW[way](client, refusing.provider.openai_url + "/chat/completions"))
    assert error.__cause__ is None


@pytest.mark.parametrize("how_again", ["wrap", "instrument"])
async def test_the_client_goes_on_after_a_refusal(provider: ScriptedProvider, kind: Kind, how_again: str) -> None:
    calls = CapturedCalls()
    with Meter([Budget("1 call", scope="agent")], recorders=[calls]) as meter:
        if how_again == "instrument":
            meter.instrument()
        for client, ask in (
            (kind.openai(provider.openai_url, max_retries=2), OPENAI["chat"]),
            (kind.anthropic(provider.anthropic_url, max_retries=2), ANTHROPIC["messages"]),
        ):
            if how_again == "wrap":
                meter.wrap(client)
            provider.wait_idle()
            before = provider.received
            for name in ("one", "two"):
                with meter.agent(name + type(client).__name__):
                    await ask(client)
                    assert type(await outcome_of(lambda: ask(client))) is BudgetExceeded  # noqa: B023 - awaited here
            assert provider.received == before + 2
    assert [row.status for row in calls] == ["ok", "refused"] * 4


async def test_an_sdk_s_own_errors_stay_its_own(provider: ScriptedProvider, kind: Kind) -> None:
    """A real 402, and one that looks like ours, are the SDK's errors as ever."""
    from tokenmeter.testing import Reply

    provider.reply = Reply("BudgetExceeded", status=402)
    with Meter([Budget("1 call")]) as meter:
        for client, ask in (
            (kind.openai(provider.openai_url), OPENAI["chat"]),
            (kind.anthropic(provider.anthropic_url), ANTHROPIC["messages"]),
        ):
            bare = await outcome_of(lambda: ask(client))  # noqa: B023 - awaited here
            meter.wrap(client)
            error = await outcome_of(lambda: ask(client))  # noqa: B023
            assert type(error) is type(bare)
            assert not isinstance(error, Refused)


async def test_a_cause_is_no_sdk_error(provider: ScriptedProvider, kind: Kind) -> None:
    """The caller's traceback speaks of the refusal, not of an HTTP 402 that never was."""
    with Meter([Budget("0 calls")]) as meter:
        client = meter.wrap(kind.openai(provider.openai_url, max_retries=2))
        error = await outcome_of(lambda: OPENAI["chat"](client))
    assert type(error) is BudgetExceeded
    assert error.__cause__ is None
    assert error.__context__ is None


async def test_how_long_a_warm_refusal_takes(provider: ScriptedProvider, kind: Kind) -> None:
    """A figure to read, not a limit that a busy machine could break."""
    with Meter([Budget("$0.000001")], prices={MODEL: Price("1", "2")}) as meter:
        version = f"openai {OPENAI_MAJOR}.x", f"anthropic {ANTHROPIC_MAJOR}.x"
        for name, client, ask in (
            (version[0], kind.openai(provider.openai_url, max_retries=2), OPENAI["chat"]),
            (version[0] + " stream", kind.openai(provider.openai_url, max_retries=2), OPENAI["chat streamed"]),
            (version[1], kind.anthropic(provider.anthropic_url, max_retries=2), ANTHROPIC["messages"]),
            (version[1] + " stream", kind.anthropic(provider.anthropic_url), ANTHROPIC["messages .stream()"]),
        ):
            meter.wrap(client)
            took = []
            for _ in range(120):
                start = time.perf_counter()
                with pytest.raises(BudgetExceeded):
                    await ask(client)
                took.append((time.perf_counter() - start) * 1e3)
            mode = "async" if kind.is_async else "sync"
            print(f"\n  warm refusal, {name:20} {mode:5} median {statistics.median(took[20:]):.2f} ms", end="")
    assert provider.received == 0
