"""`instrument` carries a scope into plain threads, which start with an empty context."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
from opentelemetry.instrumentation.threading import ThreadingInstrumentor

from tokenmeter import Meter
from tokenmeter.attribution import NOBODY, Scope, current

SUBMIT, START = vars(ThreadPoolExecutor)["submit"], vars(threading.Thread)["start"]


@pytest.fixture
def meter() -> Iterator[Meter]:
    with Meter() as meter:
        meter.instrument()
        yield meter
    assert vars(ThreadPoolExecutor)["submit"] is SUBMIT
    assert vars(threading.Thread)["start"] is START


def in_thread(thread_class: type[threading.Thread] = threading.Thread) -> Scope:
    found: list[Scope] = []
    thread = thread_class(target=lambda: found.append(current()))
    thread.start()
    thread.join()
    return found[0]


def test_threads(meter: Meter) -> None:
    assert in_thread() is NOBODY
    with meter.agent("one", user="alice", step="1") as scope:
        assert in_thread() is scope
        with meter.agent("two") as inner:
            assert in_thread() is inner
    assert in_thread() is NOBODY
    meter.uninstrument()
    with meter.agent("one"):
        assert in_thread() is NOBODY


def test_a_pool_of_threads_works_for_whoever_gives_it_work(meter: Meter) -> None:
    with meter.agent("one") as one, ThreadPool(2) as pool:
        assert pool.apply(current) is one
        with meter.agent("two") as two:
            assert pool.map(lambda _number: current(), range(3)) == [two] * 3
            assert pool.starmap(lambda _one, _other: current(), [(1, 2)]) == [two]
            assert list(pool.imap(lambda _number: current(), range(3))) == [two] * 3
            assert list(pool.imap_unordered(lambda _number: current(), range(3))) == [two] * 3
            assert pool.apply_async(current).get(30) is two
    with ThreadPool(1) as pool:
        assert pool.apply(current) is NOBODY
        with meter.agent("three") as three:
            assert pool.apply(current) is three
        assert pool.apply(current) is NOBODY
    meter.uninstrument()
    assert "apply_async" not in vars(ThreadPool)


def test_threads_in_threads(meter: Meter) -> None:
    found: list[Scope] = []
    with meter.agent("one") as scope:
        thread = threading.Thread(target=lambda: found.append(in_thread()))
        thread.start()
        thread.join()
    assert found == [scope]


def test_a_class_of_ones_own(meter: Meter) -> None:
    class Mine(threading.Thread):
        found: Scope = NOBODY

        def run(self) -> None:
            self.found = current()

    with meter.agent("one") as scope:
        thread = Mine()
        thread.start()
        thread.join()
        assert thread.found is scope

    timed: list[Scope] = []
    with meter.agent("one") as scope:
        timer = threading.Timer(0, lambda: timed.append(current()))
        timer.start()
        timer.join()
        assert timed == [scope]


def test_the_scope_is_that_of_the_start_not_of_the_making(meter: Meter) -> None:
    found: list[Scope] = []
    thread = threading.Thread(target=lambda: found.append(current()))
    with meter.agent("starter") as scope:
        thread.start()
    thread.join()
    assert found == [scope]


def test_an_executor(meter: Meter) -> None:
    with ThreadPoolExecutor(1) as pool:
        with meter.agent("one") as one:
            assert pool.submit(current).result() is one  # starts the worker
        assert pool.submit(current).result() is NOBODY  # the worker outlives the scope that started it
        with meter.agent("two") as two:
            assert pool.submit(current).result() is two
            assert list(pool.map(lambda _: current(), range(3))) == [two] * 3

            def add(a: int, *, b: int) -> tuple[int, Scope]:
                return a + b, current()

            assert pool.submit(add, 1, b=2).result() == (3, two)
        assert pool.submit(current).result() is NOBODY


def test_what_a_task_raises_is_its_own(meter: Meter) -> None:
    class Mine(Exception):
        pass

    def fail() -> None:
        raise Mine

    with ThreadPoolExecutor(1) as pool, meter.agent("one"):
        with pytest.raises(Mine):
            pool.submit(fail).result()
        submit: Any = pool.submit
        with pytest.raises(TypeError):
            submit()
        assert pool.submit(current).result().agent == "one"


def test_a_scope_that_is_there_already_wins(meter: Meter) -> None:
    found: list[Scope] = []
    with meter.agent("carried") as carried:
        context = contextvars.copy_context()
    with meter.agent("starter"), ThreadPoolExecutor(1) as pool:
        # the task brings a context of its own
        found.append(pool.submit(context.run, current).result())
    assert found == [carried]


def test_a_timer_after_opentelemetrys_own_instrumentation_was_undone() -> None:
    theirs = ThreadingInstrumentor()
    theirs.instrument()
    theirs.uninstrument()
    timed: list[Scope] = []
    with Meter() as meter:
        left = vars(threading.Timer).get("start")
        meter.instrument()
        with meter.agent("one") as scope:
            timer = threading.Timer(0, lambda: timed.append(current()))
            timer.start()
            timer.join()
    assert timed == [scope]
    assert vars(threading.Timer).get("start") is left


@pytest.mark.parametrize("theirs_first", [False, True])
def test_beside_opentelemetrys_own_instrumentation(theirs_first: bool) -> None:
    theirs = ThreadingInstrumentor()
    with Meter() as meter:
        try:
            if theirs_first:
                theirs.instrument()
            meter.instrument()
            if not theirs_first:
                theirs.instrument()
            with meter.agent("one") as scope:
                assert in_thread() is scope
                with ThreadPoolExecutor(1) as pool:
                    assert pool.submit(current).result() is scope
            assert in_thread() is NOBODY
            meter.uninstrument()
            with meter.agent("one") as scope:
                assert in_thread() is scope  # by theirs
        finally:
            theirs.uninstrument()
    ThreadPoolExecutor.submit, threading.Thread.start = SUBMIT, START  # type: ignore[method-assign]


def test_to_thread_and_run_in_executor(meter: Meter) -> None:
    async def run() -> tuple[Scope, Scope, Scope]:
        loop = asyncio.get_running_loop()
        with meter.agent("one") as scope:
            return scope, await asyncio.to_thread(current), await loop.run_in_executor(None, current)

    scope, to_thread, in_executor = asyncio.run(run())
    assert to_thread is scope
    assert in_executor is scope


def test_two_meters(meter: Meter) -> None:
    with Meter() as other:
        other.instrument()
        with meter.agent("one") as scope:
            assert in_thread() is scope
            meter.uninstrument()
            assert in_thread() is scope


def test_a_thread_that_has_ended_keeps_nothing(meter: Meter) -> None:
    import gc
    import weakref

    class Big:
        pass

    big = Big()
    alive = weakref.ref(big)
    with meter.agent("one"):
        thread = threading.Thread(target=lambda thing: None, args=(big,))
        thread.start()
        thread.join()
    del big
    gc.collect()
    assert alive() is None
