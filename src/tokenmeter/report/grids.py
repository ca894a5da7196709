"""What templates place: tables and drawings, whose cells are text unless they were made here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

NOTHING: Final = "\N{EN DASH}"


class Cells(NamedTuple):
    """A row of a table; the first one of some tables is what nobody answers for."""

    cells: Sequence[Any]
    first: bool = False


class Grid(NamedTuple):
    """A table: what the template of that name takes."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Cells]
    right: Sequence[str] = ()
    empty: str = "There is none."


class Chart(NamedTuple):
    """A drawing with what stands around it."""

    title: str
    svg: Any
    legend: Sequence[tuple[Any, str]] = ()
    table: Grid | None = None
    note: str = ""


def safe(markup: str) -> Any:
    """What was made here, and is not escaped again."""
    from markupsafe import Markup

    return Markup(markup)  # noqa: S704 - drawings escape their texts, and the style is a file of the package


def link(label: str, href: str) -> Any:
    """A link for a cell of a table."""
    from markupsafe import Markup

    return Markup('<a href="{}">{}</a>').format(href, label)
