"""Where outcomes go: two verbs, and a sink of them in memory.

Both are idempotent by kind and key. Revocations count for good and may come first: whether a rollback or the deployment
is heard of earlier makes no difference.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Protocol

from tokenmeter.forks import renew_in_child
from tokenmeter.ledger.views import Outcome
from tokenmeter.turn import Turn, in_turn

MOST: Final = 10_000


class Sink(Protocol):
    """Takes outcomes and revocations. A ledger that lasts is one."""

    def put_outcome(self, outcome: Outcome) -> object:
        """Keep an outcome; the second one of a kind and key changes nothing."""
        ...

    def revoke(self, kind: str, key: str, at_s: float, why: str) -> object:
        """Take an outcome back; the earliest revocation stands."""
        ...


class MemorySink:
    """Keeps in this process what it is told of the newest ``most`` outcomes. Safe for threads."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._turn = Turn()
        renew_in_child(self, "_turn", Turn)
        self._kept: dict[tuple[str, str], _Kept] = {}

    @in_turn
    def put_outcome(self, outcome: Outcome) -> bool:
        """Keep an outcome. False, and nothing is changed, if there is one of its kind and key."""
        kept = self._of(outcome.kind, outcome.key)
        if kept.outcome is not None:
            return False
        kept.outcome = replace(outcome, revoked_s=None, revoked_why=None)
        if outcome.revoked_s is not None:
            kept.revoke(outcome.revoked_s, outcome.revoked_why or "")
        return True

    @in_turn
    def revoke(self, kind: str, key: str, at_s: float, why: str | None = None) -> bool:
        """Take an outcome back, also before it is known; the earliest counts. False if it was taken back before."""
        return self._of(kind, key).revoke(at_s, why or "")

    @in_turn
    def outcomes(self) -> tuple[Outcome, ...]:
        """All outcomes, with what is known of their revocation, in the order of their kinds and keys."""
        found = []
        for _, kept in sorted(self._kept.items()):
            if kept.outcome is not None:
                at_s, why = kept.revoked or (None, None)
                found.append(replace(kept.outcome, revoked_s=at_s, revoked_why=why))
        return tuple(found)

    def _of(self, kind: str, key: str) -> _Kept:
        kept = self._kept.setdefault((kind, key), _Kept())
        while len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]
        return kept


class _Kept:
    """What is known under one name."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.revoked: tuple[float, str] | None = None

    def revoke(self, at_s: float, why: str) -> bool:
        before, told = self.revoked, (at_s, why)
        self.revoked = min(before or told, told)
        return before is None
