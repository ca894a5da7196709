"""What calls may spend: the budgets, the policy that applies them, and the books they are kept in."""

from __future__ import annotations

from tokenmeter.budgets.budget import Budget
from tokenmeter.budgets.memory import MemoryStore
from tokenmeter.budgets.policy import Claim, Need, Policy
from tokenmeter.budgets.store import (
    Book,
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
from tokenmeter.errors import ConfigError

__all__ = [
    "Book",
    "Budget",
    "Claim",
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

_REDIS = ("redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")
_SCHEMES = "memory://, sqlite:///FILE, redis://HOST:PORT/0 (rediss://, redis+cluster:// and redis+sentinel:// too)"


def open_store(url: str) -> Store:
    """The store at that address: ``memory://``, ``sqlite:///FILE``, or one of the kinds of ``redis://``.

    Raises `ConfigError` for an address or a scheme that makes no sense, or when the driver isn't installed.
    """
    if url == "memory://":
        return MemoryStore()
    scheme = url.partition("://")[0] if isinstance(url, str) and "://" in url else None
    if scheme in _REDIS:
        from tokenmeter.budgets.redis import open_redis

        return open_redis(url)
    if scheme == "sqlite":
        from tokenmeter.budgets.sqlite import open_sqlite

        return open_sqlite(url)
    # The rest of the address is left out of the text: it may carry a password.
    found = f"store scheme {scheme + '://'!r} is unknown" if scheme else "that is no address of a store"
    raise ConfigError(f"{found}; this version has {_SCHEMES}")
