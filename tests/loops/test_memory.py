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
from tokenmeter.loops.memory import NEVER, Asker, Known, Seen, Tally

WINDOW_S = 3_600.0
MANY = int(os.environ.get("TOKENMETER_MANY_REQUESTS", "50000"))


def prints(name: object, loose: object = None, ticked: object = None) -> Prints:
    return Prints(hash(str(name)), hash(str(loose or name)), lambda: hash(str(ticked or name)))


def key(name: object) -> int:
    return hash(str(name))


def ticket(known: Known) -> int:
    assert known.ticket is not None
    return known.ticket


def asked(text: str, **more: object) -> Asked:
    found = open_request(
        "openai.chat", json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **more}).encode()
    )
    assert found is not None
    return found


def test_repeats_are_counted_one_after_the_other() -> None:
    seen, asker = Seen(), Asker("a", "r", 10.0)
    last = Known()
    for times in range(200):
        last = known = seen.begin(asker, key("x"), WINDOW_S)
        assert known.alike.times == times
        seen.end(ticket(known), failed=False)
    assert last.alike.since_s == 10.0
    assert seen.begin(Asker("a", "other run", 10.0), key("x"), WINDOW_S).alike.times == 0


def noted(seen: Seen, asker: Asker, one: Prints, failed: bool = False) -> tuple[int, ...]:
    """How often it is told to have gone out before: exact, loose, ticked."""
    known = seen.begin(asker, key("x"), WINDOW_S)
    found = seen.note(known.ticket, one, asker.at_s) if known.alike.times else (NEVER,) * 3
    seen.end(ticket(known), failed)
    return tuple(each.times for each in found)


def test_those_of_one_key_are_told_apart_by_a_closer_look() -> None:
    seen, asker = Seen(), Asker("a", "r", 10.0)
    one, ticks, numbers, other = prints("a"), prints("b", "a", "a"), prints("c", "a", "c"), prints("d")
    assert [noted(seen, asker, one) for _ in range(3)] == [(0, 0, 0), (1, 1, 1), (2, 2, 2)]
    assert noted(seen, asker, ticks) == (0, 3, 3)
    assert noted(seen, asker, ticks) == (1, 4, 4)
    assert noted(seen, asker, numbers) == (0, 5, 0)
    assert noted(seen, asker, numbers) == (1, 6, 1)
    assert noted(seen, asker, other) == (0, 0, 0)
    assert noted(seen, asker, other) == (1, 1, 1)
    assert [noted(seen, asker, prints(n)) for n in range(9)] == [(0, 0, 0)] * 9


def test_since_when_it_is_the_same() -> None:
    seen, since = Seen(), []
    for at_s, one in enumerate([prints("a"), prints("a"), prints("b", "a", "a"), prints("b", "a", "a")], 10):
        known = seen.begin(Asker("a", "r", at_s), key("x"), WINDOW_S)
        since.append([each.since_s for each in seen.note(known.ticket, one, at_s)])
        seen.end(ticket(known), failed=False)
    assert since == [[10, 10, 10], [10, 10, 10], [12, 10, 10], [12, 10, 10]]


def test_the_slow_look_is_taken_only_where_the_quick_one_finds_something() -> None:
    seen, asker, taken = Seen(), Asker("a", "r", 10.0), []

    def slow(name: str) -> Prints:
        return prints(name)._replace(ticked=lambda: taken.append(name) or key(name))  # type: ignore[func-returns-value]

    for name in "abccd":
        noted(seen, asker, slow(name))
    assert taken == ["b", "c"]  # the second of all, for nobody looked at the first; and what was there before


def test_a_look_at_what_is_not_kept() -> None:
    seen = Seen(max_prints=1)
    known = seen.begin(Asker("a", "r", 10.0), key("x"), WINDOW_S)
    seen.begin(Asker("a", "r", 10.0), key("y"), WINDOW_S)
    for gone in (known.ticket, None):
        assert seen.note(gone, prints("x"), 10.0) == (NEVER, NEVER, NEVER)
    assert Tally(0, 0.0) == NEVER


def test_side_by_side_is_one_round() -> None:
    seen, asker = Seen(), Asker("a", "r", 10.0)
    before = [0]
    for _ in range(4):
        begun = [seen.begin(asker, key("x"), WINDOW_S) for _ in range(16)]
        before = [known.alike.times for known in begun]
        assert set(before) == {before[0]}
        if before[0]:
            looked = {each.times for one in begun for each in seen.note(one.ticket, prints("x"), 10.0)}
            assert looked == {before[0]}
        for known in begun:
            seen.end(ticket(known), failed=False)
    assert before[0] == 3


