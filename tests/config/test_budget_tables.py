"""What a [[budgets]] table may say beyond limit, window and scope, and where an error of it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenmeter.budgets import Budget
from tokenmeter.config import load_config
from tokenmeter.errors import ConfigError


def load(tmp_path: Path, text: str) -> tuple[Budget, ...]:
    path = tmp_path / "tokenmeter.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path).budgets


def test_all_of_it_can_be_written_in_the_file(tmp_path: Path) -> None:
    text = """
[[budgets]]
limit = "$5"
per = "day"
on_exceed = "downgrade"
hold = "expected"
extend_streams = true
on_store_error = "local"
local_limit = "$0.50"
thresholds = [25, 99.9, 150]

[budgets.downgrade]
"gpt-5" = "gpt-5-mini"
"claude-opus-*" = "claude-haiku-4-5"

[[budgets]]
limit = "100 calls"
on_exceed = "downgrade"
downgrade = { "*" = "gpt-5-nano" }
thresholds = []
"""
    assert load(tmp_path, text) == (
        Budget(
            "$5",
            per="day",
            on_exceed="downgrade",
            downgrade={"gpt-5": "gpt-5-mini", "claude-opus-*": "claude-haiku-4-5"},
            hold="expected",
            extend_streams=True,
            on_store_error="local",
            local_limit="$0.50",
            thresholds=(25, 99.9, 150),
        ),
        Budget("100 calls", on_exceed="downgrade", downgrade={"*": "gpt-5-nano"}, thresholds=()),
    )


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        (['on_store_error = "opn"'], 4, ["on_store_error='opn'", "did you mean 'open'"]),
        (['per = "day"', 'on_store_error = "local"'], 5, ["on_store_error='local'", "add a local_limit"]),
        (['per = "day"', 'local_limit = "$2"'], 5, ["local_limit='$2'", "write on_store_error='local' too"]),
        (['on_store_error = "local"', 'local_limit = "2"'], 5, ["local_limit '2'", "says no unit"]),
        (['on_store_error = "local"', "local_limit = 2"], 5, ["local_limit 2", "not text"]),
        (['local_limit = "2 calls"', 'on_store_error = "local"'], 4, ["local_limit='2 calls'", "in calls"]),
        (['on_store_error = "local"', 'local_limit = "$6"'], 5, ["local_limit='$6'", "more than the limit '$5'"]),
        (['per = "day"', 'on_exceed = "downgrade"'], 5, ["on_exceed='downgrade'", "add downgrade"]),
        (['per = "day"', 'downgrade = { a = "b" }'], 5, ["downgrade={'a': 'b'}", "write on_exceed='downgrade'"]),
        (['on_exceed = "downgrade"', 'downgrade = "b"'], 5, ["downgrade='b'", "no mapping"]),
        (['on_exceed = "downgrade"', 'downgrade = { a = "b", b = "a" }'], 5, ["circle: b → a → b"]),
        (['on_exceed = "downgrade"', "downgrade = { a = 5 }"], 5, ["downgrade 'a': 5", "names no model"]),
        (['per = "day"', 'hold = "best"'], 5, ["hold='best'", "worst, expected"]),
        (['extend_streams = "yes"'], 4, ["extend_streams='yes'", "True nor False"]),
        (['per = "day"', "thresholds = 80"], 5, ["thresholds=80", "(50, 80, 100)"]),
        (['per = "day"', "thresholds = [80, 50.5]"], 5, ["50.5 does not come after 80"]),
        (["threshold = [80]"], 4, ["no key 'threshold'", "did you mean 'thresholds'"]),
    ],
)
def test_an_error_names_the_line_the_value_and_the_remedy(
    tmp_path: Path, lines: list[str], line: int, words: list[str]
) -> None:
    text = "\n".join(["# team", "[[budgets]]", 'limit = "$5"', *lines, 'name = "n"', ""])
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'tokenmeter.toml'}:{line}: [[budgets]] ")
    for word in words:
        assert word in str(caught.value)
