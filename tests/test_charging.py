"""What a call comes to where its answer says more, or less, than one usage."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from tokenmeter import Budget, BudgetExceeded, Meter
from tokenmeter.testing import CapturedCalls

MESSAGES = "https://api.anthropic.com/v1/messages"
RESPONSES = "https://api.openai.com/v1/responses"


def call(meter: Meter, url: str, request: dict[str, Any], answer: dict[str, Any]) -> None:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json=answer))
    with meter.wrap(httpx2.Client(transport=transport)) as client:
        client.post(url, json=request)


def message(usage: dict[str, Any]) -> dict[str, Any]:
    said = {"id": "msg_1", "type": "message", "role": "assistant", "content": [{"type": "text", "text": "Yes."}]}
    return {**said, "model": "claude-opus-4-6", "stop_reason": "end_turn", "usage": usage}


ASKED = {"model": "claude-opus-4-6", "max_tokens": 100, "messages": [{"role": "user", "content": "Is it so?"}]}


def cost_of(usage: dict[str, Any], model: str = "claude-opus-4-6") -> Decimal:
    with Meter() as meter:
        call(meter, MESSAGES, {**ASKED, "model": model}, {**message(usage), "model": model})
        return meter.spend().usd


@pytest.mark.parametrize("advisor", ["claude-haiku-4-5", "a model of no price"])
def test_work_beside_the_usage_is_charged_at_its_own_price(calls: CapturedCalls, advisor: str) -> None:
    own = {"input_tokens": 220, "output_tokens": 8}
    compaction = {"type": "compaction", "input_tokens": 55_196, "output_tokens": 125}
    advice = {"type": "advisor_message", "model": advisor, "input_tokens": 2_529, "output_tokens": 38}
    listed = [{"type": "message", **own}, compaction, advice]
    with Meter([Budget("1m tokens", per="day"), Budget("$100", per="day")], recorders=[calls]) as meter:
        call(meter, MESSAGES, ASKED, message({**own, "iterations": listed}))
        tokens, money = meter.remaining()
        [row] = calls
        assert row.usage is not None
        assert (row.usage.input_tokens, row.usage.output_tokens, row.estimated) == (220, 8, False)
        assert tokens.spent == 220 + 8 + 55_196 + 125 + 2_529 + 38
        priced = "claude-haiku-4-5" if advisor == "claude-haiku-4-5" else "claude-opus-4-6"
        assert money.spent == meter.spend().usd == cost_of(own) + cost_of(compaction) + cost_of(advice, priced)


def needed(request: dict[str, Any]) -> int:
    """The tokens that are held for a request."""
    with Meter([Budget("1 tokens", per="call")]) as meter, pytest.raises(BudgetExceeded) as refused:
        call(meter, MESSAGES, request, message({"input_tokens": 1, "output_tokens": 1}))
    assert isinstance(refused.value.needed, int)
    return refused.value.needed


def test_a_compaction_has_room_in_the_hold() -> None:
    edits = {"edits": [{"type": "compact_20260112", "trigger": {"type": "input_tokens", "value": 50_000}}]}
    long = {**ASKED, "max_tokens": 4_000, "messages": [{"role": "user", "content": "Is it so? " * 6_000}]}
    assert needed({**long, "context_management": edits}) >= 2 * needed(long)  # its input and its output once more
    assert needed({**ASKED, "context_management": edits}) < 2 * needed(ASKED)  # too short to be compacted


def test_an_input_that_nobody_counted_is_estimated(calls: CapturedCalls) -> None:
    url = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent"
    request = {"contents": [{"role": "user", "parts": [{"text": "Is it so?"}]}]}
    said = {"content": {"role": "model", "parts": [{"text": "Yes."}]}, "finishReason": "STOP", "index": 0}
    usage = {"candidatesTokenCount": 23, "thoughtsTokenCount": 67}
    with Meter(recorders=[calls]) as meter:
        call(meter, url, request, {"candidates": [said], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"})
    [row] = calls
    assert row.usage is not None
    assert (row.status, row.estimated, row.usage.output_tokens) == ("ok", True, 23 + 67)
    assert row.usage.input_tokens is not None
    assert 0 < row.usage.input_tokens <= len(json.dumps(request)) + 100
    assert row.cost_nanos == row.usage.input_tokens * 300 + 90 * 2_500


def test_a_prompt_that_ollama_had_whole_is_none(calls: CapturedCalls) -> None:
    answer = {"model": "llama3", "message": {"role": "assistant", "content": "Yes."}, "done": True, "eval_count": 3}
    request = {"model": "llama3", "messages": [{"role": "user", "content": "Is it so?"}], "stream": False}
    with Meter(recorders=[calls]) as meter:
        call(meter, "http://localhost:11434/api/chat", request, answer)
    [row] = calls
    assert row.usage is not None
    assert (row.estimated, row.usage.counts) == (False, {"input_tokens": 0, "output_tokens": 3})


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_an_answer_made_in_the_background_is_worth_its_cap(calls: CapturedCalls, status: str) -> None:
    request = {"model": "gpt-5-mini", "input": "Is it so?", "background": True, "max_output_tokens": 3_000}
    answer: dict[str, Any] = {
        "id": "resp_1",
        "object": "response",
        "status": status,
        "model": "gpt-5-mini",
        "output": [],
        "usage": None,
    }
    with Meter(recorders=[calls]) as meter:
        call(meter, RESPONSES, request, answer)
    [row] = calls
    assert (row.status, row.estimated) == ("incomplete", True)
    assert row.usage is not None
    assert row.usage.output_tokens == 3_000
    assert row.usage.input_tokens is not None
    assert 0 < row.usage.input_tokens <= len(json.dumps(request)) + 100


def test_the_output_of_a_call_whose_input_nobody_counted_is_learned(calls: CapturedCalls) -> None:
    details = {"finish_reason": "eos_token", "generated_tokens": 7}
    request = {"inputs": "Is it so?", "parameters": {"max_new_tokens": 2_000, "details": True}}

    def answer(asked: httpx2.Request) -> httpx2.Response:
        if b"at last" in asked.content:
            raise httpx2.ReadTimeout("no answer")
        return httpx2.Response(200, json={"generated_text": "Yes.", "details": details})

    with Meter(recorders=[calls]) as meter, meter.wrap(httpx2.Client(transport=httpx2.MockTransport(answer))) as client:
        for _ in range(30):
            client.post("http://localhost/generate", json=request)
        with pytest.raises(httpx2.ReadTimeout):
            client.post("http://localhost/generate", json={**request, "inputs": "Is it so at last?"})
        meter.spend()
    usage = calls[-1].usage
    assert usage is not None
    assert (usage.output_tokens, usage.estimated) == (7, True)


def test_who_serves_a_model_is_charged_though_the_answer_does_not_name_it(calls: CapturedCalls) -> None:
    request = {"model": "openai/gpt-oss-120b:cerebras", "messages": ASKED["messages"]}
    usage = {"prompt_tokens": 1_000, "completion_tokens": 1_000, "total_tokens": 2_000}
    choice = {"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}
    answer = {"id": "c1", "model": "openai/gpt-oss-120b", "choices": [choice], "usage": usage}
    with Meter(recorders=[calls]) as meter:
        call(meter, "https://router.huggingface.co/v1/chat/completions", request, answer)
        call(meter, "https://router.huggingface.co/cerebras/v1/chat/completions", {**request, **answer}, answer)
    routed, direct = calls
    assert routed.cost_nanos == direct.cost_nanos
    assert routed.cost_nanos is not None


@pytest.mark.parametrize("said", ["It is so. " * 40, ""])
def test_an_answer_that_nobody_counted_is_estimated(calls: CapturedCalls, said: str) -> None:
    request = {"model": "gpt-5-mini", "messages": ASKED["messages"]}
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    answer = {"id": "c1", "model": "gpt-5-mini", "choices": [choice], "usage": {"prompt_tokens": 11}}
    with Meter(recorders=[calls]) as meter:
        call(meter, "https://api.openai.com/v1/chat/completions", request, answer)
    [row] = calls
    assert row.usage is not None
    assert (row.status, row.usage.input_tokens, row.estimated) == ("ok", 11, bool(said))
    assert len(said) // 8 <= (row.usage.output_tokens or 0) <= len(said)


@pytest.mark.parametrize("counted", [{"input_tokens": 0, "output_tokens": 0}, {"output_tokens": 0}, {}])
def test_zeros_at_the_beginning_of_a_stream_that_is_cut_are_no_input(
    calls: CapturedCalls, counted: dict[str, int]
) -> None:
    start = {"type": "message_start", "message": message(counted) | {"content": [], "stop_reason": None}}
    said = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Yes."}}
    body = "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in (start, said))
    answer = httpx2.Response(200, content=body.encode(), headers={"content-type": "text/event-stream"})
    request = {**ASKED, "stream": True, "messages": [{"role": "user", "content": "Is it so? " * 200}]}
    transport = httpx2.MockTransport(lambda _: answer)
    with Meter(recorders=[calls]) as meter, meter.wrap(httpx2.Client(transport=transport)) as client:
        client.post(MESSAGES, json=request)
    [row] = calls
    assert row.usage is not None
    assert (row.status, row.estimated) == ("incomplete", True)
    assert (row.usage.input_tokens or 0) > 200
