"""Code that comes in between: finalizers, signal handlers, Ctrl-C, other threads, a fork."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from tokenmeter.budgets import Entry, Grant, Held, MemoryStore, Settled, Short, State, guarded, leases
from tokenmeter.budgets.polling_ticket import PollingTicket
from tokenmeter.budgets.ticket import MemoryTicket
from tokenmeter.errors import StoreUnavailable

from .conftest import MakeClaim

LONG_S = 60.0


class Hook(int):
    """An amount that runs something in the middle of the verb that reckons with it, once."""

    run: Callable[[], object] | None = None

    def _fire(self) -> None:
        run, self.run = self.run, None
        if run is not None:
            run()

    def __radd__(self, other: int) -> int:
        self._fire()
        return other + int(self)

    def __rsub__(self, other: int) -> int:
        self._fire()
        return other - int(self)


def hook(amount: int, run: Callable[[], object]) -> Hook:
    made = Hook(amount)
    made.run = run
    return made


def is_free(store: MemoryStore) -> bool:
    """Whether another thread can have the lock."""
    found: list[bool] = []

    def take() -> None:
        found.append(store._turn.take(lambda: True, otherwise=False, timeout_s=LONG_S))

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return found == [True] and store._busy is None


def test_settle_and_its_kin_from_within_a_hold(claim: MakeClaim) -> None:
    store = MemoryStore()
    answers: list[object] = []

    def finalizer() -> None:
        assert store._busy is not None
        answers.append(store.settle("a", (1,)))
        answers.append(store.settle("a", (1,)))
        answers.append(store.post("a", (claim(),), (1,)))
        answers.append(store.release("a"))
        answers.append(store.release("b"))
        answers.append(store.release("b"))
        answers.append(store.settle("never", (1,)))
        answers.append(store.post("p", (claim(),), (2,)))
        answers.append(store.post("p", (claim(),), (2,)))
        store.draw(("seen",), [Entry("drawn", (("book", 1),), b"")])
        store.grant(Grant("g", "", 5, 0.0, 1e12, "", ""))
        answers.append(store.read(["book"]))

    store.hold("a", (claim(1),), 0.0)
    store.hold("b", (claim(1),), 0.0)
    store.hold("seen", (claim(1),), 0.0)
    held = store.hold("c", (claim(hook(1, finalizer)),), 0.0)
    assert held == Held((State(0, 4, 10),), ())
    assert answers == [
        Settled((State(1, 2, 10),), (1,)),
        None,
        None,
        False,
        True,
        False,
        None,
        Settled((State(2, 3, 10),), (2,)),
        None,
        (State(0, 3, 10),),
    ]
    assert store.post("p", (claim(),), (2,)) is None
    assert store.read(["book"]) == (State(4, 1, 15),)
    assert is_free(store)


def test_settle_from_within_a_settle(claim: MakeClaim) -> None:
    store = MemoryStore()
    answers: list[object] = []
    store.hold("a", (claim(1),), 0.0)
    store.hold("b", (claim(1),), 0.0)

    def finalizer() -> None:
        answers.append(store.settle("a", (1,)))  # the very one that is being settled
        answers.append(store.settle("b", (1,)))

    assert store.settle("a", (hook(3, finalizer),))
    assert answers == [None, Settled((State(1, 1, 10),), (1,))]
    assert store.read(["book"]) == (State(4, 0, 10),)
    assert not store.settle("b", (1,))


def test_wrong_amounts_are_told_to_the_finalizer_alone(claim: MakeClaim) -> None:
    store = MemoryStore()
    store.hold("a", (claim(1),), 0.0)

    def finalizer() -> None:
        with pytest.raises(ValueError, match="amounts"):
            store.settle("a", (1, 2))

    assert isinstance(store.hold("b", (claim(hook(1, finalizer)),), 0.0), Short | Held)
    assert store.settle("a", (1,))


def test_what_needs_an_answer_is_refused_within_a_verb(claim: MakeClaim) -> None:
    store = MemoryStore()
    store.hold("a", (claim(1),), 0.0)
    refused: list[str] = []

    def handler() -> None:
        for verb in (store.hold, store.queue):
            with pytest.raises(StoreUnavailable, match="finalizer or a signal handler"):
                verb("new", (claim(1),), 0.0)
            refused.append(verb.__name__)
        with pytest.raises(StoreUnavailable):
            store.adjust("a", (1,))

    store.hold("b", (claim(1),), 0.0)
    assert isinstance(store.hold("c", (claim(hook(1, handler)),), 0.0), Held)
    assert refused == ["hold", "queue"]
    assert store.read(["book"]) == (State(0, 3, 10),)
    assert isinstance(store.hold("new", (claim(1),), 0.0), Held)


def test_a_ticket_dropped_within_a_verb(claim: MakeClaim) -> None:
    store = MemoryStore()
    store.hold("a", (claim(10),), 0.0)
    tickets = [store.queue("waits", (claim(10),), 0.0)]
    behind = store.queue("behind", (claim(2),), 0.0)
    assert store.settle("a", (hook(0, tickets.clear),))
    assert not isinstance(behind, Held | Short)
    assert isinstance(behind.wait(0), Held)
    assert store.read(["book"]) == (State(0, 2, 10),)


def test_another_thread_waits_its_turn(claim: MakeClaim) -> None:
    store = MemoryStore()
    store.hold("a", (claim(1),), 0.0)
    store.hold("b", (claim(1),), 0.0)
    found: list[Settled | None] = []
    thread = threading.Thread(target=lambda: found.append(store.settle("b", (1,))))

    def start() -> None:
        thread.start()

    assert store.settle("a", (hook(1, start),))
    thread.join(LONG_S)
    assert found == [Settled((State(2, 0, 10),), (1,))]
    assert store.read(["book"]) == (State(2, 0, 10),)


class Stream:
    """Settles when it is collected, as an abandoned stream does. Only the garbage collector can free it."""

    def __init__(self, store: MemoryStore, hold_id: str) -> None:
        self.store = store
        self.hold_id = hold_id
        self.me = self

    def __del__(self) -> None:
        assert self.store.settle(self.hold_id, (1,))


def test_the_garbage_collector_settles_at_any_point(claim: MakeClaim) -> None:
    store = MemoryStore()
    limits = gc.get_threshold()
    claims = (claim(1, 10**6),)
    inside = 0
    real = store.settle

    def settle(hold_id: str, amounts: tuple[int, ...]) -> Settled | None:
        nonlocal inside
        inside += store._busy is not None
        return real(hold_id, amounts)

    store.settle = settle  # type: ignore[method-assign,assignment]
    try:
        for spread in range(1, 40):
            gc.set_threshold(spread)
            for number in range(50):
                assert isinstance(store.hold(f"stream {spread} {number}", claims, 0.0), Held)
                Stream(store, f"stream {spread} {number}")
                assert isinstance(store.hold(f"{spread} {number}", claims, 0.0), Held)
                assert real(f"{spread} {number}", (2,))
    finally:
        gc.set_threshold(*limits)
    gc.collect()
    assert store.read(["book"]) == (State(39 * 50 * 3, 0, 10**6),)
    assert inside > 0  # some came in the middle of a verb
    assert is_free(store)


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Calls back every fraction of a millisecond, at any point of this thread."""
    before = signal.getsignal(signal.SIGALRM)
    watching, gc.callbacks[:] = gc.callbacks[:], []  # hypothesis' own: an interrupt that falls into it is lost

    def start(work: Callable[[], object]) -> None:
        def handler(number: int, frame: FrameType | None) -> None:
            work()

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.00017)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    gc.callbacks[:] = watching


