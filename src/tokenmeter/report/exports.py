"""The report for programs: JSON with all of it, CSV with its lines.

Money is exact: dollars as decimals with up to nine places, in JSON as text. A cell of CSV that a spreadsheet would take
for a formula gets an apostrophe before it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from tokenmeter.ledger.views import SUMS
from tokenmeter.outcomes import Judged, Own, Row
from tokenmeter.report.adopted import is_whole
from tokenmeter.report.burn import BudgetLine
from tokenmeter.report.data import Apart, ReportData
from tokenmeter.report.series import Series
from tokenmeter.report.words import exact, iso
from tokenmeter.texts import clean

SCHEMA: Final = "tokenmeter.report/1"
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_MONEY: Final = {"nanos": "usd", "estimated_nanos": "estimated_usd"}
CSV_COLUMNS: Final = (
    "period_start", "period_end", "team", "agent", "provider", "model", *[_MONEY.get(name, name) for name in SUMS],
)  # fmt: skip


def to_csv(data: ReportData) -> str:
    """The lines, a step of time by team, agent, provider and model. What no team answers for stands first."""
    rows = (
        [iso(line.start_s), iso(line.end_s), *map(cell, (line.team, line.agent, line.provider, line.model)),
         *figures(line)]
        for line in data.lines
    )  # fmt: skip
    return written(CSV_COLUMNS, rows)


def figures(line: Any) -> list[str]:
    """The sums of a line, in their order."""
    return [exact(getattr(line, name)) if name in _MONEY else str(getattr(line, name)) for name in SUMS]


def written(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """CSV as RFC 4180 has it."""
    out = io.StringIO()
    to = csv.writer(out, lineterminator="\r\n")
    to.writerow(head)
    to.writerows(rows)
    return out.getvalue()


def cell(text: str | None) -> str:
    """Text of strangers for a cell; nothing for None."""
    if text is None:
        return ""
    plain = clean(text)
    return f"'{plain}" if plain.lstrip(" ").startswith(_FORMULA) or text.startswith(_FORMULA) else plain


def to_json(data: ReportData) -> str:
    """All of the report. Its keys are documented, and ``schema`` changes when they do."""
    return json.dumps(for_json(data), ensure_ascii=True, indent=1)


def for_json(data: ReportData) -> dict[str, Any]:
    """What `to_json` writes."""
    spend = data.spend
    return {
        "schema": SCHEMA,
        "ledger": data.address,
        "since": iso(data.since_s),
        "until": iso(data.until_s),
        "made": iso(data.made_s),
        "team": data.team,
        "agent": data.agent,
        "min_group": data.min_group,
        "runs_cut": data.runs_cut,
        "ahead": _sums(data.ahead),
        "unattributed": {"usd": exact(spend.unattributed_nanos), "nameless_usd": exact(spend.nameless_nanos)},
        "total": _sums(data.total),
        "led_to_outcomes_usd": exact(spend.linked_nanos),
        "led_to_none_usd": exact(spend.fruitless_nanos),
        "units": _units(spend.micros),
        "usd_per_unit": None if spend.unit_nanos is None else exact(spend.unit_nanos),
        "teams": [{"team": group.name, **_sums(group.sums)} for group in data.teams],
        "agents": [{"agent": group.name, **_sums(group.sums)} for group in data.agents],
        "outcomes": {
            "by_team": [_row("team", row) for row in spend.by_team],
            "by_agent": [_row("agent", row) for row in spend.by_agent],
            "by_model": [_row("model", row) for row in spend.by_model],
            "by_kind": [_row("kind", row) for row in spend.by_kind],
            "counted": [_counted(each) for each in spend.counted],
            "without_spend": [_apart(each) for each in data.spendless],
            "not_counted": [_apart(each) for each in data.apart],
        },
        "findings_since": iso(data.waste_since_s),
        "findings": [
            {"kind": each.kind, "agent": each.agent, "team": each.team, "usd": exact(each.money_nanos),
             "evidence": dict(each.evidence), "remedy": each.remedy}
            for each in data.findings
        ],
        "budgets": [_budget(each) for each in data.budgets],
        "over_time": {
            "step_s": data.steps.step_s,
            "starts": [iso(start_s) for start_s in data.steps.starts_s],
            "by_team": [_series("team", each) for each in data.by_team],
            "by_agent": [_series("agent", each) for each in data.by_agent],
            "refused": list(data.refused),
        },
        "usd_per_unit_over_time": [
            {"start": iso(each.start_s), "usd": exact(each.nanos), "units": _units(each.micros),
             "usd_per_unit": None if each.unit_nanos is None else exact(each.unit_nanos)}
            for each in data.unit_costs
        ],
        "depths": [
            {"depth": each.depth, "or_more": each.or_more, "runs": each.runs, "stopped": each.stopped,
             "warned": each.warned, "usd": exact(each.nanos)}
            for each in data.depths
        ],
        "adoption": _adoption(data),
        "lines": [
            {"start": iso(line.start_s), "end": iso(line.end_s), "team": line.team, "agent": line.agent,
             "provider": line.provider, "model": line.model, **_sums(line)}
            for line in data.lines
        ],
        "own": None if data.own is None else _own(data.own),
    }  # fmt: skip


def _sums(sums: Any) -> dict[str, Any]:
    return {_MONEY.get(name, name): exact(getattr(sums, name)) if name in _MONEY else getattr(sums, name)
            for name in SUMS}  # fmt: skip


def _units(micros: int) -> str:
    return exact(micros * 1_000)  # millionths as a decimal


def _row(what: str, row: Row) -> dict[str, Any]:
    told: dict[str, Any] = {
        what: row.name,
        "usd": exact(row.nanos),
        "units": _units(row.micros),
        "usd_per_unit": None if row.unit_nanos is None else exact(row.unit_nanos),
        "groups": row.groups,
    }
    if row.linked_nanos is not None and row.fruitless_nanos is not None:
        told |= {"led_to_outcomes_usd": exact(row.linked_nanos), "led_to_none_usd": exact(row.fruitless_nanos)}
    return told


def _counted(judged: Judged) -> dict[str, Any]:
    outcome = judged.outcome
    return {"kind": outcome.kind, "at": iso(outcome.at_s), "units": _units(judged.micros)}


def _apart(each: Apart) -> dict[str, Any]:
    return {"kind": each.kind, "key": each.key, "at": iso(each.at_s), "team": each.team, "verdict": each.verdict,
            "why": each.why}  # fmt: skip


def _budget(each: BudgetLine) -> dict[str, Any]:
    money = each.unit == "usd"
    return {
        "budget": each.budget,
        "scope": each.scope,
        "unit": each.unit,
        **{name: exact(getattr(each, name)) if money else getattr(each, name)
           for name in ("limit", "posted", "held", "left")},
        "starts": None if each.starts_s is None else iso(each.starts_s),
        "resets": None if each.resets_s is None else iso(each.resets_s),
        "books": each.books,
        "near": each.near,
        "curve": [{"at": iso(at_s), "usd": exact(posted)} for at_s, posted in each.curve],
    }  # fmt: skip


def _series(what: str, each: Series) -> dict[str, Any]:
    return {what: each.name, "others": each.others, "usd": [exact(nanos) for nanos in each.nanos]}


def _adoption(data: ReportData) -> list[dict[str, Any]] | None:
    if data.adoption is None:
        return None
    told = []
    for each in data.adoption:
        whole = is_whole(each, data)
        told.append(
            {"team": each.group, "week": iso(each.week_s), "whole": whole, "people": each.people, "used": each.used,
             "faint": each.faint, "share": round(each.share, 6), "target": each.target,
             "reached": each.reached if whole or each.reached else None}
        )  # fmt: skip
    return told


def _own(own: Own) -> dict[str, Any]:
    return {
        "user": own.user,
        "usd": exact(own.nanos),
        "calls": own.calls,
        "units": _units(own.micros),
        "usd_per_unit": None if own.unit_nanos is None else exact(own.unit_nanos),
        "not_counted": [
            {"kind": each.outcome.kind, "key": each.outcome.key, "verdict": each.verdict, "why": each.why}
            for each in own.apart
        ],
    }
