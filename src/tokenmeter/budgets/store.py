"""Where the books are kept: the verbs every store offers, each of them atomic.

A hold reserves the worst case of a call; a settle turns it into what the call did cost, exactly once.
Nobody reads a balance and writes it back. The caller chose the ``hold_id``, fresh for each call, and so can
always clean up: when an exception comes out of ``hold``, ``queue`` or a ticket's wait, ``release(hold_id)``
gives back whatever it got to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tokenmeter.budgets.policy import Claim


class State(NamedTuple):
    """One book: what is settled, what calls under way hold, and the limit; in the unit of its budget."""

    posted: int
    held: int
    limit: int

    @property
    def left(self) -> int:
        """What a new call could hold."""
        return max(0, self.limit - self.posted - self.held)


class Held(NamedTuple):
    """The call may go out.

    ``states``: the book of each claim, this hold included. ``warned``: the claims that aren't enforced and
    would have been refused. A budget per call has no book to share: its state tells this call's amount alone.
    """

    states: tuple[State, ...]
    warned: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Short:
    """The call may not go out, and nothing is held for it.

    ``claim`` is the first of ``claims`` that can't be met, spent out ones before those that are only held;
    ``state`` is its book. ``spent_out``: what is posted leaves no room for the amount, so that waiting won't
    help; else only other calls' holds stand in the way, or callers that came first. Per claim: ``available``
    is what a hold could get now (nothing where others wait already), ``if_settled`` what is left beside the
    holds, below zero when the book is overspent.
    """

    claims: tuple[Claim, ...]
    claim: Claim
    state: State
    spent_out: bool
    available: tuple[int, ...]
    if_settled: tuple[int, ...]


class Ticket(Protocol):
    """A place in the queue. The hold is made for its owner the moment that it fits, and it is then his.

    Both ways of waiting return Held, or Short when the time is over or the budget is spent out. When they
    raise (cancelled, interrupted), or when the ticket is dropped, the place is given up and a hold made in
    the race is released. A window may end meanwhile, and the claims speak of the old one: wait no longer
    than that.
    """

    def wait(self, timeout_s: float) -> Held | Short:
        """Wait on this thread."""
        ...

    async def wait_async(self, timeout_s: float) -> Held | Short:
        """Wait as a task of asyncio. Under another event loop there is no waiting: Short at once."""
        ...


class Store(Protocol):
    """The books. All verbs may be called from any thread, and ``settle`` and ``release`` from a finalizer."""

    def hold(self, hold_id: str, claims: Sequence[Claim], now_s: float) -> Held | Short:
        """Hold all claims or none.

        Admitted is what keeps ``posted + held + amount ≤ limit`` for every enforced claim, and doesn't
        overtake a caller that waits for one of the same books. The claims' keys are distinct; raises
        ``ValueError`` if not, or if the id is in use.
        """
        ...

    def queue(self, hold_id: str, claims: Sequence[Claim], now_s: float) -> Held | Short | Ticket:
        """Like ``hold``; where only other calls stand in the way, a ticket: first come, first served."""
        ...

    def settle(self, hold_id: str, amounts: Sequence[int]) -> bool:
        """Turn a hold into what was spent, per claim, be it more than was held. True the first time only."""
        ...

    def release(self, hold_id: str) -> bool:
        """Give a hold or a place in the queue back, with nothing spent. True the first time only."""
        ...

    def adjust(self, hold_id: str, amounts: Sequence[int]) -> Held | Short:
        """Change what a hold holds, per claim: less always, more if it is admissible.

        Short: it stays as it was. Raises ``LookupError`` when no such hold stands.
        """
        ...

    def post(self, claims: Sequence[Claim], amounts: Sequence[int]) -> None:
        """Record what was spent without a hold."""
        ...

    def read(self, keys: Iterable[str]) -> tuple[State, ...]:
        """The books of these keys; one never charged reads ``State(0, 0, 0)``: its limit is unknown."""
        ...

    def states(self) -> list[tuple[str, State]]:
        """Every book that is kept."""
        ...

    def close(self) -> None:
        """Send those who wait away and let go of what the store has open."""
        ...