def test_a_signal_handler_settles(alarm: Callable[[Callable[[], object]], None], claim: MakeClaim) -> None:
    store = MemoryStore()
    claims = (claim(1, 10**6, "a"), claim(1, 10**6, "b"))
    ready = [f"ready {number}" for number in range(300)]
    for hold_id in ready:
        store.hold(hold_id, claims, 0.0)
    alarm(lambda: ready and store.settle(ready.pop(), (1, 1)))
    number = 0
    while ready and number < 500_000:
        number += 1
        assert isinstance(store.hold(str(number), claims, 0.0), Held)
        assert store.settle(str(number), (1, 1))
    assert not ready
    assert store.read(["a", "b"]) == (State(300 + number, 0, 10**6),) * 2


def test_ctrl_c_at_any_point(alarm: Callable[[Callable[[], object]], None], claim: MakeClaim) -> None:
    """A caller that cleans up as the protocol says finds whole books, and a lock that is free."""
    store = MemoryStore()
    claims = (claim(1, 10**6, "a"), claim(2, 10**6, "b"))
    armed = False
    interrupts = {"hold": 0, "settle": 0}
    posted = 0

    def interrupt() -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    alarm(interrupt)
    for number in range(500_000):
        hold_id = str(number)
        try:
            armed = True
            store.hold(hold_id, claims, 0.0)
            armed = False
        except KeyboardInterrupt:
            interrupts["hold"] += 1
            store.release(hold_id)
            assert not store.release(hold_id)
            continue
        try:
            armed = True
            store.settle(hold_id, (1, 2))
            armed = False
        except KeyboardInterrupt:
            interrupts["settle"] += 1
            store.settle(hold_id, (1, 2))
        posted += 1
        if min(interrupts.values()) >= 60:
            break
    armed = False
    assert min(interrupts.values()) > 0, interrupts
    assert store.read(["a", "b"]) == (State(posted, 0, 10**6), State(2 * posted, 0, 10**6))
    assert is_free(store)


