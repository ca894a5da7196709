"""The rows that are kept long-term, and how they are read.

memory     sums over the calls of this process
views      what reports are made of
ledger     one row per call in a database, and the sums that reports read; opened by `open_ledger`
drain      from a store's entries into a ledger
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenmeter.errors import ConfigError
from tokenmeter.ledger.memory import MemoryLedger, Spend

if TYPE_CHECKING:
    from tokenmeter.ledger.ledger import Ledger

__all__ = ["MemoryLedger", "Spend", "ledger_beside", "open_ledger"]


def open_ledger(url: str) -> Ledger:
    """The ledger at ``sqlite:///FILE`` or ``postgresql://USER@HOST/DATABASE``; it is created if it isn't there.

    Raises `ConfigError` for an address that makes no sense, a database that is something else or of a newer version,
    or when a package is missing; `StoreUnavailable` when the database can't be reached.
    """
    try:
        from tokenmeter.ledger.ledger import Ledger
    except ImportError as error:
        if error.name != "sqlalchemy":
            raise
        raise ConfigError(
            "a ledger needs the package sqlalchemy; install the extra: pip install 'tokenmeter-sdk[ledger]', and "
            "'tokenmeter-sdk[ledger,postgres]' for PostgreSQL"
        ) from None
    return Ledger(url)


def ledger_beside(store: str) -> str | None:
    """The ledger of a store that names none: a file beside that of SQLite, ``NAME-ledger.db``; None for others."""
    if not store.startswith("sqlite:"):
        return None
    from tokenmeter.budgets.address import split_leases
    from tokenmeter.budgets.sqlite_url import parse_url

    path = parse_url(split_leases(store)[0]).path
    return f"sqlite:///{path.with_name(path.stem + '-ledger.db')}"
