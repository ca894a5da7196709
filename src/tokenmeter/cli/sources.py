"""What a report is read from: the options that say it, the store, the ledger and the configuration.

`report` reads it once, `serve` again and again.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokenmeter.budgets import Store
from tokenmeter.cli import drain, tables, where
from tokenmeter.cli.numbers import whole
from tokenmeter.cli.times import parse_duration, parse_moment
from tokenmeter.cli.trouble import Trouble
from tokenmeter.config import Config
from tokenmeter.ledger import open_ledger

if TYPE_CHECKING:
    from tokenmeter.ledger.drain import Drained
    from tokenmeter.ledger.ledger import Ledger
    from tokenmeter.report import ReportData

SINCE = "30d"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What a report and a served one share."""
    parser.add_argument("--ledger", metavar="URL", help="the ledger, in place of the one that the configuration names")
    parser.add_argument(
        "--since", metavar="WHEN", default=SINCE, help=f"30d, 12h, an ISO 8601 time, or all; default: {SINCE}"
    )
    parser.add_argument("--until", metavar="WHEN", help="an ISO 8601 time; default: now")
    parser.add_argument("--team", metavar="NAME", help="only this team")
    parser.add_argument("--agent", metavar="NAME", help="only this agent")
    parser.add_argument("--me", metavar="USER", help="your own figures too, by your user name")
    parser.add_argument(
        "--min-group",
        type=whole(2, 10_000, "size of a group; give 2 or more"),
        metavar="N",
        help="fold groups of fewer people, at least 2; default: what the configuration says, else 5",
    )
    parser.add_argument("--no-drain", action="store_true", help="report what the ledger has, without the store's news")
    where.add_options(parser)


@dataclass(frozen=True, slots=True)
class Sources:
    """The ledger, and the store and the configuration if there are such."""

    ledger: Ledger
    store: Store | None
    config: Config | None
    arguments: argparse.Namespace

    def read(self, bar: Bar) -> ReportData:
        """The report of now."""
        from tokenmeter.ledger.drain import drain as drain_into
        from tokenmeter.outcomes import BUILT_IN, Rules
        from tokenmeter.report import read

        given, config = self.arguments, self.config
        kinds = (config.kinds if config is not None else None) or BUILT_IN
        rules = (config.rules if config is not None else None) or Rules()
        if given.min_group is not None:
            rules = replace(rules, min_group=given.min_group)
        if self.store is not None and not given.no_drain:
            drain_into(self.store, self.ledger, progress=bar.drained)
        now_s = time.time() if self.store is None else self.store.time_s()
        since_s, until_s = window(given, now_s)
        books = [] if self.store is None else self.store.books()
        return read(
            self.ledger,
            since_s=since_s,
            until_s=until_s,
            team=given.team,
            agent=given.agent,
            me=given.me,
            books=books,
            kinds=kinds,
            rules=rules,
            now_s=now_s,
            progress=bar.step,
        )


@contextlib.contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[Sources]:
    """What is reported from: the ledger that was named, or the one of the store."""
    config = where.config_of(arguments)
    place = _place(arguments, config)
    if place is None:
        url: str = arguments.ledger
    else:
        url = drain.ledger_url(arguments.ledger, place)
    if (place is None or arguments.no_drain) and (path := _missing(url)) is not None:
        raise Trouble(f"no ledger {str(path)!r} is there; correct the path, or drain a store into it")
    with contextlib.ExitStack() as stack:
        store = None if place is None else stack.enter_context(where.opened(place))
        yield Sources(stack.enter_context(open_ledger(url)), store, config, arguments)


def _place(arguments: argparse.Namespace, config: Config | None) -> where.Where | None:
    """Where the store is; None where a ledger alone is named and nothing says more."""
    alone = arguments.ledger is not None and arguments.store is None
    if alone and (config is None or config.store.startswith("memory:")):
        return None
    return where.find(arguments, with_policy=arguments.ledger is None)


def window(arguments: argparse.Namespace, now_s: float) -> tuple[float, float]:
    """From when to when. Raises `Trouble` for what is no time, and for a window that ends before it begins."""
    until_s = now_s if arguments.until is None else parse_moment(arguments.until)
    text: str = arguments.since.strip()
    if text == "all":
        since_s = 0.0
    elif text[:4].isdigit() and "-" in text:
        since_s = parse_moment(text)
    else:
        since_s = until_s - parse_duration(text)
    if not since_s < until_s:
        raise Trouble("the window ends before it begins; give a --since that is earlier than --until")
    return max(0.0, since_s), until_s


def _missing(url: str) -> Path | None:
    """The file of a ledger that isn't there: a mistyped path must not become an empty ledger."""
    if not url.startswith("sqlite:///"):
        return None
    path = Path(url.removeprefix("sqlite:///").partition("?")[0])
    return None if path.is_file() else path


# -- how far it is


@dataclass(frozen=True, slots=True)
class Bar:
    """What is told of the work: of draining, and of reading."""

    drained: Callable[[Drained], None] = lambda _: None
    step: Callable[[str, int, int], None] = lambda *_: None


@contextlib.contextmanager
def progress() -> Iterator[Bar]:
    """A bar on a terminal that has rich."""
    if not tables.fancy(sys.stderr):
        yield Bar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("reading", total=None)
        yield Bar(
            lambda done: shown.update(task, description=f"draining: {done.entries:,} entries"),
            lambda what, done, total: shown.update(task, description=f"reading {what}", completed=done, total=total),
        )
