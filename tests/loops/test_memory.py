"""What is remembered: counted exactly, forgotten in time, bounded whatever comes by, and without a word of text."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmeter.loops.asked import Asked, open_request
from tokenmeter.loops.fingerprints import Fingerprints, Prints, has_answers
from tokenmeter.loops.memory import Asker, Known, Seen

WINDOW_S = 3_600.0
MANY = int(os.environ.get("TOKENMETER_MANY_REQUESTS", "50000"))


def prints(name: object, near: object = None) -> Prints:
    return Prints(hash(str(name)), hash(str((name if near is None else near, "near"))))


def asked(text: str, **more: object) -> Asked:
    found = open_request(
        "openai.chat", json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **more}).encode()
    )
    assert found is not None
    return found


def test_repeats_are_counted_one_after_the_other() -> None:
    seen, asker = Seen(), Asker("a", "r", 10.0)
    last = Known()
    for times in range(6):
        last = known = seen.begin(asker, prints("x"), WINDOW_S)
        assert (known.exact.times, known.near.times) == (times, times)
        seen.end(asker, prints("x"), failed=False)
    assert last.exact.since_s == 10.0
    assert seen.begin(Asker("a", "other run", 10.0), prints("x"), WINDOW_S).exact.times == 0


def test_side_by_side_is_one_round() -> None:
    seen, asker = Seen(), Asker("a", "r", 10.0)
    before = [0]
    for _ in range(3):
        before = [seen.begin(asker, prints("x"), WINDOW_S).exact.times for _ in range(16)]
        assert set(before) == {before[0]}
        for _ in range(16):
            seen.end(asker, prints("x"), failed=False)
    assert before[0] == 2


def test_with_few_workers_it_is_one_round_too() -> None:
    seen, asker = Seen(), Asker("a", "r", 10.0)
    seen.begin(asker, prints("x"), WINDOW_S)
    for _ in range(40):
        assert seen.begin(asker, prints("x"), WINDOW_S).exact.times == 0
        seen.end(asker, prints("x"), failed=False)


def test_a_retry_of_what_failed_is_none() -> None:
    seen, asker = Seen(), Asker("a", "r", 10.0)
    for _ in range(9):
        assert seen.begin(asker, prints("x"), WINDOW_S).exact.times == 0
        seen.end(asker, prints("x"), failed=True)


def test_it_forgets_in_time_and_takes_what_never_ended_for_lost() -> None:
    seen = Seen()
    seen.begin(Asker("a", "r", 0.0), prints("x"), WINDOW_S)
    assert seen.begin(Asker("a", "r", 1_000.0), prints("x"), WINDOW_S).exact.times == 1
    assert seen.begin(Asker("a", "r", 5_000.0), prints("x"), WINDOW_S).exact.times == 0


def test_a_minute_slides() -> None:
    seen, known = Seen(), Known()
    for second in range(120):
        known = seen.begin(Asker("a", f"r{second}", 1_000.0 + second), None, WINDOW_S)
    assert 55 <= known.calls_in_minute <= 62
    assert 55 <= known.runs_in_minute <= 62
    assert seen.begin(Asker("a", "r", 1_400.0), None, WINDOW_S).calls_in_minute == 0
    assert seen.begin(Asker("b", "r", 1_119.0), None, WINDOW_S).calls_in_minute == 0


def test_who_makes_calls_is_remembered_longest() -> None:
    seen = Seen(max_agents=4)
    for number in range(20):
        busy = seen.begin(Asker("busy", None, 1_000.0), None, WINDOW_S)
        assert busy.calls_in_minute == number
        seen.begin(Asker(f"other {number}", None, 1_000.0), None, WINDOW_S)


def test_a_brake_grows_and_lets_go() -> None:
    seen = Seen()
    assert [seen.brake("a", 0.0) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert seen.brake("a", 200.0) == 0.5


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=200))
def test_a_small_memory_stays_small(events: list[tuple[int, bool]]) -> None:
    seen = Seen(max_prints=8, max_agents=4, max_runs=6)
    for number, (name, ends) in enumerate(events):
        asker = Asker(f"a{name}", f"r{name}", float(number))
        seen.begin(asker, prints(name), WINDOW_S)
        seen.turn(asker)
        seen.brake(f"b{name}", float(number))
        if ends:
            seen.end(asker, prints(name), failed=False)
        assert len(seen) <= 8 + 4 + 6 + 6 + 4


def test_memory_under_many_distinct_requests() -> None:
    """A million with TOKENMETER_MANY_REQUESTS=1000000; the memory is full long before."""
    tracemalloc.start()
    seen = Seen()
    for number in range(MANY):
        asker = Asker(f"agent {number % 5_000}", f"run {number // 3}", number * 0.01)
        one = prints(number)
        seen.begin(asker, one, WINDOW_S)
        seen.turn(asker)
        seen.end(asker, one, failed=False)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"\n{MANY:,} distinct requests: {len(seen):,} entries, {kept / 1e6:.1f} MB")
    assert len(seen) < 20_000
    assert kept < 10e6


def test_threads_count_exactly() -> None:
    seen = Seen()
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for n in range(500):
            asker = Asker("a", f"r{number}", float(n))
            seen.begin(asker, prints("x"), 1e9)
            seen.end(asker, prints("x"), failed=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    for number in range(8):
        assert seen.begin(Asker("a", f"r{number}", 500.0), prints("x"), 1e9).exact.times == 500


class Interrupted(OrderedDict[Any, Any]):
    """A table that is interrupted whenever it is looked into, as a finalizer does."""

    act: Callable[[], object] | None = None

    def get(self, key: Any, default: Any = None) -> Any:
        found = super().get(key, default)
        if self.act is not None:
            self.act()
        return found


def in_time(act: Callable[[], object]) -> None:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for itself"


def test_an_answer_that_is_told_while_a_request_is_counted() -> None:
    seen, asker = Seen(), Asker("a", "r", 10.0)
    table = seen._entries = Interrupted()
    counts: list[int] = []

    def work() -> None:
        table.act = lambda: seen.end(asker, prints("x"), failed=False)
        counts.extend(seen.begin(asker, prints("x"), WINDOW_S).exact.times for _ in range(5))

    in_time(work)
    assert counts == [0, 1, 2, 3, 4]


def test_a_request_of_a_finalizer_is_not_counted_and_harms_nothing() -> None:
    seen, asker = Seen(), Asker("a", "r", 10.0)
    table = seen._entries = Interrupted()
    inner: list[object] = []

    def act() -> None:
        other = Asker("b", "s", 10.0)
        inner.append(seen.begin(other, prints("y"), WINDOW_S))
        inner.extend((seen.turn(other), seen.news(other), seen.note(other, prints("y"), 1), seen.brake("b", 1.0)))

    def work() -> None:
        table.act = act
        for times in range(4):
            assert seen.begin(asker, prints("x"), WINDOW_S).exact.times == times
            seen.end(asker, prints("x"), failed=False)
        table.act = None

    in_time(work)
    assert inner[:5] == [Known(), (0, ()), (0, ()), 0, 0.5]
    assert seen.begin(asker, prints("x"), WINDOW_S).exact.times == 4


def test_streams_that_the_garbage_collector_ends() -> None:
    seen = Seen()

    class Stream:
        def __init__(self, number: int) -> None:
            self.asker, self.ring = Asker("a", f"r{number}", 10.0), self

        def __del__(self) -> None:
            seen.end(self.asker, prints("x"), failed=False)

    def work() -> None:
        for _ in range(30):
            for number in range(40):
                stream = Stream(number)
                seen.begin(stream.asker, prints("x"), WINDOW_S)
                del stream

    threshold = gc.get_threshold()
    gc.set_threshold(3)
    try:
        in_time(work)
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert seen.begin(Asker("a", "r0", 10.0), prints("x"), WINDOW_S).exact.times > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_of_a_fork_has_its_own_lock_and_waits_for_nobody() -> None:
    seen, asker = Seen(), Asker("a", "r", 10.0)
    seen.begin(asker, prints("x"), WINDOW_S)
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with seen._lock:
            held.set()
            let_go.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(20)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        first = seen.begin(asker, prints("x"), WINDOW_S).exact.times
        seen.end(asker, prints("x"), failed=False)
        os._exit(0 if (first, seen.begin(asker, prints("x"), WINDOW_S).exact.times) == (1, 2) else 1)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        let_go.set()
        holder.join()


def test_the_last_turns_of_a_long_request_are_found_without_reading_all_of_it() -> None:
    def turn(number: int, **more: object) -> dict[str, object]:
        nested = [{"role": "x", "parts": [{"role": "y"}]}]
        return {"role": "user", "content": f'}},{{"role":"{number}" ' + "word " * 190, "nested": nested, **more}

    for protocol, field, first, last in (
        ("openai.chat", "messages", {"model": "m"}, {"tools": [{"type": "function"}], "seed": 1}),
        ("anthropic.messages", "messages", {"model": "m", "system": [{"type": "text"}]}, {"tools": [{"name": "a"}]}),
        ("openai.responses", "input", {"model": "m", "instructions": "i"}, {"tools": [{"type": "function"}] * 40}),
        ("gemini.generate", "contents", {}, {"tools": [{"functionDeclarations": []}], "generationConfig": {}}),
        ("bedrock.converse", "messages", {}, {"toolConfig": {"tools": [{"toolSpec": {}}] * 40}}),
    ):
        for separators in ((",", ":"), (", ", ": ")):
            body = json.dumps({**first, field: [turn(n) for n in range(90)], **last}, separators=separators).encode()
            end, whole = open_request(protocol, body), open_request(protocol, body, whole=True)
            assert end is not None
            assert whole is not None
            assert whole.earlier is None
            assert end.earlier is not None, (protocol, separators)
            assert len(end.turns) == 26
            assert list(map(bytes, end.turns)) == list(map(bytes, whole.turns[-26:]))
            assert list(map(bytes, end.rest)) == list(map(bytes, whole.rest))
            assert end.server_state is whole.server_state
    tangled = [turn(n, inner=[{"role": "x"}, {"role": "y"}, {"type": "message"}]) for n in range(90)]
    for field, protocol in (("messages", "openai.chat"), ("input", "openai.responses")):
        found = open_request(protocol, json.dumps({field: tangled}, separators=(",", ":")).encode())
        assert found is not None
        assert (len(found.turns), found.earlier) == (90, None)


def test_fingerprints_depend_on_the_key_and_hold_no_text() -> None:
    one, other = Fingerprints(b"one"), Fingerprints(b"other")
    assert one.of(asked("secret")) == Fingerprints(b"one").of(asked("secret"))
    assert not set(one.of(asked("secret"))) & set(other.of(asked("secret")))
    assert all(type(each) is int and each.bit_length() < 64 for each in one.of(asked("secret")))


@pytest.mark.parametrize(
    ("left", "right", "exact", "near"),
    [
        ({"text": "hi"}, {"text": "hi"}, True, True),
        ({"text": "hi"}, {"text": "hi", "metadata": {"id": "1"}, "user": "u"}, True, True),
        ({"text": "hi"}, {"text": "hi", "seed": 5}, False, False),
        ({"text": "at 10:00"}, {"text": "at 10:01"}, False, True),
        ({"text": "Round  9"}, {"text": "round 10"}, False, True),
        ({"text": "red"}, {"text": "green"}, False, False),
        (
            {"text": "x" * 50_000 + "green" + "x" * 50_000},
            {"text": "x" * 50_000 + "groin" + "x" * 50_000},
            False,
            False,
        ),
        ({"text": "x" * 50_000 + " 1"}, {"text": "x" * 50_000 + " 2"}, False, True),
    ],
)
def test_what_is_the_same(left: dict[str, object], right: dict[str, object], exact: bool, near: bool) -> None:
    maker = Fingerprints(b"k")
    one, other = (
        maker.of(asked(str(each["text"]), **{k: v for k, v in each.items() if k != "text"})) for each in (left, right)
    )
    assert (one.exact == other.exact, one.near == other.near) == (exact, near)


def test_a_conversation_that_grows_is_another_request() -> None:
    maker = Fingerprints(b"k")
    turns = [{"role": "user" if n % 2 == 0 else "assistant", "content": "the same"} for n in range(60)]
    found = set()
    for length in range(1, 61):
        request = open_request("openai.chat", json.dumps({"model": "m", "messages": turns[:length]}).encode())
        assert request is not None
        found |= {maker.of(request).exact, maker.of(request).near, maker.ticked(request)}
        assert has_answers(request) is (length > 1)
    assert len(found) == 180


def test_an_early_turn_of_a_long_conversation_tells_two_apart() -> None:
    maker = Fingerprints(b"k")

    def conversation(first: str) -> Prints:
        turns = [{"role": "user", "content": first}] + [{"role": "user", "content": "x" * 3_000} for _ in range(9)]
        request = open_request("openai.chat", json.dumps({"model": "m", "messages": turns}).encode())
        assert request is not None
        return maker.of(request)

    assert conversation("a" * 9_000) == conversation("a" * 9_000)
    assert not set(conversation("a" * 9_000)) & set(conversation("b" * 9_000))
