"""The kill switch as calls see it: it never waits, it outlives an outage, and it ends with whoever had it."""

from __future__ import annotations

import copy
import gc
import logging
import os
import pickle
import threading
import time
import weakref
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmeter import forks
from tokenmeter.budgets import MemoryStore, Pause, Store
from tokenmeter.budgets import pauses as pauses_module
from tokenmeter.budgets.pauses import Pauses, paused
from tokenmeter.errors import Paused, Refused, StoreUnavailable

from .places import Place


class Far:
    """A store that is somewhere else: only its pauses are asked for."""

    instant = False

    def __init__(self, *targets: str) -> None:
        self.targets = list(targets)
        self.trouble: Exception | None = None
        self.asked = 0
        self.looked = threading.Semaphore(0)
        self.gate: threading.Event | None = None

    def pauses(self) -> list[Pause]:
        self.asked += 1
        found = [Pause(target, 1.0, "why", "bob") for target in self.targets]
        if self.gate is not None:
            self.gate.wait(30)
        self.looked.release()
        if self.trouble is not None:
            raise self.trouble
        return found

    def as_store(self) -> Store:
        return cast(Store, self)


def looked(far: Far, times: int = 1) -> None:
    """Until the thread has come by so many times more."""
    for _ in range(times):
        assert far.looked.acquire(timeout=30)


def eventually(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end_s, "it never came about"
        time.sleep(0.005)


def followers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "tokenmeter-pauses"}


# -- whom it stops -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "stopped", "passing"),
    [
        ("all", ("a", "u", "t"), None),
        ("agent=a", ("a", None, None), ("b", "a", "a")),
        ("user=a", (None, "a", None), ("a", None, "a")),
        ("team=a", (None, None, "a"), ("a", "a", None)),
        ("agent=a=b", ("a=b", None, None), ("a", None, None)),
    ],
)
def test_a_target_stops_its_own(
    target: str,
    stopped: tuple[str | None, str | None, str | None],
    passing: tuple[str | None, str | None, str | None] | None,
    store: Store,
) -> None:
    pauses = Pauses(store)
    assert pauses.refresh()
    assert pauses.stops(*stopped) is None
    pause = Pause(target, 1.5, "why", "bob")
    store.pause(pause)
    assert pauses.refresh()
    assert pauses.stops(*stopped) == pause
    assert passing is None or pauses.stops(*passing) is None
    assert pauses.stops(None, None, None) == (pause if target == "all" else None)
    store.resume(target)
    assert pauses.refresh()
    assert pauses.stops(*stopped) is None
    pauses.close()


_names = st.one_of(st.none(), st.sampled_from(["a", "b", "", "a=b", "all"]))
_targets = st.sampled_from(["all", *(f"{kind}={name}" for kind in ("agent", "user", "team") for name in "ab")])


@given(st.lists(_targets, unique=True), _names, _names, _names)
def test_it_stops_exactly_those_that_are_paused(
    targets: list[str], agent: str | None, user: str | None, team: str | None
) -> None:
    store = MemoryStore()
    for target in targets:
        store.pause(Pause(target, 1.0, "", ""))
    theirs = {"all", f"agent={agent}", f"user={user}", f"team={team}"}
    found = Pauses(store).stops(agent, user, team)
    assert (found is not None) == bool(theirs & set(targets))
    assert found is None or found.target in theirs


def test_a_target_of_a_later_version_stops_nothing() -> None:
    pauses = Pauses(Far("model=x", "agent", "").as_store())
    assert pauses.refresh()
    assert pauses.stops("agent", "x", "") is None
    pauses.close()


def test_memory_obeys_at_once_and_needs_no_thread() -> None:
    store = MemoryStore()
    pauses = Pauses(store)
    before = followers()
    assert pauses.stops("a", None, None) is None
    store.pause(Pause("agent=a", 1.0, "", ""))
    assert pauses.stops("a", None, None) is not None
    store.pause(Pause("agent=a", 2.0, "again", ""))
    assert pauses.stops("a", None, None) == Pause("agent=a", 2.0, "again", "")
    store.resume("agent=a")
    assert pauses.stops("a", None, None) is None
    assert followers() <= before


