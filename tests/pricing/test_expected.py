"""What calls are expected to cost: seldom too little, never above the worst case, whatever calls come."""

from __future__ import annotations

import random
import threading
import timeit
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmeter.pricing.expected import COLD_CALLS, Expected, ExpectedCost, Overshoot, _bucket, _largest

KEY = ("triage", "gpt-5-mini", "openai")
INPUT, OUTPUT = 8_000, 128_000
IN_PRICE, OUT_PRICE = 250, 2_000


def price(input_tokens: int, output_tokens: int) -> int:
    return IN_PRICE * input_tokens + OUT_PRICE * output_tokens


def play(learned: ExpectedCost, calls: Sequence[tuple[int, int]], key: tuple[str, str, str] = KEY) -> list[Expected]:
    """Make calls one after the other, each of so many input and output tokens."""
    found = []
    for given_tokens, made in calls:
        expected = learned.expect(key, INPUT, OUTPUT)
        found.append(expected)
        learned.learn(key, INPUT, given_tokens, made)
        learned.settled(key, expected, price(expected.input_tokens, expected.output_tokens), price(given_tokens, made))
    return found


def over(expected: Sequence[Expected], calls: Sequence[tuple[int, int]]) -> int:
    return sum(price(e.input_tokens, e.output_tokens) < price(*call) for e, call in zip(expected, calls, strict=True))


def test_the_first_calls_are_held_at_their_worst_case() -> None:
    learned = ExpectedCost()
    found = play(learned, [(2_000, 300)] * (COLD_CALLS + 1))
    assert found[:-1] == [Expected(INPUT, OUTPUT, learned=False)] * COLD_CALLS
    assert found[-1].learned
    assert 2_000 <= found[-1].input_tokens <= 2_250
    assert 300 <= found[-1].output_tokens <= 338
    assert learned.expect(("other", "gpt-5-mini", "openai"), 5, 6) == Expected(5, 6, learned=False)


def test_input_goes_by_the_length_and_output_does_not() -> None:
    learned = ExpectedCost()
    play(learned, [(2_000, 300)] * 100)
    longer = learned.expect(KEY, 10 * INPUT, 100 * OUTPUT)
    assert 20_000 <= longer.input_tokens <= 22_500
    assert 300 <= longer.output_tokens <= 338
    assert learned.expect(KEY, INPUT, 20).output_tokens == 20
    assert learned.expect(KEY, 0, 0) == Expected(0, 0, learned=True)


def test_overshoot_is_counted() -> None:
    learned = ExpectedCost()
    assert learned.overshoot == Overshoot()
    assert learned.overshoot.share == 0.0
    play(learned, [(2_000, 300)] * COLD_CALLS)
    assert learned.overshoot.calls == 0
    known = Expected(1, 1, learned=True)
    learned.settled(KEY, known, 100, 70)
    learned.settled(KEY, known, 100, 100)
    learned.settled(KEY, known, 100, 175)
    learned.settled(("never", None, "seen"), known, 100, 101)
    learned.settled(KEY, Expected(1, 1, learned=False), 100, 500)
    assert learned.overshoot == Overshoot(calls=4, over=2, expected=400, actual=446, excess=76)
    assert learned.overshoot.share == 0.5


def test_a_new_kind_of_work_is_held_at_its_worst_case_until_it_is_learned() -> None:
    learned = ExpectedCost()
    calls = [(2_000, 300)] * 400 + [(2_000, 30_000)] * 400
    found = play(learned, calls)
    assert over(found, calls) <= 4
    assert any(not expected.learned for expected in found[400:410])
    assert all(30_000 <= expected.output_tokens <= 33_800 for expected in found[500:])


def test_what_was_large_once_is_forgotten() -> None:
    learned = ExpectedCost()
    found = play(learned, [(2_000, 30_000)] * 400 + [(2_000, 300)] * 3_000)
    assert found[-1].output_tokens < 350


def test_memory_is_bounded_and_the_longest_unused_key_goes() -> None:
    learned = ExpectedCost(max_keys=3)
    for name in ("a", "b", "c"):
        play(learned, [(1, 1)] * COLD_CALLS, (name, "m", "p"))
    learned.learn(("a", "m", "p"), INPUT, 1, 1)
    learned.learn(("d", "m", "p"), INPUT, 1, 1)
    assert [key[0] for key in learned._known] == ["c", "a", "d"]
    assert not learned.expect(("b", "m", "p"), 5, 5).learned
    assert learned.expect(("c", "m", "p"), 5, 5).learned


@given(value=st.integers(0, 2**24 - 1))
def test_a_bucket_is_no_wider_than_an_eighth(value: int) -> None:
    largest = _largest(_bucket(value))
    assert value <= largest <= value + value // 8
    assert _bucket(largest) == _bucket(value)
    assert _bucket(largest + 1) == _bucket(value) + 1 or largest == 2**24 - 1


