"""The served pages: the report, its findings, runs, and the calls of one run.

The report is read anew when it is older than some seconds, once for all who ask. Runs and calls are read when they are
asked for, a piece at a time. None of them says whose they are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlencode

from tokenmeter.ledger.views import RunSum
from tokenmeter.report.data import ReportData
from tokenmeter.report.exports import to_csv, to_json
from tokenmeter.report.focus import to_focus
from tokenmeter.report.gathering import MOST_RUNS
from tokenmeter.report.grids import NOTHING, Cells, Grid, link
from tokenmeter.report.html import render, to_html
from tokenmeter.report.shown import NO_AGENT, OF_A_PERSON, UNATTRIBUTED, Shown
from tokenmeter.report.view import finding
from tokenmeter.report.words import count, moment, money, second, short
from tokenmeter.texts import clean

if TYPE_CHECKING:
    from tokenmeter.ledger.ledger import Ledger
    from tokenmeter.record import CallRecord

_THEMES: Final = ("light", "dark")
_INTO: Final = " \N{RIGHTWARDS ARROW} "
_MOST_RUNS: Final = 100
_MOST_CALLS: Final = 200
Query = Mapping[str, str]


class Page(NamedTuple):
    """An answer: text of that kind."""

    body: str
    kind: str = "text/html; charset=utf-8"
    status: int = 200


class Pages:
    """The pages of one report. ``read`` makes the report; what it raises is shown by whoever serves."""

    def __init__(self, ledger: Ledger, read: Callable[[], ReportData], *, refresh_s: int) -> None:
        self._ledger, self._read, self._refresh_s = ledger, read, refresh_s
        self._lock = threading.Lock()
        self._data: ReportData | None = None
        self._read_at_s = 0.0
        self._pages: dict[str, Callable[[Query], Page]] = {
            "/": self._overview,
            "/findings": self._findings,
            "/runs": self._runs,
            "/run": self._run,
            "/report.json": lambda _: Page(to_json(self.data()), "application/json; charset=utf-8"),
            "/report.csv": lambda _: Page(to_csv(self.data()), "text/csv; charset=utf-8"),
            "/focus.csv": lambda _: Page(to_focus(self.data()), "text/csv; charset=utf-8"),
        }

    def data(self) -> ReportData:
        """The report, no older than the time after which pages ask again."""
        with self._lock:
            if self._data is None or time.monotonic() - self._read_at_s >= self._refresh_s:
                self._data = self._read()
                self._read_at_s = time.monotonic()
            return self._data

    def keep(self, data: ReportData) -> None:
        """A report that was just read."""
        with self._lock:
            self._data, self._read_at_s = data, time.monotonic()

    def answer(self, path: str, query: Query) -> Page | None:
        """The page at a path; None where there is none."""
        found = self._pages.get(path)
        return None if found is None else found(query)

    def login(self, *, wrong: bool = False) -> Page:
        """The form for the token."""
        return Page(render("login.html", title="tokenmeter", wrong=wrong), status=401)

    def trouble(self, text: str, status: int) -> Page:
        """A page for what can't be shown."""
        return Page(
            render("trouble.html", title="tokenmeter", text=clean(text), links=[("Overview", "/")]), status=status
        )

    def _frame(self, query: Query, path: str, **more: str) -> dict[str, Any]:
        theme = query.get("theme")
        theme = theme if theme in _THEMES else None
        kept = {"theme": theme} if theme else {}
        links = [
            (name, _href(to, **kept)) for name, to in (("Overview", "/"), ("Findings", "/findings"), ("Runs", "/runs"))
        ]
        links += [(name.capitalize(), _href(path, **more, theme=name)) for name in _THEMES if name != theme]
        return {"theme": theme, "links": links, "refresh_s": self._refresh_s}

    def _overview(self, query: Query) -> Page:
        frame = self._frame(query, "/")
        exports = [("JSON", "/report.json"), ("CSV", "/report.csv"), ("FOCUS", "/focus.csv")]
        frame["links"] = [*frame["links"], *exports]
        return Page(to_html(self.data(), **frame))

    def _findings(self, query: Query) -> Page:
        data = self.data()
        items = []
        for each in data.findings:
            told = finding(each)
            if each.agent not in (None, OF_A_PERSON):
                team = {"team": each.team} if each.team in data.shown.teams else {}
                told["href"] = _href("/runs", agent=each.agent or "", **team)
            items.append(told)
        return Page(render("findings.html", title="Findings of waste", items=items, **self._frame(query, "/findings")))

    def _runs(self, query: Query) -> Page:
        data = self.data()
        asked = {name: value for name in ("agent", "team") if (value := query.get(name) or getattr(data, name))}
        if _is_hidden(asked, data):
            return self.trouble("That is not shown by itself: its figures would be those of a person.", 404)
        rows = [_run_row(run, data.shown) for run in self._largest(data, **asked)]
        title = "Runs" + "".join(f", {name} {short(value)}" for name, value in asked.items())
        head = ("Run", "Agents", "Team", "Spend", "Calls", "Depth", "Refused", "Failed", "Last call")
        grid = Grid(
            f"The {len(rows)} runs with the most spend", head, rows, ("Spend", "Calls", "Depth", "Refused", "Failed")
        )
        return Page(
            render("list.html", title=title, grid=grid, more=None, note="", **self._frame(query, "/runs", **asked))
        )

    def _largest(self, data: ReportData, *, agent: str | None = None, team: str | None = None) -> list[RunSum]:
        """The runs with the most spend. Where a directory says whose they are, the ledger can't be asked for a team."""
        only = {"agent": agent, "team": None if data.shown.by_directory else team}
        asked = {name: value for name, value in only.items() if value is not None}
        found = self._ledger.runs(data.since_s, data.until_s, largest=MOST_RUNS, **asked)
        theirs = (run for run in found if team is None or data.shown.team_of(run.user, run.team) == team)
        return list(islice(theirs, _MOST_RUNS))

    def _run(self, query: Query) -> Page:
        data = self.data()
        name = query.get("id", "")
        run = next(self._ledger.runs(run=name), None) if name else None
        if run is None or data.shown.is_personal(name) or not _is_within(run, data):
            return self.trouble("There is no such run in this report.", 404)
        asked = query.get("after", "")
        after = int(asked) if asked.isascii() and asked.isdigit() else 0
        found = list(self._ledger.calls(run=name, after=min(after, 2**62), limit=_MOST_CALLS + 1))
        rows = [_call_row(record, data.shown) for _, record in found[:_MOST_CALLS]]
        more = _href("/run", id=name, after=str(found[_MOST_CALLS - 1][0])) if len(found) > _MOST_CALLS else None
        head = ("Time", "Agent", "Model", "Status", "Input", "Output", "Cost", "Depth", "Why")
        grid = Grid("Its calls, in the order in which they were written", head, rows,
                    ("Input", "Output", "Cost", "Depth"), "The rows of its calls are not kept any more.")  # fmt: skip
        note = (
            f"{money(run.nanos)} in {count(run.calls)} calls, {count(run.refused)} refused; "
            f"{moment(run.first_s)} to {moment(run.last_s)} UTC; depth {run.max_depth}."
        )
        frame = self._frame(query, "/run", id=name)
        return Page(render("list.html", title=f"Run {short(name)}", grid=grid, more=more, note=note, **frame))


