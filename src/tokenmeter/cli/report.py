"""``tokenmeter report``: what came of the spend, as tables, a page or a file."""

from __future__ import annotations

import argparse
import contextlib
import secrets
import shutil
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
from tokenmeter.cli.trouble import FAILURE, Trouble
from tokenmeter.config import Config
from tokenmeter.ledger import open_ledger
from tokenmeter.texts import clean

if TYPE_CHECKING:
    from tokenmeter.ledger.drain import Drained
    from tokenmeter.ledger.ledger import Ledger
    from tokenmeter.report import ReportData

NAME = "report"
SINCE = "30d"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        NAME,
        help="what came of the spend: tables, a page, JSON, CSV, or CSV with the columns of FOCUS",
        description="Reports what was spent and what came of it, by team and agent, with waste and budgets. What the "
        "store has is written into the ledger first. People are not ranked and not named; --me shows your own figures.",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--html", metavar="FILE", help="write one page that needs no network")
    how.add_argument("--csv", action="store_true", help="CSV, a line a day by team, agent and model")
    how.add_argument("--focus", action="store_true", help="CSV with the columns of FOCUS 1.2, for tools of finance")
    parser.add_argument(
        "--billing-account",
        metavar="ID",
        default="tokenmeter",
        help="the BillingAccountId of FOCUS; default: tokenmeter",
    )
    parser.add_argument("--plain", action="store_true", help="plain text, also on a terminal")
    add_options(parser)
    parser.set_defaults(run=run)


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


def run(arguments: argparse.Namespace) -> int:
    """Report once."""
    if arguments.json and (arguments.html is not None or arguments.csv or arguments.focus):
        raise Trouble("--json and another form are asked for; choose one")
    if arguments.html is not None:
        _refuse_folder(Path(arguments.html))
    with opened(arguments) as sources, progress(arguments) as bar:
        data = sources.read(bar)
    _warn_of_nothing(data)
    _show(data, arguments)
    return 0


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


# -- how far it is


@dataclass(frozen=True, slots=True)
class Bar:
    """What is told of the work: of draining, and of reading."""

    drained: Callable[[Drained], None] = lambda _: None
    step: Callable[[str, int, int], None] = lambda *_: None


@contextlib.contextmanager
def progress(arguments: argparse.Namespace) -> Iterator[Bar]:
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


# -- shown


def _warn_of_nothing(data: ReportData) -> None:
    """A name that is mistyped looks like a team or an agent that spent nothing."""

    named = [f"{what} {name!r}" for what, name in (("team", data.team), ("agent", data.agent)) if name is not None]
    if named and not data.lines:
        sys.stderr.write(f"tokenmeter {NAME}: no call of {clean(' and '.join(named))} is in this window\n")


def _show(data: ReportData, arguments: argparse.Namespace) -> None:
    from tokenmeter.report import to_csv, to_focus, to_json

    if arguments.html is not None:
        from tokenmeter.report.html import to_html

        path, page = Path(arguments.html), to_html(data).encode("utf-8", "replace")
        try:
            _write(path, page)
        except OSError as error:
            raise Trouble(f"--html {arguments.html!r} can't be written: {error.strerror or error}", FAILURE) from None
        if path.is_file():
            print(f"{arguments.html}: {len(page):,} bytes")
    elif arguments.json:
        print(to_json(data))
    elif arguments.csv or arguments.focus:
        text = to_focus(data, billing_account=arguments.billing_account) if arguments.focus else to_csv(data)
        _raw(text)
    else:
        _tables(data, plain=arguments.plain)


def _raw(text: str) -> None:
    """CSV as it is: its lines end with CRLF, whatever the system's do."""
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        sys.stdout.write(text)
        return
    sys.stdout.flush()
    buffer.write(text.encode("utf-8", "replace"))
    buffer.flush()


def _tables(data: ReportData, *, plain: bool) -> None:
    from tokenmeter.report.terminal import sections

    for number, section in enumerate(sections(data)):
        if number:
            print()
        if section.title:
            print(clean(section.title))
        for line in section.lines:
            print(clean(f"  {line}" if section.title else line))
        if section.rows:
            table = tables.Table(section.head, section.rows, section.right, section.styles)
            if plain:
                print(tables.aligned(table))
            else:
                tables.show(table)


def _write(path: Path, page: bytes) -> None:
    """All of the file or nothing: a reader never sees half of it, and whoever could read it before still can."""
    if path.exists() and not path.is_file():  # a pipe or a device, which nothing may take the place of
        path.write_bytes(page)
        return
    path = path.resolve()  # a link stays one
    beside = path.with_name(f".tokenmeter-{secrets.token_hex(8)}")
    try:
        with beside.open("xb") as file:
            file.write(page)
        if path.exists():
            shutil.copymode(path, beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _refuse_folder(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir():
        raise Trouble(f"--html {str(path)!r} can't be written: name a file in a folder that is there")


def _missing(url: str) -> Path | None:
    """The file of a ledger that isn't there: a mistyped path must not become an empty ledger."""
    if not url.startswith("sqlite:///"):
        return None
    path = Path(url.removeprefix("sqlite:///").partition("?")[0])
    return None if path.is_file() else path
