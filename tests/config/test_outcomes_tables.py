"""``[outcomes]``, ``[outcomes.kinds]`` and ``[teams]`` in a configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tokenmeter.config import load_config
from tokenmeter.errors import ConfigError
from tokenmeter.outcomes import BUILT_IN, Kind, Rules, declare

TOML = """
[outcomes]
own_word = 0.5
min_group = 7
window_s = 3600
adoption_target = 0.9

[outcomes.kinds.deployment]
accepters = ["ci", "release-*"]

[outcomes.kinds.ticket]
weight = 0.2
foldable = false

[teams]
payments = ["alice", "bob"]
"data science" = ["carol@example.com"]
"""


def load(folder: Path, text: str, *, name: str = "tokenmeter.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_is_said(tmp_path: Path) -> None:
    for text in ("", "[outcomes]", "[teams]", "[outcomes]\n[teams]\npayments = []"):
        config = load_config(load(tmp_path, text))
        assert (config.kinds, config.rules) == (None, None)


def test_all_of_it(tmp_path: Path) -> None:
    config = load_config(load(tmp_path, TOML))

    assert config.kinds == declare(
        Kind("deployment", 1.0, accepters=("ci", "release-*")), Kind("ticket", 0.2, foldable=False)
    )
    teams = {"alice": "payments", "bob": "payments", "carol@example.com": "data science"}
    assert config.rules == Rules(own_word=0.5, min_group=7, window_s=3600, adoption_target=0.9, teams=teams)


def test_a_built_in_kind_stays_as_it_is_where_nothing_else_is_said(tmp_path: Path) -> None:
    kinds = load_config(load(tmp_path, "[outcomes.kinds.case]\nweight = 1\n[outcomes.kinds.new]")).kinds

    assert kinds is not None
    assert kinds["case"] == Kind("case", 1.0, foldable=BUILT_IN["case"].foldable)
    assert kinds["new"] == Kind("new")
    assert kinds["merge"] == BUILT_IN["merge"]


def test_one_of_the_two_is_enough(tmp_path: Path) -> None:
    only_teams = load_config(load(tmp_path, '[teams]\npayments = ["alice", "Alice", "alice"]'))
    only_rules = load_config(load(tmp_path, "[outcomes]\nown_word = 0"))

    assert only_teams.rules == Rules(teams={"alice": "payments", "Alice": "payments"})
    assert only_rules.rules == Rules(own_word=0)
    assert (only_teams.kinds, only_rules.kinds) == (None, None)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[outcomes]\nown_word = 2", ":2: [outcomes] own_word is 2; give a part of one"),
        ("[outcomes]\nown_word = nan", ":2: [outcomes] own_word is nan"),
        ('[outcomes]\nown_word = "half"', ':2: [outcomes] own_word = "half" is text, not a number; write a number'),
        ("[outcomes]\nown_word = true", ":2: [outcomes] own_word = true is a truth value, not a number"),
        ("[outcomes]\n\nmin_group = 1", ":3: [outcomes] min_group is 1; a group has at least 2 people"),
        ("[outcomes]\nmin_group = 5.0", ":2: [outcomes] min_group = 5.0 is a number, not a whole number"),
        ("[outcomes]\nwindow_s = 0", ":2: [outcomes] window_s is 0; give seconds"),
        ("[outcomes]\nfold_s = inf", ":2: [outcomes] fold_s is inf"),
        ("[outcomes]\nadoption_target = 80", ":2: [outcomes] adoption_target is 80; give a part of one"),
        ("[outcomes]\nadoption_target = 0", ":2: [outcomes] adoption_target is 0"),
        ("[outcomes]\nown_words = 1", ":2: [outcomes] has no key 'own_words'; did you mean 'own_word'?"),
        ("[outcomes]\nteams = 1", ":2: [outcomes] has no key 'teams'"),
        ("outcomes = 3", ":1: [outcomes] is a whole number; write it as a table"),
        ("outcomes = [1]", ":1: [outcomes] is a list; write it as a table"),
        ("[outcomes]\nkinds = 3", ":2: [outcomes.kinds] is a whole number; write it as a table"),
        ("[outcomes.kinds]\nticket = 0.2", ":2: [outcomes.kinds.ticket] is a number; write it as a table"),
        ("[outcomes.kinds.Ticket]", ":1: [outcomes.kinds.Ticket] kind 'Ticket' is no name; write lower-case"),
        ("[outcomes.kinds.ticket]\nweight = -1", ":2: [outcomes.kinds.ticket] weight of kind 'ticket' is -1"),
        ("[outcomes.kinds.ticket]\nweight = true", ":2: [outcomes.kinds.ticket] weight = true is a truth value"),
        ("[outcomes.kinds.case]\nweight = nan", ":2: [outcomes.kinds.case] weight of kind 'case' is nan"),
        ("[outcomes.kinds.ticket]\nfoldable = 1", ":2: [outcomes.kinds.ticket] foldable = 1 is a whole number"),
        (
            '[outcomes.kinds.ticket]\naccepters = "ci"',
            ':2: [outcomes.kinds.ticket] accepters = "ci" is text; write a list of texts such as ["ci", "customer:*"]',
        ),
        ('[outcomes.kinds.ticket]\naccepters = [""]', ":2: [outcomes.kinds.ticket] accepters = [''] has an empty name"),
        (
            "[outcomes.kinds.ticket]\nwieght = 1",
            ":2: [outcomes.kinds.ticket] has no key 'wieght'; did you mean 'weight'",
        ),
        ('[teams]\npayments = "alice"', ':2: [teams] payments = "alice" is text; write a list of users'),
        ("[teams]\npayments = [3]", ":2: [teams] payments has 3, which is no name of a user"),
        ('[teams]\npayments = ["alice", " "]', ':2: [teams] payments has " ", which is no name of a user'),
        ('[teams]\n"" = ["alice"]', ":2: [teams] has a team without a name"),
        (
            '[teams]\npayments = ["alice"]\nsearch = [\n  "bob",\n  "Alice",\n]',
            ':5: [teams] search has "Alice", who is in "payments" too; keep the user in one team',
        ),
        ("teams = 1", ":1: [teams] is a whole number; write it as a table"),
        ("[[teams]]", ":1: [teams] is a list; write it as a table"),
    ],
)
def test_what_makes_no_sense_is_refused_on_its_line(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(load(tmp_path, text))

    assert part in str(caught.value)


def test_a_program_that_only_meters_loads_none_of_it(tmp_path: Path) -> None:
    path = load(tmp_path, '[[budgets]]\nlimit = "$5"')
    code = (
        "import sys, tokenmeter\n"
        f"from tokenmeter.config import load_config; load_config({str(path)!r})\n"
        "assert not [name for name in sys.modules if name.startswith('tokenmeter.outcomes')]"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
