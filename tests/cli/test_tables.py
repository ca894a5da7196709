"""Tables fit the terminal, however narrow: figures are never cut, and no line is longer than there is room."""

from __future__ import annotations

import io

import pytest

pytest.importorskip("rich")

from rich.console import Console

from tokenmeter.cli.tables import Table, drawn

HEAD = ("budget", "kept for", "limit", "spent", "cost per outcome", "resets")
ROWS = [
    ("each agent, a day", "agent=a-summariser-of-mails", "$99.999999999", "<$0.0001", "$1,234.56", "2026-11-30 00:00"),
    ("tokens\x1b[31m", "日本語のエージェント", "200k tokens", "180,000", "\N{EN DASH}", "never"),
]


def shown(room: int) -> str:
    out = io.StringIO()
    table = Table(HEAD, ROWS, right=HEAD[2:5], styles=["bold red", ""], title="Budgets")
    Console(file=out, width=room, highlight=False, color_system=None).print(drawn(table, room))
    return out.getvalue()


@pytest.mark.parametrize("room", [200, 100, 80, 72, 60, 40])
def test_figures_are_whole_and_lines_fit(room: int) -> None:
    text = shown(room)

    assert all(len(line) <= room for line in text.splitlines())
    assert "Budgets" in text.splitlines()[0]
    assert "\x1b" not in text
    assert "…" not in text
    for figure in ("$99.999999999", "<$0.0001", "$1,234.56", "180,000"):
        assert figure in text


def test_a_table_becomes_a_list_where_none_could_be_read() -> None:
    assert "each agent, a day  agent=a-summariser-of-mails  $99" in shown(200)
    assert shown(40).split()[1:8] == ["each", "agent,", "a", "day:", "kept", "for", "agent=a-summariser-of-mails;"]
