"""Scopes nest, inherit, and go where the OpenTelemetry context goes."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry.instrumentation.threading import ThreadingInstrumentor

import tokenmeter
from tokenmeter.attribution import NOBODY, current


@pytest.fixture
def meter() -> Iterator[tokenmeter.Meter]:
    with tokenmeter.Meter() as meter:
        yield meter


def test_nested_scopes_inherit(meter: tokenmeter.Meter) -> None:
    with meter.agent("outer", user="alice", team="support", feature="mail") as outer:
        assert (outer.agent, outer.user, outer.team, outer.depth) == ("outer", "alice", "support", 1)
        with meter.agent("inner", user="bob", step="2") as inner:
            assert current() is inner
            assert (inner.agent, inner.user, inner.team) == ("inner", "bob", "support")
            assert inner.run == outer.run
            assert inner.path == ("outer", "inner")
            assert inner.tags == {"feature": "mail", "step": "2"}
        assert current() is outer
    assert current() is NOBODY


@pytest.mark.parametrize("kind", ["agent", "extract"])
def test_an_end_in_another_context_than_the_beginning(
    meter: tokenmeter.Meter, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a framework that runs both ends of a dependency on threads of their own."""
    scope = meter.agent("inner") if kind == "agent" else tokenmeter.extract({})
    with meter.agent("outer") as outer:
        contextvars.copy_context().run(scope.__enter__)
        contextvars.copy_context().run(scope.__exit__, None, None, None)
        assert current() is outer
        scope.__exit__(None, None, None)
        assert current() is outer
    assert current() is NOBODY
    assert caplog.records == []


def test_a_generator_that_its_reader_leaves(meter: tokenmeter.Meter, caplog: pytest.LogCaptureFixture) -> None:
    """As a streaming endpoint whose client goes away: it is closed in another context."""

    async def endpoint() -> AsyncIterator[int]:
        async with meter.agent("chat"):
            for number in range(3):
                yield number

    async def main() -> None:
        async for _ in endpoint():
            break
        gc.collect()
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert caplog.records == []


class Tool:
    async def __call__(self) -> str | None:
        await asyncio.sleep(0)
        return current().agent


def plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@pytest.mark.parametrize(
    "tool", [Tool(), plainly(Tool().__call__), lambda: Tool()()], ids=["object", "plain", "lambda"]
)
def test_what_returns_a_coroutine_without_looking_so(meter: tokenmeter.Meter, tool: Callable[[], Any]) -> None:
    assert asyncio.run(meter.agent("tool")(tool)()) == "tool"


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another"


def test_names_are_plain_text_that_can_be_written(meter: tokenmeter.Meter) -> None:
    with meter.agent(Text("mail"), user="caf\udce9", run=Text("r"), feature=Text("x")) as scope:
        found = (scope.agent, scope.user, scope.run, scope.tags["feature"])
        assert found == ("mail", "caf?", "r", "x")
        assert {type(each) for each in found} == {str}


def test_scopes_that_end_in_another_order(meter: tokenmeter.Meter) -> None:
    one, two = meter.agent("one"), meter.agent("two")
    for each in (one, two):
        each.__enter__()
    for each in (one, two):
        each.__exit__(None, None, None)
    assert current() is NOBODY


def test_a_run_has_an_id_of_its_own(meter: tokenmeter.Meter) -> None:
    with meter.agent("a") as one:
        pass
    with meter.agent("a") as two:
        pass
    assert one.run
    assert two.run not in (None, one.run)
    with meter.agent("a", run="mine") as three, meter.agent("b") as four:
        assert three.run == four.run == "mine"


def test_decorators(meter: tokenmeter.Meter) -> None:
    @meter.agent("plain")
    def plain() -> str | None:
        return current().agent

    @meter.agent("coroutine")
    async def coroutine() -> str | None:
        await asyncio.sleep(0)
        return current().agent

    @meter.agent("generator")
    def generator() -> Iterator[str | None]:
        got = yield current().agent
        yield got

    @meter.agent("agen")
    async def agen() -> AsyncIterator[str | None]:
        yield current().agent
        await asyncio.sleep(0)
        yield current().agent

    async def collect() -> list[str | None]:
        seen = []
        async for name in agen():
            assert current() is NOBODY
            seen.append(name)
        return seen

    assert plain() == "plain"
    assert plain.__name__ == "plain"
    assert asyncio.run(coroutine()) == "coroutine"
    walk = generator()
    assert next(walk) == "generator"
    assert current() is NOBODY  # between its steps the caller's own scope is in force
    assert walk.send("sent") == "sent"  # type: ignore[attr-defined]
    assert asyncio.run(collect()) == ["agen", "agen"]


