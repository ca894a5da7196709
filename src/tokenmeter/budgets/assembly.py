"""The store as a meter uses it: guarded against outages, and with leases where they pay."""

from __future__ import annotations

from tokenmeter.budgets import Store, open_store
from tokenmeter.budgets.address import split_leases
from tokenmeter.budgets.guarded import GuardedStore
from tokenmeter.budgets.journal import Journal
from tokenmeter.budgets.leases import LeasedStore


def assemble(url: str) -> Store:
    """The store at an address, ready for calls. Raises `ConfigError` for an address that makes no sense.

    The address takes one option beside those of its kind: ``leases=on`` or ``off``. Leases spare most calls the round
    trip; they are on for Redis, where a round trip is the cost, and off for SQLite.
    """
    _, leases = split_leases(url)
    store = open_store(url)
    if store.instant:
        return store
    guarded = GuardedStore(store, _journal(store))
    if leases is None:
        leases = not url.startswith("sqlite:")
    return LeasedStore(guarded) if leases else guarded


def _journal(store: Store) -> Journal:
    """Where what can't be told to this store is kept: one place for each set of books."""
    options = getattr(store, "options", None)
    path = getattr(options, "path", None)
    if path is not None:
        return Journal(path.with_name(path.name + "-journals"))
    state_dir = getattr(options, "state_dir", None)
    name = f"{getattr(options, 'address', '')} {getattr(options, 'tenant', '')}"
    return Journal(state_dir, store=name)
