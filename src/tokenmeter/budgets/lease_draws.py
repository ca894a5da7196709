"""What was spent on leases, on its way to the store: drawn a few dozen at a time, the oldest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from tokenmeter.budgets.journal import Journal
from tokenmeter.budgets.journal_lines import Draw
from tokenmeter.budgets.lease_slices import PATIENCE_S
from tokenmeter.budgets.lease_sums import LeaseSums, Slice
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Drawn, Entry, Settled, Store
from tokenmeter.errors import StoreUnavailable
from tokenmeter.faults import swallow

_DRAWN_AT_ONCE = 100  # what every store does in one step, so that either all of it is known or nothing


class Draws:
    """Tells the store what was spent. ``heard`` is told whether the store answered."""

    def __init__(self, store: Store, journal: Journal, sums: LeaseSums, heard: Callable[[bool], object]) -> None:
        self._store = store
        self._journal = journal
        self._sums = sums
        self._heard = heard

    def draw(self) -> tuple[Sequence[Claim], Settled] | None:
        """Tell the store what was spent: the oldest of it. What that did to the books; None: it can't be told now."""
        draws, leases = self._next_draws()
        if not draws:
            return (), Settled((), ())
        parts = [self._sums.by_id[lease_id] for lease_id in sorted(leases)]
        drawn = self._with_all(parts, partial(self._draw, parts, leases, draws))
        if drawn is None:
            return None
        self._journal.drop([line for draw in draws if (line := self._journal.get(draw.id)) is not None])
        claims = {part.claim.key: part.claim for part in parts}
        settled = Settled(tuple([each.state for each in drawn]), tuple([each.added for each in drawn]))
        return [claims[each.key] for each in drawn], settled

    def _with_all(self, parts: Sequence[Slice], work: Callable[[], Sequence[Drawn] | None]) -> Sequence[Drawn] | None:
        """Do it with the ``io`` of all of them."""
        for part in parts:
            work = partial(part.io.take, work, None, PATIENCE_S)
        return work()

    def _draw(self, parts: Sequence[Slice], leases: Sequence[str], draws: Sequence[Draw]) -> Sequence[Drawn] | None:
        try:
            drawn = self._tell(leases, draws)
        except StoreUnavailable:
            self._heard(False)
            for part in parts:
                part.doubt = True  # it may be done
            return None
        self._heard(True)
        self._sums.drawn(draws)
        return drawn

    def _next_draws(self) -> tuple[list[Draw], list[str]]:
        """The oldest draws, and the leases to draw them from: one for each book."""
        draws: list[Draw] = []
        leases: dict[str, str] = {}
        for draw in list(self._sums.undrawn.values()):
            pairs = [(key, lease_id) for lease_id, (key, _) in zip(draw.holds, draw.charges, strict=True)]
            if len(draws) == _DRAWN_AT_ONCE or any(leases.get(key, lease_id) != lease_id for key, lease_id in pairs):
                break
            leases.update(pairs)
            draws.append(draw)
        return draws, list(leases.values())

    def _tell(self, leases: Sequence[str], draws: Sequence[Draw]) -> Sequence[Drawn]:
        try:
            return self._store.draw(leases, [Entry(draw.id, draw.charges, draw.row) for draw in draws])
        except StoreUnavailable:
            raise
        except Exception as fault:  # noqa: BLE001 - what the store won't take must not stand before all others
            if len(draws) == 1:
                swallow(fault, "drawing from a lease")
                return ()
            return [drawn for draw in draws for drawn in self._tell(leases, [draw])]
