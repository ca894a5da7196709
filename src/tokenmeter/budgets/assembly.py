"""The store as a meter uses it: guarded against outages, and with leases where they pay."""

from __future__ import annotations

from tokenmeter.budgets import Store, open_store
from tokenmeter.budgets.guarded import GuardedStore
from tokenmeter.budgets.journal import Journal
from tokenmeter.budgets.leases import LeasedStore
from tokenmeter.errors import ConfigError

_ON = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}


def assemble(url: str) -> Store:
    """The store at an address, ready for calls. Raises `ConfigError` for an address that makes no sense.

    The address takes one option beside those of its kind: ``leases=on`` or ``off``. Leases spare most calls the round
    trip; they are on for Redis, where a round trip is the cost, and off for SQLite.
    """
    address, leases = _leases(url)
    store = open_store(address)
    if store.instant:
        return store
    journal = _journal(store)
    guarded = GuardedStore(store, journal)
    return LeasedStore(guarded, journal) if leases else guarded


def _leases(url: str) -> tuple[str, bool]:
    """The address without the option, and what the option says."""
    if not isinstance(url, str) or "://" not in url:
        return url, False
    address, _, query = url.partition("?")
    default = not address.startswith("sqlite:")
    options = query.split("&")
    found = [option.partition("=")[2] for option in options if option.partition("=")[0] == "leases"]
    if not found:
        return url, default
    if found[-1].lower() not in _ON:
        raise ConfigError(f"store option leases={found[-1]!r} is unknown; choose on or off")
    # What is left stays as it was written: to put an address together anew would lose slashes of a file's.
    rest = "&".join([option for option in options if option.partition("=")[0] != "leases"])
    return f"{address}?{rest}" if rest else address, _ON[found[-1].lower()]


def _journal(store: Store) -> Journal:
    """Where what can't be told to this store is kept: one place for each set of books."""
    options = getattr(store, "options", None)
    path = getattr(options, "path", None)
    if path is not None:
        return Journal(path.with_name(path.name + "-journals"))
    state_dir = getattr(options, "state_dir", None)
    name = f"{getattr(options, 'address', '')} {getattr(options, 'tenant', '')}"
    return Journal(state_dir, store=name)
