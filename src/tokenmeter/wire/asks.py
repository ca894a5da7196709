"""What a request asks for, read from its body: only the fields that are needed are decoded.

What a protocol calls them stands with the rest of it, in a file of its own.
"""

from __future__ import annotations

from typing import Any

from tokenmeter.wire.fields import Fields
from tokenmeter.wire.openai import plain_chat, read_form
from tokenmeter.wire.protocols import ask_of
from tokenmeter.wire.rewrite import cap_path
from tokenmeter.wire.tally import UNREADABLE
from tokenmeter.wire.types import Ask, Route


def read_request(route: Route, body: bytes, content_type: str | None) -> Ask:
    """Read the body of a model call. Never raises: what can't be read is an Ask that is not ``readable``."""
    try:
        if content_type is not None and content_type.lower().startswith("multipart/"):
            return read_form(route, body)
        return (plain_chat(route, body) if route.protocol == "openai.chat" else None) or _ask(Fields(route, body))
    except UNREADABLE:
        return Ask(
            model=route.model,
            stream=bool(route.stream),
            max_output_tokens=_no_output(route),
            text_bytes=len(body),
            text=body,
            readable=False,
        )


def _no_output(route: Route) -> int | None:
    return 0 if route.operation in {"embeddings", "rerank"} else None


def _ask(fields: Fields) -> Ask:
    found: dict[str, Any] = ask_of(fields.route.protocol)(fields)
    media = fields.media(*found.pop("media", ()))
    text_bytes = len(fields.body) - media.payload_bytes if media else len(fields.body)
    stream = found.pop("stream", None)
    if stream is None:
        stream = fields.route.stream if fields.route.stream is not None else fields.get("stream") is True
    cap = found.pop("cap", None)
    return Ask(
        model=found.pop("model", None) or fields.string("model", "model_id") or fields.route.model,
        stream=stream,
        max_output_tokens=cap if type(cap) is int and cap >= 0 else None,
        text_bytes=max(0, text_bytes),
        images=media.images,
        media_bytes=media.media_bytes,
        remote_media=media.remote,
        text=None if media else fields.body,
        can_cap=cap_path(fields.route, fields.raw) is not None,
        **found,
    )
