from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenmeter.budgets.window import CALENDAR, window_at, zone

# Hours of 23 and 25, half-hour steps, midnights that don't exist or come twice, a day that was skipped.
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "America/Sao_Paulo",
    "America/Havana",
    "Africa/Cairo",
    "America/St_Johns",
    "Pacific/Apia",
    "Asia/Kathmandu",
]
MOMENTS = st.floats(0, 4_000_000_000, allow_nan=False)


def seconds(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp())


@given(st.sampled_from(CALENDAR), st.sampled_from(ZONES), MOMENTS)
@example("day", "America/St_Johns", seconds("2006-10-29T03:15:00+00:00"))  # 23:45 once more, after 00:00
@example("hour", "America/St_Johns", seconds("2006-10-29T02:30:30+00:00"))  # in the minute of midnight's hour
@example("day", "Pacific/Apia", seconds("2011-12-30T10:00:00+00:00"))  # the first moment after the skipped day
@example("hour", "Australia/Lord_Howe", seconds("2024-10-05T15:45:00+00:00"))  # within the hour of 30 minutes
def test_now_lies_in_its_window(per: str, name: str, now_s: float) -> None:
    tz = zone(name)
    window = window_at(per, tz, now_s)
    assert window.start_s <= now_s < window.end_s
    # It is the same window for each of its moments, and its neighbours touch it.
    for moment in (window.start_s, (window.start_s + window.end_s) // 2, window.end_s - 1, window.end_s - 0.001):
        assert window_at(per, tz, moment) == window
    following = window_at(per, tz, window.end_s)
    assert following.start_s == window.end_s
    assert following.id != window.id
    assert window_at(per, tz, window.start_s - 1).end_s == window.start_s


@pytest.mark.parametrize(
    ("per", "name", "now", "start", "end"),
    [
        ("hour", "UTC", "2026-11-24T13:59:59+00:00", "2026-11-24T13:00+00:00", "2026-11-24T14:00+00:00"),
        ("day", "UTC", "2026-11-24T00:00:00+00:00", "2026-11-24T00:00+00:00", "2026-11-25T00:00+00:00"),
        ("week", "UTC", "2026-11-24T12:00:00+00:00", "2026-11-23T00:00+00:00", "2026-11-30T00:00+00:00"),
        ("week", "UTC", "2026-11-22T23:59:59+00:00", "2026-11-16T00:00+00:00", "2026-11-23T00:00+00:00"),
        ("month", "UTC", "2026-12-31T23:59:59+00:00", "2026-12-01T00:00+00:00", "2027-01-01T00:00+00:00"),
        ("month", "UTC", "2028-02-29T12:00:00+00:00", "2028-02-01T00:00+00:00", "2028-03-01T00:00+00:00"),
        ("day", "Europe/Berlin", "2026-03-29T12:00+02:00", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        ("day", "Europe/Berlin", "2026-10-25T12:00+01:00", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
        ("hour", "Europe/Berlin", "2026-10-25T02:30+02:00", "2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"),
        ("hour", "Europe/Berlin", "2026-10-25T02:30+01:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"),
        ("hour", "Asia/Kolkata", "2026-11-24T13:40+05:30", "2026-11-24T13:00+05:30", "2026-11-24T14:00+05:30"),
        # clocks went forward at midnight: the day began at 01:00
        ("day", "America/Sao_Paulo", "2018-11-04T12:00-02:00", "2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00"),
        # 30 December 2011 was skipped
        ("day", "Pacific/Apia", "2011-12-29T12:00-10:00", "2011-12-29T00:00-10:00", "2011-12-31T00:00+14:00"),
        # an hour of 30 minutes, of 2:30 to 3:00
        ("hour", "Australia/Lord_Howe", "2024-10-06T02:45+11:00", "2024-10-06T02:30+11:00", "2024-10-06T03:00+11:00"),
    ],
)
def test_windows_by_the_calendar(per: str, name: str, now: str, start: str, end: str) -> None:
    window = window_at(per, zone(name), seconds(now))
    assert (window.start_s, window.end_s) == (seconds(start), seconds(end))


def test_days_of_a_year_have_23_24_or_25_hours() -> None:
    tz, moment, hours = zone("America/New_York"), seconds("2026-01-01T12:00-05:00"), []
    for _ in range(365):
        window = window_at("day", tz, moment)
        hours.append((window.end_s - window.start_s) / 3600)
        moment = int(window.end_s)
    assert sorted(set(hours)) == [23, 24, 25]
    assert sum(hours) == 365 * 24
