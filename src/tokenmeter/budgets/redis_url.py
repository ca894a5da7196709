"""Where a Redis is, as it is written in an address, and what else can be said there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from tokenmeter.errors import ConfigError
from tokenmeter.texts import did_you_mean

Kind = Literal["single", "cluster", "sentinel"]
Node = tuple[str, int]

_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
}
_PORTS: dict[Kind, int] = {"single": 6379, "cluster": 6379, "sentinel": 26379}
_EXAMPLE = "write redis://HOST:6379/0, redis+cluster://HOST:6379 or redis+sentinel://HOST:26379,HOST:26379/SERVICE"
# What stands behind such a sign looks like a path or an option, and is a part of the password: it isn't shown.
_LOGIN = "redis login makes no sense; in a login write %, #, @, :, / and ? as %25, %23, %40, %3A, %2F and %3F"
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """Which Redis, and how it is used.

    ``timeout_s``: what any verb takes at most. ``tenant``: whose books these are; several can share a server.
    ``lease_s``: how long a process may be silent before it is taken for dead. ``state_dir``: where it is
    remembered that there were books, None for the default. ``keep_days``: entries of the ledger that are older
    are dropped; 0 keeps all.
    """

    nodes: tuple[Node, ...] = (("127.0.0.1", 6379),)
    kind: Kind = "single"
    tls: bool = False
    db: int = 0
    service: str = ""
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    ssl_ca_certs: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    timeout_s: float = 0.25
    tenant: str = "default"
    lease_s: float = 15.0
    state_dir: Path | None = None
    keep_days: float = 400.0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not _TENANT.fullmatch(self.tenant):
            raise ConfigError(
                f"redis tenant={self.tenant!r} is no name; use up to 64 letters, digits, dots, dashes and underscores"
            )
        for name, lowest, highest in (("timeout_s", 0.01, 60), ("lease_s", 0.5, 3600), ("keep_days", 0, 36_500)):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise ConfigError(f"redis {name}={value:g} is out of range; give {lowest:g} to {highest:g}")
        if self.lease_s < 5 * self.timeout_s:
            raise ConfigError(
                f"redis lease_s={self.lease_s:g} is too short beside timeout_s={self.timeout_s:g}; give five times that"
            )

    @property
    def address(self) -> str:
        """The address for people, without a password."""
        scheme = next(name for name, found in _SCHEMES.items() if found == (self.kind, self.tls))
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes)
        path = "/".join(part for part in (self.service, str(self.db) if self.db else "") if part)
        return f"{scheme}://{hosts}" + (f"/{path}" if path else "")

    def tls_files(self) -> dict[str, str]:
        """The files for TLS that were named, under the names of redis-py's arguments."""
        names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
        return {name: path for name in names if (path := getattr(self, name))}


def parse_url(url: str) -> RedisOptions:
    """Read an address; ``ConfigError`` names what is wrong, and never the password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError(f"that is no address of a Redis; {_EXAMPLE}") from None
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"redis scheme {parts.scheme + '://'!r} is unknown; {_EXAMPLE}")
    kind, tls = _SCHEMES[parts.scheme]
    if "#" in url or "@" in parts.path:
        raise ConfigError(_LOGIN)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    query = _query(parts.query, tls=tls)
    nodes = tuple(_node(host, _PORTS[kind]) for host in hosts.split(","))
    if kind == "single" and len(nodes) > 1:
        raise ConfigError(f"redis:// names one server; {_EXAMPLE}")
    path = [unquote(part) for part in parts.path.split("/") if part]
    service = path.pop(0) if kind == "sentinel" and path else ""
    if kind == "sentinel" and not service:
        raise ConfigError(f"redis+sentinel:// needs the name of the service; {_EXAMPLE}")
    db = path.pop(0) if path else "0"
    if path or not db.isdecimal() or (kind == "cluster" and db != "0"):
        raise ConfigError(f"redis database {'/'.join([db, *path])!r} is no number of one; {_EXAMPLE}")
    return RedisOptions(
        nodes=nodes,
        kind=kind,
        tls=tls,
        db=int(db),
        service=service,
        username=unquote(user) or None,
        password=unquote(password) or None,
        **query,
    )


def _node(text: str, port: int) -> Node:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]\s]*)(?::(\d{1,5}))?", text)
    if found is None or int(found[2] or port) not in range(1, 65536):
        raise ConfigError(f"redis host {text!r} makes no sense; {_EXAMPLE}")
    return (found[1].strip("[]") or "127.0.0.1", int(found[2] or port))


def _query(text: str, *, tls: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        read = _OPTIONS.get(name)
        if read is None and "@" in text:
            raise ConfigError(_LOGIN)
        if read is None or (name.startswith("ssl_") and not tls):
            hint = "; it goes with rediss://" if read is not None else did_you_mean(name, _OPTIONS)
            raise ConfigError(f"redis option {name!r} is unknown; there are {', '.join(_OPTIONS)}{hint}")
        try:
            found[name] = read(value)
        except ValueError:
            told = repr(value) if "@" not in value else "…"
            raise ConfigError(f"redis {name}={told} is no number") from None
        if value == "":
            raise ConfigError(f"redis option {name!r} is empty; leave it out or give a value")
    return found


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "timeout_s": float,
    "tenant": str,
    "lease_s": float,
    "state_dir": Path,
    "keep_days": float,
    "sentinel_username": str,
    "sentinel_password": str,
    "ssl_ca_certs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
}
