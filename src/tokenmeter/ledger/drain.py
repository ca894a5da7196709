"""From a store's entries into a ledger: each once, whoever drains, however often he is killed.

A piece of the store is written together with the mark of where it ends, in one transaction that only succeeds if the
mark still is where the piece begins. So several may drain at a time: who was slower finds the mark moved, and goes on
from there. Beside that an entry counts once by its id, should a store be known by two names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice

import msgspec

from tokenmeter.budgets import Entry, Store
from tokenmeter.ledger.ledger import Ledger, Mark, Moved, Step
from tokenmeter.record import DIED, CallRecord, decode
from tokenmeter.usage import Usage

ENTRIES_A_STEP = 1_000
UNREADABLE = "UnreadableRow"


@dataclass(frozen=True, slots=True)
class Drained:
    """What one pass did. ``entries``: read here and written, by ``rows`` new calls and ``corrected`` estimates.

    ``bare``: entries whose row is missing or can't be read; their money is kept as nobody's. ``lost``: pieces that
    another drainer wrote first. ``anew``: the store was replaced by another one, which was read from its beginning.
    """

    entries: int = 0
    rows: int = 0
    corrected: int = 0
    bare: int = 0
    lost: int = 0
    anew: bool = False
    mark: str = ""


def drain(
    store: Store,
    ledger: Ledger,
    *,
    source: str | None = None,
    entries_a_step: int = ENTRIES_A_STEP,
    progress: Callable[[Drained], None] | None = None,
) -> Drained:
    """Write all that the store has and the ledger hasn't.

    ``source`` names the store in the ledger; it must stay the same. Raises `StoreUnavailable` when either can't be
    reached: what was written by then is, and the next drain goes on from there.
    """
    source = source_of(store) if source is None else source
    done = Drained()
    while True:
        before = ledger.mark(source)
        entries, anew = _beyond(store, before)
        done = replace(done, anew=done.anew or anew, mark=before.mark)
        try:
            while piece := list(islice(entries, entries_a_step)):
                rows = [row for mark, entry in piece if (row := _row(store, mark, entry)) is not None]
                after = Mark(piece[-1][0], piece[-1][1].id)
                added = ledger.add_step([(call_id, record) for call_id, record, _ in rows], Step(source, before, after))
                before = after
                done = replace(
                    done,
                    entries=done.entries + len(piece),
                    rows=done.rows + added.rows,
                    corrected=done.corrected + added.corrected,
                    bare=done.bare + sum(is_bare for _, _, is_bare in rows),
                    mark=after.mark,
                )
                if progress is not None:
                    progress(done)
        except Moved:
            done = replace(done, lost=done.lost + 1)
            continue
        return done


def source_of(store: Store) -> str:
    """The name of a store in a ledger: its address without what may be secret."""
    options = getattr(store, "options", None)
    path = getattr(options, "path", None)
    if path is not None:
        return f"sqlite:///{path}"
    address = getattr(options, "address", None)
    if address is None:
        raise ValueError(f"{type(store).__name__} has no address; give a source= that names it")
    return f"{address}?tenant={getattr(options, 'tenant', '')}"


def _beyond(store: Store, mark: Mark) -> tuple[Iterator[tuple[str, Entry]], bool]:
    """What lies beyond a mark; all of it, and True, where the store is not the one that the mark is of.

    A file that was replaced counts its entries from one again, and the mark would hide the first of them.
    """
    if not mark.mark.isdecimal():  # a server's go by the time, and a mark of yesterday hides nothing of today
        return store.entries(mark.mark), False
    entries = store.entries(str(int(mark.mark) - 1))
    first = next(entries, None)
    if first is None or (first[0] == mark.mark and first[1].id != mark.anchor):
        # A file keeps its youngest entry: where there is none at the mark or beyond, it never was there.
        return store.entries(), True
    return (entries if first[0] == mark.mark else chain([first], entries)), False


def _row(store: Store, mark: str, entry: Entry) -> tuple[str, CallRecord, bool] | None:
    """The call of an entry, and whether it had to be made up; None of one that says nothing."""
    if entry.row:
        try:
            return entry.id, decode(entry.row), False
        except (msgspec.DecodeError, UnicodeDecodeError):
            return entry.id, _made_up(store, mark, entry, UNREADABLE), True
    if not entry.charges:
        return None
    return entry.id, _made_up(store, mark, entry, DIED), True


def _made_up(store: Store, mark: str, entry: Entry, error_type: str) -> CallRecord:
    """A record for money whose row is missing, as of a lease whose process died: nobody's, and an estimate.

    Each budget that a call falls under is charged with all of it, so that the largest charge is what was spent.
    """
    spent = [amount for key, amount in entry.charges if key.startswith("usd ")]
    nothing = not any(amount for _, amount in entry.charges)
    time_ms = mark.partition("-")[0]
    return CallRecord(
        id=entry.id,
        at_s=int(time_ms) / 1000 if "-" in mark else store.time_s(),
        duration_s=0.0,
        agent=None,
        user=None,
        team=None,
        run=None,
        path=(),
        tags={},
        provider="",
        operation="",
        model=None,
        response_model=None,
        response_id=None,
        stream=False,
        status="incomplete",
        error_type=error_type,
        http_status=None,
        finish_reasons=(),
        usage=None if nothing else Usage({}, estimated=True),
        cost_nanos=None if nothing else max(spent, default=None),
        price_source=None,
        estimated=not nothing,
        output_cap=None,
        warned=(),
        host="",
        port=None,
    )
