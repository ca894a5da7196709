"""``tokenmeter accept-loss``: go on after Redis has lost the budgets, for the whole fleet and from any machine."""

from __future__ import annotations

import argparse
import json

from tokenmeter.cli import where
from tokenmeter.cli.trouble import Trouble
from tokenmeter.texts import clean


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "accept-loss",
        help="go on after Redis has lost the budgets",
        description="A Redis that was flushed, or that lost its data in a restart or failover, is taken for gone by "
        "every program that knew the budgets in it. This lets all of them go on with what it has now; what was spent "
        "before is missing there and may be spent again. Once is enough for the whole fleet. Restore the data instead "
        "if you can.",
    )
    where.add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Accept it."""
    place = where.find(arguments, with_policy=False)
    with where.opened(place) as store:
        accept = getattr(store, "accept_loss", None)
        if accept is None:
            raise Trouble(f"{place.address} is no Redis: what a file of SQLite has lost can only be put back")
        accept()
        count = len(store.books())
    if arguments.json:
        print(json.dumps({"store": place.address, "books": count}))
    else:
        print(clean(f"Accepted: every program goes on with what {place.address} has now, {count:,} books of budgets."))
        print(
            "What was spent before is missing there. To take room away or give some: tokenmeter budgets, grant, pause."
        )
    return 0
