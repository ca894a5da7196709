"""Durations and moments as people write and read them: ``24h``, ``1d12h``, ``2026-12-01T09:00Z``."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from tokenmeter.cli.trouble import Trouble

_UNITS_S = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"\s*".join(rf"(?:(?P<{unit}>[0-9]{{1,9}})\s*{unit})?" for unit in _UNITS_S), re.IGNORECASE)
_REMEDY = "write whole weeks, days, hours, minutes and seconds such as 24h, 90m or 1d12h"
MAX_DURATION_S = 3650 * 86_400


def parse_duration(text: str) -> int:
    """Seconds, at least one and at most ten years; `Trouble` for anything else."""
    plain = text.strip()
    found = _DURATION.fullmatch(plain)
    if not plain or found is None:
        why = "says no unit" if re.fullmatch(r"[0-9.]+", plain) else "is no duration"
        raise Trouble(f"duration {text!r} {why}; {_REMEDY}")
    seconds = sum(int(number) * _UNITS_S[unit] for unit, number in found.groupdict().items() if number)
    if seconds == 0:
        raise Trouble(f"duration {text!r} is no time at all; {_REMEDY}")
    if seconds > MAX_DURATION_S:
        raise Trouble(f"duration {text!r} is longer than ten years; raise the budget's limit instead")
    return seconds


def parse_moment(text: str) -> float:
    """Seconds since the epoch of an ISO 8601 date or time; one without an offset is UTC. `Trouble` for the rest."""
    try:
        moment = datetime.fromisoformat(text.strip())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise Trouble(f"{text!r} is no ISO 8601 time; write one such as 2026-12-01T09:00Z or 2026-12-01") from None


def moment(at_s: float) -> str:
    """A moment in UTC: ``2026-12-01 09:00 UTC``, with seconds where it has some."""
    try:
        found = datetime.fromtimestamp(math.floor(at_s), UTC)
    except (ValueError, OverflowError, OSError):
        return f"{at_s:.0f} s after 1970"
    return found.strftime("%Y-%m-%d %H:%M:%S UTC" if found.second else "%Y-%m-%d %H:%M UTC")


def in_words(seconds: int) -> str:
    """How long it is, in its two largest units and no more than it is: ``3 h 5 min``."""
    if seconds < 60:
        return f"{seconds} s"
    left = seconds
    words = []
    for unit, size_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        count, left = divmod(left, size_s)
        if count:
            words.append(f"{count} {unit}")
        elif words:
            break
    return " ".join(words[:2])


def until(at_s: float, now_s: float) -> str:
    """``in 3 h 5 min``, or ``3 h 5 min ago``."""
    if at_s > now_s:
        return f"in {in_words(math.ceil(at_s - now_s))}"
    return f"{in_words(math.floor(now_s - at_s))} ago"
