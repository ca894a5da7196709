"""What one response has said so far. The framing hands it JSON documents; each protocol knows its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from tokenmeter.usage import Usage
from tokenmeter.wire.jsonpick import Tree
from tokenmeter.wire.types import Reading, Route
from tokenmeter.wire.usage import counts

UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, AttributeError, KeyError, RecursionError)

PENDING = ("queued", "in_progress")  # what a response in the background says of itself

_as_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_as_anything = msgspec.json.Decoder().decode


class Tally:
    """Base of the protocols: the fields of a Reading as they come in."""

    wanted: ClassVar[Tree] = {}  # what of a document too large to be held is kept
    wanted_loosely: ClassVar[tuple[str, ...]] = ("id", "model", "usage", "error")
    needs_names: ClassVar[bool] = True  # whether what the framing calls a document says more than the document

    __slots__ = (
        "context",
        "done",
        "failed",
        "finishes",
        "model",
        "pending",
        "response_id",
        "route",
        "text_bytes",
        "usage",
    )

    def __init__(self, route: Route) -> None:
        self.route = route
        self.usage: dict[str, Any] = {}  # under "usage", "usageMetadata", "meta" or "counted"
        self.model: str | None = None
        self.response_id: str | None = None
        self.finishes: dict[int, str] = {}
        self.failed: str | None = None
        self.context: dict[str, str] = {}
        self.done = False
        self.pending = False  # it is worked on in the background: what it costs is not known yet
        self.text_bytes = 0

    def take(self, payload: bytes, name: str = "") -> bool:
        """One document of the response; ``name`` is what the framing calls it. False if it is none."""
        try:
            self.read(payload, name)
        except UNREADABLE:
            return self._take_loosely(payload, name)
        return True

    def take_many(self, array: bytes, number: int) -> bool:
        """Several documents at once, as one JSON array; False, and nothing taken, if they can't be read so."""
        try:
            return self.read_many(array, number)
        except UNREADABLE:
            return False

    def read_many(self, array: bytes, number: int) -> bool:
        """Like `take_many`; raises only before anything is taken. A protocol may have no such way."""
        return False

    def take_picked(self, skeleton: bytes, weighed_bytes: int, name: str = "") -> None:
        """One document that was too large to be held."""
        before = self.text_bytes
        self.take(skeleton, name)
        self.text_bytes = before + weighed_bytes

    def read(self, payload: bytes, name: str) -> None:
        """Decode a document of this protocol; may raise anything of UNREADABLE."""
        raise NotImplementedError

    def read_loosely(self, fields: Mapping[str, Any]) -> None:
        """A document whose shape was not as expected: the fields that could be decoded on their own."""
        self.take_identity(fields.get("id"), fields.get("model"))
        if isinstance(usage := fields.get("usage"), dict):
            self.usage["usage"] = usage
        if error := fields.get("error"):
            self.fail(error)

    def _take_loosely(self, payload: bytes, name: str) -> bool:
        try:
            raw = _as_fields(payload)
        except UNREADABLE:
            self.read_mark(payload.strip(), name)
            return False
        fields: dict[str, Any] = {}
        for key in self.wanted_loosely:
            if key in raw:
                try:
                    fields[key] = _as_anything(raw[key])
                except UNREADABLE:
                    continue
        try:
            self.read_loosely(fields)
        except UNREADABLE:
            return False
        return True

    def read_mark(self, mark: bytes, name: str) -> None:
        """A payload that is no JSON object: an end mark, or garbage."""
        if mark == b"[DONE]":
            self.done = True

    def take_identity(self, response_id: Any, model: Any) -> None:
        """Who answered, and under which id."""
        if type(response_id) is str and response_id:
            self.response_id = response_id
        if type(model) is str and model:
            self.model = model

    def take_tier(self, tier: Any) -> None:
        """The service tier that was served."""
        if type(tier) is str and tier:
            self.context["service_tier"] = tier.lower()

    def finish_with(self, index: Any, reason: Any) -> None:
        """Why one choice ended; at most 128 choices are told apart."""
        if type(reason) is str and reason and (len(self.finishes) < 128 or index in self.finishes):
            self.finishes[index if type(index) is int else 0] = reason

    def fail(self, error: Any) -> None:
        """The response reports an error in its own body."""
        kind: Any = error
        if isinstance(error, Mapping):
            kind = error.get("type") or error.get("code") or error.get("status")
        self.failed = str(kind)[:128] if isinstance(kind, str | int) and kind else "error"

    def document(self) -> Mapping[str, Any]:
        """The usage as it was reported, in the nesting that the extractors expect."""
        return self.usage

    @property
    def ended(self) -> bool:
        """Whether the stream reached its end mark."""
        return self.done

    def reading(self, *, body_bytes: int, complete: bool) -> Reading:
        """Everything together, at the end."""
        reported = self.document()
        route = self.route
        found = counts(route.price_provider, route.protocol, reported, model=self.model) if reported else None
        pending = self.pending and not self.done
        return Reading(
            usage=None if found is None else Usage(found),
            model=self.model,
            response_id=self.response_id,
            finish_reasons=tuple(self.finishes.values()),
            price_context=dict(self.context),
            complete=complete and not pending,
            pending=pending,
            failed=self.failed,
            output_bytes=self.text_bytes,
            body_bytes=body_bytes,
        )


def with_counts(reading: Reading, more: Mapping[str, int]) -> Reading:
    """``reading`` with counters of what is billed and not in its usage; those that are in there stay."""
    more = {name: count for name, count in more.items() if count}
    if reading.usage is None or not more:
        return reading
    return msgspec.structs.replace(reading, usage=Usage({**more, **reading.usage.counts}))


def weigh(value: Any) -> int:
    """UTF-8 bytes of all strings in a decoded value; keys don't count."""
    if type(value) is str:
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    if type(value) is list:
        return sum(map(weigh, value))
    if type(value) is dict:
        return sum(map(weigh, value.values()))
    return 0
