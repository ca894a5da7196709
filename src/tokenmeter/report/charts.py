"""Drawings: SVG by hand, with axes, a title and a description, in the colours of the page around them.

Each is 440 units wide, so that its letters can be read on a phone, too; nothing in it is placed by guessing how long a
name is, because names stand in the legend beside it. The colours can be told apart by those who see few of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from tokenmeter.report.burn import BudgetLine
from tokenmeter.report.depth import Depth
from tokenmeter.report.series import Series, Steps, UnitCost
from tokenmeter.report.words import amount, brief, short, tick

WIDTH: Final = 440
HEIGHT: Final = 230
_LEFT: Final = 52
_RIGHT: Final = 10
_TOP: Final = 12
_BOTTOM: Final = 26
_PLOT: Final = WIDTH - _LEFT - _RIGHT
_TICKS: Final = 4
_MOST_LABELS: Final = 4


@dataclass(frozen=True, slots=True)
class Scale:
    """From a figure to a height. ``ticks`` are round figures, the last of them the largest that is drawn."""

    ticks: tuple[float, ...]
    height: int = HEIGHT

    def y(self, value: float) -> float:
        """How far from the top."""
        plot = self.height - _TOP - _BOTTOM
        return _TOP + plot * (1 - value / self.ticks[-1])


def scale(largest: float, *, whole: bool = False, height: int = HEIGHT) -> Scale:
    """Round ticks up to the largest figure."""
    if largest <= 0:
        return Scale((0.0, 1.0), height)
    rough = largest / _TICKS
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * n for n in (1, 2, 2.5, 5, 10) if size * n >= rough)
    if whole:
        step = max(1.0, math.ceil(step))
    return Scale(tuple(step * n for n in range(math.ceil(round(largest / step, 9)) + 1)), height)


def stacked(name: str, title: str, series: Sequence[Series], steps: Steps) -> str:
    """Columns of parts over time."""
    heights = [sum(column) for column in zip(*(each.nanos for each in series), strict=True)]
    to = scale(max(heights, default=0))
    width = _PLOT / max(1, len(steps))
    bar, parts = max(0.6, width * 0.84), []
    below = [0] * len(steps)
    for each, colour in zip(series, colours(series), strict=True):
        path = []
        for n, nanos in enumerate(each.nanos):
            if nanos:
                path.append(_column(_LEFT + (n + 0.5) * width, bar, to.y(below[n] + nanos), to.y(below[n])))
                below[n] += nanos
        parts.append(f'<path class="{colour}" d="{"".join(path)}"/>')
    largest = max(range(len(heights)), key=heights.__getitem__, default=None)
    told = f"{len(series)} names over {len(steps)} steps."
    if largest is not None and heights[largest]:
        told += f" The largest step is {brief(heights[largest])}, at {tick(steps.starts_s[largest], steps.step_s)}."
    return _svg(name, title, told, _axes(to, [brief(value) for value in to.ticks]) + _times(steps) + "".join(parts))


def columns(name: str, title: str, told: str, values: Sequence[int], steps: Steps) -> str:
    """Columns of one count over time."""
    to = scale(max(values, default=0), whole=True)
    width = _PLOT / max(1, len(steps))
    bar = max(0.6, width * 0.84)
    path = "".join(
        _column(_LEFT + (n + 0.5) * width, bar, to.y(value), to.y(0)) for n, value in enumerate(values) if value
    )
    axes = _axes(to, [_few(value) for value in to.ticks])
    return _svg(name, title, told, f'{axes}{_times(steps)}<path class="c0" d="{path}"/>')


def line(name: str, title: str, points: Sequence[UnitCost], step_s: int) -> str:
    """A line over time, with a gap and a mark on the axis where there is no figure."""
    to = scale(max((each.unit_nanos or 0 for each in points), default=0))
    width = _PLOT / max(1, len(points))
    steps = Steps(step_s, tuple(each.start_s for each in points))
    path, dots, gap = [], [], True
    for n, each in enumerate(points):
        x = _LEFT + (n + 0.5) * width
        if each.unit_nanos is None:
            gap = True
            if each.nanos:
                dots.append(f'<path class="gap" d="M{_n(x - 3)} {_n(to.y(0) - 7)}l6 6m0 -6l-6 6"/>')
            continue
        y = to.y(each.unit_nanos)
        path.append(f"{'M' if gap else 'L'}{_n(x)} {_n(y)}")
        dots.append(f'<circle class="dot" cx="{_n(x)}" cy="{_n(y)}" r="3"/>')
        gap = False
    known = [each.unit_nanos for each in points if each.unit_nanos is not None]
    told = f"From {brief(known[0])} to {brief(known[-1])}." if known else "Nothing was accepted."
    drawn = f'<path class="line" d="{"".join(path)}"/>' + "".join(dots)
    return _svg(name, title, told, _axes(to, [brief(value) for value in to.ticks]) + _times(steps) + drawn)


def depth_columns(name: str, title: str, rows: Sequence[Depth]) -> str:
    """How many runs went how deep, and in how many of them a call was stopped."""
    to = scale(max((each.runs for each in rows), default=0), whole=True)
    width = _PLOT / max(1, len(rows))
    bar, parts = min(46.0, width * 0.7), []
    for n, each in enumerate(rows):
        x = _LEFT + (n + 0.5) * width
        for colour, value in (("c1", each.runs), ("un", each.stopped)):
            parts.append(f'<path class="{colour}" d="{_column(x, bar, to.y(value), to.y(0))}"/>')
        label = f"{each.depth}{'+' if each.or_more else ''}"
        parts.append(f'<text class="t m" x="{_n(x)}" y="{HEIGHT - 8}">{label}</text>')
    told = "; ".join(f"depth {each.depth}: {each.runs} runs, {each.stopped} with a call refused" for each in rows)
    return _svg(name, title, told, _axes(to, [_few(value) for value in to.ticks]) + "".join(parts))


def burn_down(name: str, title: str, each: BudgetLine) -> str:
    """What was left of a budget over its window, beside an even pace."""
    height = 150
    to = scale(each.limit, height=height)
    start_s, end_s = each.starts_s or 0.0, max(each.resets_s or 0.0, each.curve[-1][0])

    def x(at_s: float) -> float:
        return _LEFT + _PLOT * min(1.0, max(0.0, (at_s - start_s) / max(1.0, end_s - start_s)))

    points = [(x(at_s), to.y(max(0, each.limit - posted))) for at_s, posted in each.curve]
    path = "M" + "L".join(f"{_n(left)} {_n(top)}" for left, top in points)
    pace = f"M{_n(x(start_s))} {_n(to.y(each.limit))}L{_n(x(end_s))} {_n(to.y(0))}"
    ends = (
        f'<text class="t" x="{_LEFT}" y="{height - 8}">{tick(start_s, 86_400)}</text>'
        f'<text class="t e" x="{WIDTH - _RIGHT}" y="{height - 8}">{tick(end_s, 86_400)}</text>'
    )
    told = f"{amount(each.unit, each.left)} of {amount(each.unit, each.limit)} are left."
    axes = _axes(to, [brief(value) for value in to.ticks])
    return _svg(
        name, title, told, f'{axes}{ends}<path class="pace" d="{pace}"/><path class="line" d="{path}"/>', height
    )


def bar(part: float, colour: str = "c0") -> str:
    """A bar for a cell of a table, which says the figure itself: hidden from those who listen."""
    width = 100 * min(1.0, max(0.0, part))
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        f'<rect class="rail" width="100" height="10"/><rect class="{colour}" width="{_n(width)}" height="10"/></svg>'
    )


def swatch(colour: str) -> str:
    """The colour of a name, for a legend."""
    return (
        '<svg class="swatch" viewBox="0 0 10 10" aria-hidden="true" focusable="false">'
        f'<rect class="{colour}" width="10" height="10"/></svg>'
    )


def colours(series: Sequence[Series]) -> list[str]:
    """The class of each name: what nobody answers for and what was put together have colours of their own."""
    found, number = [], 0
    for each in series:
        if each.name is None or each.others:
            found.append("un" if each.name is None else "ot")
        else:
            found.append(f"c{number % 8}")
            number += 1
    return found


def _svg(name: str, title: str, told: str, inner: str, height: int = HEIGHT) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(short(title))}</title><desc id="{name}-d">{escape(short(told, 400))}</desc>'
        f"{inner}</svg>"
    )


def _column(middle: float, width: float, top: float, bottom: float) -> str:
    return f"M{_n(middle - width / 2)} {_n(top)}h{_n(width)}V{_n(bottom)}h{_n(-width)}z"


def _axes(to: Scale, labels: Sequence[str]) -> str:
    parts = []
    for value, label in zip(to.ticks, labels, strict=True):
        y = to.y(value)
        parts.append(f'<path class="rule" d="M{_LEFT} {_n(y)}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="t e" x="{_LEFT - 6}" y="{_n(y + 4)}">{escape(label)}</text>')
    return "".join(parts)


def _times(steps: Steps) -> str:
    """Some moments below the axis, as many as there is room for; the outermost don't reach beyond it."""
    if not len(steps):
        return ""
    every = math.ceil(len(steps) / _MOST_LABELS)
    width = _PLOT / len(steps)
    parts = []
    for n in range(0, len(steps), every):
        x = _LEFT + (n + 0.5) * width
        where = "m"
        if x < _LEFT + 40:
            x, where = float(_LEFT), ""
        elif x > WIDTH - _RIGHT - 40:
            x, where = float(WIDTH - _RIGHT), "e"
        label = tick(steps.starts_s[n], steps.step_s)
        parts.append(f'<text class="t {where}" x="{_n(x)}" y="{HEIGHT - 8}">{label}</text>')
    return "".join(parts)


def _few(value: float) -> str:
    return brief(value * 1e9).removeprefix("$")


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
