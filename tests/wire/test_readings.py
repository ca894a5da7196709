"""What else responses say: model, id, reasons, tiers, failures; and bodies whose content type lies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tokenmeter import wire
from tokenmeter.wire.jsonpick import EACH, TAKE, WEIGH, Picker

OPENAI = ("api.openai.com", "/v1/chat/completions")
RESPONSES = ("api.openai.com", "/v1/responses")
MESSAGES = ("api.anthropic.com", "/v1/messages")
GEMINI = ("generativelanguage.googleapis.com", "/v1beta/models/g:streamGenerateContent")
INVOKE = ("bedrock-runtime.us-east-1.amazonaws.com", "/model/m/invoke")
CONVERSE = ("bedrock-runtime.us-east-1.amazonaws.com", "/model/m/converse")


def read(where: tuple[str, str], body: Any, content_type: str | None = "application/json") -> wire.Reading:
    route = wire.recognise("POST", *where)
    assert route is not None
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    whole = wire.read_body(route, sent, content_type)
    reader = wire.reader(route, content_type, stream=content_type != "application/json")
    for at in range(0, len(sent), 5):
        reader.feed(sent[at : at + 5])
    assert reader.finish() == (b"", whole)
    return whole


def counted(reading: wire.Reading) -> dict[str, int]:
    assert reading.usage is not None
    return dict(reading.usage.counts)


def test_a_chat_completion() -> None:
    choices = [
        {"index": 0, "message": {"content": "hé"}, "finish_reason": "stop"},
        {"index": 1, "message": {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}},
    ]
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    found = read(OPENAI, {"id": "c1", "model": "gpt-5", "service_tier": "flex", "choices": choices, "usage": usage})
    assert (found.response_id, found.model, found.finish_reasons) == ("c1", "gpt-5", ("stop",))
    assert (found.price_context, found.complete, found.failed) == ({"service_tier": "flex"}, True, None)
    assert found.output_bytes == 3 + 3


def test_anthropic_merges_what_is_cumulative() -> None:
    start = {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1, "service_tier": "standard"}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "m1", "model": "claude-opus-4-5", "usage": start}},
        {"type": "ping"},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}},
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 9, "input_tokens": 0}},
        {"type": "message_stop"},
    ]
    body = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).encode()
    found = read(MESSAGES, body, "text/event-stream")
    assert counted(found) == {"input_tokens": 15, "cache_read_tokens": 5, "output_tokens": 9}
    assert (found.finish_reasons, found.complete) == (("tool_use",), True)
    assert found.price_context == {"service_tier": "standard"}
    events[2]["usage"]["input_tokens"] = 30
    body = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).encode()
    assert counted(read(MESSAGES, body, "text/event-stream"))["input_tokens"] == 35


def events(*each: dict[str, Any]) -> bytes:
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in each).encode()


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        (  # told apart only at the end
            {"input_tokens": 100, "cache_read_input_tokens": 900},
            {"input_tokens": 1000, "cache_read_tokens": 900, "output_tokens": 9},
        ),
        (  # zeros tell nothing
            {"input_tokens": 0, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0},
            {"input_tokens": 1200, "cache_read_tokens": 0, "cache_write_tokens": 0, "output_tokens": 9},
        ),
    ],
)
def test_an_input_that_is_told_apart_late_is_counted_once(late: dict[str, int], expected: dict[str, int]) -> None:
    body = events(
        {"type": "message_start", "message": {"usage": {"input_tokens": 1200, "output_tokens": 1}}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {**late, "output_tokens": 9}},
        {"type": "message_stop"},
    )
    assert counted(read(MESSAGES, body, "text/event-stream")) == expected


ITERATIONS: list[Any] = [
    {"type": "compaction", "input_tokens": 55196, "output_tokens": 125, "cache_read_input_tokens": 4},
    {"type": "message", "input_tokens": 220, "output_tokens": 8},
    {"type": "advisor_message", "model": "claude-opus-4-8", "input_tokens": 2529, "output_tokens": 38},
    {"type": "fallback_message", "input_tokens": 220, "output_tokens": 8},
    {"type": "compaction"},
    {"type": []},
    None,
]
BESIDE = [
    (None, {"input_tokens": 55200, "output_tokens": 125, "cache_read_tokens": 4}),
    ("claude-opus-4-8", {"input_tokens": 2529, "output_tokens": 38}),
]


@pytest.mark.parametrize("where", [MESSAGES, INVOKE, ("localhost", "/v1/messages")])
def test_what_is_billed_beside_a_message_is_told_apart(where: tuple[str, str]) -> None:
    usage = {"input_tokens": 220, "output_tokens": 8, "iterations": ITERATIONS}
    body = events(
        {"type": "message_start", "message": {"usage": {"input_tokens": 220, "output_tokens": 1}}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    )
    whole = read(where, {"type": "message", "content": [], "stop_reason": "end_turn", "usage": usage})
    for found in (whole, read(where, body, "text/event-stream")):
        assert counted(found) == {"input_tokens": 220, "output_tokens": 8}
        assert [(each.model, dict(each.usage.counts)) for each in found.beside] == BESIDE
    others: tuple[Any, ...] = (None, 7, {}, [], ITERATIONS[1:2])
    for other in others:
        assert read(where, {"type": "message", "usage": {**usage, "iterations": other}}).beside == ()


@pytest.mark.parametrize("where", [MESSAGES, INVOKE])
@pytest.mark.parametrize(("read_tokens", "written"), [(55_096, 0), (0, 55_096), (0, 0)])
def test_a_stream_that_begins_with_a_compaction(where: tuple[str, str], read_tokens: int, written: int) -> None:
    first: dict[str, Any] = {"input_tokens": 100, "cache_read_input_tokens": read_tokens}
    first |= {"cache_creation_input_tokens": written}
    first |= {"cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": written}}
    own = {"input_tokens": 81, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0, "output_tokens": 8}
    passes = [{"type": "compaction", **first, "output_tokens": 83}, {"type": "message", **own}]
    body = events(
        {"type": "message_start", "message": {"usage": {**first, "output_tokens": 7}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "compaction_delta", "content": "They said so."}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Yes."}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {**own, "iterations": passes}},
        {"type": "message_stop"},
    )
    found = read(where, body, "text/event-stream")
    none = {"cache_read_tokens": 0, "cache_write_tokens": 0}
    assert {name: count for name, count in counted(found).items() if count or name in none} == {
        "input_tokens": 81,
        "output_tokens": 8,
        **none,
    }
    assert found.output_bytes == len("They said so.Yes.")
    [beside] = found.beside
    assert (beside.usage.input_tokens, beside.usage.output_tokens) == (100 + read_tokens + written, 83)
    assert beside.usage.counts.get("cache_write_1h_tokens") == written


def test_a_later_usage_that_tells_its_passes_keeps_how_long_was_cached() -> None:
    written = {"cache_creation_input_tokens": 50}
    kept = {"cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 50}}
    own = {"input_tokens": 10, "output_tokens": 8, **written}
    body = events(
        {"type": "message_start", "message": {"usage": {"input_tokens": 10, **written, **kept}}},
        {"type": "message_delta", "delta": {}, "usage": {**own, "iterations": [{"type": "message", **own}]}},
        {"type": "message_stop"},
    )
    assert counted(read(MESSAGES, body, "text/event-stream"))["cache_write_1h_tokens"] == 50


PICTURES = {
    "input_tokens": 171,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 171},
    "output_tokens": 1756,
    "output_tokens_details": {"image_tokens": 1756, "text_tokens": 0},
    "total_tokens": 1927,
}
NO_PICTURES = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
SEARCHES: list[Any] = [
    {"type": "web_search_call", "action": {"type": "search", "query": "q"}},
    {"type": "web_search_call", "action": {"type": "open_page", "url": "u"}},
    {"type": "web_search_call"},
    {"type": "file_search_call", "queries": ["q"]},
]


@pytest.mark.parametrize("padding", ["", "A" * 300_000])
@pytest.mark.parametrize(
    ("tool_usage", "searches", "beside"),
    [
        (
            {"image_gen": PICTURES, "web_search": {"num_requests": 3}},
            {"web_searches": 3, "storage_searches": 1},
            [("gpt-image-1", 171, 1756)],
        ),
        ({"image_gen": NO_PICTURES, "web_search": {"num_requests": 0}}, {"storage_searches": 1}, []),
        (None, {"web_searches": 2, "storage_searches": 1}, []),  # the calls are all there is to count
        ("?", {"web_searches": 2, "storage_searches": 1}, []),
    ],
)
def test_what_tools_of_a_response_cost_stands_beside_its_usage(
    tool_usage: Any, searches: dict[str, int], beside: list[tuple[str, int, int]], padding: str
) -> None:
    response = {
        "id": "r1",
        "status": "completed",
        "output": [{"type": "image_generation_call", "result": padding}, *SEARCHES],
        "tools": [{"type": "web_search"}, {"type": "image_generation", "model": "gpt-image-1"}],
        "tool_usage": tool_usage,
        "usage": {"input_tokens": 9, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1}},
    }
    begun = {**response, "status": "in_progress", "output": [], "usage": None, "tool_usage": None}
    stream = events(
        {"type": "response.created", "response": begun}, {"type": "response.completed", "response": response}
    )
    for found in (read(RESPONSES, response), read(RESPONSES, stream, "text/event-stream")):
        assert counted(found) == {"input_tokens": 9, "output_tokens": 2, "output_reasoning_tokens": 1, **searches}
        assert [(each.model, each.usage.input_tokens, each.usage.output_tokens) for each in found.beside] == beside


@pytest.mark.parametrize("broken", [{"output": 7}, {"output": [7]}, {"tools": "t"}, {"tools": [{"type": []}]}])
def test_broken_tools_of_a_response_lose_no_usage(broken: dict[str, Any]) -> None:
    usage = {"input_tokens": 9, "output_tokens": 2}
    found = read(RESPONSES, {"status": "completed", "tool_usage": {"image_gen": PICTURES}, "usage": usage, **broken})
    assert counted(found) == usage
    assert [each.model for each in found.beside] == [None]


@pytest.mark.parametrize(("said", "beside"), [(30, [("claude-fable-5", 408, 30)]), (0, [])])
def test_what_a_declined_model_had_said_is_billed_beside_the_answer(said: int, beside: list[Any]) -> None:
    passes = [
        {"type": "message", "model": "claude-fable-5", "input_tokens": 408, "output_tokens": said},
        {"type": "message", "model": "claude-opus-4-8", "input_tokens": 200, "output_tokens": 64},
        {"type": "message", "input_tokens": 1, "output_tokens": 1},
        {"type": "fallback_message", "model": "claude-opus-4-8", "input_tokens": 212, "output_tokens": 200},
    ]
    usage = {"input_tokens": 412, "output_tokens": 264, "iterations": passes}
    stream = events(
        {"type": "message_start", "message": {"model": "claude-fable-5", "usage": {"input_tokens": 408}}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    )
    whole = read(MESSAGES, {"type": "message", "model": "claude-opus-4-8", "stop_reason": "end_turn", "usage": usage})
    for found in (whole, read(MESSAGES, stream, "text/event-stream")):
        assert (found.model, counted(found)) == ("claude-opus-4-8", {"input_tokens": 412, "output_tokens": 264})
        assert [(each.model, each.usage.input_tokens, each.usage.output_tokens) for each in found.beside] == beside


def test_chunks_of_writer_that_are_nothing_but_text() -> None:
    body = "".join(f"data: {json.dumps({'value': text})}\n\n\n" for text in ("Sure", ", it's", " so."))
    found = read(("api.writer.com", "/v1/completions"), body.encode(), "text/event-stream")
    assert (found.usage, found.output_bytes, found.complete) == (None, len("Sure, it's so."), False)


def test_gemini_counts_what_the_last_total_says() -> None:
    def event(**usage: Any) -> str:
        return "data: " + json.dumps({"usageMetadata": usage}) + "\r\n\r\n"

    first = event(promptTokenCount=9, candidatesTokenCount=21, totalTokenCount=30)
    last = json.dumps(
        {
            "candidates": [{"finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 87, "thoughtsTokenCount": 78, "totalTokenCount": 165},
        }
    )
    ended = read(GEMINI, (first + f"data: {last}\r\n\r\n").encode(), "text/event-stream")
    assert counted(ended) == {"input_tokens": 87, "output_tokens": 78, "output_reasoning_tokens": 78}
    # cut: the last value of every field; and a chunk that carries no counter takes none away
    cut = (first + event(promptTokenCount=9, totalTokenCount=9) + event(trafficType="ON_DEMAND_FLEX")).encode()
    found = read(GEMINI, cut, "text/event-stream")
    assert counted(found) == {"input_tokens": 9, "output_tokens": 21}
    assert (found.complete, found.price_context) == (False, {"service_tier": "flex"})


@pytest.mark.parametrize(
    ("where", "content_type", "body", "failed"),
    [
        (OPENAI, "application/json", b'{"error":{"type":"server_error","message":"x"}}', "server_error"),
        (OPENAI, "text/event-stream", b'data: {"error":{"code":429}}\n\ndata: [DONE]\n\n', "429"),
        (OPENAI, "text/event-stream", b'event: error\ndata: {"message":"x"}\n\n', "error"),
        (OPENAI, "text/event-stream", b'{\n "error": {"type": "overloaded"}\n}', "overloaded"),
        (
            MESSAGES,
            "text/event-stream",
            b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n',
            "overloaded_error",
        ),
        (
            RESPONSES,
            "text/event-stream",
            b'data: {"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded"}}}\n\n',
            "rate_limit_exceeded",
        ),
        (RESPONSES, "application/json", b'{"id":"r","status":"failed","error":null}', "failed"),
        (GEMINI, "text/event-stream", b'data: {"error":{"code":503,"status":"UNAVAILABLE"}}\n\n', "503"),
        (("localhost", "/api/chat"), "application/x-ndjson", b'{"error":"model failed"}\n', "error"),
    ],
)
def test_failures_within_a_success(where: tuple[str, str], content_type: str, body: bytes, failed: str) -> None:
    assert read(where, body, content_type).failed == failed


def test_an_incomplete_response_has_not_failed() -> None:
    response = {
        "id": "r1",
        "model": "gpt-5",
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "usage": {"input_tokens": 4, "output_tokens": 5},
    }
    event = b"data: " + json.dumps({"type": "response.incomplete", "response": response}).encode() + b"\n\n"
    for body, kind in ((event, "text/event-stream"), (json.dumps(response).encode(), "application/json")):
        found = read(RESPONSES, body, kind)
        assert (found.failed, found.complete, found.finish_reasons) == (None, True, ("max_output_tokens",))
        assert counted(found) == {"input_tokens": 4, "output_tokens": 5}


@pytest.mark.parametrize("content_type", [None, "", "application/json", "text/plain", "application/octet-stream"])
def test_a_lying_content_type(content_type: str | None) -> None:
    usage = b'"usage":{"prompt_tokens":3,"completion_tokens":4}'
    stream = b'data: {"choices":[{"finish_reason":"stop"}],' + usage + b"}\n\ndata: [DONE]\n\n"
    whole = b'\n {"choices":[],' + usage + b"}"
    for body in (stream, whole, b"\xef\xbb\xbf" + whole):
        assert counted(read(OPENAI, body, content_type)) == {"input_tokens": 3, "output_tokens": 4}


def test_data_over_several_lines_and_garbage_before_an_event() -> None:
    body = b': hi\nid: 1\ndata: {"choices":[],\ndata: "usage":{"prompt_tokens":3,\ndata:"completion_tokens":4}}\n\n'
    assert counted(read(OPENAI, body, "text/event-stream")) == {"input_tokens": 3, "output_tokens": 4}
    body = b'\x00\xffdata: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
    assert counted(read(OPENAI, body, "text/event-stream")) == {"input_tokens": 3, "output_tokens": 4}


CHUNKS: list[dict[str, Any]] = [
    {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": {"content": "Hi"}}]},
    {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"id": "c1", "model": "m", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 6}},
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("times", [1, 4_000])
def test_events_that_no_blank_line_parts(end: str, times: int) -> None:
    lines = [f"data: {json.dumps(chunk)}{end}" for chunk in (*CHUNKS[:1] * times, *CHUNKS[1:])]
    found = read(OPENAI, "".join((*lines, "data: [DONE]", end)).encode(), "text/event-stream")
    assert counted(found) == {"input_tokens": 5, "output_tokens": 6}
    assert (found.model, found.finish_reasons, found.complete) == ("m", ("stop",), True)
    assert found.output_bytes == 2 * times


FAULTY = [
    b'{"model":"m","choices":[{"index":0,"delta":{"content":"\\ud83d"},"finish_reason":"stop"}],"usage":%s}',
    b'{"model":"m","choices":[{"index":0,"delta":{"content":"a\tb"},"finish_reason":"stop"}],"usage":%s}',
    b'{"model":"m","choices":[{"index":0,"delta":{"content":"a\xff"},"finish_reason":"stop"}],"usage":%s}',
    b'{"model":"m","choices":[{"index":0,"logprobs":[-Infinity,NaN],"finish_reason":"stop"}],"usage":%s}',
]


@pytest.mark.parametrize("faulty", FAULTY)
@pytest.mark.parametrize("kind", ["text/event-stream", "application/x-ndjson", "application/json"])
@pytest.mark.parametrize("more", [b"", b',"rate":NaN', b',"rates":[-Infinity, Infinity]', b',"at":{"rate": NaN}'])
def test_what_is_no_json_loses_no_usage(faulty: bytes, kind: str, more: bytes) -> None:
    """Half a surrogate pair, a bare control character, bytes that are no UTF-8, and numbers that are none."""
    body = faulty % (b'{"prompt_tokens":5%s,"completion_tokens":6}' % more)
    found = read(OPENAI, b"data: %s\n\n" % body if kind == "text/event-stream" else body + b"\n", kind)
    assert counted(found) == {"input_tokens": 5, "output_tokens": 6}
    assert found.model == "m"


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (5, 6)),
        ({"prompt_tokens": None, "completion_tokens": 7}, (5, 7)),
        ({"completion_tokens": 7}, (5, 7)),
        ({"prompt_tokens": 4, "completion_tokens": 7}, (4, 7)),
    ],
)
def test_a_later_usage_of_a_chat_takes_away_no_input(late: dict[str, Any], expected: tuple[int, int]) -> None:
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in (*CHUNKS, {**CHUNKS[2], "usage": late}))
    found = counted(read(OPENAI, body.encode(), "text/event-stream"))
    assert (found["input_tokens"], found["output_tokens"]) == expected


def test_groq_reports_in_a_place_of_its_own() -> None:
    body = b'data: {"choices":[],"x_groq":{"id":"r","usage":{"prompt_tokens":3,"completion_tokens":4}}}\n\n'
    where = ("api.groq.com", "/openai/v1/chat/completions")
    assert counted(read(where, body, "text/event-stream")) == {"input_tokens": 3, "output_tokens": 4}


def test_moonshot_reports_in_the_last_choice() -> None:
    usage = {"prompt_tokens": 19, "completion_tokens": 13, "total_tokens": 32}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}]}
    body = f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode()
    where = ("api.moonshot.ai", "/v1/chat/completions")
    assert counted(read(where, body, "text/event-stream")) == {"input_tokens": 19, "output_tokens": 13}
    route = wire.recognise("POST", *where)
    assert route is not None
    reader = wire.reader(route, "text/event-stream", stream=True, hide_usage=True)
    assert reader.feed(body) + reader.finish()[0] == body  # not asked for, so not hidden
    own: dict[str, Any] = {**last, "usage": {**usage, "prompt_tokens": 20}}
    body = f"data: {json.dumps(own)}\n\ndata: [DONE]\n\n".encode()
    assert counted(read(where, body, "text/event-stream")) == {"input_tokens": 20, "output_tokens": 13}


def said_so_far() -> dict[str, tuple[tuple[str, str], str, bytes]]:
    """Streams that tell their usage on the way, and why they end in the last event before it."""
    grown = [{"prompt_tokens": 9, "completion_tokens": count} for count in (1, 7)]
    chat = [
        {"choices": [{"index": 0, "delta": {"content": "Hi"}}], "usage": grown[0]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": grown[1]},
    ]
    counts = [{"promptTokenCount": 9, "candidatesTokenCount": count, "totalTokenCount": 9 + count} for count in (1, 7)]
    gemini: list[dict[str, Any]] = [
        {"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "index": 0}], "usageMetadata": counts[0]},
        {"candidates": [{"finishReason": "STOP", "index": 0}], "usageMetadata": counts[1]},
    ]
    ollama = [
        {"message": {"content": "Hi"}},
        {"done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 7},
    ]
    lines = "".join(f"{json.dumps(line)}\n" for line in ollama).encode()
    return {
        "sse": (OPENAI, "text/event-stream", "".join(f"data: {json.dumps(each)}\n\n" for each in chat).encode()),
        "sse, by the line": (
            OPENAI,
            "text/event-stream",
            "".join(f"data: {json.dumps(each)}\n" for each in chat).encode(),
        ),
        "array": (GEMINI, "application/json", json.dumps(gemini).encode()),
        "lines": (("localhost", "/api/chat"), "application/x-ndjson", lines),
    }


@pytest.mark.parametrize("name", said_so_far())
def test_a_stream_that_is_cut_in_an_event_did_not_end_with_it(name: str) -> None:
    where, kind, body = said_so_far()[name]
    route = wire.recognise("POST", *where)
    assert route is not None
    for at in range(len(body)):
        found = wire.read_body(route, body[:at], kind)
        usage = found.usage.counts if found.usage is not None else {}
        assert usage.get("output_tokens") == 7 or not (found.complete or found.finish_reasons), at
    assert counted(wire.read_body(route, body, kind)) == {"input_tokens": 9, "output_tokens": 7}


def test_unexpected_shapes_lose_no_usage() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    shapes: tuple[object, ...] = ("x", [1], {"0": {}}, [{"delta": "x"}], None)
    for choices in shapes:
        body = {"id": 7, "model": ["m"], "choices": choices, "usage": usage}
        assert counted(read(OPENAI, body)) == {"input_tokens": 3, "output_tokens": 4}


def test_a_truncated_body_gives_what_came() -> None:
    whole = b'{"usage":{"prompt_tokens":3,"completion_tokens":4},"choices":[{"message":{"content":"abc'
    found = read(OPENAI, whole)
    assert counted(found) == {"input_tokens": 3, "output_tokens": 4}
    assert not found.complete


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"inputTextTokenCount": 5, "results": [{"tokenCount": 6, "completionReason": "FINISH"}]}, (5, 6)),
        ({"generation": "x", "prompt_token_count": 7, "generation_token_count": 8, "stop_reason": "length"}, (7, 8)),
        ({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 10}}, (9, 10)),
        ({"type": "message", "content": [], "usage": {"input_tokens": 11, "output_tokens": 12}}, (11, 12)),
        ({"output": {}, "stopReason": "x", "usage": {"inputTokens": 13, "outputTokens": 14}}, (13, 14)),
    ],
)
def test_invoke_speaks_every_models_language(body: dict[str, Any], expected: tuple[int, int]) -> None:
    found = read(INVOKE, body)
    assert counted(found)["input_tokens"] == expected[0]
    assert counted(found)["output_tokens"] == expected[1]


def test_converse_reports_what_the_cache_wrote() -> None:
    usage = {
        "inputTokens": 3,
        "outputTokens": 2,
        "cacheWriteInputTokens": 10,
        "cacheDetails": [{"ttl": "1h", "inputTokens": 10}],
    }
    found = read(CONVERSE, {"stopReason": "end_turn", "usage": usage, "output": {"message": {"content": []}}})
    assert counted(found) == {
        "input_tokens": 13,
        "output_tokens": 2,
        "cache_write_tokens": 10,
        "cache_write_1h_tokens": 10,
    }


NOVA = {"inputTokens": 10, "outputTokens": 7, "cacheReadInputTokenCount": 20, "cacheWriteInputTokenCount": 5}


@pytest.mark.parametrize("where", [INVOKE, CONVERSE])
@pytest.mark.parametrize("more", [{}, {"cacheReadInputTokens": 20, "cacheWriteInputTokens": 5}])
def test_nova_names_what_was_cached_in_its_own_way(where: tuple[str, str], more: dict[str, int]) -> None:
    expected = {"input_tokens": 35, "output_tokens": 7, "cache_read_tokens": 20, "cache_write_tokens": 5}
    assert counted(read(where, {"output": {}, "stopReason": "end_turn", "usage": {**NOVA, **more}})) == expected


@pytest.mark.parametrize(
    ("model", "tokens_in", "expected"),
    [
        ("us.openai.gpt-5", 35, 35),  # the whole input
        ("openai.gpt-oss-120b", 10, 35),  # less than was cached: it stands apart
        ("anthropic.claude", 35, 60),
    ],
)
def test_openai_on_converse_counts_the_whole_input(model: str, tokens_in: int, expected: int) -> None:
    usage = {"inputTokens": tokens_in, "outputTokens": 7, "cacheReadInputTokens": 20, "cacheWriteInputTokens": 5}
    found = read((CONVERSE[0], f"/model/{model}/converse"), {"stopReason": "end_turn", "usage": usage})
    assert counted(found) == {
        "input_tokens": expected,
        "output_tokens": 7,
        "cache_read_tokens": 20,
        "cache_write_tokens": 5,
    }


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_response_in_the_background_is_not_complete(status: str) -> None:
    pending: dict[str, Any] = {"id": "r1", "model": "gpt-5", "status": status, "usage": None, "output": []}
    assert not read(RESPONSES, pending).complete
    assert read(RESPONSES, {**pending, "status": "completed"}).complete
    body = events({"type": "response.queued", "response": pending}, {"type": "response.completed", "response": pending})
    assert read(RESPONSES, body, "text/event-stream").complete


AUDIO = ("api.openai.com", "/v1/audio/transcriptions")


def test_transcripts_without_a_usage() -> None:
    assert counted(read(AUDIO, {"task": "transcribe", "duration": "8.47", "text": "hi"})) == {"audio_seconds": 9}
    assert counted(read(AUDIO, {"duration": 8.47, "text": "hi"})) == {"audio_seconds": 9}
    reported = {"type": "duration", "seconds": 9}
    assert counted(read(AUDIO, {"duration": 8.1, "usage": {**reported, "seconds": 10}})) == {"audio_seconds": 10}
    assert read(AUDIO, {"duration": "long", "text": "hi"}).usage is None
    assert read(("api.openai.com", "/v1/images/edits"), {"duration": 8.47}).usage is None


@pytest.mark.parametrize("content_type", ["text/plain; charset=utf-8", "text/vtt"])
@pytest.mark.parametrize("body", [b"Hello", b"indeed, she said", b"WEBVTT\n\n00:00.000 --> 00:01.000\nHi"])
def test_a_transcript_as_text_is_complete(content_type: str, body: bytes) -> None:
    found = read(AUDIO, body, content_type)
    assert (found.usage, found.complete, found.output_bytes) == (None, True, len(body))


INTERACTIONS = ("generativelanguage.googleapis.com", "/v1beta/interactions")
THOUGHT = {"total_input_tokens": 9, "total_output_tokens": 13, "total_thought_tokens": 203, "total_cached_tokens": 4}


def test_an_interaction() -> None:
    interaction = {
        "id": "v1_1",
        "model": "gemini-3",
        "status": "completed",
        "service_tier": "flex",
        "usage": {**THOUGHT, "total_tool_use_tokens": 2, "total_tokens": 227},
        "steps": [
            {"type": "user_input", "content": [{"type": "text", "text": "not generated"}]},
            {"type": "thought", "signature": "x", "summary": [{"type": "text", "text": "Hm"}]},
            {"type": "function_call", "name": "f", "arguments": {"a": 1}},
            {"type": "model_output", "content": [{"type": "text", "text": "hé"}]},
        ],
    }
    found = read(INTERACTIONS, interaction)
    assert counted(found) == {
        "input_tokens": 11,
        "output_tokens": 216,
        "cache_read_tokens": 4,
        "output_reasoning_tokens": 203,
        "input_tool_tokens": 2,
    }
    assert (found.response_id, found.model, found.finish_reasons) == ("v1_1", "gemini-3", ("completed",))
    assert (found.complete, found.price_context, found.output_bytes) == (True, {"service_tier": "flex"}, 2 + 7 + 3)
    background = read(INTERACTIONS, {"id": "v1_1", "status": "in_progress"})
    assert (background.complete, background.usage, background.finish_reasons) == (False, None, ())
    assert read(INTERACTIONS, {"id": "v1_1", "status": "failed"}).failed == "failed"


@pytest.mark.parametrize(
    ("model", "searches"),
    [("gemini-3.1-pro-preview", 2), ("gemini-2.5-flash", 1), ("gemini-2.0-flash", 1)],
)
def test_what_gemini_asked_google_is_counted(model: str, searches: int) -> None:
    queries = {"groundingMetadata": {"webSearchQueries": ["a", "", "b", "a", 7]}}
    said = {"content": {"parts": [{"text": "x"}]}}
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 7}
    end = {"candidates": [{**queries, "finishReason": "STOP"}], "usageMetadata": usage, "modelVersion": model}
    for body in (
        json.dumps(end).encode(),
        events({"candidates": [{**queries, **said}], "type": ""}, {"type": "", **end}),
    ):
        found = read(GEMINI, body, "application/json" if body[:1] == b"{" else "text/event-stream")
        assert counted(found) == {"input_tokens": 5, "output_tokens": 2, "web_searches": searches}
    nothing: tuple[Any, ...] = (
        None,
        7,
        [],
        {},
        {"webSearchQueries": None},
        {"webSearchQueries": 7},
        {"webSearchQueries": [""]},
    )
    for none in nothing:
        other = {**end, "candidates": [{"groundingMetadata": none, "finishReason": "STOP"}]}
        assert counted(read(GEMINI, other)) == {"input_tokens": 5, "output_tokens": 2}


def test_what_an_interaction_asked_google_is_counted() -> None:
    grounding = [{"type": "google_search", "count": 17}, {"type": "google_maps", "count": 2}, 7]
    usage = {"total_input_tokens": 9, "total_output_tokens": 5, "grounding_tool_count": grounding}
    found = read(INTERACTIONS, {"id": "v1_1", "status": "completed", "usage": usage})
    assert counted(found) == {"input_tokens": 9, "output_tokens": 5, "web_searches": 17}


def test_a_cut_interaction_has_what_was_counted_on_the_way() -> None:
    event = {"event_type": "step.stop", "metadata": {"usage": THOUGHT}}
    found = read(INTERACTIONS, f"event: step.stop\ndata: {json.dumps(event)}\n\n".encode(), "text/event-stream")
    assert counted(found)["output_tokens"] == 216
    assert not found.complete
    error = b'event: error\ndata: {"event_type":"error","error":{"code":"too_many_requests"}}\n\n'
    assert read(INTERACTIONS, error, "text/event-stream").failed == "too_many_requests"


def test_pictures_of_an_interaction_have_a_price_of_their_own() -> None:
    listed = [{"modality": "image", "tokens": 1120}, {"modality": "text", "tokens": 400}, None, {"modality": 3}]
    usage = {"total_input_tokens": 133, "total_output_tokens": 1567, "output_tokens_by_modality": listed}
    found = read(INTERACTIONS, {"status": "completed", "usage": usage})
    assert counted(found) == {"input_tokens": 133, "output_tokens": 1567, "output_image_tokens": 1120}


CONVERSATIONS = ("api.mistral.ai", "/v1/conversations/conv_1")


def test_a_conversation_with_connectors() -> None:
    usage = {"prompt_tokens": 188, "completion_tokens": 55, "total_tokens": 7355, "connector_tokens": 7112}
    outputs = [
        {"type": "tool.execution", "name": "web_search", "arguments": "{}"},
        {"type": "message.output", "model": "mistral-medium", "content": [{"type": "text", "text": "hé"}]},
        {"type": "message.output", "content": "yes"},
    ]
    body = {"object": "conversation.response", "conversation_id": "conv_1", "outputs": outputs, "usage": usage}
    found = read(CONVERSATIONS, body)
    assert counted(found) == {"input_tokens": 7300, "output_tokens": 55}
    assert (found.model, found.response_id, found.complete, found.output_bytes) == ("mistral-medium", "conv_1", True, 8)
    within = {**usage, "prompt_tokens": 7300}  # the total says that they are part of the prompt
    assert counted(read(CONVERSATIONS, {**body, "usage": within})) == {"input_tokens": 7300, "output_tokens": 55}
    error = events({"type": "conversation.response.error", "code": 3000, "message": "x"})
    assert read(CONVERSATIONS, error, "text/event-stream").failed == "3000"


@pytest.mark.parametrize(
    ("picture", "document", "expected"),
    [
        (None, None, {"input_document_pages": 29}),
        ("{}", None, {"input_document_pages": 29, "input_annotated_document_pages": 29}),
        (None, "{}", {"input_document_pages": 29, "input_annotated_document_pages": 29}),
    ],
)
def test_pages_that_are_read(picture: str | None, document: str | None, expected: dict[str, int]) -> None:
    images = [{"id": "i", "image_base64": "x" * 300_000, "image_annotation": picture}]
    pages = [{"index": 0, "markdown": "hey", "images": images}]
    info = {"pages_processed": 29, "doc_size_bytes": 4}
    body = {"model": "mistral-ocr-2512", "pages": pages, "document_annotation": document, "usage_info": info}
    found = read(("api.mistral.ai", "/v1/ocr"), body)
    assert counted(found) == expected
    assert (found.model, found.complete, found.output_bytes) == ("mistral-ocr-2512", True, 3)


WATSONX = "us-south.ml.cloud.ibm.com"


def test_watsonx() -> None:
    result = {"generated_text": "hé", "generated_token_count": 2, "input_token_count": 5, "stop_reason": "max_tokens"}
    found = read((WATSONX, "/ml/v1/text/generation"), {"model_id": "ibm/granite", "results": [result]})
    assert counted(found) == {"input_tokens": 5, "output_tokens": 2}
    assert (found.model, found.finish_reasons, found.output_bytes) == ("ibm/granite", ("max_tokens",), 3)
    for path, results in (("embeddings", [{"embedding": [0.1]}]), ("rerank", [{"index": 0, "score": 0.5}])):
        body = {"model_id": "m", "results": results, "input_token_count": 10}
        assert counted(read((WATSONX, f"/ml/v1/text/{path}"), body)) == {"input_tokens": 10}
    failed = read((WATSONX, "/ml/v1/text/generation"), {"errors": [{"code": "model_no_support"}]})
    assert failed.failed == "model_no_support"
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    chunk = {"model_id": "m", "choices": [{"index": 0, "finish_reason": "stop", "delta": {}}], "usage": usage}
    stream = f"id: 1\nevent: message\ndata: {json.dumps(chunk)}\n\n".encode()
    found = read((WATSONX, "/ml/v1/text/chat_stream"), stream, "text/event-stream")
    assert (counted(found), found.complete) == ({"input_tokens": 7, "output_tokens": 3}, True)


WORKERS = "/client/v4/accounts/a/ai/run/@cf/meta/llama-3"


DASHSCOPE = ("dashscope.aliyuncs.com", "/api/v1/services/aigc/text-generation/generation")


def test_dashscope() -> None:
    usage = {
        "input_tokens": 22,
        "output_tokens": 17,
        "total_tokens": 39,
        "output_tokens_details": {"reasoning_tokens": 5},
    }
    cached = {"prompt_tokens_details": {"cached_tokens": 8, "cache_creation_input_tokens": 2}}
    message = {"role": "assistant", "content": [{"text": "Hi"}], "reasoning_content": "Hm"}

    def answer(usage: dict[str, Any], reason: str) -> dict[str, Any]:
        return {
            "output": {"choices": [{"message": message, "finish_reason": reason}]},
            "usage": usage,
            "request_id": "r",
        }

    whole = read(DASHSCOPE, answer(usage | cached, "stop"))
    expected = {"input_tokens": 22, "output_tokens": 17, "output_reasoning_tokens": 5}
    assert counted(whole) == {**expected, "cache_read_tokens": 8, "cache_write_tokens": 2}
    assert (whole.response_id, whole.finish_reasons, whole.complete, whole.output_bytes) == ("r", ("stop",), True, 4)
    events = [answer({"input_tokens": 22, "output_tokens": 1}, "null"), answer(usage, "stop")]
    lines = [
        f"id:{at}\nevent:result\n:HTTP_STATUS/200\ndata:{json.dumps(event)}\n\n" for at, event in enumerate(events)
    ]
    stream = read(DASHSCOPE, "".join(lines).encode(), "text/event-stream;charset=UTF-8")
    assert counted(stream) == expected
    assert (stream.finish_reasons, stream.complete) == (("stop",), True)
    cut = read(DASHSCOPE, lines[0].encode(), "text/event-stream")
    assert (counted(cut), cut.complete) == ({"input_tokens": 22, "output_tokens": 1}, False)
    failed = read(DASHSCOPE, b'event:error\ndata:{"code":"InvalidParameter","message":"m"}\n\n', "text/event-stream")
    assert (failed.failed, failed.usage) == ("InvalidParameter", None)
    older = read(DASHSCOPE, {"output": {"text": "Hi", "finish_reason": "stop"}, "usage": [], "request_id": 7})
    assert (older.usage, older.output_bytes) == (None, 2)
    embed = ("dashscope-intl.aliyuncs.com", "/api/v1/services/embeddings/text-embedding/text-embedding")
    assert counted(read(embed, {"output": {"embeddings": [{"embedding": [0.1]}]}, "usage": {"total_tokens": 26}})) == {
        "input_tokens": 26
    }


@pytest.mark.parametrize("host", ["api.cloudflare.com", "gateway.ai.cloudflare.com"])
def test_workers_ai_answers_in_an_envelope(host: str) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    where = (host, WORKERS if host.startswith("api") else "/v1/a/g/workers-ai/@cf/meta/llama-3")
    found = read(where, {"result": {"response": "hé", "usage": usage}, "success": True, "errors": []})
    assert (counted(found), found.output_bytes) == ({"input_tokens": 7, "output_tokens": 3}, 3)
    choices = [{"index": 0, "message": {"content": "hé"}, "finish_reason": "stop"}]
    found = read(where, {"result": {"choices": choices, "usage": usage}, "success": True})
    assert (counted(found)["output_tokens"], found.output_bytes, found.finish_reasons) == (3, 3, ("stop",))
    assert read(where, {"result": {"shape": [1, 2], "data": [[0.1, 0.2]]}, "success": True}).usage is None
    assert read(where, {"success": False, "errors": [{"code": 5007, "message": "x"}]}).failed == "5007"


def test_servers_of_ones_own() -> None:
    answer = {"content": "hé", "stop": True, "stop_type": "limit", "tokens_evaluated": 9, "tokens_predicted": 4}
    found = read(("localhost", "/completion"), answer)
    assert (counted(found), found.finish_reasons) == ({"input_tokens": 9, "output_tokens": 4}, ("limit",))
    several = [{**answer, "index": 0}, {**answer, "index": 1}]
    assert counted(read(("localhost", "/completion"), several)) == {"input_tokens": 18, "output_tokens": 8}
    details = {"finish_reason": "length", "generated_tokens": 4, "prefill": [{"id": 1}, {"id": 2}]}
    found = read(("localhost", "/generate"), {"generated_text": "hé", "details": details})
    assert (counted(found), found.output_bytes) == ({"input_tokens": 2, "output_tokens": 4}, 3)
    found = read(("localhost", "/generate"), {"generated_text": "hé"})
    assert (found.usage, found.complete, found.output_bytes) == (None, True, 3)
    assert read(("localhost", "/generate"), {"error": "x", "error_type": "overloaded"}).failed == "overloaded"


def test_completions_from_before_messages_report_no_usage() -> None:
    where = ("api.anthropic.com", "/v1/complete")
    body = {"id": "compl_1", "model": "claude-2.1", "completion": " hé", "stop_reason": "stop_sequence"}
    found = read(where, body)
    assert (found.usage, found.complete, found.output_bytes, found.model) == (None, True, 4, "claude-2.1")
    pieces = events(
        {"type": "completion", "completion": " h", "stop_reason": None},
        {"type": "completion", "completion": "é", "stop_reason": "max_tokens"},
    )
    found = read(where, pieces, "text/event-stream")
    assert (found.complete, found.output_bytes, found.finish_reasons) == (True, 4, ("max_tokens",))


def test_vertex_embeddings_and_audio() -> None:
    path = "/v1/projects/p/locations/l/publishers/google/models/text-embedding-005:predict"
    body = {"predictions": [{"embeddings": {"values": [1.0], "statistics": {"token_count": 4.0}}}] * 2}
    assert counted(read(("l-aiplatform.googleapis.com", path), body)) == {"input_tokens": 8}
    usage = {"type": "tokens", "input_tokens": 14, "input_token_details": {"audio_tokens": 14}, "output_tokens": 9}
    audio = ("api.openai.com", "/v1/audio/transcriptions")
    assert counted(read(audio, {"text": "hi", "usage": usage})) == {
        "input_tokens": 14,
        "output_tokens": 9,
        "input_audio_tokens": 14,
    }
    spoken = read(("api.openai.com", "/v1/audio/speech"), b"ID3\x04" + b"\xff" * 999, "audio/mpeg")
    assert (spoken.usage, spoken.complete, spoken.body_bytes) == (None, True, 1_003)


@pytest.mark.parametrize(("text", "whole"), [(0, 300), (12, 312), (None, 300)])
def test_pictures_that_cohere_embeds_are_input(text: int | None, whole: int) -> None:
    for host, more in (("api.cohere.com", {}), ("localhost", {"input_image_tokens": 300})):
        billed = {"image_tokens": 300, "input_tokens": text}
        found = read((host, "/v2/embed"), {"id": "e", "embeddings": {}, "meta": {"billed_units": billed}})
        assert counted(found) == {"input_tokens": whole, **more}


@pytest.mark.parametrize("name", ["promptTokenDetails", "promptTokensDetails"])
def test_what_is_embedded_has_a_price_by_its_kind(name: str) -> None:
    details = [{"modality": "TEXT", "tokenCount": 42}, {"modality": "IMAGE", "tokenCount": 258}]
    where = ("generativelanguage.googleapis.com", "/v1beta/models/gemini-embedding-2:batchEmbedContents")
    found = read(where, {"embeddings": [{"values": [0.1]}], "usageMetadata": {"promptTokenCount": 300, name: details}})
    assert counted(found) == {"input_tokens": 300, "input_text_tokens": 42, "input_image_tokens": 258}


@pytest.mark.parametrize(
    ("where", "usage", "expected"),
    [
        (
            ("api.openai.com", "/v1/decisions"),
            {
                "input_tokens": 300,
                "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 4},
                "output_tokens": 2,
            },
            {"input_tokens": 300, "output_tokens": 2, "cache_read_tokens": 10, "cache_write_tokens": 4},
        ),
        (
            ("openrouter.ai", "/api/v1/systemone"),
            {"input_tokens": 300, "output_tokens": 2, "cost": 0.1},
            {"input_tokens": 300, "output_tokens": 2},
        ),
        (
            ("generativelanguage.googleapis.com", "/v1beta/decisions"),
            {"total_input_tokens": 300, "total_output_tokens": 0, "total_tokens": 300},
            {"input_tokens": 300, "output_tokens": 0},
        ),
    ],
)
def test_decisions(where: tuple[str, str], usage: dict[str, Any], expected: dict[str, int]) -> None:
    answers = [{"type": "choice", "choice": True, "confidence": 0.9, "probabilities": []}]
    found = read(where, {"answers": answers, "model": "m-1", "usage": usage})
    assert (counted(found), found.model, found.complete, found.failed) == (expected, "m-1", True, None)


def test_peeking_shows_what_came_so_far_and_disturbs_nothing() -> None:
    route = wire.recognise("POST", *MESSAGES)
    assert route is not None
    reader = wire.reader(route, "text/event-stream", stream=True)
    reader.feed(b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3,"out')
    assert reader.peek().usage is None
    reader.feed(
        b'put_tokens":1}}}\n\nevent: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":8}}\n\n'
    )
    assert counted(reader.peek()) == {"input_tokens": 3, "output_tokens": 8}
    assert not reader.peek().complete
    reader.feed(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert reader.peek().complete
    assert reader.finish()[1] == reader.peek()


@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize("body", [b"", b" \n", b'{"id":"a"}', b'data: {"id":"a","choices":[]}'])
def test_the_end_may_be_told_twice(body: bytes, hide: bool) -> None:
    route = wire.recognise("POST", *OPENAI)
    assert route is not None
    for content_type in (None, "text/event-stream", "application/json"):
        reader = wire.reader(route, content_type, stream=True, hide_usage=hide)
        seen = reader.feed(body)
        rest, reading = reader.finish()
        assert seen + rest == body
        assert reader.finish() == (b"", reading)


def test_the_picker_takes_only_what_is_wanted() -> None:
    found: list[tuple[bytes, int]] = []
    picker = Picker({"a": TAKE, "b": {EACH: {"c": TAKE, "d": WEIGH}}, "e": TAKE}, lambda s, w: found.append((s, w)))
    text = b' {"x":{"a":[1,"}"]},"a" : {"k":"\\"}"},"b":[{"c":1.5e3,"d":"four"},{"z":[]},3],"e":null,"a":nonsense} '
    for at in range(len(text)):
        picker.feed(text[at : at + 1])
    picker.finish()
    assert found == [(b'{"a":{"k":"\\"}"},"b":[{"c":1.5e3},{}],"e":null}', 4)]


def test_the_picker_bounds_what_it_captures() -> None:
    found: list[bytes] = []
    picker = Picker({"a": TAKE, "b": TAKE}, lambda s, w: found.append(s))
    picker.feed(b'{"a":"' + b"x" * 100_000 + b'","b":1}')
    assert found == [b'{"b":1}']


@pytest.mark.parametrize("background", [True, False, None])
def test_a_stream_that_is_left_goes_on_only_in_the_background(background: bool | None) -> None:
    response = {"id": "resp_1", "status": "in_progress", "background": background, "usage": None}
    events = [
        {"type": "response.created", "response": {**response, "status": "queued"}},
        {"type": "response.in_progress", "response": response},
        {"type": "response.output_text.delta", "delta": "It was"},
    ]
    route = wire.recognise("POST", "api.openai.com", "/v1/responses")
    assert route is not None
    reader = wire.reader(route, "text/event-stream", stream=True)
    reader.feed(b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events))
    reading = reader.peek()
    assert (reading.complete, reading.pending, reading.output_bytes) == (False, background is True, 6)
