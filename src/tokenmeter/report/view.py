"""What the page says, in words: titles, figures and the rows of its tables."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final

from tokenmeter.outcomes import Finding, Row
from tokenmeter.report import charts, drawings
from tokenmeter.report.adopted import adoption_grid, adoption_text
from tokenmeter.report.data import ReportData
from tokenmeter.report.grids import NOTHING, Cells, Grid, safe
from tokenmeter.report.shown import NO_AGENT, UNATTRIBUTED
from tokenmeter.report.words import amount, brief, count, day, moment, money, percent, short
from tokenmeter.texts import clean

_MOST_ROWS: Final = 100
_MOST_FINDINGS: Final = 40
_MOST_WEEKS: Final = 6


def view(data: ReportData) -> dict[str, Any]:
    spend = data.spend
    sections = [("Over time", "time"), ("Teams", "teams"), ("Waste", "waste"), ("Budgets", "budgets"),
                ("Depth and loops", "loops"), ("Outcomes", "outcomes"), ("Agents and models", "agents")]  # fmt: skip
    if data.adoption is not None:
        sections.insert(2, ("Adoption", "adoption"))
    narrowed = [f"team {data.team}"] if data.team is not None else []
    narrowed += [f"agent {data.agent}"] if data.agent is not None else []
    more = len(data.findings) - _MOST_FINDINGS
    return {
        "title": "What came of the spend",
        "window": f"{moment(data.since_s)} to {moment(data.until_s)} UTC",
        "ledger": clean(data.address),
        "made": moment(data.made_s),
        "narrowed": clean(" and ".join(narrowed)),
        "unattributed": _unattributed(data),
        "cards": _cards(data),
        "sections": sections,
        "own": _own(data),
        "over_time": drawings.over_time(data),
        "min_group": data.min_group,
        "teams": teams(data),
        "adoption": None if data.adoption is None else adoption_grid(data, _MOST_WEEKS),
        "adoption_text": " ".join(adoption_text(data)),
        "waste_since": day(data.waste_since_s),
        "waste_kinds": _waste_kinds(data),
        "findings": [finding(each) for each in data.findings[:_MOST_FINDINGS]],
        "more_findings": f"{more} more, each with less money, are in the JSON." if more > 0 else "",
        "budgets": _budgets(data),
        "burn": drawings.burn(data),
        "loops": drawings.loops(data),
        "kinds": _rows("What came of it by kind", "Kind", spend.by_kind, "(no outcome)"),
        "fruitless": f"{money(spend.fruitless_nanos)} of {money(spend.total_nanos)} "
        f"({percent(spend.fruitless_nanos, spend.total_nanos)}) led to no outcome that counts; by team it is above. "
        f"{money(spend.unattributed_nanos)} more is unattributed, so that nobody can say.",
        "spendless": _apart("Outcomes without spend", data.spendless),
        "apart": _apart("Outcomes that are shown and not counted", data.apart),
        "reasons": _reasons(data),
        "agents": _rows("By agent, in the order of their names", "Agent", spend.by_agent, NO_AGENT),
        "models": _rows("By model", "Model", spend.by_model, "(unknown model)"),
        "estimated": f"{money(data.total.estimated_nanos)} of {money(data.total.nanos)} is estimated, because the "
        "provider's own figures never came." if data.total.estimated_nanos else "No figure is estimated.",
        "runs_cut": data.runs_cut,
        "ahead": " ".join(ahead_text(data)),
    }  # fmt: skip


def ahead_text(data: ReportData) -> list[str]:
    """Calls that are in no figure, if there are such."""
    sums = data.ahead
    if not sums.calls:
        return []
    return [f"{count(sums.calls)} more calls, of {money(sums.nanos)}, say they are made after now: a clock is ahead."]


def _unattributed(data: ReportData) -> dict[str, Any]:
    spend, unpriced = data.spend, data.unattributed.unpriced
    if not spend.unattributed_nanos and not unpriced:
        return {"any": False, "money": "$0.00", "text": "A team answers for every dollar of this window."}
    text = f"{percent(spend.unattributed_nanos, spend.total_nanos)} of all spend: no team answers for it. "
    if spend.nameless_nanos:
        text += f"{money(spend.nameless_nanos)} of it names neither an agent nor a user. "
    if unpriced:
        text += f"{count(unpriced)} of its calls have no known price, so that it is more than that. "
    return {"any": True, "money": money(spend.unattributed_nanos),
            "text": f"{text}Say whose it is with meter.agent(name, team=…) around the calls."}  # fmt: skip


def _cards(data: ReportData) -> list[tuple[str, str, str]]:
    total, spend = data.total, data.spend
    estimated = f"{percent(total.estimated_nanos, total.nanos)} estimated" if total.estimated_nanos else ""
    return [
        ("Spend", money(total.nanos), estimated),
        ("Led to outcomes", money(spend.linked_nanos), percent(spend.linked_nanos, spend.total_nanos)),
        ("Led to none", money(spend.fruitless_nanos), percent(spend.fruitless_nanos, spend.total_nanos)),
        ("Cost per outcome", money(spend.unit_nanos), f"{count(spend.micros / 1e6)} units accepted"),
        ("Calls", count(total.calls), f"{count(total.unpriced)} without a price" if total.unpriced else ""),
        ("Tokens", _large(total.input_tokens + total.output_tokens), "input and output"),
        ("Refused before sending", count(total.refused), "by budgets and loop guards"),
        ("Failed or cut", count(total.failed + total.incomplete), f"{count(total.failed)} of them unbilled"),
    ]


def _large(number: int) -> str:
    return brief(number * 1e9).removeprefix("$") if number >= 10**6 else count(number)


def _own(data: ReportData) -> dict[str, Any] | None:
    own = data.own
    if own is None:
        return None
    figures = [("Spend", money(own.nanos)), ("Calls", count(own.calls)), ("Units accepted", count(own.micros / 1e6)),
               ("Cost per outcome", money(own.unit_nanos))]  # fmt: skip
    rows = [Cells((short(f"{each.outcome.kind} {each.outcome.key}"), each.why)) for each in own.apart[:_MOST_ROWS]]
    return {"user": clean(own.user), "cards": figures, "rows": rows}


def teams(data: ReportData) -> Grid:
    """Showback: each team's spend and what came of it."""
    head = ("Team", "Spend", "Share", "Led to outcomes", "Led to none", "Units", "Cost per outcome", "Estimated",
            "Calls", "Refused")  # fmt: skip
    sums = {group.name: group.sums for group in data.teams}
    rows = []
    for row in data.spend.by_team:
        own = sums.get(row.name)
        name = UNATTRIBUTED if row.name is None else short(row.name)
        name += f" of {row.groups}" if row.groups > 1 else ""
        rows.append(
            Cells(
                (name, money(row.nanos), percent(row.nanos, data.spend.total_nanos), money(row.linked_nanos),
                 money(row.fruitless_nanos), count(row.units), money(row.unit_nanos), money(row.estimated_nanos),
                 count(own.calls) if own else "0", count(own.refused) if own else "0"),
                first=row.name is None,
            )
        )  # fmt: skip
    return Grid("What each team spent, and what came of it", head, rows, head[1:])


