"""Python, this package, the configuration, and budgets that can't be meant as they are written."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator

from tokenmeter.budgets import Budget
from tokenmeter.cli.doctor.check import Check, fail, of_error, ok, warn
from tokenmeter.config import Config, find_config, load_config
from tokenmeter.errors import ConfigError
from tokenmeter.version import VERSION

_OLDEST = (3, 11)


def versions() -> Iterator[Check]:
    """Of Python and of this package."""
    found = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    if sys.version_info < _OLDEST:
        yield fail("python", found, f"tokenmeter needs Python {'.'.join(map(str, _OLDEST))} or later")
    else:
        yield ok("python", found)
    yield ok("tokenmeter", VERSION)


def configuration(path: str | None) -> tuple[Config | None, Check]:
    """The configuration that is in force here, if it can be read."""
    try:
        found = path or find_config()
        if found is None:
            return None, warn(
                "config",
                "no tokenmeter.toml here or above",
                "give --config PATH, or set TOKENMETER_CONFIG; a program that sets up its Meter in code needs none",
            )
        config = load_config(found)
    except ConfigError as error:
        return None, of_error("config", error, "correct the file")
    return config, ok("config", str(config.path))


def budgets(config: Config | None) -> Iterator[Check]:
    """Budgets under which no call can go out, and budgets that stop nothing."""
    if config is None:
        return
    if not config.budgets:
        yield warn("budgets", "the configuration has none: calls are metered and never stopped", "add a [[budgets]]")
        return
    odd = [check for budget in config.budgets for check in _odd(budget)]
    told = [f"{budget.name!r}{_thresholds(budget)}" for budget in config.budgets]
    yield ok("budgets", f"{len(config.budgets)}, no two alike: {', '.join(told)}")
    yield from odd


def _odd(budget: Budget) -> Iterator[Check]:
    name = f"budget {budget.name!r}"
    if budget.limit_amount == 0 and budget.on_exceed != "warn":
        yield warn(name, "its limit is 0: it refuses every call", "raise it, or use tokenmeter pause to stop calls")
    elif budget.unit == "tokens" and budget.limit_amount <= budget.min_output_tokens and budget.on_exceed != "warn":
        yield warn(
            name,
            f"its limit {budget.limit!r} is no more than min_output_tokens = {budget.min_output_tokens}: "
            "a call without an output cap never fits",
            "raise the limit, or lower min_output_tokens",
        )
    if budget.unit == "calls" and budget.per == "call" and budget.limit_amount:
        yield warn(
            name,
            f"limit = {budget.limit!r} per call: each call is one, so that it stops nothing",
            "choose another window, such as per = 'run' or 'day'",
        )
    if budget.on_exceed == "warn":
        yield ok(name, "on_exceed = 'warn': it stops nothing, and marks the span")
    elif budget.on_store_error == "open":
        yield warn(
            name,
            "on_store_error = 'open': while the store is gone it stops nothing",
            "choose 'closed', or 'local' with a local_limit",
        )
    if not budget.thresholds:
        yield ok(name, "has no thresholds: nobody is told before its limit is reached")


def _thresholds(budget: Budget) -> str:
    percents = ", ".join(f"{percent:g}" for percent in budget.thresholds)
    return f" (told at {percents} %)" if percents else ""
