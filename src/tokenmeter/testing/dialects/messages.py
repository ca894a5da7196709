"""Anthropic messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tokenmeter.testing.dialects.base import Ask, Dialect, Event, Kind, named, tool_id
from tokenmeter.testing.script import Answer

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def _body(answer: Answer, ask: Ask) -> Any:
    content: list[dict[str, Any]] = [{"type": "text", "text": answer.text}] if answer.pieces else []
    for i, (name, arguments) in enumerate(answer.tool_calls):
        content.append({"type": "tool_use", "id": tool_id(answer, i), "name": name, "input": json.loads(arguments)})
    usage = _usage(answer) | {"output_tokens": answer.output_tokens}
    return _message(answer, content, _stop_reason(answer), usage)


def _events(answer: Answer, ask: Ask) -> Iterator[Event]:
    def event(kind: Kind, name: str, **fields: Any) -> Event:
        return Event(kind, named(name, {"type": name} | fields))

    usage = _usage(answer) | {"output_tokens": min(1, answer.output_tokens)}
    yield event("start", "message_start", message=_message(answer, [], None, usage))
    index = 0
    if answer.pieces:
        yield event("start", "content_block_start", index=0, content_block={"type": "text", "text": ""})
        yield event("start", "ping")
        for piece in answer.pieces:
            yield event("chunk", "content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
        yield event("end", "content_block_stop", index=0)
        index = 1
    for i, (name, arguments) in enumerate(answer.tool_calls, index):
        block = {"type": "tool_use", "id": tool_id(answer, i - index), "name": name, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": arguments}
        yield event("start", "content_block_start", index=i, content_block=block)
        yield event("chunk", "content_block_delta", index=i, delta=delta)
        yield event("end", "content_block_stop", index=i)
    end = {"stop_reason": _stop_reason(answer), "stop_sequence": None}
    final = {"usage": {"output_tokens": answer.output_tokens}} if answer.report_usage else {}
    yield event("end", "message_delta", delta=end, **final)
    yield event("end", "message_stop")


def _message(answer: Answer, content: Any, stop_reason: str | None, usage: Any) -> dict[str, Any]:
    message = {
        "id": f"msg_{answer.number:06}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
    }
    return message | ({"usage": usage} if answer.report_usage else {})


def _usage(answer: Answer) -> dict[str, Any]:
    cached = answer.cache_read_tokens + answer.cache_write_tokens
    return {
        "input_tokens": answer.input_tokens - cached,
        "cache_creation_input_tokens": answer.cache_write_tokens,
        "cache_read_input_tokens": answer.cache_read_tokens,
        "service_tier": "standard",
    }


def _stop_reason(answer: Answer) -> str:
    return "max_tokens" if answer.capped else "tool_use" if answer.tool_calls else "end_turn"


def _error(status: int, message: str, param: str | None = None) -> Any:
    kind = _ERRORS.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


def _stream_error(message: str, events: int) -> bytes:
    return named("error", _error(529, message))


MESSAGES = Dialect(_body, _events, _error, _stream_error)
