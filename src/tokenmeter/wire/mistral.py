"""Mistral's own: conversations, whose turns the server keeps, whole or in events; and pages that are read (OCR)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from tokenmeter.wire.fields import Fields, metadata
from tokenmeter.wire.jsonpick import EACH, TAKE, WEIGH, Tree
from tokenmeter.wire.openai import runs_tools
from tokenmeter.wire.tally import Tally, weigh
from tokenmeter.wire.words import number


class _Document(msgspec.Struct, gc=False):
    type: Any = None
    conversation_id: Any = None
    model: Any = None
    content: Any = None
    arguments: Any = None
    outputs: Any = None
    usage: Any = None
    code: Any = None


_decode = msgspec.json.Decoder(_Document).decode


class ConversationsTally(Tally):
    """One answer, which may be several: the server calls its connectors and goes on."""

    wanted: ClassVar[Tree] = {
        "type": TAKE,
        "conversation_id": TAKE,
        "model": TAKE,
        "content": WEIGH,
        "arguments": WEIGH,
        "outputs": {EACH: {"model": TAKE, "content": {EACH: {"text": WEIGH}}, "arguments": WEIGH}},
        "usage": TAKE,
        "code": TAKE,
    }
    __slots__ = ()

    def read(self, payload: bytes, name: str) -> None:
        document = _decode(payload)
        kind = document.type if type(document.type) is str else ""
        self.take_identity(document.conversation_id, document.model)
        if kind.endswith(".delta") and not kind.startswith("tool."):
            self.text_bytes += _said(document.content) + weigh(document.arguments)
        for output in document.outputs if type(document.outputs) is list else ():
            if type(output) is dict:
                self.take_identity(None, output.get("model"))
                self.text_bytes += _said(output.get("content")) + weigh(output.get("arguments"))
        if type(document.usage) is dict and document.usage:
            self.usage["usage"] = _with_connectors(document.usage)
        if kind == "conversation.response.done":
            self.done = True
        elif kind == "conversation.response.error":
            self.fail(str(document.code) if document.code is not None else None)


def _with_connectors(usage: Mapping[str, Any]) -> Mapping[str, Any]:
    """What connectors found is input of the model; the total says whether it stands beside the prompt."""
    prompt, connectors = number(usage, "prompt_tokens"), number(usage, "connector_tokens")
    if prompt is None or not connectors:
        return usage
    whole = prompt + connectors + (number(usage, "completion_tokens") or 0)
    return {**usage, "prompt_tokens": prompt + connectors} if number(usage, "total_tokens") == whole else usage


def _said(content: Any) -> int:
    if type(content) is str:
        return weigh(content)
    parts = content if type(content) is list else (content,)
    return sum(weigh(part.get("text")) + weigh(part.get("thinking")) for part in parts if type(part) is dict)


class _Picture(msgspec.Struct, gc=False):
    image_annotation: Any = None


class _Page(msgspec.Struct, gc=False):
    markdown: Any = None
    images: list[_Picture] | None = None


class _Pages(msgspec.Struct, gc=False):
    model: Any = None
    pages: list[_Page] | None = None
    document_annotation: Any = None
    usage_info: Any = None


_decode_pages = msgspec.json.Decoder(_Pages).decode


class OcrTally(Tally):
    """Paid for by the page, and more for pages that were annotated."""

    wanted: ClassVar[Tree] = {
        "model": TAKE,
        "pages": {EACH: {"markdown": WEIGH, "images": {EACH: {"image_annotation": TAKE}}}},
        "document_annotation": TAKE,
        "usage_info": TAKE,
    }
    __slots__ = ()

    def read(self, payload: bytes, name: str) -> None:
        answer = _decode_pages(payload)
        self.take_identity(None, answer.model)
        pages = answer.pages or []
        notes = [picture.image_annotation for page in pages for picture in page.images or ()]
        annotated = any(note is not None for note in (answer.document_annotation, *notes))
        self.text_bytes += sum(weigh(page.markdown) for page in pages)
        if type(answer.usage_info) is dict:
            self.usage["usage_info"] = {**answer.usage_info, "annotated": annotated}


def ask_conversations(fields: Fields) -> dict[str, Any]:
    return {
        "media": (("inputs",), (b'_url"', b'"file"')),
        "cap": fields.within("completion_args", "max_tokens"),
        "tools": fields.given("tools")
        or fields.within("completion_args", "response_format", "type") not in (None, "text"),
        "server_tools": fields.given("agent_id") or runs_tools(fields),
        "server_state": not fields.given("model"),  # it goes on, or an agent's instructions come before it
        "metadata": metadata(fields.get("metadata")),
    }