def test_with_few_workers_it_is_one_round_too() -> None:
    seen, asker = Seen(), Asker("a", "r", 10.0)
    seen.begin(asker, key("x"), WINDOW_S)
    for _ in range(40):
        known = seen.begin(asker, key("x"), WINDOW_S)
        assert known.alike.times == 0
        seen.end(ticket(known), failed=False)


def test_a_retry_of_what_failed_is_none() -> None:
    seen, asker = Seen(), Asker("a", "r", 10.0)
    for _ in range(9):
        known = seen.begin(asker, key("x"), WINDOW_S)
        assert known.alike.times == 0
        seen.end(ticket(known), failed=True)
    assert [noted(seen, asker, prints("x")) for _ in range(3)] == [(0, 0, 0), (1, 1, 1), (2, 2, 2)]
    assert [noted(seen, asker, prints("x"), failed=True) for _ in range(3)] == [(3, 3, 3)] * 3
    assert noted(seen, asker, prints("x")) == (3, 3, 3)


def test_it_forgets_in_time_and_takes_what_never_ended_for_lost() -> None:
    seen = Seen()
    seen.begin(Asker("a", "r", 0.0), key("x"), WINDOW_S)
    assert seen.begin(Asker("a", "r", 1_000.0), key("x"), WINDOW_S).alike.times == 1
    assert seen.begin(Asker("a", "r", 5_000.0), key("x"), WINDOW_S).alike.times == 0


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


def test_a_run_that_goes_on_is_not_forgotten_for_those_that_ended() -> None:
    seen = Seen(max_runs=4)
    for number in range(40):
        assert seen.count_call("daemon", float(number)) == (number, number * 7, 0.0)
        seen.add_spend("daemon", 7)
        assert seen.count_call(f"job {number}", float(number)) == (0, 0, number)
        seen.add_spend(f"gone {number}", 7)
    assert seen.count_call("job 0", 50.0) == (0, 0, 50.0)
    assert len(seen._spent) == 4


def test_threads_count_the_spend_of_a_run() -> None:
    seen, start = Seen(), threading.Barrier(8)

    def work(_: int) -> None:
        start.wait()
        for _ in range(2_000):
            seen.count_call("run", 1.0)
            seen.add_spend("run", 3)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert seen.count_call("run", 2.0) == (16_000, 48_000, 1.0)


def test_a_brake_grows_and_lets_go() -> None:
    seen = Seen()
    assert [seen.brake("a", 0.0) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert seen.brake("a", 200.0) == 0.5


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=200))
def test_a_small_memory_stays_small(events: list[tuple[int, bool]]) -> None:
    seen = Seen(max_prints=8, max_agents=4, max_runs=6)
    for number, (name, ends) in enumerate(events):
        asker = Asker(f"a{name}", f"r{name}", float(number))
        known = seen.begin(asker, key(name), WINDOW_S)
        seen.note(known.ticket, prints(number), float(number))
        seen.turn(asker)
        seen.brake(f"b{name}", float(number))
        if ends:
            seen.end(ticket(known), failed=False)
        assert len(seen) <= 8 + 4 + 6 + 6 + 4


