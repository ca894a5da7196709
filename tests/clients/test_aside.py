"""Work beside the event loop: done to its end whatever becomes of the task, and undone if nobody waits any more."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextvars import ContextVar

import pytest

from tokenmeter.clients import aside as aside_module
from tokenmeter.clients.aside import aside, here

LONG_S = 30.0


def test_it_runs_on_another_thread_and_sees_the_context() -> None:
    seen: ContextVar[str] = ContextVar("seen", default="nothing")

    def work() -> tuple[str, bool]:
        return seen.get(), threading.current_thread() is threading.main_thread()

    async def main() -> tuple[str, bool]:
        seen.set("the task's")
        return await aside(work)

    assert asyncio.run(main()) == ("the task's", False)
    assert here(work) == ("nothing", True)


def test_what_it_raises_is_raised() -> None:
    def work() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        asyncio.run(aside(work))


def test_a_cancelled_task_undoes_what_is_still_under_way() -> None:
    begun, go_on, undone = threading.Event(), threading.Event(), threading.Event()
    order: list[str] = []

    def work() -> None:
        begun.set()
        go_on.wait(LONG_S)
        order.append("work")

    def undo() -> None:
        order.append("undo")
        undone.set()

    async def main() -> None:
        task = asyncio.create_task(aside(work, undo))
        await asyncio.to_thread(begun.wait, LONG_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert order == []
        go_on.set()
        await asyncio.to_thread(undone.wait, LONG_S)

    asyncio.run(main())
    assert order == ["work", "undo"]


def test_what_was_done_in_time_is_not_undone() -> None:
    undone: list[str] = []

    async def main() -> int:
        return await aside(lambda: 7, lambda: undone.append("undo"))

    assert asyncio.run(main()) == 7
    assert undone == []


def test_under_another_event_loop_it_is_done_here() -> None:
    work = aside(threading.current_thread)
    with pytest.raises(StopIteration) as ended:
        work.send(None)
    assert ended.value.value is threading.main_thread()


def test_what_goes_wrong_after_its_task_was_cancelled_is_not_told_as_unheard() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()
    heard: list[dict[str, object]] = []

    def work() -> None:
        begun.set()
        go_on.wait(LONG_S)
        raise OSError("the store is gone")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: heard.append(context))
        task = asyncio.create_task(aside(work, done.set))
        await asyncio.to_thread(begun.wait, LONG_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        go_on.set()
        await asyncio.to_thread(done.wait, LONG_S)
        await asyncio.sleep(0.05)
        gc.collect()

    asyncio.run(main())
    assert heard == []


def test_where_no_thread_is_to_be_had_it_is_done_here_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that can start no thread keeps what it was given, for one of its threads that is busy now."""
    begun, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def occupy() -> None:
        begun.set()
        go_on.wait(LONG_S)

    def broken() -> None:
        done.append("raised")
        raise KeyError("no")

    async def main() -> str:
        monkeypatch.setattr(aside_module, "_pool", aside_module._Pool())
        busy = asyncio.create_task(aside(occupy))
        await asyncio.sleep(0)
        while not begun.is_set():
            await asyncio.sleep(0.001)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            await aside(lambda: done.append("here"))
            with pytest.raises(KeyError):
                await aside(broken)
        go_on.set()
        await busy
        return await aside(lambda: threading.current_thread().name)  # behind what the pool had kept

    assert asyncio.run(main()).startswith("tokenmeter-aside")
    assert done == ["here", "raised"]


def test_what_a_thread_has_begun_after_all_is_waited_for() -> None:
    begun = threading.Event()

    def work() -> int:
        begun.set()
        return 7

    def broken() -> int:
        raise KeyError("no")

    errand = aside_module._Errand(work, None)
    thread = threading.Thread(target=errand.run)
    thread.start()
    assert begun.wait(LONG_S)
    assert errand.here() == 7
    thread.join()
    errand = aside_module._Errand(broken, None)
    with pytest.raises(KeyError):
        errand.run()
    with pytest.raises(KeyError):
        errand.here()
