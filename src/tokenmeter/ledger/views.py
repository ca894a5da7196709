"""What reports and findings are made of: sums that the ledger keeps ready, and outcomes with what led to them.

Money is in nanodollars, times are in seconds since the epoch. No view has a prompt, a completion, or a single call.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final


@dataclass(frozen=True, slots=True)
class Sums:
    """Calls, and what they cost."""

    calls: int = 0  # charged
    nanos: int = 0
    estimated_nanos: int = 0  # the part of it that was estimated
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    refused: int = 0
    failed: int = 0  # by the provider or the connection, unbilled
    incomplete: int = 0  # streams that were left or cut, and requests that were given up
    unpriced: int = 0


SUMS: Final = tuple(field.name for field in fields(Sums))


@dataclass(frozen=True, slots=True)
class HourSum:
    """The calls of one hour by who made them, with the fields of `Sums`. A name that is None was not given."""

    hour_s: int  # when the hour begins, UTC
    agent: str | None
    team: str | None
    user: str | None
    provider: str
    model: str | None
    calls: int = 0
    nanos: int = 0
    estimated_nanos: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    refused: int = 0
    failed: int = 0
    incomplete: int = 0
    unpriced: int = 0


@dataclass(frozen=True, slots=True)
class RunSum:
    """One run: all that one trigger set off."""

    run: str
    team: str | None
    user: str | None
    agents: tuple[str, ...]  # who took part, the outermost first
    first_s: float
    last_s: float
    calls: int = 0
    nanos: int = 0
    estimated_nanos: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    refused: int = 0
    failed: int = 0
    incomplete: int = 0
    max_depth: int = 0
    models: tuple[str, ...] = ()
    warned: int = 0  # calls that a budget or a guard would have stopped, and only warned of


@dataclass(frozen=True, slots=True)
class RepeatSum:
    """A request that came more than once, known by its keyed fingerprint."""

    fingerprint: str
    agent: str | None
    team: str | None
    runs: int
    calls: int
    nanos: int  # of all
    first_nanos: int  # of the first one


@dataclass(frozen=True, slots=True)
class Outcome:
    """Something that came of the spend and that somebody else than the spender accepted.

    ``kind`` and ``key`` name it, once. ``fold`` names the change that it is a part of: what shares a fold counts as
    one. ``weight`` is that of its kind unless given. ``confidence``: how sure it is that it was accepted, 0 to 1.
    """

    kind: str
    key: str
    at_s: float
    team: str | None = None
    user: str | None = None
    run: str | None = None
    agents: tuple[str, ...] = ()
    weight: float = 1.0
    confidence: float = 1.0
    fold: str | None = None
    accepted_by: str | None = None
    source: str = "api"
    revoked_s: float | None = None
    revoked_why: str | None = None
    attributes: tuple[tuple[str, str], ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Link:
    """A run that led to an outcome. The shares of one outcome add up to one; those of one run may be many."""

    kind: str
    key: str
    run: str
    share: float
    confidence: float
    how: str  # "run", "trailer", "window"
