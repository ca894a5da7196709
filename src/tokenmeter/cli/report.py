"""``tokenmeter report``: what came of the spend, as tables, a page or a file."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tokenmeter.cli import sources, tables
from tokenmeter.cli.trouble import FAILURE, Trouble
from tokenmeter.texts import clean

if TYPE_CHECKING:
    from tokenmeter.report import ReportData

NAME = "report"


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
    sources.add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Report once."""
    if arguments.json and (arguments.html is not None or arguments.csv or arguments.focus):
        raise Trouble("--json and another form are asked for; choose one")
    if arguments.html is not None:
        _refuse_folder(Path(arguments.html))
    with sources.opened(arguments) as found, sources.progress() as bar:
        data = found.read(bar)
    _warn_of_nothing(data)
    _show(data, arguments)
    return 0


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
