"""Gemini's Interactions: one object, whole or in events whose last carries it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from tokenmeter.wire.fields import Fields, tier
from tokenmeter.wire.jsonpick import EACH, TAKE, WEIGH, Tree
from tokenmeter.wire.openai import runs_tools
from tokenmeter.wire.tally import PENDING, Tally, weigh


class _Interaction(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    status: Any = None
    usage: Any = None
    service_tier: Any = None
    error: Any = None
    steps: Any = None
    outputs: Any = None  # what steps were called at first


class _Document(_Interaction, gc=False):
    event_type: Any = None
    interaction: _Interaction | None = None
    delta: Any = None
    metadata: Any = None


_decode = msgspec.json.Decoder(_Document).decode

_STEP: Tree = {
    "text": WEIGH,
    "content": {EACH: {"text": WEIGH}},
    "summary": {EACH: {"text": WEIGH}},
    "arguments": WEIGH,
}
_INTERACTION: Tree = {
    "id": TAKE,
    "model": TAKE,
    "status": TAKE,
    "usage": TAKE,
    "service_tier": TAKE,
    "error": TAKE,
}
_ENDS = frozenset({"interaction.completed", "interaction.complete"})


class InteractionsTally(Tally):
    """One interaction. Its usage is cumulative on the way: the last one wins."""

    wanted: ClassVar[Tree] = {
        **_INTERACTION,
        "event_type": TAKE,
        "interaction": _INTERACTION,
        "metadata": {"usage": TAKE},
        "delta": {"text": WEIGH, "content": {"text": WEIGH}, "arguments": WEIGH},
        "steps": {EACH: _STEP},
        "outputs": {EACH: _STEP},
    }
    __slots__ = ()

    def read(self, payload: bytes, name: str) -> None:
        document = _decode(payload)
        kind = document.event_type if type(document.event_type) is str else None
        if document.interaction is not None:
            self._take(document.interaction)
        if kind is None:
            self._take(document)
            self.pending = document.status in PENDING
            self.text_bytes += _said(document.steps) + _said(document.outputs)
            return
        if type(document.metadata) is dict:
            self._take_usage(document.metadata.get("usage"))
        self._take_usage(document.usage)
        if type(document.delta) is dict:
            self.text_bytes += _said([document.delta])
        if kind in _ENDS:
            self.done = True
        elif kind == "error":
            self.fail(document.error)

    def _take(self, interaction: _Interaction) -> None:
        self.take_identity(interaction.id, interaction.model)
        self.take_tier(interaction.service_tier)
        self._take_usage(interaction.usage)
        status = interaction.status
        if status not in PENDING:
            self.finish_with(0, status)
        if interaction.error is not None or status == "failed":
            self.fail(interaction.error or "failed")

    def _take_usage(self, usage: Any) -> None:
        if type(usage) is dict and usage:
            self.usage["usage"] = usage


def _said(steps: Any) -> int:
    """Text, thoughts and arguments of calls; what the user said may be repeated among the steps."""
    total = 0
    for step in steps if type(steps) is list else ():
        if type(step) is dict and step.get("type") != "user_input":
            total += weigh(step.get("text"))
            for key in ("content", "summary"):
                parts = step.get(key)
                for part in parts if type(parts) is list else (parts,):
                    total += weigh(part.get("text")) if isinstance(part, Mapping) else 0
            arguments = step.get("arguments")
            total += weigh(arguments) if type(arguments) is str else _encoded(arguments)
    return total


def _encoded(arguments: Any) -> int:
    return len(msgspec.json.encode(arguments)) if arguments else 0


def ask_interactions(fields: Fields) -> dict[str, Any]:
    previous = fields.string("previous_interaction_id")
    return {
        "model": fields.string("model", "agent"),
        "media": (("input", "system_instruction"), (b'"data"', b'"uri"')),
        "cap": fields.within("generation_config", "max_output_tokens"),
        "tools": fields.given("tools", "response_format"),
        "server_tools": fields.given("agent") or runs_tools(fields),
        "previous_response_id": previous,
        "server_state": previous is not None,
        "price_context": tier(fields.get("service_tier")),
    }