def finding(each: Finding) -> dict[str, Any]:
    """A finding in words."""
    who = f"agent {short(each.agent)}" if each.agent is not None else "an agent"
    of = f" of team {short(each.team)}" if each.team is not None else ", unattributed"
    evidence = [
        f"{name.replace('_', ' ')} {', '.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in each.evidence.items()
        if name != "estimated"
    ]
    return {"title": f"{each.kind.capitalize()}: {who}{of}", "money": money(each.money_nanos),
            "estimated": bool(each.evidence.get("estimated")), "evidence": short("; ".join(evidence), 400),
            "remedy": each.remedy, "href": None}  # fmt: skip


def _waste_kinds(data: ReportData) -> Grid:
    sums: dict[str, list[int]] = defaultdict(list)
    for each in data.findings:
        sums[each.kind].append(each.money_nanos)
    most = max((sum(some) for some in sums.values()), default=0)
    rows = [Cells((kind, safe(charts.bar(sum(some) / most, "un")), money(sum(some)), count(len(some))))
            for kind, some in sorted(sums.items(), key=lambda item: -sum(item[1]))]  # fmt: skip
    return Grid("Waste by kind", ("Kind", "", "Money", "Findings"), rows, ("Money", "Findings"), "No waste was found.")


def _rows(caption: str, what: str, rows: Sequence[Row], nameless: str) -> Grid:
    head = (what, "Spend", "Units", "Cost per outcome")
    shown = [
        Cells((nameless if row.name is None else short(row.name), money(row.nanos), count(row.units),
               money(row.unit_nanos)))
        for row in rows[:_MOST_ROWS]
    ]  # fmt: skip
    left = rows[_MOST_ROWS:]
    if left:
        more = Row("", sum(row.nanos for row in left), sum(row.micros for row in left))
        shown.append(Cells((f"{len(left)} more", money(more.nanos), count(more.units), money(more.unit_nanos))))
    return Grid(caption, head, shown, head[1:])


def _apart(caption: str, every: Sequence[Any]) -> Grid:
    rows = [
        Cells((short(f"{each.kind} {each.key}"), UNATTRIBUTED if each.team is None else short(each.team),
               day(each.at_s), each.why))
        for each in every[:_MOST_ROWS // 2]
    ]  # fmt: skip
    left = len(every) - len(rows)
    return Grid(f"{caption}: {len(every)}{f', of which {left} are only in the JSON' if left else ''}",
                ("Outcome", "Team", "Accepted", "Why"), rows)  # fmt: skip


def _reasons(data: ReportData) -> Grid:
    why = Counter(each.why for each in data.apart)
    rows = [Cells((reason.capitalize(), count(number))) for reason, number in sorted(why.items())]
    return Grid("Why outcomes don't count", ("Why", "Outcomes"), rows, ("Outcomes",))


def _budgets(data: ReportData) -> Grid:
    head = ("Budget", "Kept for", "", "Used", "Limit", "Spent", "Held", "Left", "Resets")
    rows = []
    for each in data.budgets[:_MOST_ROWS]:
        near = f"{each.scope}: {each.books} books, {each.near} at 80 % or more" if each.books > 1 else each.scope
        if not each.limit and each.books:
            rows.append(Cells((short(each.budget), short(near), "", *[NOTHING] * 6)))
            continue
        bar = safe(charts.bar(each.used, "un" if each.near else "c0"))
        figures = [amount(each.unit, value) for value in (each.limit, each.posted, each.held, each.left)]
        resets = NOTHING if each.resets_s is None else moment(each.resets_s)
        rows.append(Cells((short(each.budget), short(near, 120), bar, f"{100 * each.used:.0f} %", *figures, resets)))
    return Grid("Budgets now", head, rows, ("Used", "Limit", "Spent", "Held", "Left"),
                "No store was named, or it keeps no budgets.")  # fmt: skip
