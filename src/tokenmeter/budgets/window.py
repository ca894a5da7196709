"""Windows of the calendar: the hour, day, week or month that a moment falls into, in a time zone."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from typing import NamedTuple

CALENDAR = ("hour", "day", "week", "month")


class Window(NamedTuple):
    """``start_s ≤ now < end_s``, in seconds since the epoch; ``id`` names it among all windows."""

    start_s: float
    end_s: float
    id: str


def zone(name: str) -> dt.tzinfo:
    """The time zone of that name; UTC needs no database."""
    if name == "UTC":
        return dt.UTC
    from zoneinfo import ZoneInfo  # few ask for one

    return ZoneInfo(name)


def window_at(per: str, tz: dt.tzinfo, now_s: float) -> Window:
    """The window that holds ``now_s``. The windows of one zone follow each other without gap or overlap."""
    now = math.floor(now_s)
    start, end = _hour(tz, now) if per == "hour" else _days(per, tz, now)
    return Window(start, end, f"{per}:{_local(start, tz).isoformat()}")


def _hour(tz: dt.tzinfo, now: int) -> tuple[int, int]:
    local = _local(now, tz)
    start = now - local.minute * 60 - local.second
    end = start + 3600
    # A zone may change its offset within a local hour (Lord Howe, by 30 minutes): the window ends there.
    if _local(start, tz).utcoffset() != local.utcoffset():
        start = _first(start, now, lambda t: _local(t, tz).utcoffset() == local.utcoffset())
    if _local(end - 1, tz).utcoffset() != local.utcoffset():
        end = _first(now, end - 1, lambda t: _local(t, tz).utcoffset() != local.utcoffset())
    return start, end


def _days(per: str, tz: dt.tzinfo, now: int) -> tuple[int, int]:
    first = _floor(per, _local(now, tz).date())
    start, end = _midnight(first, tz), _midnight(_next(per, first), tz)
    # Where clocks go back over midnight, a date comes twice: its second part belongs to the next window.
    while end <= now:
        first = _next(per, first)
        start, end = end, _midnight(_next(per, first), tz)
    while start > now:
        first = _floor(per, first - dt.timedelta(days=1))
        start, end = _midnight(first, tz), start
    return start, end


def _floor(per: str, day: dt.date) -> dt.date:
    if per == "week":
        return day - dt.timedelta(days=day.weekday())
    return day.replace(day=1) if per == "month" else day


def _next(per: str, first: dt.date) -> dt.date:
    if per == "month":
        return (first + dt.timedelta(days=31)).replace(day=1)
    return first + dt.timedelta(days=7 if per == "week" else 1)


def _midnight(day: dt.date, tz: dt.tzinfo) -> int:
    """The first moment at which the clocks show that day."""
    wall = dt.datetime(day.year, day.month, day.day)  # noqa: DTZ001 - a reading of the wall clock
    moment = int(wall.replace(tzinfo=tz).timestamp())
    if _local(moment, tz).replace(tzinfo=None) == wall:
        return moment
    return _first(moment - 86400, moment, lambda t: _local(t, tz).replace(tzinfo=None) >= wall)


def _local(moment: int, tz: dt.tzinfo) -> dt.datetime:
    return dt.datetime.fromtimestamp(moment, tz)


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The first second after ``low``, up to ``high``, from which it holds."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
