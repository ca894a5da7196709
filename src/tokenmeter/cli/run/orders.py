"""What ``tokenmeter run`` tells each Python process that starts below it."""

from __future__ import annotations

import msgspec

VARIABLE = "TOKENMETER_RUN"


class Orders(msgspec.Struct, frozen=True):
    """``rows``: the file to which each process adds the rows of its calls. ``store``: None for the configuration's."""

    config: str | None
    store: str | None
    budgets: tuple[str, ...]
    agent: str | None
    user: str | None
    team: str | None
    rows: str

    def text(self) -> str:
        """As a variable of the environment."""
        return msgspec.json.encode(self).decode()


def orders_of(text: str) -> Orders:
    """From a variable of the environment. Raises ``msgspec.MsgspecError``."""
    return msgspec.json.decode(text, type=Orders)
