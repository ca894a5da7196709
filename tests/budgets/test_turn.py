"""One errand at a time; and an interrupt at any step leaves nothing locked."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

import pytest

from tokenmeter.budgets import turn
from tokenmeter.budgets.turn import Turn


class Interrupt(BaseException):
    pass


def elsewhere(one: Turn) -> str:
    """What another thread gets."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(one.take(lambda: "done", "taken")))
    thread.start()
    thread.join()
    return found[0]


def test_one_at_a_time() -> None:
    one = Turn()
    assert one.take(lambda: elsewhere(one), "") == "taken"
    assert one.take(lambda: one.take(lambda: "done", "taken", 60.0), "") == "taken", "on the same thread too"
    assert one.take(lambda: "done", "") == elsewhere(one) == "done"


def test_what_fails_gives_it_back() -> None:
    one = Turn()

    def fail() -> str:
        raise LookupError

    with pytest.raises(LookupError):
        one.take(fail, "")
    assert elsewhere(one) == "done"


def test_interrupts_at_each_step() -> None:
    """Raised as each call returns, which is where Python looks for signals."""
    calls = step = 0
    for step in range(1, 20):
        one, calls = Turn(), 0

        def profile(frame: FrameType, event: str, argument: Any, step: int = step) -> None:
            nonlocal calls
            if event in ("c_return", "return") and frame.f_code.co_filename == turn.__file__:
                calls += 1
                if calls == step:
                    sys.setprofile(None)
                    raise Interrupt

        sys.setprofile(profile)
        try:
            one.take(lambda: "done", "")
        except Interrupt:
            pass
        finally:
            sys.setprofile(None)
        assert elsewhere(one) == "done", f"after step {step}"
        if calls < step:
            break
    assert step > 3
