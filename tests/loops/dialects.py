"""The same conversation in the words of each protocol, for tests: steps with tools, and texts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Step(NamedTuple):
    """A tool that was called, and what it said."""

    tool: str
    args: dict[str, Any]
    result: str


class Say(NamedTuple):
    """A text: of the user, or of the model."""

    who: str
    text: str


Told = Sequence[Step | Say]
_ids = itertools.count(1)


def _id() -> str:
    return f"call_{next(_ids) * 7919:x}Zq"


def chat(told: Told) -> dict[str, Any]:
    messages: list[Any] = [{"role": "system", "content": "You help."}]
    for item in told:
        if isinstance(item, Say):
            messages.append({"role": item.who, "content": item.text})
            continue
        function = {"name": item.tool, "arguments": json.dumps(item.args)}
        call = {"id": _id(), "type": "function", "function": function}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": item.result})
    return {"model": "m", "messages": messages}


def old_chat(told: Told) -> dict[str, Any]:
    messages: list[Any] = []
    for item in told:
        if isinstance(item, Say):
            messages.append({"role": item.who, "content": [{"type": "text", "text": item.text}]})
            continue
        call = {"name": item.tool, "arguments": json.dumps(item.args)}
        messages.append({"role": "assistant", "content": None, "function_call": call})
        messages.append({"role": "function", "name": item.tool, "content": item.result})
    return {"model": "m", "messages": messages}


def responses(told: Told) -> dict[str, Any]:
    items: list[Any] = []
    for item in told:
        if isinstance(item, Say):
            kind = "output_text" if item.who == "assistant" else "input_text"
            parts = [{"type": kind, "text": item.text}]
            items.append({"type": "message", "role": item.who, "content": parts})
            continue
        call_id = _id()
        items.append({"type": "reasoning", "id": f"rs_{call_id}", "summary": [], "encrypted_content": call_id * 9})
        arguments = json.dumps(item.args)
        items.append({"type": "function_call", "call_id": call_id, "name": item.tool, "arguments": arguments})
        items.append({"type": "function_call_output", "call_id": call_id, "output": item.result})
    return {"model": "m", "instructions": "You help.", "input": items}


def anthropic(told: Told) -> dict[str, Any]:
    messages: list[Any] = []
    for item in told:
        if isinstance(item, Say):
            messages.append({"role": item.who, "content": item.text})
            continue
        call_id = _id()
        use = {"type": "tool_use", "id": call_id, "name": item.tool, "input": item.args}
        result = {"type": "tool_result", "tool_use_id": call_id, "content": [{"type": "text", "text": item.result}]}
        messages.append({"role": "assistant", "content": [{"type": "text", "text": f"Let me call {call_id}."}, use]})
        messages.append({"role": "user", "content": [result]})
    if messages and isinstance(messages[-1]["content"], list):
        messages[-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
    return {"model": "m", "max_tokens": 100, "messages": messages}


def gemini(told: Told) -> dict[str, Any]:
    contents: list[Any] = []
    for item in told:
        if isinstance(item, Say):
            role = "model" if item.who == "assistant" else "user"
            contents.append({"role": role, "parts": [{"text": item.text}]})
            continue
        call = {"functionCall": {"name": item.tool, "args": item.args}, "thoughtSignature": _id() * 5}
        answer = {"functionResponse": {"name": item.tool, "response": {"result": item.result}}}
        contents.append({"role": "model", "parts": [call]})
        contents.append({"role": "user", "parts": [answer]})
    return {"contents": contents}


def converse(told: Told) -> dict[str, Any]:
    messages: list[Any] = []
    for item in told:
        if isinstance(item, Say):
            messages.append({"role": item.who, "content": [{"text": item.text}]})
            continue
        call_id = _id()
        use = {"toolUse": {"toolUseId": call_id, "name": item.tool, "input": item.args}}
        result = {"toolResult": {"toolUseId": call_id, "content": [{"text": item.result}], "status": "success"}}
        messages.append({"role": "assistant", "content": [use]})
        messages.append({"role": "user", "content": [result]})
    return {"messages": messages}


def cohere(told: Told) -> dict[str, Any]:
    messages: list[Any] = []
    for item in told:
        if isinstance(item, Say):
            messages.append({"role": item.who, "content": item.text})
            continue
        call_id = _id()
        function = {"name": item.tool, "arguments": json.dumps(item.args)}
        calls = [{"id": call_id, "type": "function", "function": function}]
        document = {"type": "document", "document": {"data": item.result}}
        messages.append({"role": "assistant", "tool_plan": "I will look.", "tool_calls": calls})
        messages.append({"role": "tool", "tool_call_id": call_id, "content": [document]})
    return {"model": "m", "messages": messages}


def ollama(told: Told) -> dict[str, Any]:
    messages: list[Any] = []
    for item in told:
        if isinstance(item, Say):
            messages.append({"role": item.who, "content": item.text})
            continue
        calls = [{"function": {"name": item.tool, "arguments": item.args}}]
        messages.append({"role": "assistant", "content": "", "tool_calls": calls})
        messages.append({"role": "tool", "content": item.result, "tool_name": item.tool})
    return {"model": "m", "messages": messages}


DIALECTS: dict[str, tuple[str, Callable[[Told], dict[str, Any]]]] = {
    "openai chat": ("openai.chat", chat),
    "openai chat of 2023": ("openai.chat", old_chat),
    "openai responses": ("openai.responses", responses),
    "anthropic": ("anthropic.messages", anthropic),
    "anthropic on bedrock": ("bedrock.invoke", anthropic),
    "gemini": ("gemini.generate", gemini),
    "bedrock converse": ("bedrock.converse", converse),
    "cohere": ("cohere.chat", cohere),
    "ollama": ("ollama.chat", ollama),
}


def body(dialect: str, told: Told) -> tuple[str, bytes]:
    """The protocol and the body of a request that tells this."""
    protocol, write = DIALECTS[dialect]
    return protocol, json.dumps(write(told), separators=(",", ":")).encode()
