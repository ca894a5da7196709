"""What is remembered: counted exactly, forgotten in time, bounded whatever comes by, and without a word of text."""

from __future__ import annotations

import json
import os
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

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
        assert len(seen) <= 8 + 4 + 4 + 6 + 6 + 4


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
