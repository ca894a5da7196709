"""The drawings of the page, each with its legend and its figures as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tokenmeter.report import charts
from tokenmeter.report.data import ReportData
from tokenmeter.report.grids import Cells, Chart, Grid, safe
from tokenmeter.report.series import DAY_S, HOUR_S, WEEK_S, Series, Steps
from tokenmeter.report.shown import NO_AGENT, UNATTRIBUTED
from tokenmeter.report.words import count, moment, money, short, tick

_STEP_NAMES: Final = {HOUR_S: "hour", DAY_S: "day", WEEK_S: "week"}


def over_time(data: ReportData) -> list[Chart]:
    step = _STEP_NAMES.get(data.steps.step_s, "step")
    unit_step = _STEP_NAMES.get(data.unit_step_s, "step")
    points = data.unit_costs
    unit_rows = [Cells((tick(each.start_s, data.unit_step_s), money(each.nanos), count(each.micros / 1e6),
                        money(each.unit_nanos))) for each in points]  # fmt: skip
    head = (unit_step.capitalize(), "Spend", "Units", "Cost per outcome")
    return [
        _stack("by-team", f"Spend by team, per {step}", data.by_team, data.steps, UNATTRIBUTED),
        _stack("by-agent", f"Spend by agent, per {step}", data.by_agent, data.steps, NO_AGENT),
        Chart(
            f"Cost per outcome, per {unit_step}",
            safe(charts.line("unit", f"Cost per outcome, per {unit_step}", points, data.unit_step_s)),
            table=Grid("", head, unit_rows, head[1:]),
            note=f"All spend of a {unit_step} over the units accepted in it. A cross: money went, and nothing came.",
        ),
    ]


def _stack(name: str, title: str, series: Sequence[Series], steps: Steps, nameless: str) -> Chart:
    labels = [nameless if each.name is None else f"{each.others} others" if each.others else short(each.name, 40)
              for each in series]  # fmt: skip
    legend = [
        (safe(charts.swatch(colour)), label) for colour, label in zip(charts.colours(series), labels, strict=True)
    ]
    head = (_STEP_NAMES.get(steps.step_s, "step").capitalize(), *labels)
    rows = [Cells((tick(start_s, steps.step_s), *(money(each.nanos[n]) if each.nanos[n] else "" for each in series)))
            for n, start_s in enumerate(steps.starts_s)]  # fmt: skip
    return Chart(title, safe(charts.stacked(name, title, series, steps)), legend, Grid("", head, rows, head[1:]))


def loops(data: ReportData) -> list[Chart]:
    step = _STEP_NAMES.get(data.steps.step_s, "step")
    title = f"Calls refused before they were sent, per {step}"
    told = f"{sum(data.refused)} calls were refused in all."
    head = (step.capitalize(), "Refused")
    rows = [Cells((tick(start_s, data.steps.step_s), count(refused)))
            for start_s, refused in zip(data.steps.starts_s, data.refused, strict=True) if refused]  # fmt: skip
    deep_head = ("Depth", "Runs", "With a call refused", "With a warning", "Spend")
    deep = [Cells((f"{each.depth}{' or more' if each.or_more else ''}", count(each.runs), count(each.stopped),
                   count(each.warned), money(each.nanos))) for each in data.depths]  # fmt: skip
    legend = [(safe(charts.swatch("c1")), "runs"), (safe(charts.swatch("un")), "of these, with a call refused")]
    note = "How many agents deep a run went, each called by the one above."
    return [
        Chart(title, safe(charts.columns("refused", title, told, data.refused, data.steps)), (),
              Grid("", head, rows, head[1:]), told),
        Chart("Runs by depth", safe(charts.depth_columns("depth", "Runs by depth", data.depths)), legend,
              Grid("", deep_head, deep, deep_head[1:]), note),
    ]  # fmt: skip


def burn(data: ReportData) -> list[Chart]:
    found = []
    for number, each in enumerate(line for line in data.budgets if line.curve):
        title = short(f"{each.budget}, {each.scope}: what is left", 70)
        rows = [Cells((moment(at_s), money(posted), money(max(0, each.limit - posted)))) for at_s, posted in each.curve]
        head = ("Time", "Spent", "Left")
        found.append(Chart(title, safe(charts.burn_down(f"burn{number}", title, each)), (),
                           Grid("", head, rows, head[1:]), "Dashed: an even pace over the window."))  # fmt: skip
    return found
