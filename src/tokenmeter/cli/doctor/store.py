"""The store: whether it answers, how fast, whose clock it goes by, and whether Redis keeps what it is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from tokenmeter.budgets import Store
from tokenmeter.cli import where
from tokenmeter.cli.accounts import is_live
from tokenmeter.cli.doctor.check import Check, fail, of_error, ok, warn
from tokenmeter.cli.trouble import Trouble
from tokenmeter.errors import ConfigError, StoreUnavailable

MAX_SKEW_S = 2.0
BAD_SKEW_S = 30.0
_SLOW_S = 0.05
_ROUNDS = 5
_REMEDY = "look whether it is up and the address right"


def checks(url: str | None) -> Iterator[Check]:
    """What there is to say about the store at that address."""
    if url is None:
        yield warn("store", "none is named", "give --store URL, or name it in tokenmeter.toml under [store]")
        return
    address = where.shown_address(url)
    if url.partition("://")[0] == "memory":
        yield warn(
            "store",
            "memory://: each process has budgets of its own, which end with it",
            "name a sqlite:/// or redis:// store if several processes are to share them",
        )
        return
    try:
        if (path := where.missing_file(url)) is not None and path.parent.is_dir():
            yield warn("store", f"{address}: no file is there yet", "the first Meter makes it; if one ran, correct it")
            return
        with where.opened(where.Where(url, None)) as store:
            yield from _open(store, address)
    except (Trouble, ConfigError, StoreUnavailable) as error:
        yield of_error("store", error, _REMEDY)


def _open(store: Store, address: str) -> Iterator[Check]:
    kind = type(store).__name__
    store.pauses()  # the first question connects
    round_trip_s = _quickest(store.pauses)
    found = f"{address} ({kind}), round trip {round_trip_s * 1000:.1f} ms"
    if round_trip_s > _SLOW_S and not store.instant:
        yield warn("store", found, "calls wait for it: keep it near the program")
    else:
        yield ok("store", found)
    yield skew(store.time_s() - time.time())
    yield from _redis(store)
    yield from _state(store)


def _quickest(ask: Callable[[], object]) -> float:
    times = []
    for _ in range(_ROUNDS):
        before = time.perf_counter()
        ask()
        times.append(time.perf_counter() - before)
    return min(times)


def skew(ahead_s: float) -> Check:
    """How far the store's clock is ahead of the one here, by which windows are reckoned."""
    found = f"the store's clock is {abs(ahead_s):.1f} s {'ahead of' if ahead_s >= 0 else 'behind'} the one here"
    remedy = "let NTP set both: windows begin and end by the clocks of the programs, grants by the store's"
    if abs(ahead_s) > BAD_SKEW_S:
        return fail("clock", found, remedy)
    if abs(ahead_s) > MAX_SKEW_S:
        return warn("clock", found, remedy)
    return ok("clock", found)


def _redis(store: Store) -> Iterator[Check]:
    """Where the store is a Redis: what it says of itself."""
    from tokenmeter.budgets.redis import RedisStore

    if not isinstance(store, RedisStore):
        return
    try:
        facts = store.info()
    except Exception as error:  # noqa: BLE001 - a user who may not ask
        yield warn("redis", f"INFO is refused: {error}", "allow it, or look yourself that it keeps its data")
        return
    yield from redis(facts)


def redis(facts: dict[str, str]) -> Iterator[Check]:
    """What ``INFO`` says about whether budgets are safe there."""
    policy = facts.get("maxmemory_policy")
    version = facts.get("redis_version", "?")
    if policy is None:
        yield warn("redis", f"version {version}, maxmemory-policy unknown", "look that it is noeviction")
    elif policy != "noeviction":
        yield fail(
            "redis", f"version {version}, maxmemory-policy {policy}: it may drop budgets", "set it to noeviction"
        )
    else:
        yield ok("redis", f"version {version}, maxmemory-policy noeviction")
    if facts.get("aof_enabled") == "1":
        state = facts.get("aof_last_write_status", "ok")
        if state == "ok":
            yield ok("persistence", "appendonly yes")
        else:
            yield fail("persistence", f"appendonly yes, but its last write failed: {state}", "look at the server's log")
    elif facts.get("rdb_last_bgsave_status", "ok") != "ok":
        yield fail("persistence", "appendonly no, and the last snapshot failed", "look at the server's log")
    else:
        yield warn(
            "persistence",
            "appendonly no: a restart loses what was spent since the last snapshot, or all",
            "set appendonly yes (CONFIG SET appendonly yes, and in redis.conf)",
        )


def _state(store: Store) -> Iterator[Check]:

    now_s = store.time_s()
    books = [book for book in store.books() if is_live(book, now_s)]
    full = [book for book in books if book.state.left == 0]
    found = f"{len(books):,} budgets have a book"
    if full:
        shown = ", ".join(f"{book.budget} {book.scope}" for book in full[:3]) + (", …" if len(full) > 3 else "")
        remedy = "see tokenmeter budgets; tokenmeter grant raises one for a while"
        yield warn("books", f"{found}, {len(full):,} of them without anything left: {shown}", remedy)
    else:
        yield ok("books", found)
    if paused := sorted(pause.target for pause in store.pauses()):
        yield warn("pauses", f"paused: {', '.join(paused)}", "tokenmeter resume TARGET lifts a pause")
