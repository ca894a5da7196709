"""Bad input is refused when it is given, in words that name it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import tokenmeter
from tokenmeter import Budget, ConfigError, LoopPolicy, Meter, Price

CASES: Mapping[str, tuple[Callable[[], Any], str]] = {
    "no unit": (lambda: Budget("5"), "'5'"),
    "no number": (lambda: Budget("$"), r"'\$'"),
    "negative limit": (lambda: Budget("$-5"), r"'\$-5'"),
    "another currency": (lambda: Budget("5 EUR"), "'5 EUR'"),
    "a number": (lambda: Budget(5), "5"),  # type: ignore[arg-type]
    "nothing": (lambda: Budget(None), "None"),  # type: ignore[arg-type]
    "words": (lambda: Budget("plenty"), "'plenty'"),
    "finer than a nanodollar": (lambda: Budget("$0.0000000001"), "nanodollar"),
    "half a call": (lambda: Budget("1.5 calls"), "'1.5 calls'"),
    "too much": (lambda: Budget("$99999999999999"), "larger"),
    "infinity": (lambda: Budget("$inf"), r"'\$inf'"),
    "unknown scope": (lambda: Budget("$5", scope="agnet"), "'agnet'.*did you mean 'agent'"),
    "scope of no kind": (lambda: Budget("$5", scope=7), "7"),  # type: ignore[arg-type]
    "scope twice": (lambda: Budget("$5", scope=("agent", "agent")), "twice"),
    "unknown period": (lambda: Budget("$5", per="dya"), "'dya'.*did you mean 'day'"),  # type: ignore[arg-type]
    "unknown policy": (lambda: Budget("$5", on_exceed="stop"), "on_exceed='stop'"),  # type: ignore[arg-type]
    "negative wait": (lambda: Budget("$5", wait_s=-1), "wait_s=-1"),
    "endless wait": (lambda: Budget("$5", wait_s=float("inf")), "wait_s=inf"),
    "no least output": (lambda: Budget("$5", min_output_tokens=0), "min_output_tokens=0"),
    "unknown zone": (lambda: Budget("$5", per="day", tz="Europe/Berln"), "Europe/Berln"),
    "match of no kind": (lambda: Budget("$5", match="gpt"), "'gpt'"),  # type: ignore[arg-type]
    "match of an unknown field": (lambda: Budget("$5", match={"modle": "gpt"}), "'modle'"),
    "empty name": (lambda: Budget("$5", name=" "), "name"),
    "negative price": (lambda: Price("-1", "2"), "'-1'"),
    "float price": (lambda: Price(1.5, "2"), "1.5.*exact"),  # type: ignore[arg-type]
    "price in words": (lambda: Price("1", "cheap"), "'cheap'"),
    "price NaN": (lambda: Price("1", "NaN"), "'NaN'"),
    "negative count": (lambda: Price("1", "2", max_output_tokens=-4), "max_output_tokens = -4"),
    "no depth": (lambda: LoopPolicy(max_depth=0), "max_depth is 0"),
    "depth in words": (lambda: LoopPolicy(max_depth="deep"), "'deep'"),  # type: ignore[arg-type]
    "a limit as a budget": (lambda: Meter(["$5"]), r"'\$5'"),  # type: ignore[list-item]
    "budgets twice": (lambda: Meter([Budget("$5", name="x"), Budget("$6", name="x")]), "'x'"),
    "unknown store": (lambda: Meter(store="mongodb://db"), "mongodb://"),
    "no store": (lambda: Meter(store="here"), "store"),
    "store of no kind": (lambda: Meter(store=7), "store"),  # type: ignore[arg-type]
    "store without a name": (lambda: Meter(store=""), "store"),
    "unknown label": (lambda: Meter(metric_labels=["agnet"]), "'agnet'"),
    "bad unpriced": (lambda: Meter(unpriced="ignore"), "'ignore'"),  # type: ignore[arg-type]
    "float in a price": (lambda: Meter(prices={"m": {"input": 1.5, "output": 2}}), "'m'.*1.5"),
    "price without output": (lambda: Meter(prices={"m": {"input": "1"}}), "'m'.*output"),
    "price with more": (lambda: Meter(prices={"m": {"input": "1", "output": "1", "inptu": "2"}}), "'inptu'"),
    "price of no kind": (lambda: Meter(prices={"m": "1"}), "'m'"),  # type: ignore[dict-item]
    "price of no name": (lambda: Meter(prices={"": Price("1", "2")}), "''"),
    "prices of no kind": (lambda: Meter(prices=7), "7"),  # type: ignore[arg-type]
    "agent of no name": (lambda: Meter().agent(""), "agent name is ''"),
    "agent of no kind": (lambda: Meter().agent(7), "7"),  # type: ignore[arg-type]
    "user of no kind": (lambda: Meter().agent("a", user=7), "user is 7"),  # type: ignore[arg-type]
    "tag of no kind": (lambda: Meter().agent("a", feature=7), "'feature'"),  # type: ignore[arg-type]
    "a long name": (lambda: Meter().agent("a" * 300), "300 characters"),
    "wrapping an object": (lambda: Meter().wrap(object()), "builtins.object"),
    "wrapping a class": (lambda: Meter().wrap(dict), "can't wrap"),
    "wrapping nothing": (lambda: Meter().wrap(None), "NoneType"),
    "wrapping a list": (lambda: Meter().wrap([]), "list"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named(case: str) -> None:
    give, names = CASES[case]
    with pytest.raises(ConfigError, match=names) as caught:
        give()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, tokenmeter.TokenmeterError)
    assert len(str(caught.value)) > 20
    assert caught.value.__cause__ is None


def test_a_secret_in_a_store_s_address_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        Meter(store="postgres://me:hunter2@db/x")
    assert "hunter2" not in str(caught.value)


FILES: Mapping[str, tuple[str, bytes, str]] = {
    "no TOML": ("p.toml", b"= =", "TOML"),
    "no JSON": ("p.json", b"{", "JSON"),
    "another kind": ("p.yaml", b"m: 1", "neither"),
    "no UTF-8": ("p.toml", b"\xff\xfe", "UTF-8"),
    "a list": ("p.json", b"[1]", "list"),
    "empty": ("p.json", b"", "JSON"),
    "twice": ("p.json", b'{"m": {"input": 1, "output": 1}, "m": {"input": 2, "output": 2}}', "twice"),
    "NaN": ("p.json", b'{"m": {"input": NaN, "output": 1}}', "NaN"),
    "negative": ("p.toml", b'[m]\ninput = -1\noutput = "2"', "'-1'"),
    "words": ("p.toml", b'[m]\ninput = "a lot"\noutput = "2"', "'a lot'"),
    "no table": ("p.toml", b"m = 5", "'m'"),
    "unknown field": ("p.toml", b'[m]\ninput = "1"\noutput = "2"\nimages = "3"', "'images'"),
    "no output": ("p.toml", b'[m]\ninput = "1"', "output"),
    "name with a dot": ("p.toml", b'[gpt-4.1]\ninput = "1"\noutput = "2"', "quote"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_price_file_with_nonsense_is_named(case: str, tmp_path: Path) -> None:
    name, content, names = FILES[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=names) as caught:
        Meter(prices=path)
    assert name in str(caught.value)


def test_a_price_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"away\.toml"):
        Meter(prices=tmp_path / "away.toml")
