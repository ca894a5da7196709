"""The books in Redis or Valkey, for a fleet: each verb is one script, done as a whole or not at all.

What Redis must be: 6.2 or later, or Valkey, with ``maxmemory-policy noeviction``; with ``appendonly yes`` if the
books are to outlive its restarts. What it can't do: a failover may lose the last moments that were not copied
yet, and a server that comes back with an older copy of the books is not noticed; one without them is.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenmeter.budgets import redis_scripts as scripts
from tokenmeter.budgets import redis_words as words
from tokenmeter.budgets.lasting import Lasting, check_amounts, check_claims, check_id, raw, row_of
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.redis_url import RedisOptions, parse_url
from tokenmeter.budgets.redis_views import RedisViews
from tokenmeter.budgets.redis_words import bulk
from tokenmeter.budgets.store import Drawn, Entry, Held, Note, Settled, Short, in_use
from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.forks import each_in_child

if TYPE_CHECKING:
    from tokenmeter.budgets.redis_owner import Owner
    from tokenmeter.budgets.redis_room import Room

_ENTRIES_A_DRAW = 100


class RedisStore(Lasting, RedisViews):
    """Books in Redis. No verb takes longer than ``timeout_s``, then `StoreUnavailable` says what to do.

    Grants and the lives of processes go by the server's clock. The instance is one process to the others: it
    says five times in ``lease_s`` that it lives, and when it doesn't any more, they end its holds. A forked
    child is a process of its own. A server that lost the books answers nothing until ``accept_loss``.

    Books of windows are dropped a day after their end, those of runs when nobody used them for 30 days. An id
    that was charged is known for three days, an estimate can be corrected for seven.
    """

    instant = False
    keeps_rows = True

    def __init__(self, options: RedisOptions) -> None:
        self.options = options
        room, self._owner = _room_and_owner(options)
        super().__init__(room)
        self._claims = words.Claims()
        self._mine: dict[str, tuple[Sequence[Claim], Note | None]] = {}
        _stores.add(self)
        self._meet()

    def _meet(self) -> None:
        """Look at the server, if it is there: what can't be repaired by waiting is told at once."""
        try:
            self._room.look()
            self._owner.recover()
        except StoreUnavailable as error:
            if type(error.__cause__).__name__ in ("AuthenticationError", "NoPermissionError"):
                raise ConfigError(str(error)) from error

    # -- the verbs that a call needs

    def sent(self, hold_id: str) -> bool:
        """Note that the request goes out now, and the row to write if this process dies. One round trip."""
        _, note = self._mine.get(hold_id, ((), None))
        return bool(self._room.run(scripts.sent, bulk(raw(hold_id)), bulk(row_of(note))) == b"OK")

    def settle(self, hold_id: str, amounts: Sequence[int], row: bytes = b"") -> Settled | None:
        """Turn a hold into what was spent; None if it was settled before."""
        check_amounts(len(amounts), amounts)
        hold = raw(hold_id)
        spent = list(map(words.number, amounts))
        answer = self._room.run(scripts.settle, bulk(hold), bulk(row), *spent, ids=(hold,))
        _check_count(answer, amounts)
        self._ended(hold_id)
        return words.settled(answer) if answer[:2] == b"C " else None

    def adjust(self, hold_id: str, amounts: Sequence[int]) -> Held | Short:
        """Change what a hold holds: less always, more if it is admissible."""
        check_amounts(len(amounts), amounts)
        deadline = self._room.deadline()
        claims, note = self._mine.get(hold_id) or (self._claims_of(hold_id, deadline), None)
        check_amounts(len(claims), amounts)
        new = [claim._replace(amount=amount) for claim, amount in zip(claims, amounts, strict=True)]
        behind = self._line.waited_for(new)
        if behind and (short := self._overtakes(hold_id, new, behind, deadline)):
            return short
        arguments = (bulk(raw(hold_id)), *map(words.number, amounts))
        answer = self._room.run(scripts.adjust, *arguments, deadline=deadline, soon=True)
        if answer[:3] == b"S 1" and self._recovered(deadline):
            answer = self._room.run(scripts.adjust, *arguments, deadline=deadline, soon=True)
        if answer == b"GONE":
            raise LookupError(f"no hold {hold_id!r} stands")
        if answer[:1] == b"S":
            return words.short_of_more(new, answer)
        if hold_id in self._mine:
            self._mine[hold_id] = (new, note)
        self._line.stir()
        return words.held(new, answer)

    def post(self, entry_id: str, claims: Sequence[Claim], amounts: Sequence[int], row: bytes = b"") -> Settled | None:
        """Charge what was spent, once; a hold of that id is settled by it."""
        check_amounts(len(claims), amounts)
        name = raw(entry_id)
        check_id(entry_id)
        arguments = (bulk(name), bulk(row), words.number(len(amounts)), *map(words.number, amounts))
        answer = self._room.run(scripts.post, *arguments, *self._claims(claims), ids=(name,))
        self._ended(entry_id)
        return words.settled(answer) if answer[:2] == b"C " else None

    def draw(self, hold_ids: Sequence[str], entries: Sequence[Entry]) -> tuple[Drawn, ...]:
        """Charge entries out of holds that go on, each once; a hundred in one step."""
        holders = [bulk(raw(each)) for each in dict.fromkeys(hold_ids)]
        for entry in entries:
            check_id(entry.id)
            check_amounts(len(entry.charges), [amount for _, amount in entry.charges])
        drawn: list[Drawn] = []
        for start in range(0, len(entries), _ENTRIES_A_DRAW):
            some = entries[start : start + _ENTRIES_A_DRAW]
            arguments = [words.number(len(holders)), *holders]
            for entry in some:
                arguments += [bulk(raw(entry.id)), bulk(entry.row), words.number(len(entry.charges))]
                for key, amount in entry.charges:
                    arguments += [bulk(raw(key)), words.number(amount)]
            answer = self._room.run(scripts.draw, *arguments, ids=tuple(raw(entry.id) for entry in some))
            drawn += words.drawn(answer)
        self._line.stir()
        return tuple(drawn)

    def recover(self) -> int:
        """End the holds of processes that are gone; how many."""
        return self._owner.recover()

    def accept_loss(self) -> None:
        """Go on although the server lost the books: with what it has now. Once for the whole fleet, from anywhere."""
        self._room.accept_loss()

    def close(self) -> None:
        """Send those who wait away, and let others end what is still held."""
        self._line.close()
        self._owner.end()
        self._room.close()

    # -- inside

    def _try_hold(self, hold_id: str, claims: Sequence[Claim], note: Note | None) -> Held | Short:
        check_id(hold_id)
        check_claims(claims)
        if self._owner.ended:
            raise StoreUnavailable("the store of the budgets was closed; open another")
        self._owner.begin()
        again = b"1" if self._owner.doubts(hold_id) else b"0"
        try:
            answer = self._ask_for(raw(hold_id), again, claims)
        except BaseException:
            self._owner.doubt(hold_id)
            raise
        self._owner.trust(hold_id)
        if answer == b"USED":
            raise in_use(hold_id)
        if answer[:1] == b"S":
            return words.short_of(claims, answer)
        self._mine[hold_id] = (claims, note)
        return words.held(claims, answer)

    def _look(self, claims: Sequence[Claim], behind: frozenset[str]) -> Short:
        check_claims(claims)
        return words.short_of(claims, self._ask_for(b"", b"look", claims), behind)

    def _ask_for(self, hold: bytes, how: bytes, claims: Sequence[Claim]) -> bytes:
        arguments = (*self._owner.words, bulk(hold), bulk(how), *self._claims(claims))
        deadline = self._room.deadline()
        answer: bytes = self._room.run(scripts.hold, *arguments, deadline=deadline, soon=True)
        if answer[:3] == b"S 1" and self._recovered(deadline):
            answer = self._room.run(scripts.hold, *arguments, deadline=deadline, soon=True)
        return answer

    def _overtakes(self, hold_id: str, new: Sequence[Claim], behind: frozenset[str], deadline: float) -> Short | None:
        """What stands in the way of a hold that would grow past those who wait."""
        before = [claim.amount for claim in self._claims_of(hold_id, deadline)]
        grown = [claim for claim, own in zip(new, before, strict=True) if claim.amount > own]
        if not any(claim.key in behind for claim in grown):
            return None
        return words.short_of_grown(new, self._ask_for(b"", b"look", new), before, behind)

    def _release(self, hold_id: str) -> bool:
        self._mine.pop(hold_id, None)
        doubted = self._owner.doubts(hold_id)
        try:
            answer = self._room.run(scripts.release, bulk(raw(hold_id)), soon=True)
        except BaseException:
            self._owner.release_later(hold_id)
            raise
        self._ended(hold_id)
        if doubted and answer != b"OK":
            self._owner.release_later(hold_id)  # the hold may still be on its way
        return bool(answer == b"OK")

    def _recovered(self, deadline: float) -> bool:
        """Whether dead processes made room; not all of them if time is short."""
        try:
            self._owner.recover(deadline)
        except StoreUnavailable:
            return False
        return True

    def _claims_of(self, hold_id: str, deadline: float) -> Sequence[Claim]:
        answer = self._room.run(scripts.peek, bulk(raw(hold_id)), deadline=deadline)
        if answer == b"GONE":
            raise LookupError(f"no hold {hold_id!r} stands")
        return words.claims_of(answer)

    def _ended(self, hold_id: str) -> None:
        self._mine.pop(hold_id, None)
        self._owner.trust(hold_id)
        self._line.stir()

    def _die(self) -> None:
        """For tests: what kill -9 leaves, at once."""
        self._owner.end()

    def _after_fork(self) -> None:
        self._room.forget()
        self._owner.forget()
        self._line.forget()
        self._mine = {}


