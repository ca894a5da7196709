"""``tokenmeter doctor``: what stands in the way of metering here, and what to do about it.

settings       Python, this package, the configuration and its budgets
store          the store: whether it answers, how fast, its clock, what Redis is set to
prices         how old the prices are, and which models lack one
libraries      which clients are installed, and which of them are metered
telemetry      where spans and metrics go
journals       what processes left that died before they could report it to the store
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence

from tokenmeter.budgets.address import split_leases
from tokenmeter.cli import where
from tokenmeter.cli.doctor.check import Check
from tokenmeter.texts import clean

NAME = "doctor"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        NAME,
        help="check the configuration, the store, the prices and the client libraries",
        description="Checks what metering needs here and says what to do about it. Changes nothing. Exit status 1 if "
        "a check fails, 0 if there are warnings at the most.",
    )
    where.add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run all checks. 1 if one fails."""
    checks = list(examine(arguments))
    failed = any(check.status == "fail" for check in checks)
    if arguments.json:
        found = [check._asdict() for check in checks]
        print(json.dumps({"status": _worst(checks), "checks": found}))
    else:
        _show(checks)
    return 1 if failed else 0


def examine(arguments: argparse.Namespace) -> Iterator[Check]:
    """Every check, in order."""
    from tokenmeter.cli.doctor import journals, libraries, prices, settings, store, telemetry

    yield from settings.versions()
    config, found = settings.configuration(arguments.config)
    yield found
    yield from settings.budgets(config)
    url = arguments.store or (config.store if config is not None else None)
    url = None if url is None else split_leases(url)[0]
    yield from store.checks(url)
    yield from prices.checks(config)
    yield from libraries.checks()
    yield from telemetry.checks()
    yield from journals.checks(journals.directories(url))


def _show(checks: Sequence[Check]) -> None:

    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = check.status.upper() if check.status == "fail" else check.status
        print(clean(f"{mark:<4}  {check.name:<{width}}  {check.found}"))
        if check.remedy:
            print(clean(f"{'':<4}  {'':<{width}}  -> {check.remedy}"))
    counts = {status: sum(check.status == status for check in checks) for status in ("ok", "warn", "fail")}
    print(f"\n{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed.")


def _worst(checks: Sequence[Check]) -> str:
    found = {check.status for check in checks}
    return next(status for status in ("fail", "warn", "ok") if status in found)
