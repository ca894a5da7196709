"""``tokenmeter budgets``: the live state of every budget that a store keeps."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tokenmeter.budgets import Book, Grant, Pause, Store, account_of
from tokenmeter.cli import tables, where
from tokenmeter.cli.accounts import is_live, pairs_of
from tokenmeter.cli.amounts import figure, for_json, words
from tokenmeter.cli.numbers import interval_s, whole
from tokenmeter.cli.tables import Table
from tokenmeter.cli.times import moment, until
from tokenmeter.errors import StoreUnavailable
from tokenmeter.texts import clean

NAME = "budgets"
_FILTERS = ("agent", "user", "team")
_NEAR = 0.8
_INTERVAL_S = 2.0
_HEAD = ("budget", "kept for", "limit", "spent", "held", "leased", "left", "used", "resets", "newest grant")


@dataclass(frozen=True, slots=True)
class Line:
    """One budget. ``granted``: what the grants in force add to its limit; ``newest``: the youngest of them."""

    book: Book
    granted: int
    newest: Grant | None

    @property
    def used(self) -> float | None:
        """The share of the limit that is spent, held or leased; None of no limit."""
        posted, held, limit = self.book.state
        return (posted + held) / limit if limit > 0 else None


@dataclass(frozen=True, slots=True)
class Picture:
    """What the store says at one moment."""

    address: str
    at_s: float
    lines: Sequence[Line]
    pauses: Sequence[Pause]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        NAME,
        help="what is spent, held and left of every budget of a store",
        description="Shows every budget of the store in its present window: those that are used up to 80 % or more "
        "come first, then those that end soonest. Those of users stand in the order of their names.",
    )
    parser.add_argument("text", nargs="?", metavar="TEXT", help="only budgets with this in their name or scope")
    for name in _FILTERS:
        parser.add_argument(f"--{name}", metavar="NAME", help=f"only budgets that are kept for this {name}")
    parser.add_argument(
        "--top",
        type=whole(0, math.inf, "number of rows; give 0 or more"),
        default=50,
        metavar="N",
        help="rows to show, 0 for all; default: 50",
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=interval_s,
        const=_INTERVAL_S,
        metavar="SECONDS",
        help=f"show it again and again until Ctrl-C; default: every {_INTERVAL_S:g} seconds",
    )
    where.add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show it once, or until Ctrl-C."""
    place = where.find(arguments, with_policy=False)
    with where.opened(place) as store:
        if arguments.watch is None:
            _show(look(store, place.address, arguments), arguments)
        else:
            with contextlib.suppress(KeyboardInterrupt):
                _watch(store, place.address, arguments)
    return 0


def look(store: Store, address: str, arguments: argparse.Namespace) -> Picture:
    """What the store says now of the budgets that were asked for."""
    now_s = store.time_s()
    books, grants, pauses = store.books(), store.grants(), store.pauses()
    lines = [line for line in _lines(books, grants, now_s) if _wanted(line.book, arguments)]
    return Picture(address, now_s, sorted(lines, key=_urgency), sorted(pauses))


def _lines(books: Sequence[Book], grants: Sequence[Grant], now_s: float) -> Iterator[Line]:

    in_force: dict[str, list[Grant]] = {}
    for grant in grants:
        if grant.at_s <= now_s < grant.expires_at_s:
            in_force.setdefault(grant.account, []).append(grant)
    for book in books:
        if is_live(book, now_s):
            found = in_force.get(account_of(book.key), [])
            newest = max(found, key=lambda grant: grant.at_s, default=None)
            yield Line(book, sum(grant.amount for grant in found), newest)


def _wanted(book: Book, arguments: argparse.Namespace) -> bool:

    text: str | None = arguments.text
    if text is not None and text not in book.scope and text not in book.budget:
        return False
    asked = {name: value for name in _FILTERS if (value := getattr(arguments, name)) is not None}
    return not asked or asked.items() <= (pairs_of(book) or {}).items()


def _urgency(line: Line) -> tuple[bool, bool, float, float, str, str]:
    """Those near their limit first, the fullest before all; then by how soon they end, and runs, which are many, last.

    Those of users stand in the order of their names: by how full they are they would be a board of people.
    """
    used = math.inf if line.used is None else line.used
    near = used >= _NEAR
    pairs = pairs_of(line.book) or {}
    full = 0.0 if "user" in pairs else -used
    ends = math.inf if line.book.resets_at is None else line.book.resets_at
    return not near, not near and "run" in pairs, full if near else ends, full, line.book.budget, line.book.scope