def open_redis(url: str) -> RedisStore:
    """The store at ``redis://``, ``rediss://``, ``redis+cluster://`` or ``redis+sentinel://``.

    Options: ``?timeout_s=0.25&tenant=default&lease_s=15&state_dir=…&keep_days=400``. Raises `ConfigError` for a
    bad address, a login that is refused, or a server that may evict books; one that can't be reached is tried
    again by each verb.
    """
    return RedisStore(parse_url(url))


def _room_and_owner(options: RedisOptions) -> tuple[Room, Owner]:
    for name, path in options.tls_files().items():
        if not os.access(path, os.R_OK):  # the library's own word for it looks like one about the server
            raise ConfigError(f"redis ssl_{name}={path!r} can't be read; name a file that this user may read")
    try:
        from tokenmeter.budgets.redis_owner import Owner
        from tokenmeter.budgets.redis_room import Room
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "redis":
            raise
        raise ConfigError(
            "budgets in Redis need the package redis; install it with: pip install 'tokenmeter-sdk[redis]'"
        ) from error
    room = Room(options)
    return room, Owner(room)


def _check_count(answer: bytes, amounts: Sequence[int]) -> None:
    if answer[:6] == b"COUNT ":
        check_amounts(int(answer[6:]), amounts)


_stores: weakref.WeakSet[RedisStore] = weakref.WeakSet()


each_in_child(_stores, lambda store: store._after_fork())
