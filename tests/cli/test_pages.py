"""The pages about the command: each line is understood, each option is named, and the JSON is as it is shown."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.cli.shared_books import SharedBooks
from tokenmeter.budgets import Grant, Need, Pause
from tokenmeter.cli import _parser, main

DOCS = Path(__file__).resolve().parents[2] / "docs"
REFERENCE = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
GUIDE = (DOCS / "how-to" / "operate-budgets.md").read_text(encoding="utf-8")
OPERATOR = ("budgets", "grant", "pause", "resume", "accept-loss", "doctor")


def _lines() -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```$", REFERENCE + GUIDE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def _section(name: str) -> str:
    found = re.search(rf"^## `tokenmeter {name}`\n(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def _commands() -> dict[str, argparse.ArgumentParser]:
    for action in _parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError


@pytest.mark.parametrize("line", _lines())
def test_each_line_is_understood(line: str) -> None:
    words = shlex.split(line)
    assert words[0] == "tokenmeter"
    assert callable(_parser().parse_args(words[1:]).run)


@pytest.mark.parametrize("name", OPERATOR)
def test_each_option_is_named(name: str) -> None:
    section, shared = _section(name), REFERENCE.partition("## Exit statuses")[0]
    for action in _commands()[name]._actions:
        for option in action.option_strings:
            if option.startswith("--") and option != "--help":
                assert f"`{option}" in (shared if option in ("--store", "--config", "--json") else section), option


def test_each_operators_command_has_a_section() -> None:
    assert set(OPERATOR) <= set(_commands())
    for name in OPERATOR:
        assert f"[`tokenmeter {name}`](#tokenmeter-{name})" in REFERENCE


def _shape(value: Any) -> Any:
    """The keys; of a list, those of its first."""
    if isinstance(value, dict):
        return {key: _shape(each) for key, each in value.items()}
    return [_shape(value[0])] if isinstance(value, list) and value else type(value).__name__.replace("int", "float")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("budgets", ["budgets", "daily"]),
        ("grant", ["grant", "$5", "--budget", "daily", "--scope", "agent=a", "--for", "1h", "--reason", "x"]),
        ("pause", ["pause", "agent=b", "--reason", "x"]),
        ("resume", ["resume", "all"]),
        ("doctor", ["doctor"]),
    ],
)
def test_the_json_is_as_it_is_shown(
    name: str, arguments: list[str], shared: SharedBooks, capsys: pytest.CaptureFixture[str]
) -> None:
    example = re.search(r"^```text\n(\{.*?)^```$", _section(name), re.MULTILINE | re.DOTALL)
    assert example is not None
    shared.configure()
    shared.call("a", Need(1, 1))
    now_s = shared.store.time_s()
    shared.store.grant(Grant("g", shared.account("daily", agent="a"), 1, now_s - 5, now_s + 500, "x", "y"))
    for target in ("all", "team=x"):
        shared.store.pause(Pause(target, now_s, "x", "y"))

    assert main([*arguments, "--json"]) == 0

    assert _shape(json.loads(capsys.readouterr().out)) == _shape(json.loads(example[1]))
