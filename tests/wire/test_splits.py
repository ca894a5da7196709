"""A stream may be cut anywhere, and bear garbage: the reading stays the same, and nothing is raised."""

from __future__ import annotations

import base64
import json
import struct
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmeter import wire

CHAT = wire.recognise("POST", "api.openai.com", "/v1/chat/completions")
RESPONSES = wire.recognise("POST", "api.openai.com", "/v1/responses")
MESSAGES = wire.recognise("POST", "api.anthropic.com", "/v1/messages")
GEMINI = wire.recognise("POST", "generativelanguage.googleapis.com", "/v1beta/models/g:streamGenerateContent")
CONVERSE = wire.recognise("POST", "bedrock-runtime.us-east-1.amazonaws.com", "/model/m/converse-stream")
INVOKE = wire.recognise("POST", "bedrock-runtime.us-east-1.amazonaws.com", "/model/m/invoke-with-response-stream")
OLLAMA = wire.recognise("POST", "localhost", "/api/chat")
INTERACTIONS = wire.recognise("POST", "generativelanguage.googleapis.com", "/v1beta/interactions")
CONVERSATIONS = wire.recognise("POST", "api.mistral.ai", "/v1/conversations")
WATSONX = wire.recognise("POST", "us-south.ml.cloud.ibm.com", "/ml/v1/text/generation_stream")
WORKERS = wire.recognise("POST", "api.cloudflare.com", "/client/v4/accounts/a/ai/run/@cf/meta/llama-3")
LLAMACPP = wire.recognise("POST", "localhost", "/completion")
TGI = wire.recognise("POST", "localhost", "/generate_stream")
EMBEDDINGS = wire.recognise("POST", "api.openai.com", "/v1/embeddings")

WORDS = ("Hello", " wörld", ' "quoted" \\ \n', " \u2028 😀", '{"usage":{"prompt_tokens":9}}', "data: x\n\n", "")


def frame(name: str, payload: bytes, kind: str = "event") -> bytes:
    block = b""
    key = ":exception-type" if kind == "exception" else ":event-type"
    for header, value in ((key, name), (":content-type", "application/json"), (":message-type", kind)):
        block += bytes([len(header)]) + header.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    message = prelude + struct.pack(">I", crc32(prelude)) + block + payload
    return message + struct.pack(">I", crc32(message))


def chat_events(words: Iterable[str]) -> list[dict[str, Any]]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-5-mini", "service_tier": "flex"}
    events: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}], "usage": None}
        for word in words
    ]
    events.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None})
    usage = {"prompt_tokens": 7, "completion_tokens": 11, "total_tokens": 18}
    return [*events, {**head, "choices": [], "usage": usage}]


def sse(events: Iterable[dict[str, Any]], end: str, *, named: bool = False, compact: bool = True) -> bytes:
    lines = []
    for event in events:
        text = json.dumps(event, separators=(",", ":")) if compact else json.dumps(event, ensure_ascii=False)
        lines.append(f"event: {event['type']}{end}data: {text}{end}{end}" if named else f"data: {text}{end}{end}")
    return "".join(lines).encode()


def messages_events(words: Iterable[str]) -> list[dict[str, Any]]:
    start = {"id": "msg_1", "model": "claude-sonnet-4-5", "usage": {"input_tokens": 5, "output_tokens": 1}}
    return [
        {"type": "message_start", "message": start},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in words),
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 12}},
        {"type": "message_stop"},
    ]


def gemini_events(words: Iterable[str]) -> list[dict[str, Any]]:
    usage = {"promptTokenCount": 4, "candidatesTokenCount": 6, "thoughtsTokenCount": 2, "totalTokenCount": 12}
    middle = [
        {"candidates": [{"content": {"parts": [{"text": word}]}, "index": 0}], "modelVersion": "gemini-2.5-pro"}
        for word in words
    ]
    last = {"candidates": [{"content": {"parts": []}, "finishReason": "STOP"}], "usageMetadata": usage}
    return [*middle, last]


