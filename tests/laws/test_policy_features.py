"""What a budget may do beside refusing, through real clients: a cheaper model, smaller holds, holds that grow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tokenmeter
from tokenmeter import Budget, Crossing, Meter, Price
from tokenmeter.budgets.memory import MemoryStore
from tokenmeter.testing import CapturedCalls, Reply, ScriptedProvider

PRICES = {
    "dear": Price(input="10", output="40"),
    "mid": Price(input="2", output="8"),
    "cheap": Price(input="1", output="4"),
}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(Reply("word " * 50, input_tokens=100, output_tokens=50)) as provider:
        yield provider


def ask(client: httpx2.Client, url: str, model: str = "dear", **more: object) -> httpx2.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50, **more}
    return client.post(url + "/chat/completions", json=body)


def test_a_cheaper_model_is_asked_where_the_budget_cannot_pay(provider: ScriptedProvider) -> None:
    exporter = InMemorySpanExporter()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    calls = CapturedCalls()
    chain = {"dear": "mid", "mid": "cheap"}
    # One dear call costs 0.003, its worst case a little more: two of them fit, then a mid one, then cheap ones.
    budget = Budget("$0.0100", on_exceed="downgrade", downgrade=chain, thresholds=(), wait_s=0)
    with (
        Meter([budget], prices=PRICES, recorders=[calls], tracer_provider=tracing) as meter,
        httpx2.Client() as client,
    ):
        meter.wrap(client)
        refused = False
        while not refused and provider.received < 100:
            try:
                assert ask(client, provider.openai_url).status_code == 200
            except tokenmeter.BudgetExceeded:
                refused = True
        sent = [request.model for request in provider.requests]
        rank = ["dear", "mid", "cheap"]
        assert sent[0] == "dear"
        assert set(sent) == set(rank)
        assert [rank.index(model or "") for model in sent] == sorted(rank.index(model or "") for model in sent)
        assert meter.spend().usd <= Decimal("0.01")
        rows = [row for row in calls if row.status == "ok"]
        assert [row.model for row in rows] == sent
        assert {row.downgraded_from for row in rows} == {None, "dear"}
        spans = [dict(span.attributes or {}) for span in exporter.get_finished_spans()]
        said = [span.get("tokenmeter.budget.downgraded_from") for span in spans if "error.type" not in span]
        assert said == [row.downgraded_from for row in rows]
        assert [span["gen_ai.request.model"] for span in spans if "error.type" not in span] == sent


def test_the_rest_of_a_downgraded_request_is_untouched(provider: ScriptedProvider) -> None:
    budget = Budget("$0.0009", on_exceed="downgrade", downgrade={"dear": "cheap"}, thresholds=(), wait_s=0)
    message = b'{"role":"user","content":"model: \\"dear\\""}'
    body = b'{ "temperature":0.5, "model" : "dear","messages":[' + message + b'],"max_tokens":50}'
    with Meter([budget], prices=PRICES) as meter, httpx2.Client() as client:
        meter.wrap(client)
        client.post(provider.openai_url + "/chat/completions", content=body)
    [request] = provider.requests
    assert request.body == body.replace(b': "dear","m', b': "cheap","m')


def to(address: str, client: httpx2.Client, body: dict[str, Any]) -> httpx2.Response:
    """As if the provider on loopback had this address."""
    return client.post(address, json={"messages": [{"role": "user", "content": "hi"}], "max_tokens": 50, **body})


def answering(calls: list[dict[str, Any]]) -> httpx2.MockTransport:
    def handler(request: httpx2.Request) -> httpx2.Response:
        calls.append(json.loads(request.content))
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        return httpx2.Response(200, json={"id": "x", "object": "chat.completion", "choices": [], "usage": usage})

    return httpx2.MockTransport(handler)


def test_a_model_that_stands_under_another_name_is_changed_there() -> None:
    budget = Budget("1 calls", on_exceed="downgrade", downgrade={"dear": "cheap"}, match={"model": "dear"}, wait_s=0)
    calls, sent = CapturedCalls(), list[dict[str, Any]]()
    with Meter([budget], prices=PRICES, recorders=[calls]) as meter:
        client = meter.wrap(httpx2.Client(transport=answering(sent)))
        for _ in range(3):
            to("https://us-south.ml.cloud.ibm.com/ml/v1/text/chat?version=1", client, {"model_id": "dear"})
    assert [each["model_id"] for each in sent] == [row.model for row in calls] == ["dear", "cheap", "cheap"]


def test_a_model_that_cant_be_changed_is_refused() -> None:
    budget = Budget("1 calls", on_exceed="downgrade", downgrade={"dear": "cheap"}, match={"model": "dear"}, wait_s=0)
    sent: list[dict[str, Any]] = []
    address = "https://generativelanguage.googleapis.com/v1beta/interactions"
    with Meter([budget], prices=PRICES) as meter:
        client = meter.wrap(httpx2.Client(transport=answering(sent)))
        client.post(address, json={"agent": "dear", "input": "hi"})
        with pytest.raises(tokenmeter.BudgetExceeded):
            client.post(address, json={"agent": "dear", "input": "hi"})
    assert len(sent) == 1


def test_a_downgrade_that_was_not_made_is_not_told() -> None:
    """The cheaper model has no price, so the call is given a smaller cap instead."""
    budget = Budget("$0.0200", on_exceed="downgrade", downgrade={"dear": "unheard of"}, thresholds=(), wait_s=0)
    calls, sent = CapturedCalls(), list[dict[str, Any]]()
    with Meter([budget], prices=PRICES, recorders=[calls]) as meter:
        client = meter.wrap(httpx2.Client(transport=answering(sent)))
        to("https://api.openai.com/v1/chat/completions", client, {"model": "dear", "max_tokens": None})
    assert [(row.model, row.downgraded_from) for row in calls] == [("dear", None)]
    assert sent[0]["model"] == "dear"
    assert 0 < sent[0]["max_tokens"] < 1_000


def test_expected_holds_let_more_calls_in_at_once(provider: ScriptedProvider) -> None:
    def through(hold: str) -> int:
        budget = Budget("$1.00", hold=hold, thresholds=(), wait_s=0)  # type: ignore[arg-type]

        async def main() -> int:
            with Meter([budget], prices=PRICES) as meter:
                async with meter.wrap(httpx2.AsyncClient(timeout=60)) as client:

                    async def one() -> int:
                        body = {"model": "cheap", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 25_000}
                        try:
                            answer = await client.post(provider.openai_url + "/chat/completions", json=body)
                        except tokenmeter.BudgetExceeded:
                            return 0
                        return int(answer.status_code == 200)

                    for _ in range(20):
                        assert await one() == 1
                    before = provider.received
                    provider.hold()
                    tasks = [asyncio.create_task(one()) for _ in range(40)]
                    while sum(task.done() for task in tasks) + provider.received - before < 40:
                        await asyncio.sleep(0.01)
                    provider.release()
                    found = sum(await asyncio.gather(*tasks))
                    assert meter.spend().usd <= Decimal("1.00")
                    if hold == "expected":
                        assert meter.overshoot().calls > 0
                        assert meter.overshoot().share <= 0.05
                    return found

        return asyncio.run(main())

    assert through("worst") < 12
    assert through("expected") == 40


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_begins_small_and_grows(is_async: bool) -> None:
    words = "word " * 3_000
    with ScriptedProvider(Reply(words, input_tokens=10, output_tokens=3_000, chunks=300)) as provider:
        budget = Budget("$1", extend_streams=True, thresholds=(), wait_s=0)
        with Meter([budget], prices=PRICES) as meter:
            held: list[Decimal | int] = []

            def look() -> None:
                [book] = meter.remaining()
                held.append(book.held)

            text = stream(meter, provider, is_async, look, max_tokens=20_000)
            assert text == words
            assert len(set(held)) >= 4  # doubled several times
            assert held == sorted(held)
            assert held[0] < held[-1]
            [book] = meter.remaining()
            assert book.held == 0
            assert book.spent == meter.spend().usd == (10 * Decimal(10) + 3_000 * Decimal(40)) / 1_000_000


@pytest.mark.parametrize("is_async", [False, True])
def test_an_extension_that_the_budget_refuses_ends_the_stream(is_async: bool) -> None:
    words = "word " * 3_000
    with ScriptedProvider(Reply(words, input_tokens=10, output_tokens=3_000, chunks=300)) as provider:
        calls = CapturedCalls()
        limit = Decimal("0.05")
        budget = Budget(f"${limit}", extend_streams=True, thresholds=(), wait_s=0)
        with Meter([budget], prices=PRICES, recorders=[calls]) as meter:
            seen: list[str] = []
            with pytest.raises(tokenmeter.BudgetExceeded) as caught:
                stream(meter, provider, is_async, lambda: None, seen, max_tokens=20_000)
            assert caught.value.limit == limit
            text = "".join(seen)
            assert text
            assert words.startswith(text)
            assert text != words
            [row] = calls
            assert (row.status, row.error_type, row.estimated) == ("incomplete", "BudgetExceeded", True)
            [book] = meter.remaining()
            assert (book.held, book.spent) == (0, meter.spend().usd)
            assert 0 < meter.spend().usd <= limit


@pytest.mark.parametrize("is_async", [False, True])
def test_a_fault_of_the_store_while_a_stream_grows_is_not_the_callers(
    is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adjust(*_: object) -> object:
        raise RuntimeError("a fault of our own")

    monkeypatch.setattr(MemoryStore, "adjust", adjust)
    words = "word " * 3_000
    reply, budget = Reply(words, input_tokens=10, output_tokens=3_000, chunks=300), Budget("$1", extend_streams=True)
    with ScriptedProvider(reply) as provider, Meter([budget], prices=PRICES) as meter:
        assert stream(meter, provider, is_async, lambda: None, max_tokens=20_000) == words
        [book] = meter.remaining()
        assert (book.held, book.spent) == (0, meter.spend().usd)


def stream(
    meter: Meter,
    provider: ScriptedProvider,
    is_async: bool,
    look: object,
    seen: list[str] | None = None,
    *,
    max_tokens: int,
) -> str:
    """The text of a stream as the caller gets it, chunk by chunk."""
    seen = [] if seen is None else seen
    body = {"model": "dear", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": max_tokens}
    url = provider.openai_url + "/chat/completions"

    def take(line: str) -> None:
        if line.startswith("data: {"):
            choices = json.loads(line[6:])["choices"]
            seen.append(choices[0]["delta"].get("content") or "" if choices else "")
            look()  # type: ignore[operator]

    async def main() -> None:
        async with (
            meter.wrap(httpx2.AsyncClient(timeout=60)) as client,
            client.stream("POST", url, json=body) as answer,
        ):
            async for line in answer.aiter_lines():
                take(line)

    if is_async:
        asyncio.run(main())
    else:
        with meter.wrap(httpx2.Client(timeout=60)) as client, client.stream("POST", url, json=body) as answer:
            for line in answer.iter_lines():
                take(line)
    return "".join(seen)


def test_each_threshold_is_told_once(provider: ScriptedProvider, caplog: pytest.LogCaptureFixture) -> None:
    crossings: list[Crossing] = []
    exporter = InMemorySpanExporter()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    budget = Budget("10 calls", name="ten")
    with (
        Meter([budget], on_threshold=crossings.append, tracer_provider=tracing) as meter,
        meter.wrap(httpx2.Client()) as client,
        caplog.at_level("INFO", logger="tokenmeter"),
    ):
        for _ in range(10):
            ask(client, provider.openai_url)
        with pytest.raises(tokenmeter.BudgetExceeded):
            ask(client, provider.openai_url)
    assert [(each.budget, each.percent, each.spent) for each in crossings] == [
        ("ten", 50, 5), ("ten", 80, 8), ("ten", 100, 10),
    ]  # fmt: skip
    assert [r.levelname for r in caplog.records if "'ten'" in r.message] == ["INFO", "WARNING", "WARNING"]
    events = [event for span in exporter.get_finished_spans() for event in span.events]
    assert [(event.name, dict(event.attributes or {})["tokenmeter.budget.percent"]) for event in events] == [
        ("tokenmeter.budget.threshold", percent) for percent in (50.0, 80.0, 100.0)
    ]


def test_a_broken_listener_is_the_listeners_own_trouble(provider: ScriptedProvider) -> None:
    def broken(crossing: Crossing) -> None:
        raise ZeroDivisionError

    with Meter([Budget("1 calls")], on_threshold=broken) as meter, meter.wrap(httpx2.Client()) as client:
        assert ask(client, provider.openai_url).status_code == 200
        assert meter.spend().calls == 1
