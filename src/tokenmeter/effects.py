"""What the story of a call asks for. The drivers do it, and send the story the result. Pure."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from msgspec import Struct

from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Note
from tokenmeter.budgets.thresholds import Crossing
from tokenmeter.notes import Call
from tokenmeter.record import CallRecord


class Open(Struct, frozen=True):
    """Open the span."""

    call: Call


class Hold(Struct, frozen=True):
    """Reserve on all budgets or on none. → ``Held | Short``"""

    hold_id: str
    claims: tuple[Claim, ...]
    note: Note


class Queue(Struct, frozen=True):
    """Like `Hold`, but wait in line while only other calls' holds stand in the way. → ``Held | Short``

    ``wait_s`` is for all waiting of the call together; ``window_s``: how long the claims that wait make sense.
    """

    hold_id: str
    claims: tuple[Claim, ...]
    note: Note
    wait_s: float
    window_s: float


class Now(Struct, frozen=True):
    """Tell the time, in seconds since the epoch. → ``float``"""


class Brake(Struct, frozen=True):
    """Let some time pass before the call goes on."""

    pause_s: float


class Sent(Struct, frozen=True):
    """Note in the books that the request goes out now. → ``bool``, False where the hold is gone"""

    hold_id: str


class Send(Struct, frozen=True):
    """Send the request, with another body if one is given. → `Answer`"""

    call: Call
    body: bytes | None
    hide_usage: bool


class Relay(Struct, frozen=True):
    """Hand the response to the caller and come back when its body has passed by. → `Answer`"""

    call: Call


class Settle(Struct, frozen=True):
    """Turn the hold into what was spent, and keep the row with it. → ``Settled | None``"""

    hold_id: str
    amounts: tuple[int, ...]
    row: bytes


class Release(Struct, frozen=True):
    """Give the hold back."""

    hold_id: str


class Write(Struct, frozen=True):
    """Keep a row that charges nothing."""

    row_id: str
    row: bytes


class Record(Struct, frozen=True):
    """End the span, count the metrics, call the listeners."""

    call: Call
    row: CallRecord
    crossings: tuple[Crossing, ...] = ()


Effect = Open | Brake | Hold | Queue | Now | Sent | Send | Relay | Settle | Release | Write | Record
Story = Generator[Effect, Any, None]
