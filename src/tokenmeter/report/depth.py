"""How deep runs went, and the calls that were stopped before they were sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tokenmeter.ledger.views import RunSum

_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Depth:
    """The runs of one depth. ``stopped`` had a call refused, ``warned`` one that would have been.

    ``depth`` is that of the agent that was called deepest; the last one of a report stands for all deeper ones too.
    """

    depth: int
    runs: int
    stopped: int
    warned: int
    nanos: int
    or_more: bool = False


def depths(runs: Iterable[RunSum]) -> tuple[Depth, ...]:
    """Runs by how deep they went, the flat ones first."""
    found: dict[int, list[int]] = defaultdict(lambda: [0] * 4)
    for run in runs:
        sums = found[min(run.max_depth, _DEEPEST)]
        for place, value in enumerate((1, run.refused > 0, run.warned > 0, run.nanos)):
            sums[place] += value
    rows = []
    for depth in sorted(found):
        number, stopped, warned, nanos = found[depth]
        rows.append(Depth(depth, number, stopped, warned, nanos, or_more=depth == _DEEPEST))
    return tuple(rows)
