"""The books in a file, for the processes of one machine: each verb is one transaction of SQLite.

What the file must be: on a disk of this machine, and not on a network drive, because processes share memory beside
it (``-wal`` and ``-shm``) and tell each other by locks that they live (the folder ``-owners``). A copy of it must be
made by ``sqlite3 FILE .backup``, or while nobody uses it.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from tokenmeter.budgets.lasting import Lasting, check_amounts, check_claims, check_id, raw, row_of
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.sqlite_charges import Charges
from tokenmeter.budgets.sqlite_desk import Connection, Desk, Nested
from tokenmeter.budgets.sqlite_holds import Gone, Holds, InUse
from tokenmeter.budgets.sqlite_owner import Owner
from tokenmeter.budgets.sqlite_url import SqliteOptions, parse_url
from tokenmeter.budgets.sqlite_views import SqliteViews, tidy
from tokenmeter.budgets.sqlite_words import Lines
from tokenmeter.budgets.store import Drawn, Entry, Held, Note, Settled, Short, State, in_use
from tokenmeter.errors import StoreUnavailable

_Answer = TypeVar("_Answer", Held | Short, Short)

_ENTRIES_A_DRAW = 100
_TIDY_S = 3600.0
_TIDY_ON_S = 1.0
_MAX_DOUBTS = 10_000
_MAX_MINE = 100_000


class SqliteStore(Lasting, SqliteViews):
    """Books in a file. A verb that finds the file locked waits ``timeout_s``, then it raises `StoreUnavailable`.

    Grants go by the clock of this machine. The instance is one process to the others; a forked child is another.
    The holds of a process that died are ended by whoever looks next. ``settle``, ``release``, ``post``, ``draw``
    and ``write`` from a finalizer that interrupted a verb are done when that verb ends.

    Books of windows are dropped a day after their end, those of runs when nobody used them for 30 days. An id that
    was charged is known as long as its entry is kept.
    """

    instant = False
    keeps_rows = True

    def __init__(self, options: SqliteOptions) -> None:
        self.options = options
        super().__init__(Desk(options))
        self._owner = Owner(options.path, options.lease_s, self._beat)
        self._holds = Holds(self._raises)
        self._charges = Charges(self._raises, self._owner.lives)
        self._lines = Lines()
        self._mine: dict[str, tuple[Sequence[Claim], tuple[State, ...], Note | None]] = {}
        self._doubts: dict[str, None] = {}
        self._tidy_at = 0.0
        _stores.add(self)
        self._meet()

    def _meet(self) -> None:
        """Look at the file: what can't be repaired by waiting is told at once."""
        with contextlib.suppress(StoreUnavailable):  # each verb tries again
            self.recover()
        self._desk.met = True

    # -- the verbs that a call needs

    def sent(self, hold_id: str) -> bool:
        """Note that the request goes out now, and the row to write if this process dies."""
        mine = self._mine.get(hold_id)
        hold, row = raw(hold_id), row_of(mine[2] if mine is not None else None)
        return self._desk.write(lambda db: Holds.sent(db, hold, row))

    def settle(self, hold_id: str, amounts: Sequence[int], row: bytes = b"") -> Settled | None:
        """Turn a hold into what was spent; None if it was settled before."""
        check_amounts(len(amounts), amounts)
        hold = raw(hold_id)
        try:
            settled = self._desk.write(lambda db: self._charges.settle(db, hold, amounts, row), ending=hold_id)
        except Nested:
            return self._settle_later(hold_id, amounts, row)
        self._ended(hold_id)
        return settled

    def adjust(self, hold_id: str, amounts: Sequence[int]) -> Held | Short:
        """Change what a hold holds: less always, more if it is admissible."""
        check_amounts(len(amounts), amounts)
        hold = raw(hold_id)
        try:
            answer = self._ask(lambda db: self._holds.adjust(db, hold, amounts, self._line.waited_for))
        except Gone:
            raise LookupError(f"no hold {hold_id!r} stands") from None
        if isinstance(answer, Held):
            self._line.stir()
        return answer

    def post(self, entry_id: str, claims: Sequence[Claim], amounts: Sequence[int], row: bytes = b"") -> Settled | None:
        """Charge what was spent, once; a hold of that id is settled by it."""
        check_amounts(len(claims), amounts)
        check_id(entry_id)
        entry = raw(entry_id)
        lines = self._lines(claims)
        try:
            if self._lines.fresh:
                self._tell_labels()
            settled = self._desk.write(lambda db: self._charges.post(db, entry, lines, amounts, row), ending=entry_id)
        except Nested:
            again = tuple(claims), tuple(amounts)
            if not self._desk.later(entry_id, lambda: self.post(entry_id, *again, row)):
                return None
            return Settled(tuple([State(spent, 0, claim.limit) for claim, spent in zip(*again, strict=True)]), again[1])
        self._ended(entry_id)
        return settled

    def draw(self, hold_ids: Sequence[str], entries: Sequence[Entry]) -> tuple[Drawn, ...]:
        """Charge entries out of holds that go on, each once; a hundred in one step."""
        for entry in entries:
            check_id(entry.id)
            check_amounts(len(entry.charges), [amount for _, amount in entry.charges])
        holders = [raw(each) for each in dict.fromkeys(hold_ids)]
        written = [(raw(each.id), each, [raw(key) for key, _ in each.charges]) for each in entries]
        drawn: list[Drawn] = []
        for start in range(0, len(written), _ENTRIES_A_DRAW):
            some = written[start : start + _ENTRIES_A_DRAW]
            try:
                drawn += self._desk.write(partial(self._charges.draw, holders=holders, entries=some))
            except Nested:
                again = partial(self.draw, tuple(hold_ids), [entry for _, entry, _ in some])
                self._desk.later(f"draw {some[0][1].id}", again)
        self._line.stir()
        return tuple(drawn)

    def recover(self) -> int:
        """End the holds of processes that are gone; how many."""
        dead = self._owner.dead()
        count = self._desk.write(self._charges.bury_all)
        self._owner.remove(dead)
        if count:
            self._line.stir()
        return count

    def close(self) -> None:
        """Send those who wait away, and end what is still held: what was sent is charged by estimate."""
        self._line.close()
        owner = self._owner
        if owner.begun and not owner.ended:
            with contextlib.suppress(StoreUnavailable):  # whoever comes next does it
                self._desk.write(lambda db: self._charges.bury_all(db, also=owner.id))
                owner.end()
                owner.remove([owner.id])
        owner.end()
        self._desk.close()

    # -- inside

    def _try_hold(self, hold_id: str, claims: Sequence[Claim], note: Note | None) -> Held | Short:
        check_id(hold_id)
        check_claims(claims)
        owner = self._owner
        if owner.ended:
            raise StoreUnavailable("the store of the budgets was closed; open another")
        if not owner.begun:
            owner.begin()
        lines = self._lines(claims)
        if self._lines.fresh:
            self._tell_labels()
        hold, again = raw(hold_id), hold_id in self._doubts
        try:
            if again:
                self._desk.write(lambda db: self._charges.release_own(db, hold, owner.id))
            answer = self._ask(lambda db: self._holds.hold(db, hold, owner.id, claims, lines))
        except InUse:
            raise in_use(hold_id) from None
        except StoreUnavailable:
            self._doubt(hold_id)
            raise
        if again:
            self._doubts.pop(hold_id, None)
        if isinstance(answer, Held):
            self._mine[hold_id] = (claims, answer.states, note)
            if len(self._mine) > _MAX_MINE:
                self._mine.pop(next(iter(self._mine)), None)
        return answer

    def _look(self, claims: Sequence[Claim], behind: frozenset[str]) -> Short:
        check_claims(claims)
        lines = self._lines(claims)
        return self._ask(lambda db: self._holds.look(db, claims, lines, behind))

    def _ask(self, ask: Callable[[Connection], _Answer]) -> _Answer:
        """Where there is no room, the dead may make some."""
        answer = self._desk.write(ask)
        if isinstance(answer, Short):
            dead = [*self._owner.dead(), *self._desk.read(self._charges.lapsed)]
            if dead:
                self._desk.write(lambda db: self._charges.bury(db, dead))
                answer = self._desk.write(ask)
                self._owner.remove(dead)
        return answer

    def _release(self, hold_id: str) -> bool:
        hold = raw(hold_id)
        try:
            released = self._desk.write(lambda db: self._charges.release(db, hold), ending=hold_id)
        except Nested:
            return self._desk.later(hold_id, lambda: self._release(hold_id)) and hold_id in self._mine
        except StoreUnavailable:
            self._desk.later(hold_id, lambda: self._release(hold_id))
            raise
        self._ended(hold_id)
        return released

    def _settle_later(self, hold_id: str, amounts: Sequence[int], row: bytes) -> Settled | None:
        """When the verb ends that was interrupted; what it will do, as far as that was known at the hold."""
        mine, spent = self._mine.get(hold_id), tuple(amounts)
        if mine is not None:
            check_amounts(len(mine[0]), spent)
        if not self._desk.later(hold_id, lambda: self.settle(hold_id, spent, row)) or mine is None:
            return None
        states = []
        for claim, state, amount in zip(mine[0], mine[1], spent, strict=True):
            states.append(State(state.posted + amount, max(0, state.held - claim.amount), state.limit))
        return Settled(tuple(states), spent)

    def _ended(self, hold_id: str) -> None:
        self._mine.pop(hold_id, None)
        if self._doubts:
            self._doubts.pop(hold_id, None)
        self._line.stir()
        if time.monotonic() >= self._tidy_at:
            self._tidy()

    def _tidy(self) -> None:
        self._tidy_at = time.monotonic() + _TIDY_S
        with contextlib.suppress(StoreUnavailable):  # an hour later, then
            if self._desk.write(lambda db: tidy(db, self.options.keep_days)):
                self._tidy_at = time.monotonic() + _TIDY_ON_S

    def _tell_labels(self) -> None:
        """Write what the budgets are, before a claim speaks of them."""
        labels = list(self._lines.fresh.items())
        self._desk.write(
            lambda db: db.executemany("INSERT OR IGNORE INTO budgets (id, label) VALUES (?, ?)", labels) and None
        )
        self._lines.told([number for number, _ in labels])

    def _doubt(self, hold_id: str) -> None:
        """Whether the hold was made is not known, as where the disk failed at its end."""
        self._doubts[hold_id] = None
        while len(self._doubts) > _MAX_DOUBTS:
            self._doubts.pop(next(iter(self._doubts)), None)

    def _beat(self, lives_until_s: float) -> None:
        row = (self._owner.id, lives_until_s)
        self._desk.write(lambda db: _beat(db, row))

    def _die(self) -> None:
        """For tests: what kill -9 leaves, at once."""
        self._owner.end()

    def _after_fork(self) -> None:
        self._desk.after_fork_there()
        self._owner.forget()
        self._line.forget()
        self._mine = {}
        self._doubts = {}


def open_sqlite(url: str) -> SqliteStore:
    """The store at ``sqlite:///relative.db`` or ``sqlite:////absolute/path.db``.

    Options: ``?timeout_s=2&keep_days=400&synchronous=normal&lease_s=15``. Raises `ConfigError` for a bad address,
    or a file that can't hold the books; one that is locked for long, or a disk that is full, is tried again by each
    verb.
    """
    return SqliteStore(parse_url(url))


def _beat(db: Connection, row: tuple[int, float]) -> None:
    db.execute("INSERT OR REPLACE INTO owners (id, lives_until_s) VALUES (?, ?)", row)


_stores: weakref.WeakSet[SqliteStore] = weakref.WeakSet()


def _before_fork() -> None:
    for store in list(_stores):
        store._desk.before_fork()


def _after_fork_here() -> None:
    for store in list(_stores):
        store._desk.after_fork_here()


def _after_fork_there() -> None:
    for store in list(_stores):
        store._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_here, after_in_child=_after_fork_there)
