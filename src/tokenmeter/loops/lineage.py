"""Where a run comes from, as one short text that crosses to another process: root, run, depth and the agents' path.

    1.ROOT.RUN.DEPTH.ISSUED.PATH            and, where a key is given,   .KEYID.MAC

Every field is URL-safe, so the text stands in a header, in W3C baggage and in JSON as it is. The root's and the run's
ids are quoted, names of the path are quoted and joined by ``~``, of a long path only the outermost and the last agents
are kept (the depth is that of the whole path). With a key it ends in an HMAC-SHA256 over all before it: what was forged
or altered is found out, and taken for no lineage at all.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import quote, unquote

from msgspec import Struct

from tokenmeter.errors import ConfigError

MAX_CHARS: Final = 2_048
MAX_PATH: Final = 16
MAX_DEPTH: Final = 1_000_000
MAX_NAME_CHARS: Final = 256

_VERSION: Final = "1"
_MAC_CHARS: Final = 43
_MAX_QUOTED_CHARS: Final = 512
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,11}")
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_SAFE: Final = re.compile(r"[A-Za-z0-9._~-]+")

Verdict = Literal["none", "trusted", "unsigned", "forged", "unknown key", "expired", "garbled"]


class Lineage(Struct, frozen=True):
    """A run that may stand within others."""

    root: str  # the run at the very beginning
    run: str  # the run that calls
    depth: int = 0  # how many agents are nested, those included that the path has no room for
    path: tuple[str, ...] = ()  # the agents from the outermost in, at most 16
    issued_s: int = 0  # when it was written, in seconds since the epoch

    @property
    def agent(self) -> str | None:
        """The agent that calls."""
        return self.path[-1] if self.path else None


class Keys:
    """The keys that sign and verify: the first signs, all verify, so that a key can be replaced without a gap.

    To rotate: add the new key at the end everywhere; then put it first everywhere; then take the old one away.
    """

    __slots__ = ("_keys", "_signs_with")

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise ConfigError('keys is empty; give at least one, such as {"2026-11": secrets.token_bytes(32)}')
        for key_id, key in keys.items():
            if not isinstance(key_id, str) or _KEY_ID.fullmatch(key_id) is None:
                raise ConfigError(f"keys names {key_id!r}; a name has 1 to 32 letters, digits, '-' and '_'")
            if not isinstance(key, bytes) or len(key) < 16:
                raise ConfigError(f"keys[{key_id!r}] has less than 16 bytes; give 32 from secrets.token_bytes(32)")
        self._keys = {key_id: hmac.new(key, b"tokenmeter.lineage\n", hashlib.sha256) for key_id, key in keys.items()}
        self._signs_with = next(iter(keys))

    def __repr__(self) -> str:
        return f"Keys({', '.join(self._keys)})"

    def sign(self, text: str) -> str:
        """The text with the name of the key and the code behind it."""
        signed = f"{text}.{self._signs_with}"
        return f"{signed}.{self._code(self._signs_with, signed)}"

    def knows(self, key_id: str) -> bool:
        """Whether a key of this name verifies."""
        return key_id in self._keys

    def verifies(self, signed: str, key_id: str, code: str) -> bool:
        """Whether the code belongs to the text; takes as long whether it does or not."""
        return hmac.compare_digest(self._code(key_id, signed), code)

    def _code(self, key_id: str, text: str) -> str:
        mac = self._keys[key_id].copy()
        mac.update(text.encode("ascii"))
        return urlsafe_b64encode(mac.digest()).rstrip(b"=").decode()


def encode(lineage: Lineage, keys: Keys | None = None) -> str:
    """The lineage as a text of at most 2,048 characters; agents in the middle of the path are left out to fit."""
    kept = MAX_PATH
    while True:
        path = "~".join(_quoted(name) for name in shortened(lineage.path, kept))
        head = f"{_VERSION}.{_quoted(lineage.root)}.{_quoted(lineage.run)}"
        text = f"{head}.{max(lineage.depth, len(lineage.path))}.{int(lineage.issued_s)}.{path}"
        signed = text if keys is None else keys.sign(text)
        if len(signed) <= MAX_CHARS or kept == 0:
            return signed
        kept //= 2


def decode(
    text: str, keys: Keys | None = None, now_s: float | None = None, max_age_s: float | None = None
) -> tuple[Lineage | None, Verdict]:
    """Read a text that came from outside. Never raises.

    With keys, only what one of them signed is a lineage. Without, a signed one is read as if it were not signed.
    """
    if len(text) > MAX_CHARS or _SAFE.fullmatch(text) is None:
        return None, "garbled"
    parts = text.split(".")
    if len(parts) not in {6, 8}:
        return None, "garbled"
    verdict: Verdict = "unsigned"
    if keys is not None:
        if len(parts) != 8:
            return None, "unsigned"
        key_id, code = parts[6:]
        if not keys.knows(key_id):
            return None, "unknown key"
        if len(code) != _MAC_CHARS or not keys.verifies(text[: -len(code) - 1], key_id, code):
            return None, "forged"
        verdict = "trusted"
    lineage = _read(parts)
    if lineage is None:
        return None, "garbled"
    if now_s is not None and max_age_s is not None and abs(now_s - lineage.issued_s) > max_age_s:
        return None, "expired"
    return lineage, verdict


def shortened(path: tuple[str, ...], most: int = MAX_PATH) -> tuple[str, ...]:
    """A path of at most that many agents: the outermost quarter, and the last."""
    if len(path) <= most:
        return path
    outer = most // 4
    inner = most - outer
    return path[:outer] + path[len(path) - inner :] if inner else ()


def _read(parts: list[str]) -> Lineage | None:
    version, root, run, depth, issued, path = parts[:6]
    if version != _VERSION or not root or not run or _NUMBER.fullmatch(depth) is None:
        return None
    if _NUMBER.fullmatch(issued) is None or int(depth) > MAX_DEPTH:
        return None
    try:
        names = tuple(_unquoted(name) for name in path.split("~")) if path else ()
        ids = _unquoted(root), _unquoted(run)
    except UnicodeDecodeError:
        return None
    if len(names) > MAX_PATH or len(names) > int(depth) or not all(names):
        return None
    if max(map(len, (*names, *ids))) > MAX_NAME_CHARS:
        return None
    return Lineage(ids[0], ids[1], int(depth), names, int(issued))


def _unquoted(text: str) -> str:
    return unquote(text.replace("-", "%"), errors="strict")


def _quoted(name: str) -> str:
    """A name without the marks that stand between the fields; a long one is cut and stays a name of its own."""
    quoted = quote(name, safe="", errors="replace")
    for mark in "-.~":
        quoted = quoted.replace(mark, f"%{ord(mark):02X}")
    quoted = quoted.replace("%", "-")  # libraries that carry baggage quote a % once more
    if len(quoted) <= _MAX_QUOTED_CHARS and len(name) <= MAX_NAME_CHARS:
        return quoted
    digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:16]
    return f"{_quoted(name[:16])}_{digest}"