# -- shown


def _show(picture: Picture, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(_for_json(picture)))
        return

    before, table, after = _parts(picture, arguments.top)
    for line in before:
        print(clean(line))
    if table is not None:
        tables.show(table)
    print(clean(after))


def _watch(store: Store, address: str, arguments: argparse.Namespace) -> None:
    """A store that is gone for a while is said so, and asked again."""
    terminal = sys.stdout.isatty() and not arguments.json
    while True:
        try:
            picture = look(store, address, arguments)
        except StoreUnavailable as error:
            sys.stderr.write(f"tokenmeter {NAME}: {error}\n")
        else:
            if terminal:
                sys.stdout.write("\x1b[H\x1b[2J")
            _show(picture, arguments)
            if not terminal and not arguments.json:
                print()
            sys.stdout.flush()
        time.sleep(arguments.watch)


def _parts(picture: Picture, top: int) -> tuple[list[str], Table | None, str]:
    """What stands above the table, the table, and the line below it."""
    before = [
        f"PAUSED: {pause.target}, since {moment(pause.at_s)} by {pause.by or '?'}: {pause.reason}"
        for pause in picture.pauses
    ]
    shown = picture.lines[:top] if top else picture.lines
    source = f"{picture.address} at {moment(picture.at_s)}"
    if not shown:
        return before, None, f"No budget of that kind has a book yet in {source}."
    rows = [_row(line, picture.at_s) for line in shown]
    styles = [_style(line) for line in shown]
    table = Table(_HEAD, rows, right=("limit", "spent", "held", "leased", "left", "used"), styles=styles)
    rest = len(picture.lines) - len(shown)
    more = f"; {rest:,} more: --top 0 shows all" if rest else ""
    return before, table, f"{len(shown):,} of {len(picture.lines):,} budgets{more}. {source}"


def _row(line: Line, now_s: float) -> tuple[str, ...]:

    book = line.book
    unit, state = book.unit, book.state
    limit = words(unit, state.limit) + (f" (+{words(unit, line.granted)})" if line.granted else "")
    resets = "never" if book.resets_at is None else f"{moment(book.resets_at)}, {until(book.resets_at, now_s)}"
    newest = line.newest
    grant = f"{words(unit, newest.amount)} by {newest.by}: {newest.reason}" if newest else ""
    figures = [figure(unit, amount) for amount in (state.posted, state.held - book.leased, book.leased, state.left)]
    used = "no limit" if line.used is None else f"{math.floor(line.used * 100)} %"
    return book.budget, book.scope, limit, *figures, used, resets, grant


def _style(line: Line) -> str:
    used = line.used if line.used is not None else 1.0
    return "bold red" if used >= 1 else "yellow" if used >= _NEAR else ""


def _for_json(picture: Picture) -> dict[str, Any]:
    return {
        "store": picture.address,
        "at": picture.at_s,
        "budgets": [_line_for_json(line) for line in picture.lines],
        "pauses": [pause_for_json(pause) for pause in picture.pauses],
    }


def _line_for_json(line: Line) -> dict[str, Any]:

    book = line.book
    unit, state, newest = book.unit, book.state, line.newest
    return {
        "budget": book.budget,
        "scope": book.scope,
        "account": account_of(book.key),
        "unit": unit,
        "limit": for_json(unit, state.limit),
        "granted": for_json(unit, line.granted),
        "spent": for_json(unit, state.posted),
        "held": for_json(unit, state.held - book.leased),
        "leased": for_json(unit, book.leased),
        "left": for_json(unit, state.left),
        "used": None if line.used is None else round(line.used, 6),
        "resets_at": book.resets_at,
        "newest_grant": None
        if newest is None
        else {
            "id": newest.id,
            "amount": for_json(unit, newest.amount),
            "by": newest.by,
            "reason": newest.reason,
            "at": newest.at_s,
            "expires_at": newest.expires_at_s,
        },
    }


def pause_for_json(pause: Pause) -> dict[str, Any]:
    """A pause, for programs."""
    return {"target": pause.target, "since": pause.at_s, "by": pause.by, "reason": pause.reason}
