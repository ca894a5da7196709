"""What calls may spend: the budgets, the policy that applies them, and the books they are kept in."""

from __future__ import annotations

from tokenmeter.budgets.address import REDIS, scheme_of, split_leases
from tokenmeter.budgets.budget import Budget
from tokenmeter.budgets.memory import MemoryStore
from tokenmeter.budgets.policy import Claim, Need, Policy
from tokenmeter.budgets.store import (
    Book,
    Drawn,
    Entry,
    Grant,
    Held,
    Pause,
    Settled,
    Short,
    State,
    Store,
    Ticket,
    account_of,
)

__all__ = [
    "Book",
    "Budget",
    "Claim",
    "Drawn",
    "Entry",
    "Grant",
    "Held",
    "MemoryStore",
    "Need",
    "Pause",
    "Policy",
    "Settled",
    "Short",
    "State",
    "Store",
    "Ticket",
    "account_of",
    "open_store",
]


def open_store(url: str) -> Store:
    """The store at that address: ``memory://``, ``sqlite:///FILE``, or one of the kinds of ``redis://``.

    Raises `ConfigError` for an address or a scheme that makes no sense, or when the driver isn't installed. The option
    ``leases`` is for meters and does nothing here.
    """
    url, _ = split_leases(url)
    scheme = scheme_of(url)
    if scheme in REDIS:
        from tokenmeter.budgets.redis import open_redis

        return open_redis(url)
    if scheme == "sqlite":
        from tokenmeter.budgets.sqlite import open_sqlite

        return open_sqlite(url)
    return MemoryStore()
