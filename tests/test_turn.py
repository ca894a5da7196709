"""One errand at a time; and an interrupt at any step leaves nothing locked."""

from __future__ import annotations

import ast
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tokenmeter import turn
from tokenmeter.turn import Turn, in_turn, in_turn_or


class Interrupt(BaseException):
    pass


class Late(RuntimeError):
    """As a signal handler of somebody's may raise it."""


class Desk:
    def __init__(self) -> None:
        self._turn = Turn()

    @in_turn
    def add(self, one: int, *, more: int = 0) -> int:
        return one + more

    @in_turn
    def add_twice(self, one: int) -> int:
        return self.add(one) + self.add(one)

    @in_turn_or(-1)
    def ask(self, act: Callable[[], int]) -> int:
        return act()


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
    assert one.run(lambda: elsewhere(one)) == "taken"
    assert one.take(lambda: one.take(lambda: "done", "taken", 60.0), "") == "taken", "on the same thread too"
    assert one.run(lambda: one.run(lambda: "done")) == "done", "which doesn't wait for itself"
    assert one.run(lambda: one.mine)
    assert not one.mine
    assert one.take(lambda: "done", "") == elsewhere(one) == "done"


def test_it_waits_for_who_is_at_work() -> None:
    one = Turn()
    held, let_go = threading.Event(), threading.Event()

    def work() -> None:
        held.set()
        let_go.wait(60)

    at_work = threading.Thread(target=one.run, args=(work,))
    at_work.start()
    assert held.wait(60)
    assert one.take(lambda: "done", "taken", 0.01) == "taken"
    threading.Timer(0.05, let_go.set).start()
    assert one.run(lambda at, to: (at, to), 1, to=2) == (1, 2)
    at_work.join()


def test_over_what_no_function_can_be_put_round() -> None:
    one = Turn()
    assert one.begin(1.0)
    assert elsewhere(one) == "taken"
    one.end()
    assert elsewhere(one) == "done"


def test_methods() -> None:
    desk = Desk()
    assert desk.add(1, more=2) == 3
    assert desk.add_twice(2) == 4
    assert desk.ask(lambda: 5) == 5
    assert desk.ask(lambda: desk.ask(lambda: 5)) == -1
    assert desk.ask(lambda: desk.add(7)) == 7
    assert elsewhere(desk._turn) == "done"
    assert Desk.add.__name__ == "add"


def test_what_fails_gives_it_back() -> None:
    one, desk = Turn(), Desk()

    def fail() -> Any:
        raise LookupError

    for act in (lambda: one.take(fail, ""), lambda: one.run(fail), lambda: desk.ask(fail)):
        with pytest.raises(LookupError):
            act()
    assert elsewhere(one) == elsewhere(desk._turn) == "done"


@pytest.mark.parametrize("kind", [Interrupt, Late])
@pytest.mark.parametrize("way", ["take", "run", "in_turn", "in_turn_or"])
def test_interrupts_at_each_step(way: str, kind: type[BaseException]) -> None:
    """Raised as each call returns, which is where Python looks for signals."""
    calls = step = 0
    for step in range(1, 20):
        desk, calls = Desk(), 0
        one = desk._turn

        def profile(frame: FrameType, event: str, argument: Any, step: int = step) -> None:
            nonlocal calls
            if event in ("c_return", "return") and frame.f_code.co_filename == turn.__file__:
                calls += 1
                if calls == step:
                    sys.setprofile(None)
                    raise kind

        act: Callable[[], object] = {
            "take": lambda one=one: one.take(lambda: "done", ""),
            "run": lambda one=one: one.run(lambda: "done"),
            "in_turn": lambda desk=desk: desk.add(1),
            "in_turn_or": lambda desk=desk: desk.ask(lambda: 1),
        }[way]
        raised = False
        sys.setprofile(profile)
        try:
            act()
        except kind:
            raised = True
        finally:
            sys.setprofile(None)
        assert elsewhere(one) == "done", f"after step {step}"
        assert raised == (calls == step), f"lost at step {step}"
        if calls < step:
            break
    assert step > 3


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
def test_interrupts_by_a_timer() -> None:
    desk, interrupts = Desk(), 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        while interrupts < 200:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002)
                while True:
                    desk.add(1)
            except Interrupt:
                interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert elsewhere(desk._turn) == "done"


SOURCE = Path(turn.__file__).parent
ELSEWHERE = ("report/pages.py", "testing/")  # on threads of a server, which no signal interrupts; and in tests


def test_no_lock_is_taken_by_a_with() -> None:
    """From Python 3.14 on, an interrupt right after it was taken would leave it taken."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.With | ast.AsyncWith):
                found += [
                    f"{path.relative_to(SOURCE).as_posix()}:{node.lineno}"
                    for item in node.items
                    if isinstance(item.context_expr, ast.Attribute) and not isinstance(item.context_expr.ctx, ast.Store)
                ]
    assert [each for each in found if not each.startswith(ELSEWHERE)] == []
