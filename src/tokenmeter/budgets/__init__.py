"""What calls may spend: the budgets, the policy that applies them, and the books they are kept in."""

from __future__ import annotations

from tokenmeter.budgets.budget import Budget
from tokenmeter.budgets.memory import MemoryStore
from tokenmeter.budgets.policy import Claim, Need, Policy
from tokenmeter.budgets.store import Held, Short, State, Store, Ticket
from tokenmeter.errors import ConfigError

__all__ = [
    "Budget",
    "Claim",
    "Held",
    "MemoryStore",
    "Need",
    "Policy",
    "Short",
    "State",
    "Store",
    "Ticket",
    "open_store",
]

_SCHEMES = ("memory://",)


def open_store(url: str) -> Store:
    """The store at that address: ``memory://``; ``ConfigError`` for a scheme that this version lacks."""
    if url == "memory://":
        return MemoryStore()
    scheme = url.partition("://")[0] if isinstance(url, str) and "://" in url else None
    # The rest of the address is left out of the text: it may carry a password.
    found = f"store scheme {scheme + '://'!r} is unknown" if scheme else "that is no address of a store"
    raise ConfigError(f"{found}; this version has {', '.join(_SCHEMES)}")
