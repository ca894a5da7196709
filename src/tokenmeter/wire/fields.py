"""The top-level fields of one request body, decoded when asked for."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tokenmeter.wire.media import Media
from tokenmeter.wire.tally import UNREADABLE
from tokenmeter.wire.types import Route

_as_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_as_anything = msgspec.json.Decoder().decode

_EMPTY: Final = (b"", b"null", b"[]", b"{}", b'""', b"false")


class Fields:
    """One body; a field that is not asked for is never decoded."""

    def __init__(self, route: Route, body: bytes) -> None:
        self.route = route
        self.body = body
        self.raw: dict[str, msgspec.Raw] = _as_fields(body)

    def get(self, *names: str) -> Any:
        """The first of the fields that is there, decoded."""
        for name in names:
            if (raw := self.raw.get(name)) is not None:
                try:
                    return _as_anything(raw)
                except UNREADABLE:
                    return None
        return None

    def within(self, name: str, *keys: str) -> Any:
        """A value inside of a field that is an object."""
        value = self.get(name)
        for key in keys:
            value = value.get(key) if type(value) is dict else None
        return value

    def given(self, *names: str) -> bool:
        """Whether one of the fields is there and says anything."""
        for name in names:
            raw = self.raw.get(name)
            if raw is not None and bytes(raw) not in _EMPTY:
                return True
        return False

    def string(self, *names: str) -> str | None:
        """The first of the fields that is a string and not empty."""
        for name in names:
            if name in self.raw and type(value := self.get(name)) is str and value:
                return str(value)
        return None

    def media(self, fields: tuple[str, ...] = (), markers: tuple[bytes, ...] = ()) -> Media:
        """The media in some fields; they are looked through only where the body bears a marker of media."""
        found = Media()
        if not fields or not any(marker in self.body for marker in markers):
            return found
        for name in fields:
            if name in self.raw:
                found.walk({name: self.get(name)})
        return found


def count(value: Any) -> int:
    """How many answers a field asks for: one unless it says so."""
    return value if type(value) is int and value > 0 else 1


def largest(*values: Any) -> int | None:
    """The largest of the values that are counters."""
    known = [value for value in values if type(value) is int and value >= 0]
    return max(known) if known else None


def tier(tier: Any, speed: Any = None) -> dict[str, str]:
    """What of the request may change the price; the tiers that are the ordinary one are left out."""
    context: dict[str, str] = {}
    if type(tier) is str and tier.lower() not in {"", "auto", "standard_only", "default", "standard"}:
        context["service_tier"] = tier.lower()
    if type(speed) is str and speed:
        context["speed"] = speed
    return context


def metadata(value: Any) -> dict[str, str]:
    """The strings of the request's own metadata: at most 16, of at most 512 characters."""
    if type(value) is not dict:
        return {}
    strings = [(key, item) for key, item in value.items() if type(item) is str]
    return {key[:64]: item[:512] for key, item in strings[:16]}


def text(value: Any) -> str | None:
    return value if type(value) is str and value else None


class Typed(msgspec.Struct, gc=False):
    type: Any = None


as_typed = msgspec.json.Decoder(list[Typed]).decode


def no_answer(fields: Fields) -> dict[str, Any]:
    return {
        "media": (("input", "inputs", "images", "contents", "content", "requests"), _EMBED_MARKERS),
        "cap": 0,
        "user": fields.string("user"),
    }


_EMBED_MARKERS: Final = (b'_url"', b'"images"', b'Data"', b'_data"')


def plain(fields: Fields) -> dict[str, Any]:
    return {"choices": count(fields.get("n")), "user": fields.string("user")}
