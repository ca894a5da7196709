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
OPERATOR = (
    "budgets", "grant", "pause", "resume", "accept-loss", "drain", "outcome", "report", "serve", "doctor",
)  # fmt: skip


def _lines() -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```$", REFERENCE + GUIDE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def _section(name: str) -> str:
    found = re.search(rf"^##+ `tokenmeter {name}`\n(.*?)(?=^##|\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def _below(parser: argparse.ArgumentParser, name: str = "") -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser, and those of theirs: ``outcome``, ``outcome import``, ``outcome import git``."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, inner in action.choices.items():
                found[f"{name} {verb}".strip()] = inner
                found |= _below(inner, f"{name} {verb}".strip())
    return found


COMMANDS = _below(_parser())
VERBS = [name for name, parser in COMMANDS.items() if " " in name and not _below(parser)]


@pytest.mark.parametrize("line", _lines())
def test_each_line_is_understood(line: str) -> None:
    words = shlex.split(line)
    assert words[0] == "tokenmeter"
    assert callable(_parser().parse_args(words[1:]).run)


@pytest.mark.parametrize("name", [*OPERATOR, *VERBS])
def test_each_option_is_named(name: str) -> None:
    section, shared = _section(name), REFERENCE.partition("## Exit statuses")[0]
    command = _section(name.partition(" ")[0])
    for action in COMMANDS[name]._actions:
        for option in action.option_strings:
            if option.startswith("--") and option != "--help":
                of_all = shared if option in ("--store", "--config", "--json") else ""
                of_verbs = command if option == "--ledger" else ""
                assert f"`{option}" in (of_all or of_verbs or section), option
        if name in VERBS and not action.option_strings:
            assert f"`{action.metavar}`" in section, action.metavar


def test_each_operators_command_has_a_section() -> None:
    assert {"demo", "run", *OPERATOR} == {name for name in COMMANDS if " " not in name}
    for name in ("run", *OPERATOR):
        assert f"[`tokenmeter {name}`](#tokenmeter-{name})" in REFERENCE
    assert len(VERBS) == 6
    for name in VERBS:
        assert f"[`{name.partition(' ')[2]}`](#tokenmeter-{name.replace(' ', '-')})" in REFERENCE


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
        ("drain", ["drain"]),
        ("outcome", ["outcome", "put", "case", "c1"]),
        ("doctor", ["doctor"]),
    ],
)
def test_the_json_is_as_it_is_shown(
    name: str, arguments: list[str], shared: SharedBooks, capsys: pytest.CaptureFixture[str]
) -> None:
    if name in ("drain", "outcome"):
        pytest.importorskip("sqlalchemy")
        arguments = [*arguments, "--ledger", f"sqlite:///{shared.folder / 'kept.db'}"]
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
