"""Tables: drawn by rich on a terminal that has it, aligned text elsewhere; and text that can't harm a terminal."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from tokenmeter.texts import clean

_LEAST = 8  # a column of text that is narrower can't be read
_GAP = 2


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the columns named in ``right`` hold figures. ``styles``: one of rich's styles a row, or none."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str] = ()
    styles: Sequence[str] = ()
    title: str = ""


def fancy(out: TextIO) -> bool:
    """Whether that is a terminal, and there is rich to draw on it."""
    return out.isatty() and importlib.util.find_spec("rich") is not None


def show(table: Table) -> None:
    """Print a table in the way that fits where it goes."""
    if fancy(sys.stdout):
        from rich.console import Console

        console = Console(highlight=False)
        console.print(drawn(table, console.width))
    else:
        print(aligned(table))


def aligned(table: Table) -> str:
    """A table as plain text."""
    rows = [[*map(clean, row)] for row in (table.head, *table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.head))]
    align: list[Callable[[str, int], str]] = [str.rjust if name in table.right else str.ljust for name in table.head]
    lines = ["  ".join(to(cell, width) for to, cell, width in zip(align, row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    above = [table.title, ""] if table.title else []
    return "\n".join([*above, *(line.rstrip() for line in lines)])


def drawn(table: Table, room: int) -> Any:
    """What rich prints into so many columns: a table, or where none can be read in them, a list of its rows."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    widths = _widths(table, room)
    if widths is None:
        return _listed(table)
    found = RichTable(title=table.title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
                      show_edge=False, pad_edge=False, collapse_padding=True)  # fmt: skip
    for name, width in zip(table.head, widths, strict=True):
        found.add_column(Text(name), justify="right" if name in table.right else "left", overflow="fold", width=width)
    for number, row in enumerate(table.rows):
        found.add_row(*[Text(clean(cell)) for cell in row], style=table.styles[number] if table.styles else "")
    return found


def _widths(table: Table, room: int) -> list[int] | None:
    """How wide each column is: figures are never cut, text is folded as far as it can be read; None: it doesn't fit."""
    from rich.cells import cell_len

    found = []
    for i, name in enumerate(table.head):
        heading = max(map(len, name.split()), default=0) if name in table.right else len(name)
        found.append(max([heading, *(cell_len(clean(row[i])) for row in table.rows)]))
    texts = [i for i, name in enumerate(table.head) if name not in table.right]
    over = sum(found) + _GAP * (len(found) - 1) - room
    while over > 0:
        widest = max(texts, key=lambda i: found[i], default=None)
        if widest is None or found[widest] <= _LEAST:
            return None
        found[widest] -= 1
        over -= 1
    return found


def _listed(table: Table) -> Any:
    from rich.text import Text

    found = Text(f"{table.title}\n" if table.title else "", style="bold")
    for number, (first, *rest) in enumerate(table.rows):
        told = "; ".join(f"{name} {cell}" for name, cell in zip(table.head[1:], rest, strict=True) if cell)
        found.append(f"{clean(first)}: {clean(told)}\n", style=table.styles[number] if table.styles else "not bold")
    found.rstrip()
    return found