# -- the thread --------------------------------------------------------------------------------------------------


def test_the_first_ask_starts_the_thread_which_looks_at_once_and_again() -> None:
    far = Far("all")
    pauses = Pauses(far.as_store(), interval_s=0.01)
    assert far.asked == 0, "nobody asked"
    pauses.stops("a", None, None)
    eventually(lambda: pauses.stops("a", None, None) is not None)
    far.targets = []
    eventually(lambda: pauses.stops("a", None, None) is None)
    pauses.close()


def test_another_process_obeys_without_being_told(lasting: Place) -> None:
    here, there = lasting.open(), lasting.open()
    pauses = Pauses(here)
    assert pauses.stops("a", None, None) is None
    there.pause(Pause("agent=a", 1.0, "why", "bob"))
    eventually(lambda: pauses.stops("a", None, None) is not None)
    there.resume("agent=a")
    eventually(lambda: pauses.stops("a", None, None) is None)
    pauses.close()


def test_it_looks_twice_a_second() -> None:
    assert pauses_module.INTERVAL_S == 0.5
    assert Pauses(Far().as_store())._interval_s == 0.5


def test_an_ask_never_waits_for_the_store() -> None:
    far = Far("all")
    far.gate = threading.Event()
    pauses = Pauses(far.as_store(), interval_s=0.01)
    for _ in range(100):
        assert pauses.stops("a", None, None) is None, "nothing is known yet, and nobody waited for it"
    eventually(lambda: far.asked > 0)
    assert pauses.stops("a", None, None) is None
    far.gate.set()
    eventually(lambda: pauses.stops("a", None, None) is not None)
    pauses.close()


def test_many_threads_start_one() -> None:
    far = Far()
    far.gate = threading.Event()
    pauses = Pauses(far.as_store())
    before = followers()
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        for _ in range(50):
            pauses.stops("a", None, None)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(followers() - before) == 1
    far.gate.set()
    pauses.close()


def test_a_look_that_began_before_does_not_win_over_a_later_one() -> None:
    far = Far("all")
    far.gate = threading.Event()
    pauses = Pauses(far.as_store())
    slow = threading.Thread(target=pauses.refresh)
    slow.start()
    eventually(lambda: far.asked == 1)
    gate, far.gate, far.targets = far.gate, None, []
    assert pauses.refresh()
    gate.set()
    slow.join()
    assert pauses.stops("a", None, None) is None
    pauses.close()


def test_an_outage_changes_nothing_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tokenmeter")
    far = Far("agent=a")
    pauses = Pauses(far.as_store(), interval_s=0.001)
    assert pauses.refresh()
    far.trouble = StoreUnavailable("it is gone; wait")
    pauses.stops("a", None, None)
    looked(far, 10)
    assert not pauses.refresh()
    assert pauses.stops("a", None, None) is not None
    assert pauses.stops("b", None, None) is None
    [record] = caplog.records
    assert (record.levelname, "1 in force" in record.getMessage()) == ("WARNING", True)
    far.trouble = None
    eventually(lambda: len(caplog.records) == 2)
    assert "again" in caplog.records[1].getMessage()
    far.trouble = StoreUnavailable("gone once more; wait")
    eventually(lambda: len(caplog.records) == 3)
    pauses.close()


def test_a_fault_is_swallowed(caplog: pytest.LogCaptureFixture) -> None:
    far = Far("all")
    pauses = Pauses(far.as_store(), interval_s=0.001)
    assert pauses.refresh()
    far.trouble = RuntimeError("a bug")
    pauses.stops("a", None, None)
    looked(far, 5)
    assert not pauses.refresh()
    assert pauses.stops("a", None, None) is not None
    assert "reading what is paused" in caplog.text
    pauses.close()