def test_memory_under_many_distinct_requests() -> None:
    """A million with TOKENMETER_MANY_REQUESTS=1000000; the memory is full long before."""
    tracemalloc.start()
    seen = Seen()
    for number in range(MANY):
        asker = Asker(f"agent {number % 5_000}", f"run {number // 3}", number * 0.01)
        known = seen.begin(asker, key(number), WINDOW_S)
        seen.note(known.ticket, prints(number), number * 0.01)
        seen.turn(asker)
        seen.end(ticket(known), failed=False)
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
            seen.end(ticket(seen.begin(asker, key("x"), 1e9)), failed=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    for number in range(8):
        assert seen.begin(Asker("a", f"r{number}", 500.0), key("x"), 1e9).alike.times == 500


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
    own = key("x") ^ asker.owner
    counts: list[int] = []

    def work() -> None:
        table.act = lambda: seen.end(own, failed=False)
        counts.extend(seen.begin(asker, key("x"), WINDOW_S).alike.times for _ in range(5))

    in_time(work)
    assert counts == [0, 1, 2, 3, 4]


def test_a_request_of_a_finalizer_is_not_counted_and_harms_nothing() -> None:
    seen, asker = Seen(), Asker("a", "r", 10.0)
    table = seen._entries = Interrupted()
    inner: list[object] = []

    def act() -> None:
        other = Asker("b", "s", 10.0)
        inner.append(seen.begin(other, key("y"), WINDOW_S))
        inner.extend((seen.turn(other), seen.news(other), seen.note(1, prints("y"), 1.0), seen.brake("b", 1.0)))

    def work() -> None:
        table.act = act
        for times in range(4):
            known = seen.begin(asker, key("x"), WINDOW_S)
            assert known.alike.times == times
            seen.end(ticket(known), failed=False)
        table.act = None

    in_time(work)
    assert inner[:5] == [Known(), (0, ()), (0, ()), (NEVER,) * 3, 0.5]
    assert seen.begin(asker, key("x"), WINDOW_S).alike.times == 4


def test_streams_that_the_garbage_collector_ends() -> None:
    seen = Seen()

    class Stream:
        def __init__(self, number: int) -> None:
            self.ring = self
            self.ticket = ticket(seen.begin(Asker("a", f"r{number}", 10.0), key("x"), WINDOW_S))

        def __del__(self) -> None:
            seen.end(self.ticket, failed=False)

    def work() -> None:
        for _ in range(30):
            for number in range(40):
                Stream(number)

    threshold = gc.get_threshold()
    gc.set_threshold(3)
    try:
        in_time(work)
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert seen.begin(Asker("a", "r0", 10.0), key("x"), WINDOW_S).alike.times > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a fork")
def test_a_child_of_a_fork_has_its_own_lock_and_waits_for_nobody() -> None:
    seen, asker = Seen(), Asker("a", "r", 10.0)
    seen.begin(asker, key("x"), WINDOW_S)
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        let_go.wait(20)

    holder = threading.Thread(target=seen._turn.run, args=(hold,))
    holder.start()
    held.wait(20)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        known = seen.begin(asker, key("x"), WINDOW_S)
        seen.end(ticket(known), failed=False)
        os._exit(0 if (known.alike.times, seen.begin(asker, key("x"), WINDOW_S).alike.times) == (1, 2) else 1)
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
    def found(name: bytes) -> set[int]:
        maker, one = Fingerprints(name), asked("secret")
        exact, loose, ticked = maker.closely(one)
        return {maker.key(one), exact, loose, ticked(), maker.whole(b"secret")}

    assert found(b"one") == found(b"one")
    assert not found(b"one") & found(b"other")
    assert all(type(each) is int and each.bit_length() < 64 for each in found(b"one"))


LONG = "x" * 50_000


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ({"text": "hi"}, {"text": "hi"}, "key exact loose ticked"),
        ({"text": "hi"}, {"text": "hi", "metadata": {"id": "1"}, "user": "u"}, "key exact loose ticked"),
        ({"text": "hi"}, {"text": "hi", "seed": 5}, ""),
        ({"text": "at 10:00"}, {"text": "at 10:01"}, "key loose ticked"),
        ({"text": "attempt 1"}, {"text": "attempt 2"}, "key loose ticked"),
        ({"text": "7 apples"}, {"text": "8 apples"}, "key loose"),
        ({"text": "Round  9"}, {"text": "round 10"}, "key loose ticked"),
        ({"text": "red"}, {"text": "green"}, ""),
        ({"text": LONG + "green" + LONG}, {"text": LONG + "groin" + LONG}, "key"),
        ({"text": LONG + " 1"}, {"text": LONG + " 2"}, "key loose"),
        ({"text": "a" * 9_000}, {"text": "a" * 9_100}, ""),
    ],
)
def test_what_is_the_same(left: dict[str, object], right: dict[str, object], same: str) -> None:
    def found(each: dict[str, object]) -> dict[str, int]:
        one = asked(str(each["text"]), **{k: v for k, v in each.items() if k != "text"})
        exact, loose, ticked = maker.closely(one)
        return {"key": maker.key(one), "exact": exact, "loose": loose, "ticked": ticked()}

    maker = Fingerprints(b"k")
    one, other = found(left), found(right)
    assert [name for name in one if one[name] == other[name]] == same.split()


def test_a_conversation_that_grows_is_another_request() -> None:
    maker = Fingerprints(b"k")
    turns = [{"role": "user" if n % 2 == 0 else "assistant", "content": "the same"} for n in range(60)]
    found = set()
    for length in range(1, 61):
        request = open_request("openai.chat", json.dumps({"model": "m", "messages": turns[:length]}).encode())
        assert request is not None
        exact, loose, ticked = maker.closely(request)
        found |= {maker.key(request), exact, loose, ticked()}
        assert has_answers(request) is (length > 1)
    assert len(found) == 180  # without a number in it, what ticks is the same as what is exact


def test_an_early_turn_of_a_long_conversation_tells_two_apart() -> None:
    maker = Fingerprints(b"k")

    def conversation(first: str) -> set[int]:
        turns = [{"role": "user", "content": first}] + [{"role": "user", "content": "x" * 3_000} for _ in range(9)]
        request = open_request("openai.chat", json.dumps({"model": "m", "messages": turns}).encode())
        assert request is not None
        return set(maker.closely(request)[:2])

    assert conversation("a" * 9_000) == conversation("a" * 9_000)
    assert not conversation("a" * 9_000) & conversation("b" * 9_000)
