"""What ``tokenmeter run`` tells each Python process that starts below it."""

from __future__ import annotations

import msgspec

VARIABLE = "TOKENMETER_RUN"


class Orders(msgspec.Struct, frozen=True):
    """``store``: None for the configuration's. ``rows``: the file to which each process adds the rows of its calls."""

    config: str | None
    store: str | None
    budgets: tuple[str, ...]
    agent: str | None
    user: str | None
    team: str | None
    rows: str | None


def orders_of(text: str) -> list[Orders]:
    """From the variable; one below another command of this kind has those of both. Raises ``msgspec.MsgspecError``."""
    return msgspec.json.decode(text, type=list[Orders])


def text_of(orders: list[Orders]) -> str:
    """For the variable."""
    return msgspec.json.encode(orders).decode()
