"""What a program spent, told at its end."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TextIO

import msgspec

from tokenmeter.cli.tables import Table, aligned
from tokenmeter.ledger.memory import MemoryLedger, Spend
from tokenmeter.record import CallRecord, decode

_HEAD = ("agent", "user", "team", "model", "calls", "tokens in", "tokens out", "$", "refused")


def tell(file: Path, out: TextIO) -> None:
    """Print whose calls came to what, in the order of their names."""
    if not file.exists():
        out.write("tokenmeter run: NOT METERED: no Python process of this program looked for tokenmeter at its start\n")
        return
    ledger = MemoryLedger()
    for row in _rows(file):
        ledger.record(row)
    total = ledger.spend()
    groups = ledger.groups()
    if not groups:
        out.write("tokenmeter run: no model call was seen\n")
        return
    lines: dict[tuple[str, ...], list[Spend]] = {}
    for group, spend in groups.items():
        names = (group.agent, group.user, group.team, group.model)
        lines.setdefault(tuple(name or "-" for name in names), []).append(spend)
    rows = [(*names, *_figures(spends)) for names, spends in sorted(lines.items())]
    if len(rows) > 1:
        rows.append(("all", "", "", "", *_figures([total])))
    out.write("\n" + aligned(Table(_HEAD, rows, right=_HEAD[4:], title="tokenmeter run: what was spent")) + "\n")
    if total.estimated_calls:
        out.write("~ marks charges that were estimated, because a stream was left or an answer never came.\n")


def _rows(path: Path) -> Iterator[CallRecord]:
    with path.open("rb") as lines:
        for line in lines:
            try:
                yield decode(line)
            except msgspec.MsgspecError:  # its process was killed in the midst of it
                continue


def _figures(spends: list[Spend]) -> tuple[str, ...]:
    mark = "~" if any(spend.estimated_calls for spend in spends) else ""
    dollars = sum((spend.usd for spend in spends), Decimal(0))
    return (
        f"{sum(spend.calls for spend in spends):,}",
        f"{mark}{sum(spend.input_tokens for spend in spends):,}",
        f"{mark}{sum(spend.output_tokens for spend in spends):,}",
        f"{mark}{dollars:.6f}",
        f"{sum(spend.refused for spend in spends):,}",
    )
