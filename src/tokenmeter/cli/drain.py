"""``tokenmeter drain``: from the entries of a store into the ledger that lasts."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tokenmeter.budgets import Store
from tokenmeter.cli import tables, where
from tokenmeter.cli.numbers import interval_s, number
from tokenmeter.cli.trouble import Trouble
from tokenmeter.errors import StoreUnavailable
from tokenmeter.ledger import ledger_beside, open_ledger
from tokenmeter.ledger.trim import TRIM_DAYS, trim
from tokenmeter.texts import clean

if TYPE_CHECKING:
    from tokenmeter.ledger.drain import Drained
    from tokenmeter.ledger.ledger import Ledger

NAME = "drain"
_INTERVAL_S = 2.0
_MOST_PAUSE_S = 60.0
_PRUNE_EVERY_S = 3600.0
_DAY_S = 86_400
_REMEDY = (
    "name one with --ledger postgresql://USER@HOST/DATABASE or --ledger sqlite:///FILE, or in tokenmeter.toml under "
    "[ledger]"
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        NAME,
        help="write what a store has of calls into the ledger that lasts",
        description="Writes every entry of the store into the ledger, each once: it may be killed at any moment and "
        "started again, and several may run at a time. With keep_days in the configuration, older rows of the ledger "
        "are dropped; its sums stay.",
    )
    parser.add_argument("--ledger", metavar="URL", help="the ledger, in place of the one that the configuration names")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="end when all is written; the default")
    how.add_argument(
        "--follow",
        nargs="?",
        type=interval_s,
        const=_INTERVAL_S,
        metavar="SECONDS",
        help=f"go on until Ctrl-C, and look for more every {_INTERVAL_S:g} seconds",
    )
    parser.add_argument(
        "--trim",
        nargs="?",
        type=number(1, 36_500, "number of days; give 1 or more: late words need their entries"),
        const=TRIM_DAYS,
        metavar="DAYS",
        help=f"drop entries from the store that are in the ledger and older than this; default: {TRIM_DAYS:g} days",
    )
    where.add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Drain once, or until Ctrl-C."""
    place = where.find(arguments, with_policy=arguments.ledger is None)
    url = ledger_url(arguments.ledger, place)
    keep_days = place.config.ledger_keep_days if place.config is not None else 0.0
    with where.opened(place) as store, open_ledger(url) as ledger:
        work = _Work(store, ledger, keep_days, arguments.trim)
        if arguments.follow is None:
            with _progress(arguments) as tell:
                done = work.pass_once(tell)
            _report(done, place.address, work, arguments)
        else:
            with contextlib.suppress(KeyboardInterrupt):
                _follow(work, place.address, arguments)
    return 0


def ledger_url(given: str | None, place: where.Where) -> str:
    """The address of the ledger: what was given, what the configuration names, or the file beside that of SQLite."""
    config = place.config
    url = given or (config.ledger if config is not None else None) or ledger_beside(place.url)
    if url is None:
        raise Trouble(f"no ledger is named for {place.address}, and a store in Redis has none beside it; {_REMEDY}")
    return url


class _Work:
    """One pass, and what is done beside it now and then."""

    def __init__(self, store: Store, ledger: Ledger, keep_days: float, trim_days: float | None) -> None:
        self._store, self.ledger = store, ledger
        self._keep_days, self._trim_days = keep_days, trim_days
        self._tidy_at_s = -math.inf
        self.pruned = self.trimmed = 0

    def pass_once(self, tell: Callable[[Drained], None]) -> Drained:
        """Drain what there is; hourly drop what has had its time."""
        from tokenmeter.ledger.drain import drain

        done = drain(self._store, self.ledger, progress=tell)
        if time.monotonic() >= self._tidy_at_s:
            self._tidy_at_s = time.monotonic() + _PRUNE_EVERY_S
            self._tidy(done.mark)
        return done

    def _tidy(self, mark: str) -> None:
        if self._keep_days:
            self.pruned += self.ledger.prune(self._store.time_s() - self._keep_days * _DAY_S)
        if self._trim_days is not None:
            self.trimmed += trim(self._store, mark, self._trim_days)


def _follow(work: _Work, address: str, arguments: argparse.Namespace) -> None:
    """Pass after pass. A store or a ledger that is gone for a while is said so, and asked again."""
    pause_s = arguments.follow
    while True:
        try:
            done = work.pass_once(lambda _: None)
        except StoreUnavailable as error:
            sys.stderr.write(f"tokenmeter {NAME}: {error}\n")
            pause_s = min(pause_s * 2, max(_MOST_PAUSE_S, arguments.follow))
        else:
            pause_s = arguments.follow
            if done.entries or done.anew:
                _report(done, address, work, arguments)
                sys.stdout.flush()
        time.sleep(pause_s)


def _report(done: Drained, store: str, work: _Work, arguments: argparse.Namespace) -> None:
    ledger, pruned, trimmed = work.ledger.address, work.pruned, work.trimmed
    work.pruned = work.trimmed = 0
    if arguments.json:
        told = {
            "store": store,
            "ledger": ledger,
            "entries": done.entries,
            "rows": done.rows,
            "corrected": done.corrected,
            "bare": done.bare,
            "lost": done.lost,
            "anew": done.anew,
            "mark": done.mark,
            "pruned": pruned,
            "trimmed": trimmed,
        }
        print(json.dumps(told))
        return

    if done.anew:
        print(clean(f"{store} is not the file that was drained before: it was read from its beginning."))
    parts = [f"{done.entries:,} entries: {done.rows:,} new calls, {done.corrected:,} estimates corrected"]
    parts += [f"{done.bare:,} without a row that can be read"] if done.bare else []
    parts += [f"{pruned:,} old rows dropped from the ledger"] if pruned else []
    parts += [f"{trimmed:,} entries dropped from the store"] if trimmed else []
    print(clean(f"{'; '.join(parts)}. From {store} into {ledger}."))


@contextlib.contextmanager
def _progress(arguments: argparse.Namespace) -> Iterator[Callable[[Drained], None]]:
    """How far it is, on a terminal: by rich if it is there."""
    if arguments.json or not tables.fancy(sys.stderr):
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("draining") as status:
        yield lambda done: status.update(f"draining: {done.entries:,} entries")
