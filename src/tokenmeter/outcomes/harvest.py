"""What an importer brings home: outcomes, revocations, and what it left out and why."""

from __future__ import annotations

from dataclasses import dataclass

from tokenmeter.ledger.views import Outcome
from tokenmeter.outcomes.kinds import check_revocation
from tokenmeter.outcomes.sink import Sink


@dataclass(frozen=True, slots=True)
class Revocation:
    """An outcome that is taken back: rolled back, reopened, reverted.

    Raises:
        ConfigError: a name that no outcome can have, or a time or a reason that makes no sense.
    """

    kind: str
    key: str
    at_s: float
    why: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "at_s", check_revocation(self.kind, self.key, self.at_s, self.why))


@dataclass(frozen=True, slots=True)
class Harvest:
    """The yield of one import. Importing the same again changes nothing."""

    outcomes: tuple[Outcome, ...] = ()
    revocations: tuple[Revocation, ...] = ()
    left_out: tuple[str, ...] = ()

    def pour(self, sink: Sink) -> None:
        """Write it all to a sink."""
        for outcome in self.outcomes:
            sink.put_outcome(outcome)
        for each in self.revocations:
            sink.revoke(each.kind, each.key, each.at_s, each.why)
