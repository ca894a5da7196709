"""The hold of a stream stays ahead of what flows, under the worst case, in few steps."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tokenmeter.budgets.extension import Extension, begin


def test_it_doubles_when_three_quarters_are_used() -> None:
    stage = begin((1_000, 300), 200, (5_000, 1_100), 1_000)
    assert (stage.amounts, stage.output_tokens, stage.is_last) == ((1_000, 300), 200, False)
    assert stage.after(0) is None
    assert stage.after(150) is None
    second = stage.after(151)
    assert second is not None
    assert (second.amounts, second.output_tokens) == ((2_000, 500), 400)
    assert stage.after(151) == second
    assert second.after(300) is None
    last = second.after(650)
    assert last is not None
    assert (last.amounts, last.output_tokens, last.is_last) == ((5_000, 1_100), 1_000, True)
    assert last.after(10_000) is None


def test_a_large_chunk_takes_one_step() -> None:
    stage = begin((0,), 10, (100_000,), 100_000)
    after = stage.after(50_000)
    assert after is not None
    assert after.output_tokens == 81_920


def test_a_claim_that_shall_not_grow_stays() -> None:
    after = begin((1, 700, 0), 10, (1, 700, 990), 1_000).after(600)
    assert after is not None
    assert after.amounts == (1, 700, 990)


@pytest.mark.parametrize(("tokens", "most"), [(500, 500), (900, 500), (0, 0)])
def test_a_first_hold_for_all_of_it_is_the_worst_case(tokens: int, most: int) -> None:
    stage = begin((90,), tokens, (100,), most)
    assert stage.is_last
    assert stage.amounts == (100,)
    assert stage.after(1_000_000) is None


def test_a_first_hold_above_the_worst_case_is_cut() -> None:
    assert begin((200, 50), 10, (100, 60), 500).amounts == (100, 50)


def test_amounts_belong_to_the_same_claims() -> None:
    with pytest.raises(ValueError, match="1 first amounts for 2 worst ones"):
        begin((1,), 1, (2, 3), 4)


def cost(fixed: int, num: int, den: int, tokens: int) -> int:
    """What a call with so much output costs at the most: a straight line, rounded up."""
    return -(-(fixed + num * tokens) // den)


@given(
    prices=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**7), st.integers(1, 997)), max_size=4),
    first_tokens=st.integers(0, 2_000),
    most_tokens=st.integers(0, 200_000),
    chunks=st.lists(st.integers(0, 3_000) | st.integers(0, 100_000), max_size=60),
    refused=st.sets(st.integers(0, 20)),
)
def test_what_is_held_covers_what_has_flowed(
    prices: list[tuple[int, int, int]], first_tokens: int, most_tokens: int, chunks: list[int], refused: set[int]
) -> None:
    def costs(tokens: int) -> tuple[int, ...]:
        return tuple(cost(*price, tokens) for price in prices)

    stage = begin(costs(first_tokens), first_tokens, costs(most_tokens), most_tokens)
    worst = costs(most_tokens)
    asked: list[Extension] = [stage]
    flowed = 0
    for number, chunk in enumerate(chunks):
        flowed = min(flowed + chunk, most_tokens)
        after = stage.after(flowed)
        if after is not None:
            assert after.output_tokens > stage.output_tokens
            assert all(new >= old for new, old in zip(after.amounts, stage.amounts, strict=True))
            if number in refused:
                return  # the stream ends where the budget says no
            stage = after
            asked.append(stage)
        assert all(held >= spent for held, spent in zip(stage.amounts, costs(flowed), strict=True))
        assert stage.is_last or 4 * flowed <= 3 * stage.output_tokens
        assert all(held <= most for held, most in zip(stage.amounts, worst, strict=True))
    assert all(later.output_tokens >= min(2 * sooner.output_tokens, most_tokens) for sooner, later in pairwise(asked))
    steps = math.ceil(math.log2(max(1, most_tokens) / max(1, min(first_tokens, most_tokens)))) + 1
    assert len(asked) - 1 <= steps


@given(first_tokens=st.integers(1, 500), most_tokens=st.integers(1, 10**6))
def test_a_stream_that_trickles_takes_logarithmic_steps(first_tokens: int, most_tokens: int) -> None:
    assume(first_tokens < most_tokens)
    stage, steps, flowed = begin((first_tokens,), first_tokens, (most_tokens,), most_tokens), 0, 0
    while not stage.is_last:
        flowed = 3 * stage.output_tokens // 4 + 1  # the next token that matters
        after = stage.after(flowed)
        assert after is not None
        stage, steps = after, steps + 1
        assert stage.is_last or stage.amounts[0] < 4 * flowed
    assert steps <= math.ceil(math.log2(most_tokens / first_tokens))
