"""OpenAI's Responses API over a websocket: a JSON document a message, several conversations side by side.

https://developers.openai.com/api/docs/guides/websocket-mode
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tokenmeter.wire.hosts import provider_of
from tokenmeter.wire.tally import UNREADABLE

_CREATES: Final = "response.create"
_STEERS: Final = "response.steer"
_BEGINS: Final = "response.created"
_ENDS: Final = frozenset({"response.completed", "response.failed", "response.incomplete", "response.done"})
_ERRORS: Final = frozenset({"error", "response.error"})
_SET_ASIDE: Final = frozenset({"response.steer.failed", "response.steer.pending"})
_LIVE: Final = ("realtime", "live", "bidigeneratecontent")

_as_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Named(msgspec.Struct, gc=False):
    id: Any = None
    previous_response_id: Any = None


class _Event(msgspec.Struct, gc=False):
    type: Any = None
    stream_id: Any = None
    previous_response_id: Any = None
    response: _Named | None = None
    steer: _Named | None = None


_as_event = msgspec.json.Decoder(_Event).decode


class Sent(msgspec.Struct, frozen=True, gc=False):
    """A message that asks for a response. ``steers``: the response that it follows by itself, if it is steering."""

    lane: str | None
    steers: str | None = None


class Heard(msgspec.Struct, frozen=True, gc=False):
    """A message that says something of a response."""

    lane: str | None
    response_id: str | None = None
    begins: bool = False
    ends: bool = False
    rejects: bool = False  # an error: of a request, or in the midst of a response
    sets_aside: str | None = None  # the response whose steering won't be followed by itself


def read_sent(message: bytes) -> Sent | None:
    """What a message to the provider asks for; None where it asks for nothing that is paid."""
    if b'"response.' not in message:
        return None
    try:
        event = _as_event(message)
    except UNREADABLE:
        return None
    if event.type == _CREATES:
        return Sent(_name(event.stream_id))
    if event.type == _STEERS:
        return Sent(None, _name(event.previous_response_id) or "")
    return None


def read_heard(message: bytes) -> Heard | None:
    """What a message of the provider is about; None for what is no event."""
    try:
        event = _as_event(message)
    except UNREADABLE:
        return None
    kind = event.type
    if type(kind) is not str:
        return None
    aside = event.steer.previous_response_id if kind in _SET_ASIDE and event.steer is not None else None
    return Heard(
        _name(event.stream_id),
        None if event.response is None else _name(event.response.id),
        begins=kind == _BEGINS,
        ends=kind in _ENDS,
        rejects=kind in _ERRORS,
        sets_aside=_name(aside),
    )


def successor(create: bytes, steer: bytes) -> bytes:
    """The request that steering comes to: the settings of the response before it, and its own input."""
    return msgspec.json.encode({**_as_fields(create), **_as_fields(steer)})


def as_event(message: bytes) -> bytes:
    """A message in the framing of the stream that the same API sends over HTTP."""
    if b"\n" in message or b"\r" in message:  # between two values; none can be within a string
        message = message.replace(b"\r", b" ").replace(b"\n", b" ")
    return b"data: " + message + b"\n\n"


NOT_FOLLOWED: Final = as_event(b'{"type":"error","code":"steering_not_followed"}')
"""What ends a request that the provider has not worked on."""
UNHEARD: Final = as_event(b'{"type":"response.queued","response":{"status":"queued","background":true}}')
"""What stands for the response to a request of which nothing was heard: it may come to what it will."""


def is_live(host: str, path: str) -> bool:
    """Whether a websocket carries sound or video to a model and back, which is not read here."""
    before, _, last = path.rstrip("/").rpartition("/")
    if last.rpartition(".")[2].lower() not in _LIVE:
        return False
    return provider_of(host) is not None or before.rpartition("/")[2] in ("openai", "v1")


def _name(value: Any) -> str | None:
    return value if type(value) is str and value else None
