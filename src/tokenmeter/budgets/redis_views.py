"""What is read of the books in Redis, and what people say to them: grants and pauses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tokenmeter.budgets import redis_scripts as scripts
from tokenmeter.budgets import redis_words as words
from tokenmeter.budgets.grants import MAX_GRANTS
from tokenmeter.budgets.lasting import raw
from tokenmeter.budgets.polling import Line
from tokenmeter.budgets.redis_words import bulk
from tokenmeter.budgets.store import Book, Entry, Grant, Pause, State

if TYPE_CHECKING:
    from tokenmeter.budgets.redis_room import Room

_KEYS_A_READ = 500
_MAX_BATCH_BYTES = 256 * 1024
_MAX_BATCH = 1000
_MAX_MS = 10**15


class RedisViews:
    """The verbs that no call needs."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._line = Line()

    def read(self, keys: Iterable[str]) -> tuple[State, ...]:
        """The books of these keys."""
        asked = list(keys)
        found: tuple[State, ...] = ()
        for start in range(0, len(asked), _KEYS_A_READ):
            some = asked[start : start + _KEYS_A_READ]
            found += words.read(self._room.run(scripts.read, *[bulk(raw(key)) for key in some]))
        return found

    def books(self) -> list[Book]:
        """Every book that is kept; read in steps when there are more than some hundred."""
        found: dict[bytes, Book] = {}
        cursor = b"0"
        while True:
            _, cursor, *parts = self._room.run(scripts.all_books, bulk(cursor))
            for key, state, label in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
                found[key] = words.book(key, state, label)
            if cursor == b"0":
                return list(found.values())

    def entries(self, after: str = "") -> Iterator[tuple[str, Entry]]:
        """The ledger from the oldest on.

        An estimate that is corrected leaves its place, and the right entry comes at the end: whoever has read
        the estimate meets the same id again, and the later one is right.
        """
        mark, count = after, 64
        while True:
            start = f"({mark}" if mark else "-"
            answer = self._room.run(scripts.all_entries, bulk(start.encode()), words.number(count))[1]
            size = 0
            for place, values in answer:
                mark = place.decode()
                size += sum(map(len, values))
                yield mark, words.entry(values)
            if len(answer) < count:
                return
            count = max(1, count // 2) if size > _MAX_BATCH_BYTES else min(_MAX_BATCH, count * 2)

    def trim(self, mark: str, before_s: float) -> int:
        """Drop the entries before a mark that are older, in whole blocks; how many."""
        oldest_ms = int(before_s * 1000)
        keep_from = mark if int(mark.partition("-")[0]) < oldest_ms else f"{oldest_ms}-0"
        count = 0
        while dropped := self._room.trim(keep_from):
            count += dropped
        return count

    def info(self) -> dict[str, str]:
        """What the server says of itself."""
        return self._room.info()

    def grant(self, grant: Grant) -> None:
        """Raise a limit."""
        from_ms, to_ms = (int(min(each * 1000, _MAX_MS)) for each in (grant.at_s, grant.expires_at_s))
        parts = (raw(grant.id), words.plain(grant), raw(grant.account))
        numbers = (grant.amount, from_ms, to_ms, MAX_GRANTS)
        self._room.run(scripts.grant, *map(bulk, parts), *map(words.number, numbers))
        self._line.stir()

    def grants(self) -> list[Grant]:
        """The grants, those that ended too."""
        return list(map(words.grant, self._room.run(scripts.all_grants)[1]))

    def pause(self, pause: Pause) -> None:
        """Stop a target."""
        self._room.run(scripts.pause, bulk(raw(pause.target)), bulk(words.plain(pause)))

    def resume(self, target: str) -> bool:
        """Undo a pause."""
        return bool(self._room.run(scripts.resume, bulk(raw(target))) == b"OK")

    def pauses(self) -> list[Pause]:
        """The pauses that are in force."""
        return list(map(words.pause, self._room.run(scripts.all_pauses)[1]))

    def time_s(self) -> float:
        """The server's clock; asked every half a minute."""
        return self._room.time_s()
