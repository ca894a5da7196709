"""OpenAI chat completions, and the completions of old, which differ by little."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenmeter.testing.dialects.base import Ask, Dialect, Event, Kind, data, openai_error, tool_id
from tokenmeter.testing.script import Answer


def _chat_body(answer: Answer, ask: Ask) -> Any:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool_calls:
        message |= {
            "content": answer.text or None,
            "tool_calls": [_chat_tool(i, answer) for i in _tools(answer)],
        }
    choice = {"message": message, "logprobs": None, "finish_reason": _chat_finish(answer)}
    return _chat_head(answer, "chat.completion") | {
        "choices": [{"index": i} | choice for i in range(answer.choices)],
        "usage": _chat_usage(answer),
    }


def _chat_events(answer: Answer, ask: Ask) -> Iterator[Event]:
    head = _chat_head(answer, "chat.completion.chunk")
    asked = _usage_asked(ask)
    tail: dict[str, Any] = {"usage": None} if asked else {}

    def event(kind: Kind, choice: int, delta: Any, finish: str | None = None) -> Event:
        choices = [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish}]
        return Event(kind, data(head | {"choices": choices} | tail))

    for i in range(answer.choices):
        yield event("start", i, {"role": "assistant", "content": "", "refusal": None})
    for piece in answer.pieces:
        for i in range(answer.choices):
            yield event("chunk", i, {"content": piece})
    for tool in _tools(answer):
        for i in range(answer.choices):
            yield event("chunk", i, {"tool_calls": [{"index": tool} | _chat_tool(tool, answer)]})
    for i in range(answer.choices):
        yield event("end", i, {}, _chat_finish(answer))
    if asked and answer.report_usage:
        yield Event("end", data(head | {"choices": [], "usage": _chat_usage(answer)}))
    yield Event("end", b"data: [DONE]\n\n")


def _chat_head(answer: Answer, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{answer.number:06}",
        "object": kind,
        "created": answer.created_s,
        "model": answer.model,
        "service_tier": "default",
        "system_fingerprint": "fp_scripted",
    }


def _chat_tool(index: int, answer: Answer) -> dict[str, Any]:
    name, arguments = answer.tool_calls[index]
    called = {"name": name, "arguments": arguments}
    return {"id": tool_id(answer, index), "type": "function", "function": called}


def _chat_finish(answer: Answer) -> str:
    return "length" if answer.capped else "tool_calls" if answer.tool_calls else "stop"


def _chat_usage(answer: Answer) -> dict[str, Any] | None:
    if not answer.report_usage:
        return None
    read: dict[str, int] = {"cached_tokens": answer.cache_read_tokens, "audio_tokens": 0}
    if answer.cache_write_tokens:
        read["cache_write_tokens"] = answer.cache_write_tokens
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": read,
        "completion_tokens_details": {
            "reasoning_tokens": answer.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _completion_body(answer: Answer, ask: Ask) -> Any:
    choice = {"text": answer.text, "logprobs": None, "finish_reason": _chat_finish(answer)}
    choices = [{"index": i} | choice for i in range(answer.choices)]
    return _completion_head(answer) | {"choices": choices, "usage": _chat_usage(answer)}


def _completion_events(answer: Answer, ask: Ask) -> Iterator[Event]:
    head = _completion_head(answer)
    asked = _usage_asked(ask)
    tail: dict[str, Any] = {"usage": None} if asked else {}

    def event(kind: Kind, choice: int, text: str, finish: str | None = None) -> Event:
        choices = [{"index": choice, "text": text, "logprobs": None, "finish_reason": finish}]
        return Event(kind, data(head | {"choices": choices} | tail))

    for piece in answer.pieces:
        for i in range(answer.choices):
            yield event("chunk", i, piece)
    for i in range(answer.choices):
        yield event("end", i, "", _chat_finish(answer))
    if asked and answer.report_usage:
        yield Event("end", data(head | {"choices": [], "usage": _chat_usage(answer)}))
    yield Event("end", b"data: [DONE]\n\n")


def _completion_head(answer: Answer) -> dict[str, Any]:
    head = _chat_head(answer, "text_completion")
    return head | {"id": f"cmpl-{answer.number:06}"}


def _stream_error(message: str, events: int) -> bytes:
    return data(openai_error(500, message))


def _usage_asked(ask: Ask) -> bool:
    options = ask.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _tools(answer: Answer) -> range:
    return range(len(answer.tool_calls))


CHAT = Dialect(_chat_body, _chat_events, openai_error, _stream_error)
COMPLETIONS = Dialect(_completion_body, _completion_events, openai_error, _stream_error)
