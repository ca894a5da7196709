"""Where books are, as it is written in an address: what can be said of it without a driver."""

from __future__ import annotations

import re

from tokenmeter.errors import ConfigError

REDIS = ("redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")
_SCHEMES = "memory://, sqlite:///FILE, redis://HOST:PORT/0 (rediss://, redis+cluster:// and redis+sentinel:// too)"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")
_ON = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}


def split_leases(url: str) -> tuple[str, bool | None]:
    """The address without ``leases``, which only a meter goes by, and what that says; None if it isn't there."""
    if not isinstance(url, str) or "://" not in url:
        return url, None
    address, _, query = url.partition("?")
    options = query.split("&")
    found = [option.partition("=")[2] for option in options if option.partition("=")[0] == "leases"]
    if not found:
        return url, None
    if found[-1].lower() not in _ON:
        raise ConfigError(f"store option leases={found[-1]!r} is unknown; choose on or off")
    # What is left stays as it was written: to put an address together anew would lose slashes of a file's.
    rest = "&".join([option for option in options if option.partition("=")[0] != "leases"])
    return f"{address}?{rest}" if rest else address, _ON[found[-1].lower()]


def scheme_of(url: str) -> str:
    """``memory``, ``sqlite`` or one of `REDIS`. Raises `ConfigError` for any other."""
    found = _SCHEME.match(url) if isinstance(url, str) else None
    if url == "memory://" or (found is not None and found[0] in ("sqlite", *REDIS)):
        return url.partition("://")[0]
    # The rest of the address is left out of the text: it may carry a password.
    what = f"store scheme {found[0] + '://'!r} is unknown" if found is not None else "that is no address of a store"
    raise ConfigError(f"{what}; this version has {_SCHEMES}")


def check(url: str) -> None:
    """Raise `ConfigError` for an address that makes no sense, with the remedy and without a password."""
    address, _ = split_leases(url)
    scheme = scheme_of(address)
    if scheme in REDIS:
        from tokenmeter.budgets import redis_url

        redis_url.parse_url(address)
    elif scheme == "sqlite":
        from tokenmeter.budgets import sqlite_url

        sqlite_url.parse_url(address)