def ollama_events(words: Iterable[str]) -> list[dict[str, Any]]:
    middle = [{"model": "llama3", "message": {"content": word}, "done": False} for word in words]
    last = {"model": "llama3", "done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 8}
    return [*middle, last]


def interactions_events(words: Iterable[str]) -> list[dict[str, Any]]:
    usage = {"total_input_tokens": 9, "total_output_tokens": 13, "total_thought_tokens": 203, "total_tokens": 225}
    partly = {"metadata": {"usage": {**usage, "total_thought_tokens": 0}}}
    begun = {"id": "v1_1", "model": "gemini-3", "status": "in_progress"}
    return [
        {"event_type": "interaction.created", "type": "interaction.created", "interaction": begun},
        *(
            {"event_type": "step.delta", "type": "step.delta", "delta": {"type": "text", "text": word}}
            for word in words
        ),
        {"event_type": "step.stop", "type": "step.stop", **partly},
        {
            "event_type": "interaction.completed",
            "type": "interaction.completed",
            "interaction": {**begun, "status": "completed", "usage": usage},
        },
    ]


def conversations_events(words: Iterable[str]) -> list[dict[str, Any]]:
    usage = {"prompt_tokens": 18, "completion_tokens": 5, "total_tokens": 30, "connector_tokens": 7}
    return [
        {"type": "conversation.response.started", "conversation_id": "conv_1"},
        *({"type": "message.output.delta", "content": word, "model": "mistral-medium"} for word in words),
        {"type": "conversation.response.done", "usage": usage},
    ]


def watsonx_events(words: Iterable[str]) -> list[dict[str, Any]]:
    """The input is counted by the first event, the output so far by each."""

    def event(text: str, tokens_in: int, tokens_out: int, reason: str) -> dict[str, Any]:
        counted = {"generated_token_count": tokens_out, "input_token_count": tokens_in}
        return {"model_id": "ibm/granite", "results": [{"generated_text": text, "stop_reason": reason, **counted}]}

    middle = [event(word, 0, min(at, 7), "not_finished") for at, word in enumerate(words)]
    return [event("", 68, 0, "not_finished"), *middle, event("", 0, 8, "eos_token")]


def workers_events(words: Iterable[str]) -> list[dict[str, Any]]:
    usage = {"prompt_tokens": 6, "completion_tokens": 9, "total_tokens": 15}
    return [*({"response": word, "p": "abc"} for word in words), {"response": "", "usage": usage}]


def llamacpp_events(words: Iterable[str]) -> list[dict[str, Any]]:
    middle = [{"index": 0, "content": word, "stop": False, "tokens_predicted": 1} for word in words]
    last = {"content": "", "stop": True, "stop_type": "eos", "tokens_evaluated": 19, "tokens_predicted": 4}
    return [*middle, {"index": 0, "model": "tiny", **last}]


def tgi_events(words: Iterable[str]) -> list[dict[str, Any]]:
    said = list(words)
    middle = [{"index": at, "token": {"text": word}, "generated_text": None} for at, word in enumerate(said)]
    details = {"finish_reason": "length", "generated_tokens": 3, "input_length": 11}
    return [*middle, {"token": {"text": ""}, "generated_text": "".join(said)[:99], "details": details}]


def dumped(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode()


def converse(words: Iterable[str]) -> bytes:
    usage = {"inputTokens": 20, "outputTokens": 30, "totalTokens": 50}
    return b"".join(
        [
            frame("messageStart", b'{"role":"assistant"}'),
            *(frame("contentBlockDelta", dumped({"delta": {"text": word}})) for word in words),
            frame("messageStop", b'{"stopReason":"end_turn"}'),
            frame("metadata", dumped({"usage": usage})),
        ]
    )


def invoke(words: Iterable[str]) -> bytes:
    return b"".join(
        frame("chunk", dumped({"bytes": base64.b64encode(dumped(event)).decode(), "p": "abc"}))
        for event in messages_events(words)
    )


DONE = b"data: [DONE]\n\n"
STREAMS: dict[str, tuple[wire.Route | None, str, Callable[[list[str]], bytes], tuple[int, int]]] = {
    "chat": (CHAT, "text/event-stream", lambda words: sse(chat_events(words), "\n") + DONE, (7, 11)),
    "chat, CRLF": (CHAT, "text/event-stream", lambda words: sse(chat_events(words), "\r\n") + DONE, (7, 11)),
    "chat, CR": (CHAT, "text/event-stream", lambda words: sse(chat_events(words), "\r"), (7, 11)),
    "chat, wide": (CHAT, "text/event-stream", lambda words: sse(chat_events(words), "\n", compact=False), (7, 11)),
    "chat, no type": (CHAT, "", lambda words: sse(chat_events(words), "\n") + DONE, (7, 11)),
    "chat, BOM, no blank line": (
        CHAT,
        "text/event-stream",
        lambda words: b"\xef\xbb\xbf: hi\n\n" + sse(chat_events(words), "\n").rstrip(b"\n"),
        (7, 11),
    ),
    "chat, data over lines": (
        CHAT,
        "text/event-stream",
        lambda words: sse(chat_events(words), "\r\n").replace(b',"choices"', b',\r\ndata: "choices"'),
        (7, 11),
    ),
    "messages": (
        MESSAGES,
        "text/event-stream; charset=utf-8",
        lambda words: sse(messages_events(words), "\n", named=True),
        (5, 12),
    ),
    "gemini": (GEMINI, "text/event-stream", lambda words: sse(gemini_events(words), "\r\n"), (4, 8)),
    "gemini, array": (
        GEMINI,
        "application/json",
        lambda words: json.dumps(gemini_events(words), indent=2).encode(),
        (4, 8),
    ),
    "ollama": (
        OLLAMA,
        "application/x-ndjson",
        lambda words: b"\n".join(map(dumped, ollama_events(words))) + b"\n",
        (3, 8),
    ),
    "interactions": (
        INTERACTIONS,
        "text/event-stream",
        lambda words: sse(interactions_events(words), "\n", named=True) + b"event: done\ndata: [DONE]\n\n",
        (9, 216),
    ),
    "conversations": (
        CONVERSATIONS,
        "text/event-stream",
        lambda words: sse(conversations_events(words), "\n", named=True),
        (25, 5),
    ),
    "watsonx": (WATSONX, "text/event-stream", lambda words: sse(watsonx_events(words), "\n"), (68, 8)),
    "workers": (WORKERS, "text/event-stream", lambda words: sse(workers_events(words), "\n") + DONE, (6, 9)),
    "llama.cpp": (LLAMACPP, "text/event-stream", lambda words: sse(llamacpp_events(words), "\n"), (19, 4)),
    "tgi": (TGI, "text/event-stream", lambda words: sse(tgi_events(words), "\n"), (11, 3)),
    "ollama, no type": (OLLAMA, "", lambda words: b"\r\n".join(map(dumped, ollama_events(words))), (3, 8)),
    "converse": (CONVERSE, "application/vnd.amazon.eventstream", converse, (20, 30)),
    "invoke": (INVOKE, "application/vnd.amazon.eventstream", invoke, (5, 12)),
}


def read(route: wire.Route | None, content_type: str, pieces: Iterable[bytes]) -> wire.Reading:
    assert route is not None
    reader = wire.reader(route, content_type or None, stream=True)
    for piece in pieces:
        assert reader.feed(piece) == piece
    rest, reading = reader.finish()
    assert rest == b""
    return reading


def cut(body: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    at = 0
    for stop in sorted({cut % (len(body) + 1) for cut in cuts}):
        yield body[at:stop]
        at = stop
    yield body[at:]


@pytest.mark.parametrize("name", STREAMS)
@given(words=st.lists(st.sampled_from(WORDS), max_size=8), cuts=st.lists(st.integers(0, 1 << 20), max_size=12))
@settings(max_examples=40, deadline=None)
def test_any_split_reads_the_same(name: str, words: list[str], cuts: list[int]) -> None:
    route, content_type, build, (tokens_in, tokens_out) = STREAMS[name]
    body = build(words)
    whole = read(route, content_type, [body])
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (tokens_in, tokens_out)
    assert whole.complete
    assert whole.output_bytes == len("".join(words).encode())
    assert whole.body_bytes == len(body)
    assert read(route, content_type, cut(body, cuts)) == whole


@pytest.mark.parametrize("name", STREAMS)
def test_byte_by_byte(name: str) -> None:
    route, content_type, build, _ = STREAMS[name]
    body = build(list(WORDS))
    assert read(route, content_type, (body[at : at + 1] for at in range(len(body)))) == read(
        route, content_type, [body]
    )


@pytest.mark.parametrize("name", STREAMS)
def test_a_look_at_every_byte_changes_nothing(name: str) -> None:
    """A look reads what has come, so that a batch ends at every byte."""
    route, content_type, build, _ = STREAMS[name]
    assert route is not None
    body = build(list(WORDS))
    reader = wire.reader(route, content_type or None, stream=True)
    for at in range(len(body)):
        reader.feed(body[at : at + 1])
        assert reader.peek().body_bytes == at + 1
    assert reader.finish()[1] == read(route, content_type, [body])


@pytest.mark.parametrize("name", STREAMS)
@given(seed=st.lists(st.integers(1, 90_000), min_size=3, max_size=9))
@settings(max_examples=8, deadline=None)
def test_streams_of_many_batches_read_the_same(name: str, seed: list[int]) -> None:
    route, content_type, build, _ = STREAMS[name]
    body = build([*WORDS, "x" * 900] * 80 + ["y" * 300_000] + [*WORDS] * 20)
    whole = read(route, content_type, [body])
    assert whole.usage is not None
    pieces: list[bytes] = []
    at = 0
    while at < len(body):
        size = seed[len(pieces) % len(seed)]
        pieces.append(body[at : at + size])
        at += size
    assert read(route, content_type, pieces) == whole


GARBLED = ["chat", "chat, CRLF", "messages", "gemini", "ollama", "interactions", "conversations", "watsonx", "tgi"]


@pytest.mark.parametrize("name", GARBLED)
@given(garbage=st.lists(st.binary(max_size=80), max_size=4), places=st.lists(st.integers(0, 30), min_size=4))
@settings(max_examples=40, deadline=None)
def test_garbage_between_events_loses_nothing(name: str, garbage: list[bytes], places: list[int]) -> None:
    route, content_type, build, (tokens_in, tokens_out) = STREAMS[name]
    end = b"\n" if name == "ollama" else b"\r\n\r\n" if name in {"chat, CRLF", "gemini"} else b"\n\n"
    events = build(["a", "b"]).removesuffix(end).split(end)
    for junk, place in zip(garbage, places, strict=False):
        events.insert(place % (len(events) + 1), junk)
    reading = read(route, content_type, [end.join(events) + end])
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (tokens_in, tokens_out)


@pytest.mark.parametrize("name", ["converse", "invoke"])
@given(garbage=st.binary(min_size=1, max_size=400), cuts=st.lists(st.integers(0, 1 << 20), max_size=6))
@settings(max_examples=40, deadline=None)
def test_garbage_between_frames_loses_nothing(name: str, garbage: bytes, cuts: list[int]) -> None:
    route, content_type, build, (tokens_in, tokens_out) = STREAMS[name]
    body = frame("ping", b"{}") + garbage + build(["a"])
    reading = read(route, content_type, cut(body, cuts))
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (tokens_in, tokens_out)


@pytest.mark.parametrize("name", STREAMS)
@given(body=st.binary(max_size=600), cuts=st.lists(st.integers(0, 600), max_size=6), hide=st.booleans())
@settings(max_examples=60, deadline=None)
def test_garbage_raises_nothing_and_passes_whole(name: str, body: bytes, cuts: list[int], hide: bool) -> None:
    route, content_type, _, _ = STREAMS[name]
    assert route is not None
    for prefix in (b"", b"data: {", b"{", b"[", b"\x00\x00\x00\x20", b"event: x\ndata:"):
        reader = wire.reader(route, content_type, stream=True, hide_usage=hide)
        seen = b"".join(reader.feed(piece) for piece in cut(prefix + body, cuts))
        reader.peek()
        rest, _ = reader.finish()
        assert seen + rest == prefix + body
        wire.read_body(route, prefix + body, content_type)
        wire.read_request(route, prefix + body, content_type)


def test_a_blocked_answer_of_titan_is_one_frame() -> None:
    said = {"outputText": "No.", "index": 0, "totalOutputTextTokenCount": 3.0, "inputTextTokenCount": 6.0}
    blocked = {**said, "amazon-bedrock-guardrailAction": "INTERVENED"}

    def stream(event: dict[str, Any]) -> bytes:
        return frame("chunk", dumped({"bytes": base64.b64encode(dumped(event)).decode(), "p": "abc"}))

    reading = read(INVOKE, "application/vnd.amazon.eventstream", [stream(blocked)])
    assert reading.usage is not None
    assert dict(reading.usage.counts) == {"input_tokens": 6, "output_tokens": 3}
    assert reading.complete
    assert not read(INVOKE, "application/vnd.amazon.eventstream", [stream(said)]).complete


@pytest.mark.parametrize("name", STREAMS)
def test_a_cut_stream_is_not_complete(name: str) -> None:
    route, content_type, build, _ = STREAMS[name]
    body = build(["Hello", " world"])
    reading = read(route, content_type, [body[: len(body) // 2]])
    assert not reading.complete
    assert reading.output_bytes <= 11


BIG = b"x" * 65_536


def peak_bytes(route: wire.Route | None, content_type: str, pieces: Callable[[], Iterator[bytes]]) -> int:
    assert route is not None
    read(route, content_type, [*pieces()][:2])  # whatever is loaded on first use
    tracemalloc.start()
    reading = read(route, content_type, pieces())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (7, 11)
    assert reading.body_bytes > 10_000_000
    return peak


RESPONSE_TAIL = b'"}]}],"usage":{"input_tokens":7,"output_tokens":11,"total_tokens":18},"status":"completed"}'
RESPONSE_HEAD = b'{"id":"resp_1","model":"gpt-5","output":[{"type":"message","content":[{"type":"output_text","text":"'


def large_event() -> Iterator[bytes]:
    yield b'event: response.completed\ndata: {"type":"response.completed","response":' + RESPONSE_HEAD
    yield from repeat(BIG, 160)
    yield RESPONSE_TAIL + b"}\n\n"


def large_body() -> Iterator[bytes]:
    yield RESPONSE_HEAD
    yield from repeat(BIG, 160)
    yield RESPONSE_TAIL


def large_line() -> Iterator[bytes]:
    yield b'{"model":"llama3","done":true,"message":{"content":"'
    yield from repeat(BIG, 160)
    yield b'"},"prompt_eval_count":7,"eval_count":11}\n'


def large_frame() -> Iterator[bytes]:
    head, tail = b'{"delta":{"text":"', b'"},"usage":{"inputTokens":7,"outputTokens":11}}'
    made = frame("metadata", b"")
    header_bytes = len(made) - 16
    prelude = struct.pack(">II", 16 + header_bytes + len(head) + 160 * len(BIG) + len(tail), header_bytes)
    yield prelude + struct.pack(">I", crc32(prelude)) + made[12:-4] + head
    yield from repeat(BIG, 160)
    yield tail + b"\x00\x00\x00\x00"


def large_chunk() -> Iterator[bytes]:
    inner = b'{"usage":{"prompt_tokens":7,"completion_tokens":11},"choices":[{"text":"' + b"y" * 3
    head = b'{"bytes":"' + base64.b64encode(inner)
    tail = base64.b64encode(b'"}]}') + b'"}'
    made = frame("chunk", b"")
    header_bytes = len(made) - 16
    prelude = struct.pack(">II", 16 + header_bytes + len(head) + 160 * len(BIG) + len(tail), header_bytes)
    yield prelude + struct.pack(">I", crc32(prelude)) + made[12:-4] + head
    yield from repeat(BIG, 160)
    yield tail + b"\x00\x00\x00\x00"


@pytest.mark.parametrize(
    ("route", "content_type", "pieces"),
    [
        (RESPONSES, "text/event-stream", large_event),
        (RESPONSES, "application/json", large_body),
        (OLLAMA, "application/x-ndjson", large_line),
        (CONVERSE, "application/vnd.amazon.eventstream", large_frame),
        (INVOKE, "application/vnd.amazon.eventstream", large_chunk),
    ],
)
def test_ten_megabytes_in_constant_memory(
    route: wire.Route | None, content_type: str, pieces: Callable[[], Iterator[bytes]]
) -> None:
    assert peak_bytes(route, content_type, pieces) < 2_000_000


def test_a_large_event_leaves_the_stream_readable() -> None:
    events = messages_events(["a", "x" * 700_000, "b"])
    reading = read(MESSAGES, "text/event-stream", [sse(events, "\n", named=True)])
    assert reading.usage is not None
    assert reading.usage.output_tokens == 12
    assert reading.output_bytes == 700_002
    assert (reading.response_id, reading.finish_reasons, reading.complete) == ("msg_1", ("end_turn",), True)


def test_a_large_piece_is_not_copied_whole() -> None:
    body = b"".join(large_event())
    assert RESPONSES is not None
    read(RESPONSES, "text/event-stream", [body[:70_000]])
    tracemalloc.start()
    read(RESPONSES, "text/event-stream", [body])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
