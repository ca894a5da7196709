"""OpenAI Responses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenmeter.testing.dialects.base import Ask, Dialect, Event, Kind, named, openai_error, tool_id
from tokenmeter.testing.script import Answer


def _body(answer: Answer, ask: Ask) -> Any:
    return _response(answer, "incomplete" if answer.capped else "completed", _items(answer))


def _events(answer: Answer, ask: Ask) -> Iterator[Event]:
    counter = iter(range(1 << 62))

    def event(kind: Kind, name: str, /, **fields: Any) -> Event:
        return Event(kind, named(name, {"type": name, "sequence_number": next(counter)} | fields))

    begun = _response(answer, "in_progress", [])
    yield event("start", "response.created", response=begun)
    yield event("start", "response.in_progress", response=begun)
    items = _items(answer)
    for index, item in enumerate(items):
        at = {"item_id": item["id"], "output_index": index}
        opened = item | {"status": "in_progress"}
        if item["type"] == "message":
            part = item["content"][0]
            opened |= {"content": []}
            yield event("start", "response.output_item.added", output_index=index, item=opened)
            at |= {"content_index": 0}
            yield event("start", "response.content_part.added", **at, part=part | {"text": ""})
            for piece in answer.pieces:
                yield event("chunk", "response.output_text.delta", **at, delta=piece, logprobs=[])
            yield event("end", "response.output_text.done", **at, text=answer.text, logprobs=[])
            yield event("end", "response.content_part.done", **at, part=part)
        else:
            opened |= {"arguments": ""}
            arguments = item["arguments"]
            yield event("start", "response.output_item.added", output_index=index, item=opened)
            yield event("chunk", "response.function_call_arguments.delta", **at, delta=arguments)
            done = "response.function_call_arguments.done"
            yield event("end", done, **at, name=item["name"], arguments=arguments)
        yield event("end", "response.output_item.done", output_index=index, item=item)
    status = "incomplete" if answer.capped else "completed"
    yield event("end", f"response.{status}", response=_response(answer, status, items))


def _items(answer: Answer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if answer.pieces or not answer.tool_calls:
        part = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
        message = {"id": f"msg_{answer.number:06}", "type": "message", "role": "assistant"}
        items.append(message | {"status": "incomplete" if answer.capped else "completed", "content": [part]})
    for i, (name, arguments) in enumerate(answer.tool_calls):
        call = {"id": f"fc_{answer.number:06}_{i}", "type": "function_call", "call_id": tool_id(answer, i)}
        items.append(call | {"name": name, "arguments": arguments, "status": "completed"})
    return items


def _response(answer: Answer, status: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    usage = None
    if status != "in_progress" and answer.report_usage:
        usage = {
            "input_tokens": answer.input_tokens,
            "input_tokens_details": {"cached_tokens": answer.cache_read_tokens},
            "output_tokens": answer.output_tokens,
            "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
            "total_tokens": answer.input_tokens + answer.output_tokens,
        }
    return {
        "id": f"resp_{answer.number:06}",
        "object": "response",
        "created_at": answer.created_s,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "metadata": {},
        "model": answer.model,
        "output": items,
        "parallel_tool_calls": True,
        "service_tier": "default",
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage,
    }


def _stream_error(message: str, events: int) -> bytes:
    error = {"type": "error", "code": "server_error", "message": message, "param": None}
    return named("error", error | {"sequence_number": events})


RESPONSES = Dialect(_body, _events, openai_error, _stream_error)
