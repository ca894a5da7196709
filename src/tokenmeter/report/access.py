"""Who may read the served report: anybody on this machine, and from elsewhere whoever has the token.

The name that a browser asked for is looked at too: a page of another site may have its own name lead to this machine,
and would read what is here. An address in figures can't be such a name.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import urlsplit

from tokenmeter.errors import ConfigError

COOKIE: Final = "tokenmeter"
SHORTEST_TOKEN: Final = 16
_LONGEST: Final = 512


class Access:
    """What is asked of a request. ``token`` is None where none is needed."""

    def __init__(self, token: str | None, names: Iterable[str] = ()) -> None:
        if token is not None and len(token) < SHORTEST_TOKEN:
            raise ConfigError(f"the token has {len(token)} characters; give one of {SHORTEST_TOKEN} or more")
        self._token = None if token is None else _digest(token)
        self._session = secrets.token_urlsafe(32)
        self._names = frozenset({"localhost", *(name.casefold() for name in names)})

    @property
    def is_open(self) -> bool:
        """Whether no token is needed."""
        return self._token is None

    def knows_host(self, host: str | None) -> bool:
        """Whether the ``Host`` of a request is one of ours."""
        if not host or len(host) > _LONGEST:
            return False
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return name is not None and (name.casefold() in self._names or _is_address(name))

    def may_read(self, authorization: str | None, cookie: str | None) -> bool:
        """Whether a request shows the token, or the cookie that was given for it."""
        if self._token is None:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.casefold() == "bearer" and self.is_token(given.strip()):
            return True
        return hmac.compare_digest(_cookie(cookie).encode(), self._session.encode())

    def is_token(self, given: str) -> bool:
        """Whether that is the token; it takes as long whatever was given."""
        return self._token is not None and hmac.compare_digest(_digest(given[:_LONGEST]), self._token)

    def cookie(self) -> str:
        """The ``Set-Cookie`` for who has shown the token: for this process, and for no script."""
        return f"{COOKIE}={self._session}; HttpOnly; SameSite=Strict; Path=/"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is bound there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.casefold() == "localhost"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _cookie(header: str | None) -> str:
    try:
        found = SimpleCookie((header or "")[: 8 * _LONGEST]).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value