def test_ctrl_c_while_charging(alarm: Callable[[Callable[[], object]], None], claim: MakeClaim) -> None:
    """Who tries again with the same ids charges once."""
    store = MemoryStore()
    lease = (claim(10**6, 10**7, "a"), claim(10**6, 10**7, "b"))
    store.hold("lease:", lease, 0.0)
    armed = False
    interrupts = {"draw": 0, "post": 0}

    def interrupt() -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    alarm(interrupt)
    number = 0
    while min(interrupts.values()) < 60 and number < 500_000:
        number += 1
        entries = [Entry(f"{part} {number}", (("a", 1), ("b", 2)), b"") for part in "xy"]
        for verb in interrupts:
            for attempt in range(2):
                try:
                    armed = attempt == 0
                    if verb == "draw":
                        store.draw(("lease:",), entries)
                    else:
                        store.post(f"p {number}", lease, (3, 4))
                    armed = False
                    break
                except KeyboardInterrupt:
                    interrupts[verb] += 1
    armed = False
    assert min(interrupts.values()) > 0, interrupts
    a, b = store.read(["a", "b"])
    assert a == State(5 * number, max(0, 10**6 - 2 * number), 10**7)
    assert b == State(8 * number, max(0, 10**6 - 4 * number), 10**7)
    assert store.settle("lease:", (0, 0)) == Settled((a._replace(held=0), b._replace(held=0)), (0, 0))
    assert is_free(store)


# Python itself reports and drops what is raised while a finalizer runs, here that of a ticket.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_while_a_crowd_waits(alarm: Callable[[Callable[[], object]], None], claim: MakeClaim) -> None:
    store = MemoryStore()
    armed = False
    interrupted = 0

    def interrupt() -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    alarm(interrupt)
    for number in range(50_000):
        names = [f"{number} {place}" for place in range(4)]
        try:
            armed = True
            answers = [store.queue(name, (claim(6),), 0.0) for name in names]
            for name, answer in zip(names, answers, strict=True):
                got = answer if isinstance(answer, Held | Short) else answer.wait(0.0)
                if isinstance(got, Held):
                    store.release(name)
            armed = False
        except KeyboardInterrupt:
            interrupted += 1
            for name in names:
                store.release(name)
        answers = []
        if interrupted >= 100:
            break
    armed = False
    assert interrupted > 0
    gc.collect()
    assert store.read(["book"]) == (State(0, 0, 10),)
    assert not store._holds
    assert not store._waiters
    assert not store._lines.by_book
    assert is_free(store)


@pytest.mark.parametrize("verb", ["hold", "settle"])
def test_an_error_in_the_middle_changes_nothing(claim: MakeClaim, verb: str) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    store = MemoryStore()
    store.hold("a", (claim(1, key="a"), claim(1, key="b")), 0.0)
    if verb == "hold":
        with pytest.raises(KeyboardInterrupt):
            store.hold("c", (claim(1, key="a"), claim(hook(1, interrupt), key="b")), 0.0)
    else:
        with pytest.raises(KeyboardInterrupt):
            store.settle("a", (1, hook(1, interrupt)))
    assert store.read(["a", "b"]) == (State(0, 1, 10), State(0, 1, 10))
    assert is_free(store)
    assert not store.release("c")
    assert store.settle("a", (1, 1))


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no fork on this system")
def test_a_forked_child_is_not_stuck() -> None:
    script = """
        import os, signal, threading
        from tokenmeter.budgets import Budget, Held, MemoryStore, Need, Policy, State
        signal.alarm(30)
        store = MemoryStore()
        claims = Policy([Budget("10 calls")]).claims({}, Need(None, 0), 0.0)
        store.post("p", claims, (2,))
        store.hold("parent", claims, 0.0)
        taken, forked = threading.Event(), threading.Event()
        def sit():
            taken.set()
            forked.wait()
        thread = threading.Thread(target=store._turn.run, args=(sit,))
        thread.start()
        taken.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            fine = [(book.key, book.state) for book in store.books()] == [(claims[0].key, State(2, 0, 10))]
            fine = fine and isinstance(store.hold("child", claims, 0.0), Held) and store.settle("child", (1,))
            fine = fine and not store.settle("parent", (1,))
            os._exit(0 if fine else 3)
        status = os.waitpid(child, 0)[1]
        forked.set()
        thread.join()
        assert status == 0, status
        assert store.settle("parent", (1,))
        assert [(book.key, book.state) for book in store.books()] == [(claims[0].key, State(3, 0, 10))]
        print("fine")
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


@pytest.mark.parametrize("kind", [MemoryTicket, PollingTicket, guarded._GuardedTicket, leases._LeasedTicket])
def test_a_ticket_whose_making_was_interrupted_goes_without_a_word(kind: Any) -> None:
    kind.__new__(kind).__del__()