@given(value=st.integers(-(2**40), 2**40))
def test_every_size_has_a_bucket(value: int) -> None:
    assert 0 <= _bucket(value) <= 175


CALLS = st.tuples(st.integers(0, INPUT), st.integers(0, OUTPUT))
RUNS = st.lists(st.tuples(st.integers(1, 60), st.lists(CALLS, min_size=1, max_size=3)), min_size=1, max_size=10)


@given(runs=RUNS)
def test_whatever_calls_come_few_cost_more_than_expected_and_none_is_expected_above_its_worst_case(
    runs: list[tuple[int, list[tuple[int, int]]]],
) -> None:
    calls = [call for times, kinds in runs for _ in range(times) for call in kinds]
    learned = ExpectedCost()
    found = play(learned, calls)
    assert all(0 <= e.input_tokens <= INPUT and 0 <= e.output_tokens <= OUTPUT for e in found)
    assert over(found, calls) <= len(calls) / 20 + 4
    assert learned.overshoot.over == over(found, calls)
    assert learned.overshoot.calls == sum(expected.learned for expected in found)
    again = ExpectedCost()
    assert play(again, calls) == found


@settings(max_examples=20)
@given(seed=st.integers(0, 10**9), growth=st.floats(1.01, 3.0))
def test_an_opponent_who_knows_the_expectation_misses_no_more_often(seed: int, growth: float) -> None:
    learned, chance, missed = ExpectedCost(), random.Random(seed), 0
    for _ in range(600):
        expected = learned.expect(KEY, INPUT, OUTPUT)
        made = min(OUTPUT, int(expected.output_tokens * growth) + 1) if chance.random() < 0.8 else 100
        if not expected.learned:
            made = 100
        held, actual = price(expected.input_tokens, expected.output_tokens), price(expected.input_tokens, made)
        missed += actual > held
        learned.learn(KEY, INPUT, expected.input_tokens, made)
        learned.settled(KEY, expected, held, actual)
    assert missed <= 600 / 20 + 4


@given(
    batches=st.lists(st.tuples(st.integers(1, 20), st.lists(CALLS, min_size=1, max_size=12)), min_size=1, max_size=6)
)
def test_calls_side_by_side_add_no_more_misses_than_there_are_of_them(
    batches: list[tuple[int, list[tuple[int, int]]]],
) -> None:
    learned, missed, made = ExpectedCost(), 0, 0
    for times, calls in batches:
        for _ in range(times):
            expected = [learned.expect(KEY, INPUT, OUTPUT) for _ in calls]
            for each, call in zip(expected, calls, strict=True):
                held = price(each.input_tokens, each.output_tokens)
                missed, made = missed + (price(*call) > held), made + 1
                learned.learn(KEY, INPUT, *call)
                learned.settled(KEY, each, held, price(*call))
    assert missed <= made / 20 + 4 + 12


def log_normal(chance: random.Random, spread: float) -> int:
    return max(1, min(OUTPUT, int(chance.lognormvariate(6, spread))))


def bimodal(chance: random.Random, share: float) -> int:
    return chance.randint(20_000, 24_000) if chance.random() < share else chance.randint(80, 120)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**9),
    make=st.tuples(st.just(log_normal), st.floats(0.1, 1.5)) | st.tuples(st.just(bimodal), st.floats(0.0, 1.0)),
)
def test_of_steady_work_so_many_are_covered_and_little_more_is_held(
    seed: int, make: tuple[Callable[[random.Random, float], int], float]
) -> None:
    chance, learned = random.Random(seed), ExpectedCost()
    calls = [(chance.randint(1_500, 2_000), make[0](chance, make[1])) for _ in range(2_000)]
    found = play(learned, calls)
    assert 1 - over(found, calls) / len(calls) >= 0.945
    costs = sorted(price(*call) for call in calls)
    nearly_all = costs[int(len(costs) * 0.99)]
    typical = sorted(price(e.input_tokens, e.output_tokens) for e in found)[len(found) // 2]
    assert typical <= 1.5 * nearly_all


def test_threads_may_share_it() -> None:
    learned = ExpectedCost(max_keys=2)

    def work(name: str) -> None:
        play(learned, [(1_000, 100)] * 300, (name, "m", "p"))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(learned._known) == 2
    assert learned.overshoot.over == 0


@pytest.mark.bench
def test_what_it_costs() -> None:
    learned = ExpectedCost()
    play(learned, [(1_000, 100 + number) for number in range(600)])

    def once() -> None:
        expected = learned.expect(KEY, INPUT, OUTPUT)
        learned.learn(KEY, INPUT, 1_000, 400)
        learned.settled(KEY, expected, 2, 1)

    each_s = min(timeit.repeat(once, number=2_000, repeat=5)) / 2_000
    print(f"one call expected, learned and settled: {each_s * 1e6:.1f} µs")
