"""How a lineage travels: as one entry of W3C baggage in the headers of a request, or in the ``_meta`` of an MCP call.

A carrier is any mapping of names to text. Headers are found without regard to case, as mappings and as the list of
pairs that ASGI has, in bytes or text. The baggage of others is kept as it is. What comes in is never trusted to be one,
or whole, or in order: of several lineages, the deepest that is good counts, so that none that is added, doubled or put
elsewhere makes a run look less deep than it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final

from msgspec import Struct

from tokenmeter.loops.lineage import Keys, Lineage, Verdict, decode, encode

BAGGAGE: Final = "baggage"
KEY: Final = "tokenmeter.lineage"
MAX_BAGGAGE_CHARS: Final = 8_192  # as the W3C recommendation has it
_MOST_ENTRIES: Final = 180
_MOST_TRIED: Final = 8
_ENVIRON_KEY: Final = "HTTP_BAGGAGE"

Carrier = Mapping[Any, Any] | Iterable[tuple[Any, Any]]


class Arrival(Struct, frozen=True):
    """What a carrier brought: a lineage or none, and why."""

    lineage: Lineage | None
    verdict: Verdict
    rejected: tuple[Verdict, ...] = ()  # what else was there that called itself a lineage

    @property
    def suspicious(self) -> bool:
        """Whether something called itself a lineage and was refused; it ought to be reported."""
        return bool(self.rejected) or (self.lineage is None and self.verdict != "none")


def inject(carrier: MutableMapping[str, Any], lineage: Lineage, keys: Keys | None = None) -> None:
    """Write a lineage into headers, or any mapping, beside the baggage that is there."""
    name = next((key for key in carrier if isinstance(key, str) and key.lower() == BAGGAGE), BAGGAGE)
    carrier[name] = merged(_joined(carrier.get(name)), encode(lineage, keys))


def extract(
    carrier: Carrier, keys: Keys | None = None, now_s: float | None = None, max_age_s: float | None = None
) -> Arrival:
    """Read a lineage from headers, an ASGI list of pairs, a WSGI environ, an MCP request's ``_meta`` or ``params``.

    Never raises. A lineage that is forged, altered or garbled counts as none, and the verdict says which it was.
    """
    best: Lineage | None = None
    verdict: Verdict = "none"
    rejected: list[Verdict] = []
    for text in _lineages(carrier):
        lineage, found = decode(text, keys, now_s, max_age_s)
        if lineage is None:
            rejected.append(found)
        elif best is None or _rank(lineage) > _rank(best):
            best, verdict = lineage, found
    if best is None and rejected:
        return Arrival(None, rejected[0], tuple(rejected[1:]))
    return Arrival(best, verdict, tuple(rejected))


def merged(baggage: str, lineage: str) -> str:
    """Baggage with the lineage at its front and no other lineage in it; entries that no longer fit are left out."""
    entries = [f"{KEY}={lineage}"]
    length = len(entries[0])
    for entry in baggage.split(",") if baggage else ():
        kept = entry.strip()
        if not kept or _key(kept) == KEY:
            continue
        if length + 1 + len(kept) > MAX_BAGGAGE_CHARS or len(entries) == _MOST_ENTRIES:
            break
        entries.append(kept)
        length += 1 + len(kept)
    return ",".join(entries)


def without(baggage: str) -> str:
    """Baggage without any lineage: what may go to a model provider."""
    return ",".join(entry for entry in baggage.split(",") if _key(entry) != KEY)


def _rank(lineage: Lineage) -> tuple[object, ...]:
    """The deepest first; among equals an order that doesn't depend on where they stood."""
    return lineage.depth, len(lineage.path), -lineage.issued_s, lineage.root, lineage.run, lineage.path


def _lineages(carrier: Carrier) -> list[str]:
    found: list[str] = []
    for baggage in _baggages(carrier):
        for entry in baggage[: 2 * MAX_BAGGAGE_CHARS].split(","):
            if _key(entry) == KEY and len(found) < _MOST_TRIED:
                value = entry.partition("=")[2].partition(";")[0].strip()
                if value not in found:
                    found.append(value)
    return found


def _baggages(carrier: Carrier) -> list[str]:
    """Every value of a carrier that is named baggage."""
    found: list[str] = []
    try:
        if isinstance(carrier, Mapping):
            pairs: Iterable[Any] = carrier.items()
        else:
            pairs = carrier
        for key, value in pairs:
            if isinstance(value, Mapping) and key in {"_meta", "params"}:
                found += _baggages(value)
            name = _text(key)
            if name.lower() == BAGGAGE or name == _ENVIRON_KEY:
                found.append(_joined(value))
    except (TypeError, ValueError, RecursionError):
        pass
    return found


def _joined(value: Any) -> str:
    """The values of a header, in one line."""
    if isinstance(value, str | bytes):
        return _text(value)
    if isinstance(value, list | tuple):
        return ",".join(_text(each) for each in value)
    return ""


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""


_SPACES: Final = re.compile(r"^\s*([^=;\s]*)\s*=")


def _key(entry: str) -> str:
    found = _SPACES.match(entry)
    return found[1] if found else ""
