"""Where the books are kept: the verbs every store offers, each of them atomic.

A hold reserves the worst case of a call; a settle turns it into what the call did cost, exactly once.
Nobody reads a balance and writes it back. The caller chose the ``hold_id``, fresh for each call, and so can
always clean up: when an exception comes out of ``hold``, ``queue`` or a ticket's wait, ``release(hold_id)``
gives back whatever it got to.

What a store that lasts adds: a hold knows whether its request was sent, so that the hold of a process that
died is given back when it was not, and charged when it was, until a late settle corrects it. Each charge is
written to the ledger in the same step as to the books: ``posted = Σ charges of the entries``, for every book.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from tokenmeter.budgets.policy import Claim


class State(NamedTuple):
    """One book: what is settled, what calls under way hold, and the limit; in the unit of its budget.

    ``limit`` is what the claims say and the grants that are in force add.
    """

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


class Short(Struct, frozen=True):
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

    @property
    def in_the_way(self) -> list[tuple[Claim, int]]:
        """The claims that can't be met, and what each could get: what others hold too, where the budget is spent out.

        For those holds are waited for.
        """
        room = self.if_settled if self.spent_out else self.available
        pairs = zip(self.claims, room, strict=True)
        return [(claim, left) for claim, left in pairs if claim.enforce and claim.amount > left]


class Settled(NamedTuple):
    """What a charge did, per claim: the book after it, and by how much it changed what is posted.

    ``added`` differs from the amounts where a late settle corrects what was charged by estimate, and is zero where
    the charge is yet to be drawn from a lease: the draw tells then what it changed.
    """

    states: tuple[State, ...]
    added: tuple[int, ...]


class Drawn(NamedTuple):
    """What a draw did to one book: the book after it, and by how much it changed what is posted."""

    key: str
    state: State
    added: int


class Entry(NamedTuple):
    """One line of the ledger: ``charges`` by the key of the book; ``row`` is whatever was given with it."""

    id: str
    charges: tuple[tuple[str, int], ...]
    row: bytes


class Book(NamedTuple):
    """One book, with what is needed to show it. ``leased`` is the part of ``state.held`` that leases hold."""

    key: str
    budget: str
    scope: str
    unit: str
    resets_at: float | None
    state: State
    leased: int = 0


class Grant(NamedTuple):
    """An increase of a limit: never changed, ends by itself, and says why and by whom.

    ``account`` is the key of a book without its window (`account_of`): the grant raises the limit of each
    window until ``expires_at_s``.
    """

    id: str
    account: str
    amount: int
    at_s: float
    expires_at_s: float
    reason: str
    by: str


class Pause(NamedTuple):
    """A stop for ``target``: ``all``, ``agent=NAME``, ``user=NAME`` or ``team=NAME``."""

    target: str
    at_s: float
    reason: str
    by: str


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


Note = Callable[[], bytes]


class Store(Protocol):
    """The books. All verbs may be called from any thread, and ``settle`` and ``release`` from a finalizer.

    A verb that can't reach the books raises `StoreUnavailable`, and what it would have done is either done
    or not done: the caller may try again with the same id.
    """

    instant: bool
    """Whether no verb ever waits for a disk, a lock of another process, or a network."""

    keeps_rows: bool
    """Whether rows that are given to it last."""

    def hold(self, hold_id: str, claims: Sequence[Claim], now_s: float, note: Note | None = None) -> Held | Short:
        """Hold all claims or none.

        Admitted is what keeps ``posted + held + amount ≤ limit`` for every enforced claim, and doesn't
        overtake a caller that waits for one of the same books. The claims' keys are distinct; raises
        ``ValueError`` if not, or if the id is in use. ``note`` gives the row to write should this process
        die after the request was sent.
        """
        ...

    def queue(
        self, hold_id: str, claims: Sequence[Claim], now_s: float, note: Note | None = None
    ) -> Held | Short | Ticket:
        """Like ``hold``; where only other calls stand in the way, a ticket: first come, first served."""
        ...

    def sent(self, hold_id: str) -> bool:
        """Note that the request goes out now. False: the hold is gone, because this process was taken for dead."""
        ...

    def settle(self, hold_id: str, amounts: Sequence[int], row: bytes = b"") -> Settled | None:
        """Turn a hold into what was spent, per claim, be it more than was held. None if it was settled before.

        A hold that was charged by estimate, because its process was taken for dead, is corrected.
        """
        ...

    def release(self, hold_id: str) -> bool:
        """Give a hold or a place in the queue back, with nothing spent. True the first time only."""
        ...

    def adjust(self, hold_id: str, amounts: Sequence[int]) -> Held | Short:
        """Change what a hold holds, per claim: less always, more if it is admissible.

        Short: it stays as it was. Raises ``LookupError`` when no such hold stands.
        """
        ...

    def post(self, entry_id: str, claims: Sequence[Claim], amounts: Sequence[int], row: bytes = b"") -> Settled | None:
        """Charge what was spent, hold or no hold, exactly once by its id: None if it was charged before.

        A hold of that id is settled by it. Ids of entries and of holds are of one kind.
        """
        ...

    def draw(self, hold_ids: Sequence[str], entries: Sequence[Entry]) -> tuple[Drawn, ...]:
        """Charge entries out of holds that go on: each charge lessens the hold that has its book.

        Exactly once by the id of the entry. What exceeds the hold is charged all the same. What is returned is in the
        order in which it was done; a book comes once for each step that the store took, of a hundred entries or more.
        Nothing is returned where it is left to be done later.
        """
        ...

    def write(self, entries: Sequence[Entry]) -> None:
        """Write rows that charge nothing, exactly once by their id."""
        ...

    def read(self, keys: Iterable[str]) -> tuple[State, ...]:
        """The books of these keys; one never charged reads ``State(0, 0, 0)``: its limit is unknown."""
        ...

    def books(self) -> list[Book]:
        """Every book that is kept."""
        ...

    def entries(self, after: str = "") -> Iterator[tuple[str, Entry]]:
        """The ledger from the oldest on, with the mark of each; ``after`` a mark: only what is younger."""
        ...

    def grant(self, grant: Grant) -> None:
        """Raise a limit; harmless when done twice with the same id."""
        ...

    def grants(self) -> list[Grant]:
        """The grants, those that ended too."""
        ...

    def pause(self, pause: Pause) -> None:
        """Stop a target; every process obeys within a second."""
        ...

    def resume(self, target: str) -> bool:
        """Undo a pause. False if there was none."""
        ...

    def pauses(self) -> list[Pause]:
        """The pauses that are in force."""
        ...

    def recover(self) -> int:
        """End the holds of processes that are gone; how many. Verbs that find no room do it by themselves."""
        ...

    def time_s(self) -> float:
        """The time by the clock that the store goes by, in seconds since the epoch."""
        ...

    def close(self) -> None:
        """Send those who wait away and let go of what the store has open."""
        ...


def account_of(key: str) -> str:
    """The key of a book without its window."""
    return key.rpartition("|")[0]


def in_use(hold_id: str) -> ValueError:
    """What is raised where a hold of that id stands already."""
    return ValueError(f"hold id {hold_id!r} is in use; choose a fresh one for each call")
