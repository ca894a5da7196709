"""Where a file of books is, as it is written in an address, and what else can be said there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from tokenmeter.errors import ConfigError
from tokenmeter.texts import did_you_mean

Synchronous = Literal["normal", "full"]
_EXAMPLE = "write sqlite:///relative.db or sqlite:////absolute/path.db"


@dataclass(frozen=True, slots=True)
class SqliteOptions:
    """Which file, and how it is used.

    ``timeout_s``: how long a verb waits for other processes at most. ``keep_days``: entries of the ledger that are
    older are dropped; 0 keeps all. ``synchronous``: ``"normal"`` survives the death of any process, and a power cut
    but for the last moments; ``"full"`` those too, for one flush of the disk a verb. ``lease_s``: how long a process
    may be silent before it is taken for dead, on file systems that have no locks to tell it.
    """

    path: Path
    timeout_s: float = 2.0
    lease_s: float = 15.0
    keep_days: float = 400.0
    synchronous: Synchronous = "normal"

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for name, lowest, highest in (("timeout_s", 0.01, 60), ("lease_s", 0.5, 3600), ("keep_days", 0, 36_500)):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise ConfigError(f"sqlite {name}={value:g} is out of range; give {lowest:g} to {highest:g}")
        if self.synchronous not in get_args(Synchronous):
            raise ConfigError(f"sqlite synchronous={self.synchronous!r} is unknown; choose normal or full")
        if self.lease_s < 5 * self.timeout_s:
            raise ConfigError(
                f"sqlite lease_s={self.lease_s:g} is too short beside timeout_s={self.timeout_s:g}; "
                "give five times that"
            )


def parse_url(url: str) -> SqliteOptions:
    """Read an address; ``ConfigError`` names what is wrong."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError(f"that is no address of a file; {_EXAMPLE}") from None
    if parts.scheme != "sqlite":
        raise ConfigError(f"sqlite scheme {parts.scheme + '://'!r} is unknown; {_EXAMPLE}")
    if parts.netloc:
        # The text is left out: what stands there may be a login.
        raise ConfigError(f"sqlite:// has a host, and a file has none: it takes three slashes; {_EXAMPLE}")
    if parts.fragment or "#" in url:
        raise ConfigError(f"sqlite address has a '#'; write %23 where it is part of the file's name; {_EXAMPLE}")
    path = unquote(parts.path[1:])
    if ":memory:" in path:
        raise ConfigError("sqlite:///:memory: would be gone with the process; write memory:// for books in memory")
    if not path or path.endswith("/"):
        raise ConfigError(f"sqlite address {parts.path!r} names no file; {_EXAMPLE}")
    if "\0" in path:
        raise ConfigError(f"sqlite path {path!r} has a zero byte; {_EXAMPLE}")
    # Whoever changes the directory later still has the same books; and so has who comes by a link.
    return SqliteOptions(path=Path(path).resolve(), **_query(parts.query))


def address_of(path: Path) -> str:
    """The address of a file, whatever signs are in its name."""
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def _query(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        read = _OPTIONS.get(name)
        if read is None:
            hint = did_you_mean(name, _OPTIONS)
            raise ConfigError(f"sqlite option {name!r} is unknown; there are {', '.join(_OPTIONS)}{hint}")
        if value == "":
            raise ConfigError(f"sqlite option {name!r} is empty; leave it out or give a value")
        try:
            found[name] = read(value)
        except ValueError:
            raise ConfigError(f"sqlite {name}={value!r} is no number") from None
    return found


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "timeout_s": float,
    "lease_s": float,
    "keep_days": float,
    "synchronous": str,
}
