"""Where outcomes go: two verbs, and a sink of them in memory.

Both are idempotent by kind and key. Revocations count for good and may come first: whether a rollback or the deployment
is heard of earlier makes no difference.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Protocol

from tokenmeter.ledger.views import Outcome


class Sink(Protocol):
    """Takes outcomes and revocations. A ledger that lasts is one."""

    def put_outcome(self, outcome: Outcome) -> object:
        """Keep an outcome; the second one of a kind and key changes nothing."""
        ...

    def revoke(self, kind: str, key: str, at_s: float, why: str) -> object:
        """Take an outcome back; the earliest revocation stands."""
        ...


class MemorySink:
    """Keeps outcomes in this process. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        self._revoked: dict[tuple[str, str], tuple[float, str]] = {}

    def put_outcome(self, outcome: Outcome) -> bool:
        """Whether it is new."""
        name = outcome.kind, outcome.key
        with self._lock:
            if name in self._outcomes:
                return False
            self._outcomes[name] = replace(outcome, revoked_s=None, revoked_why=None)
            if outcome.revoked_s is not None:
                self._revoke(name, outcome.revoked_s, outcome.revoked_why or "")
            return True

    def revoke(self, kind: str, key: str, at_s: float, why: str) -> bool:
        """Whether an outcome of that name is known by now."""
        with self._lock:
            self._revoke((kind, key), at_s, why)
            return (kind, key) in self._outcomes

    def outcomes(self) -> tuple[Outcome, ...]:
        """All outcomes, with what is known of their revocation, in the order of their kinds and keys."""
        with self._lock:
            found = dict(self._outcomes)
            for name, (at_s, why) in self._revoked.items():
                if name in found:
                    found[name] = replace(found[name], revoked_s=at_s, revoked_why=why)
            return tuple(found[name] for name in sorted(found))

    def _revoke(self, name: tuple[str, str], at_s: float, why: str) -> None:
        self._revoked[name] = min(self._revoked.get(name, (at_s, why)), (at_s, why))
