"""What is shown: a live table on a terminal, plain lines elsewhere, nothing but JSON where that is asked for."""

from __future__ import annotations

import sys
from typing import Any

from tokenmeter import CallRecord, Meter, Refused, Spend
from tokenmeter.cli import tables
from tokenmeter.cli.demo.clients import installed
from tokenmeter.cli.demo.figures import Figures
from tokenmeter.cli.demo.report import HEAD, figures, report


class Screen:
    """Shows the demonstration; this one shows nothing."""

    def start(self, meter: Meter) -> None:
        """The curtain rises."""

    def say(self, agent: str, text: str) -> None:
        """An agent begins."""

    def refused(self, agent: str, refusal: Refused) -> None:
        """An agent was refused."""

    def record(self, row: CallRecord) -> None:
        """A call was metered: the meter calls this."""

    def stop(self) -> None:
        """All agents have ended."""

    def finish(self, found: Figures) -> None:
        """The figures at the end."""


class Plain(Screen):
    """Lines."""

    def say(self, agent: str, text: str) -> None:
        """One line."""
        print(f"{agent:<12} {text}")

    def refused(self, agent: str, refusal: Refused) -> None:
        """One line."""
        print(f"{agent:<12} REFUSED, not sent: {type(refusal).__name__}: {refusal}")

    def finish(self, found: Figures) -> None:
        """The tables, in columns."""
        for part in report(found):
            print()
            print(part if isinstance(part, str) else tables.aligned(part))


class Live(Screen):
    """A table that is drawn anew while the agents work."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._console = Console(highlight=False)
        self._seen: dict[tuple[str, str, str], None] = {}
        self._meter: Meter | None = None
        self._live = RichLive(
            console=self._console, get_renderable=self._table, refresh_per_second=12, vertical_overflow="visible"
        )

    def start(self, meter: Meter) -> None:
        """Draw it for the first time."""
        self._meter = meter
        self._live.start()

    def say(self, agent: str, text: str) -> None:
        """A line above the table."""
        self._console.print(f"[bold]{_escape(agent)}[/] {_escape(text)}")

    def refused(self, agent: str, refusal: Refused) -> None:
        """A line above the table."""
        kind = type(refusal).__name__
        self._console.print(f"[bold red]{_escape(agent)} refused, not sent:[/] {kind}: {_escape(str(refusal))}")

    def record(self, row: CallRecord) -> None:
        """Remember whose line to draw."""
        self._seen.setdefault((row.agent or "", row.user or "", row.team or ""))

    def stop(self) -> None:
        """The table of the end takes its place."""
        self._live.transient = True
        self._live.stop()

    def finish(self, found: Figures) -> None:
        """The tables."""
        for part in report(found):
            self._console.print()
            self._console.print(_escape(part) if isinstance(part, str) else self._drawn(part))

    def _table(self) -> Any:
        lines = []
        for agent, user, team in sorted(self._seen, key=lambda who: (not who[0], who)):
            spend = self._spend(agent, user, team)
            lines.append((agent or "(unattributed)", user, team, *figures(spend)))
        return self._drawn(tables.Table(HEAD, lines, right=HEAD[3:], title="what was spent up to now"))

    def _drawn(self, table: tables.Table) -> Any:
        return tables.drawn(table, self._console.width)

    def _spend(self, agent: str, user: str, team: str) -> Spend:
        if self._meter is None:
            return Spend()
        return self._meter.spend(agent=agent or None, user=user or None, team=team or None)


def choose(*, plain: bool, as_json: bool) -> Screen:
    """The screen that fits where the output goes."""
    if as_json:
        return Screen()
    if plain or not sys.stdout.isatty():
        return Plain()
    if not installed("rich"):
        sys.stderr.write(
            "rich isn't installed, so there are plain lines in place of the live table; it comes with the extra: "
            "pip install 'tokenmeter-sdk[demo]', or in a checkout: pip install -e '.[demo]'\n"
        )
        return Plain()
    return Live()


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
