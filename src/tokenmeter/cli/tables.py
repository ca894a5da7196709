"""Tables: drawn by rich on a terminal that has it, aligned text elsewhere; and text that can't harm a terminal."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenmeter.texts import clean


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the columns named in ``right`` hold figures. ``styles``: one of rich's styles a row, or none."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str] = ()
    styles: Sequence[str] = ()


def fancy() -> bool:
    """Whether there is a terminal, and rich to draw on it."""
    return sys.stdout.isatty() and importlib.util.find_spec("rich") is not None


def show(table: Table) -> None:
    """Print a table in the way that fits where it goes."""
    if fancy():
        from rich.console import Console

        Console(highlight=False).print(drawn(table))
    else:
        print(aligned(table))


def aligned(table: Table) -> str:
    """A table as plain text."""
    rows = [[*map(clean, row)] for row in (table.head, *table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.head))]
    align: list[Callable[[str, int], str]] = [str.rjust if name in table.right else str.ljust for name in table.head]
    lines = ["  ".join(to(cell, width) for to, cell, width in zip(align, row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def drawn(table: Table) -> Any:
    """A table of rich."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    found = RichTable(box=box.SIMPLE_HEAD)
    for name in table.head:
        found.add_column(name, justify="right" if name in table.right else "left", overflow="fold")
    for number, row in enumerate(table.rows):
        found.add_row(*[Text(clean(cell)) for cell in row], style=table.styles[number] if table.styles else "")
    return found
