"""The report as tables of text; whoever prints them draws them.

What no team answers for comes first, as everywhere. Tables are short: the page and the exports have all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tokenmeter.outcomes import Row
from tokenmeter.report.adopted import adoption_grid, adoption_text
from tokenmeter.report.data import ReportData
from tokenmeter.report.grids import NOTHING
from tokenmeter.report.shown import NO_AGENT
from tokenmeter.report.view import ahead_text, finding, teams
from tokenmeter.report.words import amount, count, day, moment, money, percent, short

_MOST: Final = 20
_MOST_WEEKS: Final = 4


@dataclass(frozen=True, slots=True)
class Section:
    """A title, some lines, and a table if there is one. The columns named in ``right`` hold figures."""

    title: str
    lines: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    right: Sequence[str] = ()
    styles: Sequence[str] = ()  # one of rich's a row, or none


def sections(data: ReportData) -> Iterator[Section]:
    """The parts of the report in their order."""
    yield _unattributed(data)
    yield _figures(data)
    if data.own is not None:
        own = data.own
        figures = [f"{money(own.nanos)} in {count(own.calls)} calls; {count(own.micros / 1e6)} units accepted, "
                   f"{money(own.unit_nanos)} each."]  # fmt: skip
        apart = [f"{each.outcome.kind} {short(each.outcome.key)} doesn't count: {each.why}." for each in own.apart]
        yield Section(f"Your own figures, {own.user}", figures + apart[:_MOST])
    yield _teams(data)
    if data.adoption is not None:
        grid = adoption_grid(data, _MOST_WEEKS)
        head = [name.lower() for name in grid.head]
        rows = [[str(cell) for cell in row.cells] for row in grid.rows]
        yield Section("Adoption by team and week", adoption_text(data) if rows else [grid.empty], head, rows, head[1:])
    yield _waste(data)
    yield _budgets(data)
    yield _rows("What came of it by kind", "kind", data.spend.by_kind, "(no outcome)")
    yield _rows("By agent", "agent", data.spend.by_agent, NO_AGENT)
    yield _apart(data)
    yield Section("", [f"{moment(data.since_s)} to {moment(data.until_s)} UTC; {data.address}."])


def _unattributed(data: ReportData) -> Section:
    spend, unpriced = data.spend, data.unattributed.unpriced
    if not spend.unattributed_nanos and not unpriced:
        return Section("Unattributed spend: none", ["A team answers for every dollar of this window."])
    parts = [f"{percent(spend.unattributed_nanos, spend.total_nanos)} of all"] if spend.unattributed_nanos else []
    parts += [f"and {count(unpriced)} calls without a known price"] if unpriced else []
    return Section(
        f"Unattributed spend: {', '.join([money(spend.unattributed_nanos), *parts])}",
        ["No team answers for it. Say whose it is with meter.agent(name, team=…) around the calls."],
    )


def _figures(data: ReportData) -> Section:
    total, spend = data.total, data.spend
    lines = [
        f"Spend {money(total.nanos)}: {money(spend.linked_nanos)} led to outcomes, {money(spend.fruitless_nanos)} to "
        f"none. An outcome did cost {money(spend.unit_nanos)} ({count(spend.micros / 1e6)} units accepted).",
        f"{count(total.calls)} calls, {count(total.input_tokens + total.output_tokens)} tokens; "
        f"{count(total.refused)} refused before they were sent, {count(total.failed)} failed.",
    ]
    if total.estimated_nanos:
        lines.append(f"{money(total.estimated_nanos)} is estimated: the provider's own figures never came.")
    if total.unpriced:
        lines.append(f"{count(total.unpriced)} calls have no known price: what they cost is not in these figures.")
    lines += ahead_text(data)
    if data.runs_cut:
        lines.append("There are more runs than were looked into: some of what led to outcomes may not be known here.")
    return Section("What came of the spend", lines)


def _teams(data: ReportData) -> Section:
    grid = teams(data)
    lines = [f"Groups of fewer than {data.min_group} people are folded into one."]
    wanted = [n for n, name in enumerate(grid.head) if name not in ("Share", "Estimated")]
    head = [grid.head[n].lower() for n in wanted]
    rows = [[str(row.cells[n]) for n in wanted] for row in grid.rows]
    styles = ["bold red" if row.first else "" for row in grid.rows]
    return Section("Showback by team", lines, head, rows, head[1:], styles)


def _waste(data: ReportData) -> Section:
    lines = [f"Since {day(data.waste_since_s)}. Two findings of one agent may speak of the same money."]
    for each in data.findings[:_MOST]:
        told = finding(each)
        lines.append(f"{told['money']}  {told['title']}")
        lines.append(f"    evidence: {told['evidence']}")
        lines.append(f"    remedy: {told['remedy']}")
    return Section("Waste", lines if data.findings else ["None was found."])


def _budgets(data: ReportData) -> Section:
    shown = data.budgets[:_MOST]
    if not shown:
        return Section("Budgets", ["No store was named, or it keeps no budgets."])
    head = ("budget", "kept for", "limit", "spent", "held", "left", "used")
    rows = []
    for each in shown:
        scope = each.scope if each.books == 1 else f"{each.scope}: {each.books} books, {each.near} near their limit"
        figures = [amount(each.unit, value) for value in (each.limit, each.posted, each.held, each.left)]
        figures.append(f"{100 * each.used:.0f} %")
        rows.append((short(each.budget), short(scope), *(figures if each.limit else [NOTHING] * 5)))
    return Section("Budgets", (), head, rows, head[2:], ["bold red" if each.near else "" for each in shown])


def _rows(title: str, what: str, rows: Sequence[Row], nameless: str) -> Section:
    head = (what, "spend", "units", "cost per outcome")
    told = [
        (short(row.name or nameless), money(row.nanos), count(row.units), money(row.unit_nanos)) for row in rows[:_MOST]
    ]
    more = [f"{len(rows) - _MOST} more are in the page and the exports."] if len(rows) > _MOST else []
    return Section(title, more, head, told, head[1:])


def _apart(data: ReportData) -> Section:
    why: dict[str, int] = {}
    for each in data.apart:
        why[each.why] = why.get(each.why, 0) + 1
    lines = [f"{money(data.spend.fruitless_nanos)} led to no outcome that counts."]
    lines += [f"{len(data.spendless)} outcomes came without any spend."]
    lines += [f"{number} don't count: {reason}." for reason, number in sorted(why.items())]
    return Section("Apart", lines)
