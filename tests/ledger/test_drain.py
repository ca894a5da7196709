"""From a store into a ledger: each entry once, late words too, whoever drains and however often he is killed."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.ledger.rows import NOON_S, call, estimate, in_hours, kept, refusal, spent
from tests.support.redis_server import RedisServer
from tokenmeter.budgets import Budget, Claim, Entry, Store, open_store
from tokenmeter.errors import ConfigError
from tokenmeter.ledger import open_ledger
from tokenmeter.record import CallRecord, encode

pytest.importorskip("sqlalchemy")

from tokenmeter.ledger.drain import drain, source_of
from tokenmeter.ledger.ledger import Mark, Moved, Step
from tokenmeter.ledger.trim import trim

if TYPE_CHECKING:
    from tokenmeter.ledger.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
FULL = bool(os.environ.get("TOKENMETER_FULL"))
BOOK = "usd all|global|total"
_tenants = itertools.count()


def redis_url(server: RedisServer, folder: Path) -> str:
    tenant = f"ledger{next(_tenants)}"
    return f"{server.url}?tenant={tenant}&state_dir={quote(str(folder))}&timeout_s=20&lease_s=120"


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'books.db'}"
    pytest.importorskip("redis")
    return redis_url(request.getfixturevalue("redis_server"), tmp_path)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    found = open_store(store_url)
    yield found
    found.close()


@pytest.fixture
def file_ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as found:
        yield found


def entry(record: CallRecord) -> Entry:
    cost = record.cost_nanos
    return Entry(record.id, ((BOOK, cost),) if cost is not None else (), encode(record))


def charge(store: Store, *records: CallRecord) -> None:
    store.draw((), [entry(record) for record in records])


def posted(store: Store) -> int:
    return store.read([BOOK])[0].posted


def claim(amount: int) -> Claim:
    return Claim(Budget("$1000000", name="all"), BOOK, "global", amount, 10**15, None, True)


def die_with(url: str, *records: CallRecord) -> None:
    """Calls whose process is killed while they are out: the store charges what they could cost."""
    victim, survivor = open_store(url), open_store(url)
    for record in records:
        victim.hold(record.id, (claim(record.cost_nanos or 0),), NOON_S, partial(encode, record))
        assert victim.sent(record.id)
    getattr(victim, "_die")()  # noqa: B009 - a seam of the lasting stores for tests
    assert survivor.recover() == len(records)
    survivor.close()
    victim.close()


def test_every_entry_is_written_once(store: Store, ledger: Ledger) -> None:
    charge(store, *[call(str(n), nanos=n) for n in range(250)])
    store.write([Entry("refused", (), encode(refusal("refused")))])
    done = drain(store, ledger, entries_a_step=100)
    assert (done.entries, done.rows, done.corrected, done.bare, done.lost) == (251, 251, 0, 0, 0)
    assert (in_hours(ledger), spent(kept(ledger))) == (posted(store), posted(store))
    assert kept(ledger)[-1] == refusal("refused")
    again = drain(store, ledger)
    assert (again.entries, again.mark, again.anew) == (0, done.mark, False)
    charge(store, call("later", nanos=5))
    assert drain(store, ledger).rows == 1
    assert in_hours(ledger) == posted(store)


def test_a_late_word_corrects_what_was_drained(store: Store, store_url: str, file_ledger: Ledger) -> None:
    die_with(store_url, *[estimate(str(n), nanos=100) for n in range(3)])
    charge(store, call("x", nanos=1))
    assert drain(store, file_ledger).rows == 4
    assert in_hours(file_ledger) == posted(store) == 301
    assert store.settle("1", (30,), encode(call("1", nanos=30))) is not None
    assert store.settle("2", (250,), encode(call("2", nanos=250))) is not None
    done = drain(store, file_ledger)
    assert (done.rows, done.corrected, done.anew) == (0, 2, False)
    assert in_hours(file_ledger) == spent(kept(file_ledger)) == posted(store) == 381
    assert drain(store, file_ledger).entries == 0


def test_an_entry_without_a_row_keeps_its_money(store: Store, store_url: str, file_ledger: Ledger) -> None:
    store.draw((), [Entry("a", ((BOOK, 70), ("usd team|x|total", 50), ("tokens t|x|total", 9_000)), b"")])
    store.draw((), [Entry("b", ((BOOK, 5),), b"no json"), Entry("c", (), b"")])
    store.write([Entry("d", (), b"")])
    done = drain(store, file_ledger)
    assert (done.entries, done.rows, done.bare) == (4, 2, 2)
    assert in_hours(file_ledger) == posted(store) == 75
    assert file_ledger.totals().estimated_nanos == 75
    [one, other] = kept(file_ledger)
    assert (one.agent, one.status, one.estimated, one.error_type) == (None, "incomplete", True, "ProcessDied")
    assert other.error_type == "UnreadableRow"
    assert abs(one.at_s - store.time_s()) < 600


def test_a_lease_of_the_dead_that_is_settled_later(store: Store, store_url: str, file_ledger: Ledger) -> None:
    victim = open_store(store_url)
    victim.hold("lease:1", (claim(400),), NOON_S)
    victim.sent("lease:1")
    victim.draw(("lease:1",), [entry(call("a", nanos=100))])
    getattr(victim, "_die")()  # noqa: B009
    store.recover()
    drain(store, file_ledger)
    assert in_hours(file_ledger) == posted(store) == 400
    store.settle("lease:1", (0,))
    assert drain(store, file_ledger).corrected == 1
    assert in_hours(file_ledger) == posted(store) == 100
    victim.close()


def test_a_piece_is_written_by_one_only(file_ledger: Ledger) -> None:
    first = Step("s", Mark(), Mark("1", "a"))
    assert file_ledger.add_step([("a", call("a"))], first) == (1, 0)
    with pytest.raises(Moved):
        file_ledger.add_step([("b", call("b"))], first)
    assert [record.id for record in kept(file_ledger)] == ["a"]
    assert file_ledger.marks() == {"s": Mark("1", "a")}


def test_several_at_a_time(store: Store, store_url: str, url: str) -> None:
    charge(store, *[call(str(n), nanos=n, run=f"r{n % 7}") for n in range(400)])
    done: list[int] = []

    def work() -> None:
        own = open_store(store_url)
        with open_ledger(url) as ledger:
            done.append(drain(own, ledger, entries_a_step=20).rows)
        own.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done) == 400
    with open_ledger(url) as ledger:
        assert in_hours(ledger) == spent(kept(ledger)) == posted(store)


def test_a_store_under_another_name_counts_once(store: Store, file_ledger: Ledger) -> None:
    charge(store, *[call(str(n)) for n in range(5)])
    assert drain(store, file_ledger).rows == 5
    done = drain(store, file_ledger, source="the same")
    assert (done.entries, done.rows) == (5, 0)
    assert in_hours(file_ledger) == 5_000


@pytest.mark.parametrize("more", [0, 1, 5])
def test_a_file_that_was_replaced_is_read_from_its_beginning(tmp_path: Path, file_ledger: Ledger, more: int) -> None:
    url = f"sqlite:///{tmp_path / 'books.db'}"
    first = open_store(url)
    charge(first, *[call(f"old {n}") for n in range(3)])
    drain(first, file_ledger)
    first.close()
    for left in tmp_path.glob("books.db*"):
        if left.is_file():
            left.unlink()
    second = open_store(url)
    charge(second, *[call(f"new {n}") for n in range(1 + more)])
    done = drain(second, file_ledger)
    assert (done.anew, done.rows) == (True, 1 + more)
    assert not drain(second, file_ledger).anew
    second.close()


def test_a_source_has_no_secrets(store: Store, store_url: str) -> None:
    assert source_of(store).partition("://")[0] == store_url.partition("://")[0]
    assert "state_dir" not in source_of(store)
    with pytest.raises(ValueError, match="source="):
        source_of(open_store("memory://"))


def test_what_was_drained_is_trimmed_when_it_is_old(store: Store, file_ledger: Ledger) -> None:
    charge(store, *[call(str(n)) for n in range(300)])
    mark = drain(store, file_ledger).mark
    assert trim(store, mark, 1.0) == 0
    with pytest.raises(ConfigError, match="too soon"):
        trim(store, mark, 0.5)
    later_s = store.time_s() + 10 * 86_400
    store.time_s = lambda: later_s  # type: ignore[method-assign]
    assert trim(store, "") == 0
    with pytest.raises(ConfigError, match="MemoryStore can't be trimmed"):
        trim(open_store("memory://"), mark)
    dropped = trim(store, mark)
    assert 100 <= dropped <= 299  # Redis drops whole blocks of a hundred
    assert len(list(store.entries())) == 300 - dropped
    assert drain(store, file_ledger).entries == 0
    charge(store, call("more"))
    done = drain(store, file_ledger)
    assert (done.entries, done.anew) == (1, False)


# -- killed


def start(store_url: str, ledger_url: str, *more: str) -> subprocess.Popen[str]:
    source = os.pathsep.join(filter(None, [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ledger.drainer", store_url, ledger_url, *more],
        env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_killed_again_and_again(redis_server: RedisServer, url: str, tmp_path: Path) -> None:
    """Two drainers at a time, killed at random moments, while calls, deaths and late words go on."""
    kills = 50 if FULL else 4
    chance = random.Random(kills)
    store_url = redis_url(redis_server, tmp_path)
    store = open_store(store_url)
    numbers = itertools.count()
    estimated: list[str] = []
    killed = 0

    def go_on() -> None:
        charge(store, *[call(f"c{next(numbers)}", nanos=chance.randrange(10**6)) for _ in range(800)])
        dead = [f"c{next(numbers)}" for _ in range(5)]
        die_with(store_url, *[estimate(name, nanos=10**6) for name in dead])
        estimated.extend(dead)
        for _ in range(3):
            name = estimated.pop(chance.randrange(len(estimated)))
            nanos = chance.randrange(10**6)
            assert store.settle(name, (nanos,), encode(call(name, nanos=nanos))) is not None

    with open_ledger(url) as ledger:
        steps = []
        while killed < kills:
            drainers = [start(store_url, url) for _ in range(2)]
            writer = threading.Thread(target=go_on)
            writer.start()
            time.sleep(0.05 + chance.random() * 0.5)
            for drainer in drainers:
                assert drainer.poll() is None
                end(drainer)
                killed += 1
            writer.join()
            steps.append(len(kept(ledger)))
        for _ in range(2):
            last = start(store_url, url, "once")
            assert last.wait(120) == 0
            assert last.stdout is not None
            last.stdout.close()

        charges = {found.id: dict(found.charges)[BOOK] for _, found in store.entries()}
        assert {record.id: record.cost_nanos for record in kept(ledger)} == charges
        assert in_hours(ledger) == sum(charges.values()) == posted(store)
        print(f"\n{killed} kills, {len(charges):,} entries, drained after each pair of kills: {steps}")
    store.close()