def test_what_was_asked_first_and_comes_last_is_old() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Far):
        def pauses(self) -> list[Pause]:
            found = super().pauses()
            if not begun.is_set():
                begun.set()
                go_on.wait(30)
            return found

    far = Slow("all")
    pauses = Pauses(far.as_store())
    slow = threading.Thread(target=pauses.refresh)
    slow.start()
    assert begun.wait(30)
    far.targets = []
    assert pauses.refresh()
    go_on.set()
    slow.join(30)
    assert pauses._view is None
    pauses.close()


def test_closing_ends_the_thread_and_keeps_what_is_known() -> None:
    far = Far("all")
    pauses = Pauses(far.as_store())
    pauses.stops("a", None, None)
    thread = pauses._rounds.thread
    assert thread is not None
    eventually(lambda: pauses.stops("a", None, None) is not None)
    pauses.close()
    thread.join(30)
    assert not thread.is_alive()
    assert pauses.stops("a", None, None) is not None
    assert pauses._rounds.thread is thread, "and starts no other"


def test_after_close_an_ask_starts_nothing() -> None:
    far = Far()
    pauses = Pauses(far.as_store())
    pauses.close()
    assert pauses.stops("a", None, None) is None
    assert pauses._rounds.thread is None
    assert far.asked == 0


def test_letting_go_ends_the_thread() -> None:
    far = Far()
    pauses = Pauses(far.as_store())
    pauses.stops("a", None, None)
    thread = pauses._rounds.thread
    assert thread is not None
    looked(far)
    gone = weakref.ref(pauses)
    del pauses
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()
    assert gone() is None


def test_a_thread_that_can_not_be_started_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pauses = Pauses(Far("all").as_store())
    monkeypatch.setattr(forks, "_told", [])
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        assert pauses.stops("a", None, None) is None
    assert "do without the thread tokenmeter-pauses: can't start new thread" in caplog.text
    pauses.stops("a", None, None)
    eventually(lambda: pauses.stops("a", None, None) is not None)
    pauses.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_knows_what_its_parent_knew_and_looks_itself() -> None:
    far = Far("agent=a")
    pauses = Pauses(far.as_store(), interval_s=0.01)
    assert pauses.refresh()
    pauses.stops("a", None, None)
    eventually(lambda: far.asked > 1)
    child = os.fork()
    if child == 0:
        try:
            right = pauses._rounds.thread is None and pauses.stops("a", None, None) is not None
            far.targets = ["user=u"]
            eventually(lambda: pauses.stops(None, "u", None) is not None)
            os._exit(0 if right else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pauses.close()


# -- the refusal -------------------------------------------------------------------------------------------------


def refusal() -> Paused:
    return paused(
        Pause("agent=mail triage", 1_800_000_000.0, "it loops", "bob"), agent="mail triage", user="u", team=None
    )


def test_the_refusal_says_what_since_when_by_whom_why_and_the_remedy() -> None:
    error = refusal()
    assert isinstance(error, Refused)
    assert error.reason == "paused"
    assert (error.target, error.why, error.by, error.since) == ("agent=mail triage", "it loops", "bob", 1.8e9)
    assert error.details["reason"] == "it loops"
    assert error.agent == "mail triage"
    assert str(error) == (
        "agent=mail triage is paused since 2027-01-15 08:00:00 UTC by bob: it loops. Nothing goes out until somebody "
        "lifts it: tokenmeter resume 'agent=mail triage'"
    )


def test_it_pickles() -> None:
    error = refusal()
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(twin) is Paused
        assert str(twin) == str(error)
        assert twin.details == error.details


@pytest.mark.parametrize("at_s", [-1.0, 0.0, 1e18])
def test_an_odd_time_and_no_reason_are_no_error(at_s: float) -> None:
    said = str(paused(Pause("all", at_s, "", ""), agent=None, user=None, team=None))
    assert said.startswith("all is paused since ")
    assert "tokenmeter resume all" in said
