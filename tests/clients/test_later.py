"""What is done beside the caller's path is done once, in order, and before anybody asks."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import httpx2
import pytest

from tokenmeter import Budget, Meter
from tokenmeter.clients import later as later_module
from tokenmeter.clients.later import Later

LONG_S = 30.0


def test_it_is_done_without_being_asked_for() -> None:
    later, done = Later(), threading.Event()
    later.put(done.set)
    assert done.wait(LONG_S)
    again = threading.Event()
    while not later._asleep:
        pass
    later.put(again.set)  # wakes the thread that sleeps
    assert again.wait(LONG_S)
    later.close()


def test_whoever_asks_has_it_done_first() -> None:
    later, done = Later(tick_s=LONG_S), list[int]()
    for number in range(100):
        later.put(lambda number=number: done.append(number))  # type: ignore[misc]
    assert later.flush()
    assert done == list(range(100))
    assert not later.flush()
    later.close()


def test_whoever_asks_waits_for_what_is_under_way() -> None:
    later, begun, go_on, done = Later(), threading.Event(), threading.Event(), list[str]()

    def slow() -> None:
        begun.set()
        go_on.wait(LONG_S)
        done.append("slow")

    later.put(slow)
    assert begun.wait(LONG_S)
    threading.Timer(0.01, go_on.set).start()
    assert later.flush()
    assert done == ["slow"]
    later.close()


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(later_module, "MAX_WAITING", 8)
    later, most, done = Later(tick_s=LONG_S), 0, list[int]()
    for number in range(100):
        later.put(lambda number=number: done.append(number))  # type: ignore[misc]
        most = max(most, len(later._waiting))
    assert most <= 8
    later.close()
    assert done == list(range(100))


def test_each_is_done_once_by_many_threads() -> None:
    later, done = Later(tick_s=0.0), list[int]()
    start = threading.Barrier(8)

    def work(base: int) -> None:
        start.wait(LONG_S)
        for number in range(200):
            later.put(lambda: done.append(base + number))  # noqa: B023 - flushed before the next
            later.flush()

    threads = [threading.Thread(target=work, args=(1_000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    later.close()
    assert len(done) == 8 * 200


def test_after_the_end_it_is_done_at_once() -> None:
    later, done = Later(tick_s=LONG_S), list[int]()
    later.put(lambda: done.append(1))
    later.close()
    later.put(lambda: done.append(2))
    assert done == [1, 2]


def test_a_queue_that_is_dropped_is_emptied_and_its_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(later_module, "SLEEP_S", 0.01)
    later, done = Later(), threading.Event()
    later.put(done.set)
    thread, ref = later._thread, weakref.ref(later)
    assert thread is not None
    del later
    assert done.wait(LONG_S)
    thread.join(LONG_S)
    gc.collect()
    assert ref() is None
    assert not thread.is_alive()


def test_nothing_is_lost_at_the_end_of_a_program() -> None:
    code = (
        "from tokenmeter.clients.later import Later\n"
        "later = Later(tick_s=60.0)\n"
        "for number in range(3): later.put(lambda number=number: print(number, flush=True))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["0", "1", "2"]


SLOW_BOOKS = """
import sys, time
import httpx2, tokenmeter
from tokenmeter.budgets.sqlite import SqliteStore
from tokenmeter.testing import ScriptedProvider

real, settled = SqliteStore.settle, 0
def settle(store, *args):
    global settled
    time.sleep(0.3)
    settled += 1
    return real(store, *args)
SqliteStore.settle = settle
with ScriptedProvider() as provider:
    meter = tokenmeter.Meter([tokenmeter.Budget("1000 calls")], store=f"sqlite:///{sys.argv[1]}")
    client = meter.wrap(httpx2.Client(base_url=provider.openai_url))
    for _ in range(40):
        client.post("/chat/completions", json={"model": "gpt-4o-mini", "messages": []}).raise_for_status()
end_of_all = sys.modules["tokenmeter.ending"].at_end
end_of_all(9, lambda left_s: print(settled, flush=True))
"""


def test_the_end_of_a_program_takes_no_longer_for_books_that_are_slow(tmp_path: Path) -> None:
    """What there was no time for goes to the journal, and from there to the books."""
    books = tmp_path / "books.db"
    done = subprocess.run(
        [sys.executable, "-c", SLOW_BOOKS, str(books)], capture_output=True, text=True, timeout=120, check=True
    )
    assert int(done.stdout) < 30  # to wait for forty of them would take 12 s
    with Meter([Budget("1000 calls")], store=f"sqlite:///{books}") as meter:
        until_s = time.monotonic() + LONG_S
        while meter.remaining()[0].held and time.monotonic() < until_s:
            meter.flush()  # has it told what dead processes left
        [left] = meter.remaining()
        assert (left.spent, left.held) == (40, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_leaves_what_waits_to_its_parent() -> None:
    code = (
        "import os\n"
        "from tokenmeter.clients.later import Later\n"
        "later = Later(tick_s=60.0)\n"
        "later.put(lambda: print('parent', flush=True))\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    later.put(lambda: print('child', flush=True)); later.flush(); os._exit(0)\n"
        "os.waitpid(child, 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["child", "parent"]


def test_who_finds_it_full_does_one_thing_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(later_module, "MAX_WAITING", 8)
    later, done = Later(tick_s=LONG_S), list[int]()
    for number in range(8):
        later.put(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == [0]
    later.close()
    assert done == list(range(8))


def test_whoever_asks_is_not_kept_by_what_comes_meanwhile() -> None:
    later, done = Later(tick_s=LONG_S), list[int]()

    def again() -> None:
        done.append(len(done))
        if len(done) < 1000:
            later.put(again)

    later.put(again)
    assert later.flush()
    assert done == [0]
    for _ in range(10):
        later.put(lambda: done.append(-1))
    assert not later.flush(0.0)  # there is no time
    assert done == [0]
    assert later.flush()
    assert len(done) == 12
    while later.flush():
        pass
    assert len(done) == 1000
    later.close()


@pytest.mark.parametrize("streamed", [False, True])
def test_what_waits_keeps_nothing_of_the_client_alive(streamed: bool) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json={"choices": [], "usage": usage}))
    with Meter() as meter, meter.wrap(httpx2.Client(transport=transport)) as client:
        assert meter._later._doing.begin(60.0)  # nobody does it meanwhile
        ask = client.build_request("POST", "https://api.openai.com/v1/chat/completions", json={"model": "m"})
        response = client.send(ask, stream=streamed)
        del ask
        response.read()
        held = [weakref.ref(each) for each in (response, response.request, response.request.headers)]
        del response
        gc.collect()
        assert len(meter._later._waiting) == 1
        assert [ref() for ref in held] == [None, None, None]
        meter._later._doing.end()
        assert meter.spend().input_tokens == 3
