"""Groups that are too small to be shown are folded, so that no figure is that of a person.

A folded row that holds fewer people than the least size would be just that; the next smallest group then goes with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tokenmeter.outcomes.normalized import Row

SMALL_GROUPS: Final = "(small groups)"


def fold_small(rows: Iterable[Row], least: int) -> tuple[Row, ...]:
    """The rows in the order of their names, and behind them one for all that have fewer people than ``least``.

    A row of programs alone, in which nobody is named, is no group of people and stays.
    """
    rows = sorted(rows, key=lambda row: row.name or "")
    _, names = parted({row.name or "": row.people for row in rows if row.people is not None}, least)
    folded = frozenset(names)
    shown: list[Row] = []
    small: list[Row] = []
    for row in rows:
        (small if row.people is not None and (row.name or "") in folded else shown).append(row)
    return (*shown, _folded(small)) if small else tuple(shown)


def parted(sizes: Mapping[str, int], least: int) -> tuple[list[str], list[str]]:
    """The groups that are shown, and those that are folded: together they have ``least`` people, if there are so many.

    Both from the smallest on.
    """
    by_size = sorted(sizes, key=lambda name: (sizes[name], name))
    small = [name for name in by_size if sizes[name] < least]
    large = by_size[len(small) :]
    while small and large and sum(sizes[name] for name in small) < least:
        small.append(large.pop(0))
    return large, small


def _folded(small: list[Row]) -> Row:
    kind = type(small[0])
    return kind(
        SMALL_GROUPS,
        sum(row.nanos for row in small),
        sum(row.micros for row in small),
        sum(row.estimated_nanos for row in small),
        sum(row.linked_nanos or 0 for row in small),
        sum(row.fruitless_nanos or 0 for row in small),
        sum(row.people or 0 for row in small),
        groups=len(small),
    )
