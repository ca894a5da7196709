"""Is it a model call after all? On hosts that nobody knows, other services have the same paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from tokenmeter.wire.tally import UNREADABLE
from tokenmeter.wire.types import Route

_as_json = msgspec.json.Decoder(msgspec.Raw).decode

# one of these is in each request of a protocol; those that may go without any are left out
_KEYS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "openai.chat": (b'"messages"', b'"prompt"'),
    "openai.completions": (b'"prompt"', b'"prompt_embeds"', b'"messages"'),
    "openai.responses": (b'"input"', b'"prompt"', b'"conversation"', b'"previous_response_id"'),
    "openai.decisions": (b'"questions"',),
    "openai.embeddings": (b'"input"', b'"inputs"', b'"content"', b'"messages"'),
    "openai.images": (b'"prompt"', b'"image"', b'"images"'),
    "openai.speech": (b'"input"',),
    "anthropic.messages": (b'"messages"',),
    "gemini.generate": (b'"contents"',),
    "gemini.embed": (b'"content"', b'"contents"', b'"requests"', b'"instances"'),
    "gemini.images": (b'"instances"',),
    "gemini.interactions": (b'"input"',),
    "cohere.chat": (b'"messages"', b'"message"', b'"prompt"'),
    "cohere.embed": (b'"texts"', b'"inputs"', b'"images"', b'"input"'),
    "cohere.rerank": (b'"documents"', b'"texts"', b'"passages"'),
    "ollama.chat": (b'"messages"',),
    "ollama.generate": (b'"prompt"',),
    "ollama.embed": (b'"input"', b'"prompt"'),
    "llamacpp.completion": (b'"prompt"',),
    "tgi.generate": (b'"inputs"',),
}


def is_call(route: Route, body: bytes | None, headers: Mapping[str, str]) -> bool:
    """Whether a request on a route is the model call that its path says; in doubt it is one.

    It is none where nobody knows the host, and the body is JSON without what each request of the protocol has, or a
    form of a page. What can't be read (a compressed body, one that is generated) stays a call. ``headers`` are looked
    up without regard to case.
    """
    if route.known_host or not body:
        return True
    keys = _KEYS.get(route.protocol)
    if keys is None:
        return True
    for key in keys:
        if key in body:
            return True
    if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return False
    if body.lstrip()[:1] not in (b"{", b"["):
        return True
    try:
        _as_json(body)
    except UNREADABLE:
        return True
    return False
