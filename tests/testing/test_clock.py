from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from tokenmeter.testing import FakeClock


def test_it_stands_still_until_it_is_moved(clock: FakeClock) -> None:
    assert clock.now_s() == clock.now_s() == datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    clock.advance(1.5)
    assert clock.now() == datetime(2026, 1, 1, 0, 0, 1, 500_000, UTC)
    assert clock.monotonic_s() == 1.5


def test_set_moves_both_forward_and_only_the_wall_clock_back() -> None:
    clock = FakeClock(datetime(2026, 3, 1, tzinfo=UTC))
    clock.set(datetime(2026, 3, 2, 2, tzinfo=timezone(timedelta(hours=2))))
    assert clock.now() == datetime(2026, 3, 2, tzinfo=UTC)
    assert clock.monotonic_s() == 86_400
    clock.set(datetime(2026, 2, 1, tzinfo=UTC))
    assert clock.now() == datetime(2026, 2, 1, tzinfo=UTC)
    assert clock.monotonic_s() == 86_400


def test_nonsense_is_refused(clock: FakeClock) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        clock.set(datetime(2026, 1, 1))  # noqa: DTZ001  the missing zone is the point
    for span in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="can't advance"):
            clock.advance(span)
