"""The rounds of an object end with it, go on after a fault, and come sooner when they are rung for."""

from __future__ import annotations

import gc
import threading
import weakref
from queue import SimpleQueue

import pytest

from tokenmeter.rounds import Rounds

LONG_S = 30.0


class Watchman:
    """Makes a round an hour, unless it is rung for."""

    def __init__(self, log: SimpleQueue[str] | None = None, *, first_s: float = 0.0) -> None:
        self.log = log or SimpleQueue[str]()
        self.faults = 0
        self.rounds = Rounds(self.round, name="watchman", doing="watching", first_s=first_s)

    def round(self) -> float:
        self.log.put("round")
        if self.faults:
            self.faults -= 1
            raise ZeroDivisionError
        return 3600.0


def test_the_first_comes_at_once_and_the_next_when_it_is_rung_for() -> None:
    watchman = Watchman()
    watchman.rounds.start()
    watchman.log.get(timeout=LONG_S)
    watchman.rounds.ring()
    watchman.log.get(timeout=LONG_S)
    watchman.rounds.end(LONG_S)
    assert watchman.log.empty()


def test_what_was_rung_many_times_is_one_round() -> None:
    watchman = Watchman(first_s=3600.0)
    for _ in range(5):
        watchman.rounds.ring()
    watchman.rounds.start()
    watchman.log.get(timeout=LONG_S)
    watchman.rounds.end(LONG_S)
    assert watchman.log.empty()


def test_they_go_on_after_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    watchman = Watchman()
    watchman.faults = 1
    watchman.rounds.start()
    for _ in range(2):
        watchman.log.get(timeout=LONG_S)
    watchman.rounds.end(LONG_S)
    assert "failed while watching" in caplog.text


def test_they_end_with_their_object() -> None:
    log: SimpleQueue[str] = SimpleQueue()
    watchman = Watchman(log)
    watchman.rounds.start()
    log.get(timeout=LONG_S)
    thread, gone = watchman.rounds.thread, weakref.ref(watchman)
    assert thread is not None
    del watchman
    gc.collect()
    assert gone() is None
    thread.join(LONG_S)
    assert not thread.is_alive()


def test_after_the_end_none_is_begun() -> None:
    watchman = Watchman()
    watchman.rounds.end()
    watchman.rounds.start()
    assert watchman.rounds.thread is None


def test_a_round_may_end_them() -> None:
    class Last(Watchman):
        def round(self) -> float:
            self.rounds.end(LONG_S)
            return super().round()

    watchman = Last()
    watchman.rounds.start()
    thread = watchman.rounds.thread
    assert thread is not None
    thread.join(LONG_S)
    assert not thread.is_alive()
    assert watchman.log.qsize() == 1


def test_where_no_thread_is_to_be_had_the_next_start_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    watchman = Watchman()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        watchman.rounds.start()
    assert watchman.rounds.thread is None
    watchman.rounds.start()
    watchman.log.get(timeout=LONG_S)
    watchman.rounds.end(LONG_S)
