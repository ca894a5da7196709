"""One server for the SDKs of other makes: each protocol's shortest true answer, whole and streamed."""

from __future__ import annotations

import gzip
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

INPUT, OUTPUT = 11, 7
"""What each answer says that it took, whatever the protocol calls it."""

TEXT = "Hello there"


def chat(asked: dict[str, Any]) -> Any:
    """OpenAI's chat completions, which most hosts speak."""
    usage = {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT}
    base = {"id": "c", "created": 1, "model": asked.get("model", "m"), "object": "chat.completion"}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": TEXT}
        return {**base, "choices": [{"index": 0, "finish_reason": "stop", "message": message}], "usage": usage}
    base["object"] = "chat.completion.chunk"
    chunks: list[Any] = [
        {**base, "choices": [{"index": 0, "delta": {"role": "assistant", "content": TEXT}, "finish_reason": None}]},
        {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    if (asked.get("stream_options") or {}).get("include_usage"):
        chunks.append({**base, "choices": [], "usage": usage})
    return chunks


def responses(asked: dict[str, Any]) -> Any:
    """OpenAI's Responses."""
    text = {"type": "output_text", "text": TEXT, "annotations": []}
    item = {"type": "message", "id": "m", "status": "completed", "role": "assistant", "content": [text]}
    usage = {
        "input_tokens": INPUT,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": OUTPUT,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": INPUT + OUTPUT,
    }
    done = {
        "id": "resp",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": asked["model"],
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage,
    }
    if not asked.get("stream"):
        return done
    at: dict[str, Any] = {"item_id": "m", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": done | {"status": "in_progress", "output": [], "usage": None}},
        {"type": "response.output_item.added", "output_index": 0, "item": item | {"content": []}},
        {"type": "response.content_part.added", **at, "part": text | {"text": ""}},
        {"type": "response.output_text.delta", **at, "delta": TEXT, "logprobs": []},
        {"type": "response.output_text.done", **at, "text": TEXT, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": text},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": done},
    ]
    return [event | {"sequence_number": number} for number, event in enumerate(events)]


def messages(asked: dict[str, Any]) -> Any:
    """Anthropic's messages."""
    usage = {"input_tokens": INPUT, "output_tokens": OUTPUT}
    block = {"type": "text", "text": TEXT}
    whole = {"id": "m", "type": "message", "role": "assistant", "model": asked["model"], "stop_sequence": None}
    if not asked.get("stream"):
        return {**whole, "content": [block], "stop_reason": "end_turn", "usage": usage}
    begun = {**whole, "content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
    return [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": OUTPUT},
        },
        {"type": "message_stop"},
    ]


def gemini(streamed: bool) -> Any:
    """Gemini's generateContent."""
    answer = {
        "candidates": [{"content": {"role": "model", "parts": [{"text": TEXT}]}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": INPUT,
            "candidatesTokenCount": OUTPUT,
            "totalTokenCount": INPUT + OUTPUT,
        },
        "modelVersion": "gemini-2.5-flash",
        "responseId": "r",
    }
    return [answer] if streamed else answer


def cohere(asked: dict[str, Any]) -> Any:
    """Cohere's chat, version 2."""
    counts = {"input_tokens": INPUT, "output_tokens": OUTPUT}
    usage = {"billed_units": counts, "tokens": counts}
    message = {"role": "assistant", "content": [{"type": "text", "text": TEXT}]}
    if not asked.get("stream"):
        return {"id": "i", "finish_reason": "COMPLETE", "message": message, "usage": usage}
    empty = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    return [
        {"type": "message-start", "id": "i", "delta": {"message": empty}},
        {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": TEXT}}}},
        {"type": "content-end", "index": 0},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage}},
    ]


def ollama(asked: dict[str, Any]) -> Any:
    """Ollama's own chat."""
    base = {"model": asked["model"], "created_at": "2026-01-01T00:00:00Z"}
    said = {"role": "assistant", "content": TEXT}
    last = {**base, "message": said, "done": True, "done_reason": "stop"}
    last |= {"prompt_eval_count": INPUT, "eval_count": OUTPUT, "total_duration": 1, "eval_duration": 1}
    return [{**base, "message": said, "done": False}, last] if asked.get("stream", True) else last


def converse(streamed: bool) -> Any:
    """Bedrock's converse."""
    usage = {"inputTokens": INPUT, "outputTokens": OUTPUT, "totalTokens": INPUT + OUTPUT}
    end = {"stopReason": "end_turn"}
    if not streamed:
        message = {"role": "assistant", "content": [{"text": TEXT}]}
        return {"output": {"message": message}, **end, "usage": usage, "metrics": {"latencyMs": 1}}
    return [
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": TEXT}}),
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("messageStop", end),
        ("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}),
    ]


def framed(kind: str, value: Any) -> bytes:
    """A message of an AWS event stream."""
    names = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        struct.pack(f">B{len(name)}sBH", len(name), name.encode(), 7, len(text)) + text.encode()
        for name, text in names.items()
    )
    payload = json.dumps(value).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    arrived: ClassVar[list[str]]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self._say({"object": "list", "data": []})

    def do_POST(self) -> None:
        path, body = self.path.partition("?")[0], self._body()
        self.arrived.append(path)
        asked: dict[str, Any] = json.loads(body)
        if path.endswith("/chat/completions"):
            self._say(chat(asked), ends=b"data: [DONE]\n\n")
        elif path.endswith("/responses"):
            self._say(responses(asked))
        elif path.endswith("/messages"):
            self._say(messages(asked))
        elif path.endswith("/v2/chat"):
            self._say(cohere(asked), ends=b"data: [DONE]\n\n")
        elif path.endswith("/api/chat"):
            self._say(ollama(asked), lines=True)
        elif "/converse" in path:
            self._say(converse("stream" in path))
        else:
            self._say(gemini("stream" in path))

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
        return gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body

    def _say(self, answer: Any, *, ends: bytes = b"", lines: bool = False) -> None:
        if not isinstance(answer, list):
            kind, data = "application/json", json.dumps(answer).encode()
        elif isinstance(answer[0], tuple):
            kind, data = "application/vnd.amazon.eventstream", b"".join(framed(*each) for each in answer)
        elif lines:
            kind, data = "application/x-ndjson", b"".join(json.dumps(each).encode() + b"\n" for each in answer)
        else:
            kind, data = "text/event-stream", b"".join(map(_event, answer)) + ends
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _event(event: dict[str, Any]) -> bytes:
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


@contextmanager
def serving() -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths of the requests that arrived."""
    arrived: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"arrived": arrived}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", arrived
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
