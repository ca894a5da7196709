"""The room that one tenant has in Redis: scripts are run there as long as its books are the known ones.

What a script is told beside its own arguments: the epoch, until when it may act, how long entries are kept.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
import uuid

from redis.exceptions import ResponseError

from tokenmeter.budgets import redis_scripts as scripts
from tokenmeter.budgets.redis_epoch import Epoch
from tokenmeter.budgets.redis_link import Link, Reply
from tokenmeter.budgets.redis_lua import KEYS, Script
from tokenmeter.budgets.redis_url import RedisOptions
from tokenmeter.budgets.redis_words import bulk, number
from tokenmeter.errors import ConfigError, StoreUnavailable

logger = logging.getLogger("tokenmeter")

_OLDEST = (6, 2)
_CLOCK_FRESH_S = 30.0
_LOST = b"LOST"
_VERSION = 1  # of what is written there; it stands before each epoch


class Room:
    """Runs scripts, each within the time limit, whatever has to be done before."""

    def __init__(self, options: RedisOptions) -> None:
        self.options = options
        tag = f"{{tokenmeter:{options.tenant}}}"
        self._tag = tag
        self._link = Link(options, tag)
        self._epoch = Epoch(options)
        self._keys = tuple([bulk(f"{tag}:{name}".encode()) for name in KEYS])
        self._mark = f"{tag}:id:".encode()
        self._keep = number(int(options.keep_days * 86_400_000))
        self._forever = bulk(b"0")
        self._told: set[str] = set()
        self.forget()

    def forget(self) -> None:
        """In a forked child: start anew."""
        self._link.forget()
        self._known = b""  # the epoch, ready to be sent, once the server was looked at
        self._offset_s = 0.0  # from this machine's monotonic clock to the server's
        self._clock_s = -_CLOCK_FRESH_S
        self._answered_s = 0.0

    def close(self) -> None:
        """Keep no connection open."""
        self._link.close()

    def deadline(self) -> float:
        """Until when a verb that begins now may take."""
        return time.monotonic() + self.options.timeout_s

    def run(
        self,
        script: Script,
        *arguments: bytes,
        ids: tuple[bytes, ...] = (),
        deadline: float | None = None,
        soon: bool = False,
    ) -> Reply:
        """Run a script; ``arguments`` are ready to be sent.

        ``ids``: of the entries that are asked for. ``soon``: it must not happen any more after the time is over.
        """
        if deadline is None:
            deadline = self.deadline()
        keys = self._keys
        if ids:
            keys += tuple([bulk(self._mark + each) for each in ids])
        for _ in range(3):
            epoch = self._known or self._look(deadline)
            limit = self._forever
            if soon:  # a little before the caller gives up, so that nothing happens behind his back
                limit = number(int((deadline - 0.1 * self.options.timeout_s + self._offset_s) * 1000))
            sent = (number(len(keys)), *keys, epoch, limit, self._keep, *arguments)
            try:
                answer = self._link.run(script, sent, deadline)
            except StoreUnavailable:
                self._known = b""  # whoever answers next is looked at first
                raise
            except ConfigError as error:
                self._known = b""
                raise StoreUnavailable(str(error)) from error
            if isinstance(answer, bytes):
                if answer == _LOST:
                    self._known = b""
                    continue
                if answer[:5] == b"LATE ":
                    self._learn_clock(int(answer[5:]), time.monotonic())
                    continue
            self._answered_s = time.time()
            return answer
        raise StoreUnavailable(
            f"the budgets in Redis at {self.options.address} answer too late; give them more time with ?timeout_s="
        )

    def look(self) -> None:
        """Look at the server now: `ConfigError` if budgets can't be kept there."""
        self._known = b""
        self._inspect(self.deadline())

    def time_s(self) -> float:
        """The server's clock."""
        if time.monotonic() - self._clock_s > _CLOCK_FRESH_S:
            before = time.monotonic()
            answer = self.run(scripts.time)
            self._learn_clock(int(answer[2:]), (before + time.monotonic()) / 2)
        return time.monotonic() + self._offset_s

    def info(self, deadline: float | None = None) -> dict[str, str]:
        """What the server says of itself. Raises `ResponseError` if that is refused."""
        text: bytes = self._link.command(self.deadline() if deadline is None else deadline, b"INFO")
        return dict(line.split(":", 1) for line in text.decode("utf-8", "replace").splitlines() if ":" in line)

    def trim(self, keep_from: str) -> int:
        """Drop some of the entries before that mark; how many."""
        entries = f"{self._tag}:entries".encode()
        words = (b"XTRIM", entries, b"MINID", b"~", keep_from.encode(), b"LIMIT", b"10000")
        return int(self._link.command(self.deadline(), *words))

    def accept_loss(self) -> None:
        """Go on with the books that the server has now."""
        deadline = self.deadline()
        fresh = _fresh()
        known = [bulk(each.encode()) for each in self._epoch.known]
        sent = (number(len(KEYS)), *self._keys, bulk(fresh), *known)
        answer = self._link.run(scripts.accept, sent, deadline)
        self._learn(answer, time.monotonic())

    # -- what is looked at first

    def _look(self, deadline: float) -> bytes:
        try:
            return self._inspect(deadline)
        except ConfigError as error:
            raise StoreUnavailable(str(error)) from error

    def _inspect(self, deadline: float) -> bytes:
        self._look_at_memory(deadline)
        self._epoch.reload()
        fresh = _fresh()
        seen_ms = number(int(self._epoch.seen_s * 1000))
        sent = (number(len(KEYS)), *self._keys, bulk(self._epoch.last.encode()), bulk(fresh), seen_ms)
        before = time.monotonic()
        answer = self._link.run(scripts.first, sent, deadline)
        if answer == _LOST:
            raise StoreUnavailable(self._what_was_lost())
        return self._learn(answer, (before + time.monotonic()) / 2)

    def _learn(self, answer: bytes, at_s: float) -> bytes:
        _, now_ms, epoch = answer.split()
        version = int(epoch.partition(b".")[0])
        if version > _VERSION:
            raise ConfigError(
                f"the budgets in Redis at {self.options.address} were written by a newer version of tokenmeter "
                f"(format {version}, this one knows {_VERSION}); update this one, or use another ?tenant="
            )
        self._learn_clock(int(now_ms), at_s)
        self._epoch.note(epoch.decode())
        self._known = bulk(epoch)
        return self._known

    def _learn_clock(self, now_ms: int, at_s: float) -> None:
        self._offset_s = now_ms / 1000 - at_s
        self._clock_s = at_s

    def _look_at_memory(self, deadline: float) -> None:
        """Refuse a server that may throw books away to make room."""
        where = self.options.address
        facts: dict[str, str] = {}
        try:
            facts = self.info(deadline)
        except ResponseError as error:
            self._warn("tokenmeter can't look at Redis' settings at %s: %s", where, error)
        version = facts.get("redis_version", "")
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
        if numbers and numbers < _OLDEST:
            raise ConfigError(f"Redis at {where} has version {version}; budgets need 6.2 or later, or Valkey")
        policy = facts.get("maxmemory_policy", "")
        if not policy:
            try:
                policy = self._link.command(deadline, b"CONFIG", b"GET", b"maxmemory-policy")[1].decode()
            except (ResponseError, IndexError):
                self._warn("tokenmeter can't see the maxmemory-policy of Redis at %s: it must be noeviction", where)
                return
        if policy != "noeviction":
            raise ConfigError(
                f"Redis at {where} has maxmemory-policy {policy}: it may drop budgets to make room; "
                "set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in redis.conf)"
            )

    def _warn(self, text: str, *details: object) -> None:
        if text not in self._told:
            self._told.add(text)
            logger.warning(text, *details)

    def _what_was_lost(self) -> str:
        seen = dt.datetime.fromtimestamp(max(self._epoch.seen_s, self._answered_s), dt.UTC)
        return (
            f"Redis at {self.options.address} no longer has the budgets of tenant {self.options.tenant!r} that were "
            f"there on {seen:%Y-%m-%d %H:%M} UTC: its data was flushed, or lost in a restart or failover (appendonly "
            "yes keeps it over restarts), and what was spent since is not known to it; restore its data, or let all "
            "programs go on from what it has: tokenmeter accept-loss --store URL, or accept_loss() on the store"
        )


def _fresh() -> bytes:
    return b"%d.%b" % (_VERSION, uuid.uuid4().hex.encode())
