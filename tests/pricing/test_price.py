"""Prices that users write, right and wrong."""

from __future__ import annotations

import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tokenmeter.errors import ConfigError
from tokenmeter.pricing import Price, parse_prices


@pytest.mark.parametrize("amount", ["1.25", "$1.25", " $ 1.25 ", Decimal("1.25")])
def test_amounts_are_read_exactly(amount: str | Decimal) -> None:
    assert Price(amount, 0).input == Decimal("1.25")


@pytest.mark.parametrize(
    "amount",
    [
        1.25, float("nan"), "-1", "-$1", "$-1", -3, Decimal(-1), Decimal("NaN"), Decimal("Infinity"), "NaN",
        "", "$", "1,25", "1.25 EUR", "1e3", "cheap", "1.2.3", True, None, [], "99999999999", Decimal("1e-30"),
        Decimal("1e30"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_by_field_and_value(amount: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Price(input=1, output=amount)
    assert "output" in str(caught.value)
    assert "string" in str(caught.value)
    assert str(amount) in str(caught.value)


def test_a_float_is_told_to_become_a_string() -> None:
    wrong: Any = 0.1
    with pytest.raises(ConfigError, match=r"input = 0\.1 .*isn't exact.*write US dollars .* as a string"):
        Price(wrong, "1")


@pytest.mark.parametrize("tokens", [0, -1, 1.5, "128000", True])
def test_token_figures_are_whole_numbers_above_zero(tokens: Any) -> None:
    with pytest.raises(ConfigError, match="max_output_tokens"):
        Price("1", "2", max_output_tokens=tokens)


def test_a_missing_cache_price_is_the_input_price() -> None:
    counts = {"input_tokens": 1_000_000, "cache_read_tokens": 400_000, "cache_write_tokens": 100_000}
    assert Price("2", "8").rate("m", None).cost_nanos(counts) == 2_000_000_000
    assert Price("2", "8", cache_read="0.5").rate("m", None).cost_nanos(counts) == 1_400_000_000


def test_a_missing_cache_write_price_is_the_input_price_beside_one_for_an_hour() -> None:
    rate = Price("2", "8", cache_write_1h="4").rate("m", None)
    counts = {"input_tokens": 1_000_000, "cache_write_tokens": 500_000, "cache_write_1h_tokens": 100_000}
    assert rate.cost_nanos(counts) == 2_200_000_000


def test_a_price_pickles_and_says_what_it_is() -> None:
    price = Price("1", "2", context_window=1000)
    assert pickle.loads(pickle.dumps(price)) == price
    rate = price.rate("m", "p")
    assert (rate.source, rate.model_id, rate.provider_id, rate.context_window) == ("fallback", "m", "p", 1000)


def test_a_mapping_of_prices_and_tables() -> None:
    prices = parse_prices({"a": Price("1", "2"), "openai/b*": {"input": "$1", "output": "2", "cache_read": 0}})
    assert prices["openai/b*"] == Price("1", "2", cache_read="0")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.toml", '["gpt-5*"]\ninput = "1.10"\noutput = 8.80\n'),
        ("p.json", '{"gpt-5*": {"input": "1.10", "output": 8.80}}'),
    ],
)
def test_a_file_is_read_exactly(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert parse_prices(path) == parse_prices(str(path)) == {"gpt-5*": Price("1.1", "8.8")}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("none.toml", None, ("none.toml", "can't be read", "check the path")),
        ("p.yaml", "a: 1", ("p.yaml", ".toml")),
        ("p.toml", "[gpt-5\n", ("p.toml", "no valid TOML")),
        ("p.json", '{"a": ', ("p.json", "no valid JSON")),
        ("p.json", "[" * 100_000, ("p.json", "no valid JSON")),
        ("p.json", "[]", ("p.json", "list", "object")),
        (
            "p.json",
            '{"a": {"input": 1, "output": 2}, "a": {"input": 3, "output": 4}}',
            ("p.json", "'a'", "twice"),
        ),
        ("p.json", '{"a": {"input": NaN, "output": 2}}', ("p.json", "NaN", "string")),
        ("p.json", '{"a": 5}', ("p.json", "'a'", "5", "table")),
        ("p.json", '{"": {"input": 1, "output": 2}}', ("p.json", "''", "provider/model")),
        ("p.toml", '["a"]\ninput = -1\noutput = 2\n', ("p.toml", "'a'", "input = '-1'", "string")),
        (
            "p.toml",
            '["a"]\ninput = "1"\noutpt = "2"\n',
            ("p.toml", "'a'", "'outpt'", "the fields are input, output"),
        ),
        ("p.toml", '["a"]\ninput = "1"\n', ("p.toml", "'a'", "'output'", '"0"')),
        ("p.toml", '["a"]\ninput = nan\noutput = "1"\n', ("p.toml", "'a'", "NaN", "string")),
        ("p.toml", '["a"]\ninput = []\noutput = "1"\n', ("p.toml", "'a'", "input = []", "list")),
        ("p.toml", '[gpt-4.1]\ninput = "1"\noutput = "1"\n', ("p.toml", "'gpt-4'", "quote")),
    ],
)
def test_each_nonsense_in_a_file_names_file_key_value_and_remedy(
    tmp_path: Path, name: str, text: str | None, words: tuple[str, ...]
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        parse_prices(path)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_file_of_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"p\.json: is not UTF-8"):
        parse_prices(path)


@pytest.mark.parametrize("source", [5, None, [], {1: {}}, {"a": 1.5}, {"a": {"input": 0.5, "output": 1}}])
def test_nonsense_that_is_no_file(source: Any) -> None:
    with pytest.raises(ConfigError):
        parse_prices(source)
