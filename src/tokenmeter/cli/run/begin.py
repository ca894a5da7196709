"""What happens at the start of each Python process below ``tokenmeter run``."""

from __future__ import annotations

import atexit
import os
from typing import Any

from msgspec.structs import replace

from tokenmeter import Budget, CallRecord, Meter
from tokenmeter.attribution import Scope, outermost, surround
from tokenmeter.cli.run.orders import Orders, orders_of
from tokenmeter.record import encode


class Rows:
    """Adds the row of each call to a file. One write each, so that processes don't mix theirs."""

    def __init__(self, path: str) -> None:
        self._path = path

    def record(self, row: CallRecord) -> None:
        """Take one row."""
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, encode(row) + b"\n")
        finally:
            os.close(file)


def begin(text: str, arriving: str) -> list[Meter]:
    """Meter this process. Raises `ConfigError`.

    ``arriving``: the library that this thread is importing; the meters are to be told when it is there.
    """
    before, meters = outermost(), list[Meter]()
    try:
        for orders in orders_of(text):
            surround(_scope(orders))
            meters.append(meter_of(orders))
            meters[-1]._instruments.instrument(arriving)
    except BaseException:
        surround(before)
        for meter in meters:
            meter.close()
        raise
    for meter in meters:
        atexit.register(meter.close)
    return meters


def meter_of(orders: Orders) -> Meter:
    """The meter of a process. Raises `ConfigError`."""
    options: dict[str, Any] = {}
    if orders.rows is not None:
        options["recorders"] = [Rows(orders.rows)]
    if orders.store is not None:
        options["store"] = orders.store
    budgets = [Budget(limit) for limit in orders.budgets]
    if orders.config is None:
        return Meter(budgets, **options)
    if budgets:
        from tokenmeter.config import load_config

        options["budgets"] = [*load_config(orders.config).budgets, *budgets]
    return Meter.from_config(orders.config, **options)


def _scope(orders: Orders) -> Scope:
    """Whose the calls are. It is no run: a program may go on for months, and ask for many things."""
    outer, agent = outermost(), orders.agent
    return replace(
        outer,
        agent=agent or outer.agent,
        user=orders.user or outer.user,
        team=orders.team or outer.team,
        path=outer.path if agent is None else (*outer.path, agent),
    )
