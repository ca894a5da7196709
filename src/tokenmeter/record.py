"""One row per call."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from tokenmeter.usage import Usage

Status = Literal["ok", "error", "incomplete", "refused"]

DIED = "ProcessDied"
"""The ``error_type`` of the row that stands in for a call whose process died while the request was out."""


class CallRecord(Struct, frozen=True, kw_only=True, gc=False):
    """What became of one call.

    ``status``: ``ok``; ``error`` (the provider or the connection failed); ``incomplete`` (a stream that was
    abandoned, cut or truncated, or a request that was given up while it was under way); ``refused`` (nothing
    was sent). ``cost_nanos`` is in 1e-9 US dollars, ``None`` when the model has no known price. ``estimated``
    marks usage and cost that were computed here because the provider's own figures never arrived.
    ``downgraded_from`` is the model that the caller named where a budget chose a cheaper one, which ``model`` is.
    ``root`` is the run at the very beginning. ``guards`` are the loop guards that found something, and what they did:
    ``max_repeats:warn``. ``fingerprint`` is a keyed hash of the request, in persistent rows: equal for equal bytes.
    """

    id: str
    at_s: float
    duration_s: float
    agent: str | None
    user: str | None
    team: str | None
    run: str | None
    path: tuple[str, ...]
    tags: Mapping[str, str]
    provider: str
    operation: str
    model: str | None
    response_model: str | None
    response_id: str | None
    stream: bool
    status: Status
    error_type: str | None
    http_status: int | None
    finish_reasons: tuple[str, ...]
    usage: Usage | None
    cost_nanos: int | None
    price_source: str | None
    estimated: bool
    output_cap: int | None
    warned: tuple[str, ...]
    host: str
    port: int | None
    time_to_first_chunk_s: float | None = None
    downgraded_from: str | None = None
    root: str | None = None
    guards: tuple[str, ...] = ()
    fingerprint: str | None = None


def was_warned_of(warned: Collection[str], guards: Collection[str]) -> bool:
    """Whether a budget or a guard would have refused the call whose row has these, and only warned."""
    return bool(warned) or any(guard.endswith(":warn") for guard in guards)


class Recorder(Protocol):
    """Takes the row of each call, right after the call was settled.

    That is on the caller's thread or, under asyncio with a store that may wait, on one of the meter's threads.
    """

    def record(self, row: CallRecord) -> None:
        """Take one row. Must be quick; what it raises is logged and swallowed."""
        ...


encode = msgspec.json.Encoder(enc_hook=dict).encode
"""The bytes of a row, as a persistent store keeps it: JSON."""


def decode(row: bytes) -> CallRecord:
    """The row from such bytes. Raises ``msgspec.MsgspecError``."""
    return _decoder().decode(row)


@functools.cache
def _decoder() -> msgspec.json.Decoder[CallRecord]:  # few programs read rows
    return msgspec.json.Decoder(CallRecord)
