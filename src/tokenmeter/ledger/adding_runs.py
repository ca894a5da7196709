"""How calls are added to the sums of their runs: read, added to and written back, as there is one writer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from tokenmeter.ledger.lines import Change, Group, Line
from tokenmeter.ledger.statements import in_parts
from tokenmeter.ledger.tables import RUN_SUMS, run_sums

_MOST_AGENTS = 64
_MOST_MODELS = 32

_write = msgspec.json.encode
_read_agents = msgspec.json.Decoder(list[tuple[int, str]]).decode
_read_models = msgspec.json.Decoder(list[str]).decode


class _Run:
    """What a batch adds to one run."""

    def __init__(self, line: Line) -> None:
        self.first = line
        self.sums: Sequence[int] = (0,) * len(RUN_SUMS)
        self.first_s = self.last_s = line.at_s
        self.max_depth = 0
        self.agents: dict[str, int] = {}
        self.models: dict[str, None] = {}

    def add(self, line: Line, sign: int) -> None:
        self.sums = [a + sign * b for a, b in zip(self.sums, line.run_sums(), strict=True)]
        if sign > 0:
            self.first_s, self.last_s = min(self.first_s, line.at_s), max(self.last_s, line.at_s)
            self.max_depth = max(self.max_depth, len(line.rest.path))
            for depth, agent in enumerate(line.agents):
                self.agents[agent] = min(depth, self.agents.get(agent, depth))
            if line.group.model is not None:
                self.models[line.group.model] = None

    def columns(self, old: Any) -> dict[str, Any]:
        """The row, ``old`` (if any) included."""
        agents, models = self.agents, self.models
        first_s, last_s, depth, sums = self.first_s, self.last_s, self.max_depth, self.sums
        if old is not None:
            agents = {name: at for at, name in _read_agents(old.agents)}
            for name, at in self.agents.items():
                agents[name] = min(at, agents.get(name, at))
            models = dict.fromkeys(_read_models(old.models)) | models
            first_s, last_s, depth = min(old.first_s, first_s), max(old.last_s, last_s), max(old.max_depth, depth)
            sums = [getattr(old, name) + value for name, value in zip(RUN_SUMS, sums, strict=True)]
        ordered = sorted(((at, name) for name, at in agents.items()), key=lambda each: each[0])
        return {
            "agents": _write(ordered[:_MOST_AGENTS]),
            "models": _write(list(models)[:_MOST_MODELS]),
            "first_s": first_s,
            "last_s": last_s,
            "max_depth": depth,
            **dict(zip(RUN_SUMS, sums, strict=True)),
        }


def add_to_runs(db: sa.Connection, changes: Iterable[Change], numbers: Mapping[Group, int]) -> dict[str, int]:
    """Add to the runs; their numbers."""
    runs: dict[str, _Run] = {}
    for line, before, _ in changes:
        for each, sign in ((line, 1), (before, -1)):
            if each is not None and each.run is not None:
                runs.setdefault(each.run, _Run(each)).add(each, sign)
    old: dict[str, Any] = {}
    for some in in_parts(runs):
        old.update((row.run, row) for row in db.execute(sa.select(run_sums).where(run_sums.c.run.in_(some))))
    changed = [{"b_number": old[run].number, **part.columns(old[run])} for run, part in runs.items() if run in old]
    fresh = [
        {"run": run, "group_number": numbers[part.first.group], **part.columns(None)}
        for run, part in runs.items()
        if run not in old
    ]
    if changed:
        db.execute(run_sums.update().where(run_sums.c.number == sa.bindparam("b_number")), changed)
    found = {run: int(row.number) for run, row in old.items()}
    if fresh:
        db.execute(run_sums.insert(), fresh)
        for some in in_parts([row["run"] for row in fresh]):
            rows = db.execute(sa.select(run_sums.c.run, run_sums.c.number).where(run_sums.c.run.in_(some)))
            found.update((row.run, row.number) for row in rows)
    return found
