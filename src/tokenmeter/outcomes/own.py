"""One person's own figures, for that person: there is no call that answers for several."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tokenmeter.ledger.views import HourSum
from tokenmeter.outcomes.judging import Judged
from tokenmeter.outcomes.normalized import unit_cost
from tokenmeter.outcomes.people import same


@dataclass(frozen=True, slots=True)
class Own:
    """What somebody spent, what came of it, and what of it doesn't count and why."""

    user: str
    nanos: int
    calls: int
    micros: int
    apart: tuple[Judged, ...]

    @property
    def unit_nanos(self) -> int | None:
        """What a unit costs; None where nothing was accepted."""
        return unit_cost(self.nanos, self.micros)


def own_figures(user: str, hours: Iterable[HourSum], judged: Iterable[Judged]) -> Own:
    """The figures of one user. Who asks must be that user: see to it where this is offered."""
    nanos = calls = micros = 0
    for hour in hours:
        if same(hour.user, user):
            nanos += hour.nanos
            calls += hour.calls
    apart = []
    for each in judged:
        micros += sum(credit.micros for credit in each.credits if same(credit.claimant[1], user))
        if each.verdict != "counted" and same(each.outcome.user, user):
            apart.append(each)
    return Own(user, nanos, calls, micros, tuple(apart))
