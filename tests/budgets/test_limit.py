from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmeter.budgets.limit import MAX_AMOUNT, Unit, format_limit, parse_limit
from tokenmeter.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "unit", "amount"),
    [
        ("$5", "usd", 5_000_000_000),
        ("$0.50", "usd", 500_000_000),
        ("$.5", "usd", 500_000_000),
        ("$1,000.00", "usd", 1_000_000_000_000),
        ("$1,234,567.8", "usd", 1_234_567_800_000_000),
        ("US$5", "usd", 5_000_000_000),
        ("5 USD", "usd", 5_000_000_000),
        ("USD 5", "usd", 5_000_000_000),
        (" 5usd ", "usd", 5_000_000_000),
        ("$0.000000001", "usd", 1),
        ("$1.0000000000", "usd", 1_000_000_000),
        ("$0", "usd", 0),
        ("200k tokens", "tokens", 200_000),
        ("200K tokens", "tokens", 200_000),
        ("1.5M tokens", "tokens", 1_500_000),
        ("2B tokens", "tokens", 2_000_000_000),
        ("1,500 tokens", "tokens", 1_500),
        ("1 token", "tokens", 1),
        ("100 calls", "calls", 100),
        ("1 call", "calls", 1),
        ("0.1k calls", "calls", 100),
    ],
)
def test_limits_as_people_write_them(text: str, unit: str, amount: int) -> None:
    assert parse_limit(text) == (unit, amount)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("5", "no unit"),
        ("5k", "no unit"),
        ("five dollars", "no limit that can be read"),
        ("-$3", "never negative"),
        ("$-3", "never negative"),
        ("-3 calls", "never negative"),
        ("$", "no number"),
        ("USD", "no number"),
        ("tokens", "no number"),
        ("", "no limit"),
        ("$1.0000000001", "too fine"),
        ("1.5 tokens", "too fine"),
        ("0.0001k tokens", "too fine"),
        ("1,00 tokens", "no limit"),
        ("$1,0000", "no limit"),
        ("$1e3", "no limit"),
        ("$٣", "no limit"),
        ("€5", "no limit"),
        ("$nan", "no limit"),
        ("$99999999999", "larger than can be kept"),
        ("9" * 500 + " calls", "too long"),
        ("5 calls\n5 calls", "no limit"),
        (5, "int, not text"),
        (5.0, "float, not text"),
        (None, "NoneType, not text"),
        (True, "bool, not text"),
        (b"$5", "bytes, not text"),
    ],
)
def test_nonsense_is_named_with_the_remedy(value: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_limit(value)
    text = str(caught.value)
    assert words in text
    assert repr(value)[:20] in text
    assert '"$5"' in text
    assert len(text) < 300


@given(st.sampled_from(["usd", "tokens", "calls"]), st.integers(0, MAX_AMOUNT))
def test_what_is_written_reads_the_same(unit: Unit, amount: int) -> None:
    assert parse_limit(format_limit(unit, amount)) == (unit, amount)


@given(st.sampled_from(["usd", "tokens", "calls"]), st.integers(0, 10_000), st.integers(0, 9))
def test_round_amounts_read_the_same(unit: Unit, digits: int, zeros: int) -> None:
    amount = digits * 10**zeros
    assert parse_limit(format_limit(unit, amount)) == (unit, amount)


@given(st.text(max_size=80))
def test_any_text_is_a_limit_or_a_config_error(text: str) -> None:
    try:
        unit, amount = parse_limit(text)
    except ConfigError:
        return
    assert unit in ("usd", "tokens", "calls")
    assert 0 <= amount <= MAX_AMOUNT


@pytest.mark.parametrize(
    ("unit", "amount", "text"),
    [
        ("usd", 5_000_000_000, "$5"),
        ("usd", 500_000_000, "$0.50"),
        ("usd", 1_234_500_000_000, "$1,234.50"),
        ("usd", 1, "$0.000000001"),
        ("tokens", 200_000, "200k tokens"),
        ("tokens", 1_500_000, "1.5M tokens"),
        ("tokens", 1_234, "1,234 tokens"),
        ("calls", 1, "1 call"),
        ("calls", 0, "0 calls"),
    ],
)
def test_limits_are_written_short(unit: Unit, amount: int, text: str) -> None:
    assert format_limit(unit, amount) == text