def _href(path: str, **query: str) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _is_hidden(asked: Mapping[str, str], data: ReportData) -> bool:
    team, agent = asked.get("team"), asked.get("agent")
    if team is not None and team not in data.shown.teams:
        return True
    narrowed = (data.team is not None and team != data.team) or (data.agent is not None and agent != data.agent)
    return narrowed or (agent is not None and data.shown.is_personal(agent))


def _is_within(run: RunSum, data: ReportData) -> bool:
    """Whether a run is of what this report is about."""
    if data.team is not None and data.shown.team_of(run.user, run.team) != data.team:
        return False
    if data.agent is not None and data.agent not in run.agents:
        return False
    return run.last_s >= data.since_s and run.first_s < data.until_s


def _run_row(run: RunSum, shown: Shown) -> Cells:
    name = OF_A_PERSON if shown.is_personal(run.run) else link(short(run.run, 40), _href("/run", id=run.run))
    agents = _INTO.join(shown.agent(agent) or NO_AGENT for agent in run.agents[:5]) or NO_AGENT
    team = shown.team(shown.team_of(run.user, run.team))
    return Cells((name, short(agents), UNATTRIBUTED if team is None else short(team), money(run.nanos),
                  count(run.calls), count(run.max_depth), count(run.refused), count(run.failed),
                  moment(run.last_s)))  # fmt: skip


def _call_row(record: CallRecord, shown: Shown) -> Cells:
    usage = record.usage
    counts = usage.counts if usage is not None else {}
    tokens = [count(counts[name]) if name in counts else NOTHING for name in ("input_tokens", "output_tokens")]
    cost = money(record.cost_nanos) + (" est." if record.estimated else "")
    why = ", ".join(filter(None, (record.error_type, *record.guards)))
    agent, model = shown.agent(record.agent) or NO_AGENT, record.model or NOTHING
    return Cells((second(record.at_s), short(agent, 40), short(model, 40), record.status, *tokens, cost,
                  count(len(record.path)), short(why)))  # fmt: skip