def test_a_decorated_generator_that_is_closed_runs_its_cleanup_in_its_scope(meter: tokenmeter.Meter) -> None:
    seen: list[str | None] = []

    @meter.agent("g")
    def generator() -> Iterator[int]:
        try:
            yield 1
        finally:
            seen.append(current().agent)

    walk = generator()
    next(walk)
    walk.close()  # type: ignore[attr-defined]
    assert seen == ["g"]
    assert current() is NOBODY


def test_one_scope_entered_by_many_tasks(meter: tokenmeter.Meter) -> None:
    scope = meter.agent("shared")
    barrier = asyncio.Event()

    async def one(number: int) -> tuple[str | None, bool]:
        async with scope as entered:
            if number == 9:
                barrier.set()
            await barrier.wait()
            seen = current() is entered
        return current().agent, seen

    async def all_of_them() -> list[tuple[str | None, bool]]:
        return await asyncio.gather(*(one(number) for number in range(10)))

    assert asyncio.run(all_of_them()) == [(None, True)] * 10


def test_tasks_and_to_thread_carry_it(meter: tokenmeter.Meter) -> None:
    async def main() -> tuple[str | None, str | None]:
        async with meter.agent("a"):
            task = asyncio.create_task(asyncio.to_thread(lambda: current().agent))
            return await task, await asyncio.to_thread(lambda: current().agent)

    assert asyncio.run(main()) == ("a", "a")


def in_a_thread() -> str | None:
    seen: list[str | None] = []
    thread = threading.Thread(target=lambda: seen.append(current().agent))
    thread.start()
    thread.join()
    return seen[0]


def in_a_pool() -> list[str | None]:
    with ThreadPoolExecutor(1) as pool:
        return [pool.submit(lambda: current().agent).result() for _ in range(2)]


def test_plain_threads_carry_it_once_instrumented(meter: tokenmeter.Meter) -> None:
    with meter.agent("a"):
        assert in_a_thread() is None  # what every other library does
        meter.instrument()
        assert in_a_thread() == "a"
        assert in_a_pool() == ["a", "a"]
        meter.uninstrument()
        assert in_a_thread() is None


def test_a_pool_thread_does_not_keep_the_scope_of_its_first_task(meter: tokenmeter.Meter) -> None:
    meter.instrument()
    with ThreadPoolExecutor(1) as pool:
        with meter.agent("first"):
            assert pool.submit(lambda: current().agent).result() == "first"
        assert pool.submit(lambda: current().agent).result() is None


def test_uninstrument_restores_the_very_same_functions(meter: tokenmeter.Meter) -> None:
    before = ThreadPoolExecutor.__dict__["submit"], threading.Thread.__dict__["start"]
    meter.instrument()
    assert ThreadPoolExecutor.__dict__["submit"] is not before[0]
    meter.uninstrument()
    assert (ThreadPoolExecutor.__dict__["submit"], threading.Thread.__dict__["start"]) == before


def test_beside_opentelemetrys_own_threading_instrumentation(meter: tokenmeter.Meter) -> None:
    instrumentor = ThreadingInstrumentor()
    instrumentor.instrument()
    try:
        with meter.agent("a"):
            assert in_a_thread() == "a"
            meter.instrument()
            assert in_a_thread() == "a"
            assert in_a_pool() == ["a", "a"]
    finally:
        meter.uninstrument()
        instrumentor.uninstrument()


def test_it_never_enters_baggage(meter: tokenmeter.Meter) -> None:
    with meter.agent("a", user="alice", team="t", feature="x"):
        assert dict(baggage.get_all()) == {}


@pytest.mark.parametrize("bad", ["", None, 7, "x" * 257])
def test_bad_names_are_named(meter: tokenmeter.Meter, bad: object) -> None:
    with pytest.raises(tokenmeter.ConfigError, match="agent name"):
        meter.agent(bad)  # type: ignore[arg-type]
    if bad is not None:
        with pytest.raises(tokenmeter.ConfigError, match="user"):
            meter.agent("a", user=bad)  # type: ignore[arg-type]
    with pytest.raises(tokenmeter.ConfigError, match="feature"):
        meter.agent("a", feature=bad)  # type: ignore[arg-type]


def test_too_many_tags_are_refused(meter: tokenmeter.Meter) -> None:
    with pytest.raises(tokenmeter.ConfigError, match="33 tags"):
        meter.agent("a", **{f"t{n}": "x" for n in range(33)})
