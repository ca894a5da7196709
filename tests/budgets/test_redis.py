"""Redis itself: what only a real server can do to the books, and what only several processes can do to each other."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support import redis_server
from tests.support.redis_server import RedisServer
from tokenmeter.budgets import Budget, Claim, Entry, Grant, Held, Settled, Short, State, redis_scripts, redis_views
from tokenmeter.errors import ConfigError, StoreUnavailable

if reason := redis_server.missing():
    pytest.skip(f"no Redis server: {reason}", allow_module_level=True)

from tokenmeter.budgets.redis import RedisStore, open_redis
from tokenmeter.budgets.redis_lua import Script

SOURCE = Path(__file__).resolve().parents[2] / "src"
LONG_S = 60.0  # never waited for: a test that fails hangs no longer
T = TypeVar("T")

Open = Callable[..., RedisStore]


def claim(amount: int = 1, limit: int = 10, key: str = "book") -> Claim:
    return Claim(Budget("10 calls"), key, "global", amount, limit, None, enforce=True)


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    """A server for tests that leave it as it was."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own."""
    with RedisServer() as server:
        yield server


_tenants = itertools.count()


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Open]:
    """Opens stores, all on one tenant, and closes them."""
    opened: list[RedisStore] = []
    tenant = f"own{next(_tenants)}"

    def make(server: RedisServer, machine: str = "here", **options: object) -> RedisStore:
        found = {"tenant": tenant, "state_dir": tmp_path / machine, "timeout_s": 5, "lease_s": 25} | options
        query = "&".join(f"{name}={value}" for name, value in found.items())
        opened.append(open_redis(f"{server.url}?{query}"))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def until(wanted: Callable[[], T]) -> T:
    """Look again and again until it is so."""
    end_s = time.monotonic() + LONG_S
    while not (found := wanted()):
        assert time.monotonic() < end_s, "it never happened"
        time.sleep(0.02)
    return found


def within(work: Callable[[], object]) -> object:
    """What it returns, or raises; it must end by itself."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LONG_S)
    assert found, "it hangs"
    return found[0]


class Process:
    """Another process with a store; it runs a line of Python at a time and prints what that gives."""

    def __init__(self, url: str) -> None:
        program = textwrap.dedent(f"""
            import sys
            from tokenmeter.budgets import Budget, Claim
            from tokenmeter.budgets.redis import open_redis
            def claim(amount=1, limit=10, key="book"):
                return Claim(Budget("10 calls"), key, "global", amount, limit, None, enforce=True)
            store = open_redis({url!r})
            for line in sys.stdin:
                print(eval(line), flush=True)
        """)
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def do(self, line: str) -> str:
        self.say(line)
        return self.hear()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


# -- numbers


EDGES = sorted(
    {2**power + more for power in (0, 30, 49, 50, 52, 53, 54, 60, 62) for more in (-1, 0, 1)} | {10**15, 10**18}
)


@pytest.mark.parametrize("limit", EDGES)
def test_the_last_nanodollar_counts(shared: RedisServer, connect: Open, limit: int) -> None:
    store = connect(shared)
    for number, posted in enumerate(edge for edge in EDGES if edge < limit):
        key = f"{limit} {number}"
        assert store.post(f"p{key}", (claim(0, limit, key),), (posted,)) == Settled(
            (State(posted, 0, limit),), (posted,)
        )
        left = limit - posted
        assert isinstance(store.hold(f"h{key}", (claim(left + 1, limit, key),), 0.0), Short)
        assert store.hold(f"h{key}", (claim(left, limit, key),), 0.0) == Held((State(posted, left, limit),), ())
        assert isinstance(store.hold(f"i{key}", (claim(1, limit, key),), 0.0), Short)
        assert store.settle(f"h{key}", (left - 1,)) == Settled((State(limit - 1, 0, limit),), (left - 1,))
        assert store.hold(f"i{key}", (claim(1, limit, key),), 0.0) == Held((State(limit - 1, 1, limit),), ())


def test_sums_beyond_what_an_integer_of_redis_can_be(shared: RedisServer, connect: Open) -> None:
    store = connect(shared)
    most = 2**63 - 1
    for number in range(5):
        assert store.post(str(number), (claim(0, most),), (most,))
    assert store.read(["book"]) == (State(5 * most, 0, most),)
    assert sum(dict(entry.charges)["book"] for _, entry in store.entries()) == 5 * most
    short = store.hold("h", (claim(1, most),), 0.0)
    assert isinstance(short, Short)
    assert short.if_settled == (-4 * most,)
    with pytest.raises(ValueError, match="amounts"):
        store.post("p", (claim(),), (2**63,))


def test_corrections_beyond_doubles(shared: RedisServer, connect: Open) -> None:
    store = connect(shared)
    for estimate, true in itertools.product(EDGES[::4], EDGES[::3]):
        name = f"{estimate} {true}"
        victim = connect(shared)
        victim.hold(name, (claim(estimate, 2**63 - 1, name),), 0.0)
        victim.sent(name)
        victim._die()
        assert store.recover() == 1
        assert store.settle(name, (true,)) == Settled((State(true, 0, 2**63 - 1),), (true - estimate,))


# -- several processes


def test_ten_of_many(shared: RedisServer, connect: Open) -> None:
    """Four processes of eight threads each ask for one of ten calls, all cold."""
    store = connect(shared)
    program = textwrap.dedent("""
        import sys, threading
        from tokenmeter.budgets import Budget, Claim, Held
        from tokenmeter.budgets.redis import open_redis
        store = open_redis(sys.argv[1])
        claim = Claim(Budget("10 calls"), "book", "global", 1, 10, None, enforce=True)
        held = []
        def call(number):
            name = f"{sys.argv[2]} {number}"
            if isinstance(store.hold(name, (claim,), 0.0, lambda: b"estimated"), Held):
                held.append(name)
                assert store.sent(name)
                assert store.settle(name, (1,), name.encode())
        sys.stdin.readline()
        threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
        for each in threads: each.start()
        for each in threads: each.join()
        print(len(held))
    """)
    url = f"{shared.url}?tenant={store.options.tenant}&timeout_s=10&lease_s=60&state_dir={store.options.state_dir}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        for number in range(4)
    ]
    held = [process.communicate("\n", timeout=LONG_S)[0] for process in processes]
    assert sum(map(int, held)) == 10
    assert store.read(["book"]) == (State(10, 0, 10),)
    entries = [entry for _, entry in store.entries()]
    assert len({entry.id for entry in entries}) == len(entries) == 10
    assert all(entry == Entry(entry.id, (("book", 1),), entry.id.encode()) for entry in entries)


@pytest.fixture
def process(shared: RedisServer, connect: Open, tmp_path: Path) -> Iterator[Process]:
    """Another process on the same books, that is taken for dead after half a second."""
    tenant = connect(shared).options.tenant
    other = Process(f"{shared.url}?tenant={tenant}&lease_s=0.5&timeout_s=0.1&state_dir={tmp_path / 'here'}")
    yield other
    other.end()


def test_killed_before_and_after_sending(shared: RedisServer, connect: Open, process: Process) -> None:
    store = connect(shared)
    assert process.do('store.hold("unsent", (claim(3),), 0.0, lambda: b"never left")').startswith("Held")
    assert process.do('store.hold("sent", (claim(4),), 0.0, lambda: b"estimated")').startswith("Held")
    assert process.do('store.sent("sent")') == "True"
    assert store.read(["book"]) == (State(0, 7, 10),)
    process.signal(signal.SIGKILL)
    # Nobody has to look after the dead: who finds no room does.
    held = until(lambda: isinstance(found := store.hold("h", (claim(6),), 0.0), Held) and found)
    assert held == Held((State(4, 6, 10),), ())
    assert [entry for _, entry in store.entries()] == [Entry("sent", (("book", 4),), b"estimated")]


def test_stopped_longer_than_its_lease(shared: RedisServer, connect: Open, process: Process) -> None:
    store = connect(shared)
    assert process.do('store.hold("sent", (claim(4),), 0.0, lambda: b"estimated")').startswith("Held")
    assert process.do('store.sent("sent")') == "True"
    assert process.do('store.hold("unsent", (claim(3),), 0.0)').startswith("Held")
    process.signal(signal.SIGSTOP)
    assert until(store.recover) == 2
    assert store.read(["book"]) == (State(4, 0, 10),)
    process.signal(signal.SIGCONT)
    assert process.do('store.sent("unsent")') == "False"
    assert process.do('store.settle("sent", (1,), b"true").added') == "(-3,)"
    assert process.do('store.settle("sent", (1,), b"true")') == "None"
    assert process.do('store.post("unsent", (claim(3),), (2,)).added') == "(2,)"
    assert store.read(["book"]) == (State(3, 0, 10),)
    assert [entry for _, entry in store.entries()] == [
        Entry("sent", (("book", 1),), b"true"),
        Entry("unsent", (("book", 2),), b""),
    ]
    assert process.do('store.hold("new", (claim(2),), 0.0)').startswith("Held")  # it is alive again
    assert store.recover() == 0


def test_a_process_says_that_it_lives(shared: RedisServer, connect: Open) -> None:
    store = connect(shared, lease_s=0.5, timeout_s=0.1)
    until(lambda: quietly(lambda: isinstance(store.hold("h", (claim(),), 0.0), Held)))
    owners = f"{{tokenmeter:{store.options.tenant}}}:owners"

    def until_ms() -> float:
        return float(shared.ask("ZSCORE", owners, store._owner.id.decode()))

    first = until_ms()
    until(lambda: until_ms() > first + 500)


def quietly(work: Callable[[], bool]) -> bool:
    """A busy machine may be too slow for the short time limits of some tests."""
    try:
        return work()
    except StoreUnavailable:
        return False


def test_a_forked_child_is_another_process(shared: RedisServer, connect: Open, tmp_path: Path) -> None:
    store = connect(shared)
    program = textwrap.dedent("""
        import os, sys
        from tokenmeter.budgets import Budget, Claim, Held
        from tokenmeter.budgets.redis import open_redis
        def claim(amount):
            return Claim(Budget("10 calls"), "book", "global", amount, 10, None, enforce=True)
        store = open_redis(sys.argv[1])
        store.hold("parent", (claim(3),), 0.0)
        child = os.fork()
        for number in range(200):  # both at once: neither reads an answer of the other
            name = f"{os.getpid()} {number}"
            assert isinstance(store.hold(name, (claim(1),), 0.0), Held)
            assert store.settle(name, (0,)).added == (0,)
        if child:
            assert os.waitpid(child, 0)[1] == 0
            assert store.sent("parent")
            print("done")
        else:
            store.hold("child", (claim(2),), 0.0)
            store.close()
            os._exit(0)
    """)
    url = f"{shared.url}?tenant={store.options.tenant}&timeout_s=5&lease_s=25&state_dir={tmp_path / 'here'}"
    ran = subprocess.run(
        [sys.executable, "-c", program, url],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=False,
    )
    assert ran.stdout == "done\n", ran.stderr
    assert store.read(["book"]) == (State(0, 5, 10),)
    assert store.recover() == 1  # the child said that it is gone; the parent just ended
    assert store.read(["book"]) == (State(0, 3, 10),)


# -- a server that is stopped, killed, flushed or full


VERBS: dict[str, Callable[[RedisStore], object]] = {
    "hold": lambda store: store.hold("other", (claim(),), 0.0),
    "sent": lambda store: store.sent("h"),
    "settle": lambda store: store.settle("h", (1,)),
    "release": lambda store: store.release("h"),
    "adjust": lambda store: store.adjust("h", (2,)),
    "post": lambda store: store.post("p", (claim(),), (1,)),
    "draw": lambda store: store.draw(("h",), [Entry("d", (("book", 1),), b"")]),
    "write": lambda store: store.write([Entry("w", (), b"")]),
    "read": lambda store: store.read(["book"]),
    "books": lambda store: store.books(),
    "entries": lambda store: list(store.entries()),
    "grants": lambda store: store.grants(),
    "pauses": lambda store: store.pauses(),
    "recover": lambda store: store.recover(),
}


def test_a_stopped_server_hangs_nobody(server: RedisServer, connect: Open) -> None:
    store = connect(server, timeout_s=0.25)
    until(lambda: quietly(lambda: isinstance(store.hold("h", (claim(3),), 0.0), Held)))
    server.pause()
    for verb in VERBS.values():
        error = within(lambda verb=verb: verb(store))  # type: ignore[misc]
        assert isinstance(error, StoreUnavailable)
        assert "did not answer within 0.25 s" in str(error)
    late = within(lambda: connect(server, timeout_s=0.25))  # opened meanwhile: it is there when the server is
    assert isinstance(late, RedisStore)
    server.resume()
    # What the server finds in its buffers is too late: no hold is made that nobody knows of.
    until(lambda: quietly(lambda: store.hold("last", (claim(0),), 0.0) is not None))
    assert until(lambda: answers(late)) is True
    assert not store.sent("other")
    # The charges are done, as they would be if they were said again: each by its id.
    posted = {entry.id for _, entry in store.entries()}
    assert posted <= {"h", "p", "d", "w"}


def answers(store: RedisStore) -> bool:
    return quietly(lambda: store.read(["book"]) is not None)


def test_a_hold_whose_answer_was_lost(server: RedisServer, connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = connect(server), connect(server)
    lose_next_answer(monkeypatch)
    with pytest.raises(StoreUnavailable):
        store.hold("h", (claim(3),), 0.0)
    assert other.read(["book"]) == (State(0, 3, 10),)
    assert store.hold("h", (claim(4),), 0.0) == Held((State(0, 4, 10),), ())  # the same id, once more
    with pytest.raises(ValueError, match="in use"):
        other.hold("h", (claim(),), 0.0)
    lose_next_answer(monkeypatch)
    with pytest.raises(StoreUnavailable):
        store.hold("i", (claim(3),), 0.0)
    assert store.release("i")
    lose_next_answer(monkeypatch)
    with pytest.raises(StoreUnavailable):
        store.settle("h", (2,), b"row")
    assert store.post("h", (claim(4),), (2,), b"row") is None  # it was done
    assert other.read(["book"]) == (State(2, 0, 10),)


def test_a_hold_that_cant_be_released_is_released_later(
    server: RedisServer, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = connect(server)
    lose_next_answer(monkeypatch)
    with pytest.raises(StoreUnavailable):
        store.hold("h", (claim(3),), 0.0)
    server.pause()
    slow = store._room.options.timeout_s
    object.__setattr__(store._room.options, "timeout_s", 0.05)
    with pytest.raises(StoreUnavailable):
        store.release("h")
    object.__setattr__(store._room.options, "timeout_s", slow)
    server.resume()
    store._owner.round()  # what the heartbeat does
    assert store.read(["book"]) == (State(0, 0, 10),)


def lose_next_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server does what it is asked to, and its answer gets lost on the way."""
    from tokenmeter.budgets.redis_link import Link

    whole = Link._ask

    def half(self: Link, connection: Any, packed: bytes, deadline: float) -> object:
        answer = whole(self, connection, packed, deadline)
        if b"EVALSHA" not in packed[:20]:
            return answer
        monkeypatch.setattr(Link, "_ask", whole)
        raise ConnectionResetError("the line is dead")

    monkeypatch.setattr(Link, "_ask", half)


def test_a_hold_that_arrives_after_its_release(
    server: RedisServer, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenmeter.budgets.redis_link import Link

    store = connect(server)
    store.hold("one for the scripts", (claim(0),), 0.0)
    whole = Link._ask
    late: list[bytes] = []

    def stuck(self: Link, connection: Any, packed: bytes, deadline: float) -> object:
        late.append(packed)
        raise ConnectionResetError("the line is dead")

    monkeypatch.setattr(Link, "_ask", stuck)
    with pytest.raises(StoreUnavailable):
        store.hold("h", (claim(3),), 0.0)
    monkeypatch.setattr(Link, "_ask", whole)
    assert not store.release("h")
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(late[0])
        assert line.recv(100).endswith(b"H 0 0 10\r\n")
    assert store.read(["book"]) == (State(0, 3, 10),)
    store._owner.round()
    assert store.read(["book"]) == (State(0, 0, 10),)


def test_doubt_gives_no_right_to_the_hold_of_another(
    server: RedisServer, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = connect(server), connect(server)
    server.pause()
    object.__setattr__(store._room.options, "timeout_s", 0.05)
    with pytest.raises(StoreUnavailable):
        store.hold("h", (claim(3),), 0.0)
    object.__setattr__(store._room.options, "timeout_s", 5)
    server.resume()
    assert isinstance(other.hold("h", (claim(4),), 0.0), Held)
    with pytest.raises(ValueError, match="in use"):
        store.hold("h", (claim(3),), 0.0)
    assert other.read(["book"]) == (State(0, 4, 10),)


def test_a_flush_is_noticed(server: RedisServer, connect: Open) -> None:
    here, beside, elsewhere = connect(server), connect(server), connect(server, "elsewhere")
    here.hold("h", (claim(3),), 0.0)
    assert elsewhere.read(["book"]) == (State(0, 3, 10),)
    server.flush()
    late = connect(server)  # knows from the file what was there
    for store in (here, beside, elsewhere, late):
        for verb in VERBS.values():
            with pytest.raises(StoreUnavailable, match=r"no longer has the budgets .* 20\d\d-.*accept-loss"):
                verb(store)
    late.accept_loss()
    for store in (here, beside, elsewhere, late, connect(server)):  # once is enough for all
        assert store.read(["book"]) == (State(0, 0, 0),)
    assert here.settle("h", (3,)) is None
    assert here.post("h", (claim(3),), (3,)) == Settled((State(3, 0, 10),), (3,))
    server.flush()
    with pytest.raises(StoreUnavailable, match="no longer has"):
        elsewhere.read(["book"])


def test_a_newcomer_does_not_hide_a_loss(server: RedisServer, connect: Open) -> None:
    here = connect(server)
    here.post("p", (claim(),), (3,))
    server.flush()
    newcomer = connect(server, "another machine")  # never saw the books
    assert newcomer.read(["book"]) == (State(0, 0, 0),)
    newcomer.post("q", (claim(),), (1,))
    with pytest.raises(StoreUnavailable, match="no longer has"):
        here.read(["book"])
    here.accept_loss()
    assert here.read(["book"]) == newcomer.read(["book"]) == (State(1, 0, 10),)


def test_a_loss_is_accepted_by_who_never_knew_the_books(server: RedisServer, connect: Open) -> None:
    here, beside = connect(server), connect(server, "beside")
    here.post("p", (claim(),), (3,))
    assert beside.read(["book"]) == (State(3, 0, 10),)
    server.flush()
    newcomer = connect(server, "another machine")
    newcomer.post("q", (claim(),), (1,))
    for store in (here, beside):
        with pytest.raises(StoreUnavailable, match="no longer has"):
            store.read(["book"])
    newcomer.accept_loss()
    for store in (here, beside, newcomer, connect(server), connect(server, "one more")):
        assert store.read(["book"]) == (State(1, 0, 10),)
    newcomer.accept_loss()  # once more does no harm
    assert here.read(["book"]) == (State(1, 0, 10),)
    server.flush()
    late = connect(server, "a machine that comes after that")
    late.post("r", (claim(),), (2,))
    with pytest.raises(StoreUnavailable, match="no longer has"):
        here.read(["book"])  # the next loss is another one


def test_what_was_accepted_is_not_taken_for_younger_books(server: RedisServer, connect: Open) -> None:
    """A copy of books whose loss of others was accepted, put back over the books that came after them."""
    first = connect(server)
    first.accept_loss()
    place = f"{{tokenmeter:{first.options.tenant}}}:epoch"
    copy = server.ask("GET", place).decode()
    server.flush()
    younger = connect(server, "elsewhere")
    younger.post("p", (claim(),), (1,))
    younger._room._epoch.seen_s += 1  # so that it is later for sure, on a clock of milliseconds too
    server.ask("SET", place, copy)
    with pytest.raises(StoreUnavailable, match="no longer has"):
        younger.read(["book"])


def test_tenants_do_not_meet(shared: RedisServer, connect: Open) -> None:
    one, two = connect(shared), connect(shared, tenant="other.tenant")
    one.hold("h", (claim(3),), 0.0)
    assert two.read(["book"]) == (State(0, 0, 0),)
    assert isinstance(two.hold("h", (claim(10),), 0.0), Held)


def test_a_restart_without_data_is_a_loss(server: RedisServer, connect: Open) -> None:
    store = connect(server)
    store.post("p", (claim(),), (3,))
    server.kill()
    with pytest.raises(StoreUnavailable, match="can't be reached"):
        store.read(["book"])
    server.start()
    with pytest.raises(StoreUnavailable, match="no longer has"):
        store.read(["book"])


def test_a_restart_with_data_is_none(connect: Open) -> None:
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        store = connect(server)
        store.hold("h", (claim(4),), 0.0)
        store.post("p", (claim(),), (3,))
        server.kill()
        server.start()
        assert store.settle("h", (1,), b"row") == Settled((State(4, 0, 10),), (1,))
        assert [entry.id for _, entry in store.entries()] == ["p", "h"]


def test_a_server_that_is_not_there_yet(connect: Open, tmp_path: Path) -> None:
    with RedisServer() as server:
        server.kill()
        store = connect(server)
        with pytest.raises(
            StoreUnavailable, match=f"redis://127.0.0.1:{server.port}.*can't be reached.*whether the server"
        ):
            store.hold("h", (claim(),), 0.0)
        assert not store._mine
        server.start()
        assert isinstance(store.hold("h", (claim(),), 0.0), Held)


def test_idle_connections_that_died_are_replaced(server: RedisServer, connect: Open) -> None:
    store = connect(server)
    for _ in range(3):
        assert store.read(["book"])
        server.ask("CLIENT", "KILL", "TYPE", "normal")
    assert store.read(["book"])


def test_scripts_that_were_forgotten_are_loaded_again(server: RedisServer, connect: Open) -> None:
    store = connect(server)
    store.hold("h", (claim(3),), 0.0)
    server.ask("SCRIPT", "FLUSH")
    assert store.settle("h", (2,)) == Settled((State(2, 0, 10),), (2,))


def test_what_the_server_says_of_itself(shared: RedisServer, connect: Open) -> None:
    facts = connect(shared).info()
    assert facts["maxmemory_policy"] == "noeviction"
    assert {"redis_version", "aof_enabled"} <= facts.keys()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_is_refused(server: RedisServer, connect: Open, policy: str) -> None:
    store = connect(server)
    server.ask("CONFIG", "SET", "maxmemory-policy", policy)
    with pytest.raises(ConfigError, match=f"maxmemory-policy {policy}.*noeviction"):
        connect(server)
    with pytest.raises(ConfigError, match="noeviction"):
        store._room.look()  # as the heartbeat does now and then
    with pytest.raises(StoreUnavailable, match="noeviction"):
        store.read(["book"])
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert store.read(["book"])


def test_a_full_server_takes_nothing_half(server: RedisServer, connect: Open) -> None:
    store = connect(server)
    store.hold("h", (claim(3),), 0.0)
    store.hold("two", (claim(1), claim(2, 10, "other")), 0.0)
    store.hold("i", (claim(1),), 0.0)
    server.ask("CONFIG", "SET", "maxmemory", "1")
    for verb in ("hold", "sent", "settle", "adjust", "post", "draw", "write"):
        with pytest.raises(StoreUnavailable, match="no memory left"):
            VERBS[verb](store)
    with pytest.raises(StoreUnavailable, match="no memory left"):
        store.settle("two", (1, 1))
    assert store.read(["book", "other"]) == (State(0, 5, 10), State(0, 2, 10))
    assert store.release("i")
    server.ask("CONFIG", "SET", "maxmemory", "0")
    assert store.settle("two", (1, 1)) == Settled((State(1, 3, 10), State(1, 0, 10)), (1, 1))
    assert [entry.id for _, entry in store.entries()] == ["two"]


def test_a_login(connect: Open, tmp_path: Path) -> None:
    with RedisServer() as server:
        server.ask("CONFIG", "SET", "requirepass", "s3cret/")
        url = f"redis://:s3cret%2F@127.0.0.1:{server.port}/3?state_dir={tmp_path}&timeout_s=5&lease_s=25"
        store = open_redis(url)
        assert isinstance(store.hold("h", (claim(),), 0.0), Held)
        store.close()
        for wrong in (url.replace("s3cret", "wrong"), url.replace(":s3cret%2F@", "")):
            with pytest.raises(ConfigError, match=r"login|password") as refused:
                open_redis(wrong)
            assert "wrong" not in str(refused.value)


def test_a_user_with_the_documented_rights(connect: Open, tmp_path: Path) -> None:
    page = (SOURCE.parent / "docs" / "how-to" / "stores.md").read_text()
    [words] = re.findall(r"ACL SETUSER (.*?)```", page, re.DOTALL)
    allowed = set(re.findall(r"\+([a-z]+)", words))
    scripts = [each.text.decode() for each in vars(redis_scripts).values() if isinstance(each, Script)]
    assert {found.lower() for text in scripts for found in re.findall(r"call\('([A-Z]+)'", text)} <= allowed
    with RedisServer() as server:
        server.ask("ACL", "SETUSER", *words.split())
        url = f"redis://tokenmeter:PASSWORD@127.0.0.1:{server.port}"
        store = open_redis(f"{url}?state_dir={tmp_path}&timeout_s=5&lease_s=25")
        now_s = store.time_s()
        store.grant(Grant("g", "book", 5, now_s - 1, now_s + 60, "why", "who"))
        assert isinstance(store.hold("h", (claim(),), 0.0), Held)
        assert store.sent("h")
        assert store.settle("h", (1,)) == Settled((State(1, 0, 10),), (1,))
        store.close()


def test_a_database_that_the_server_has_not(shared: RedisServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no database 4242; name another"):
        open_redis(f"redis://127.0.0.1:{shared.port}/4242?state_dir={tmp_path}&timeout_s=5&lease_s=25")


def test_a_file_for_tls_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ssl_ca_certs='/nowhere\.pem' can't be read"):
        open_redis(f"rediss://127.0.0.1:1/0?state_dir={tmp_path}&ssl_ca_certs=/nowhere.pem")


def test_a_server_that_comes_back_evicting(connect: Open) -> None:
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        store = connect(server)
        store.post("p", (claim(),), (3,))
        server.kill()
        with pytest.raises(StoreUnavailable):
            store.read(["book"])
        server.start("--maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreUnavailable, match="noeviction"):
            store.read(["book"])


# -- other ways to a server


def test_a_cluster(connect: Open) -> None:
    redis = pytest.importorskip("redis")
    with RedisServer(cluster=True) as server:
        store, other = connect(server), connect(server)
        store.hold("h", (claim(3),), 0.0)
        store.hold("lease:1", (claim(3, 10, "other"),), 0.0)
        store.sent("h")
        store.draw(("lease:1",), [Entry("d", (("other", 1),), b"")])
        store._die()
        assert other.recover() == 2
        assert other.settle("h", (2,), b"row") == Settled((State(2, 0, 10),), (-1,))
        assert other.post("p", (claim(),), (1,))
        with redis.Redis(port=server.port) as client:
            keys = client.keys("*")
        assert len(keys) > 5
        assert len({redis.crc.key_slot(key) for key in keys}) == 1
    with RedisServer() as server, pytest.raises(ConfigError, match="no Redis Cluster; write redis://"):
        open_redis(f"redis+cluster://127.0.0.1:{server.port}?timeout_s=5&lease_s=25&tenant=none")


def test_tls(connect: Open, tmp_path: Path) -> None:
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made.split(), *names], check=True, capture_output=True)
    port = redis_server.free_port()
    options = {"tls-port": port, "tls-cert-file": certificate, "tls-key-file": key, "tls-auth-clients": "no"}
    try:
        server = RedisServer(*(str(word) for name, value in options.items() for word in (f"--{name}", value)))
    except RuntimeError:
        pytest.skip("this server was built without TLS")
    with server:
        url = f"rediss://127.0.0.1:{port}?state_dir={tmp_path}&timeout_s=5&lease_s=25"
        store = open_redis(f"{url}&ssl_ca_certs={certificate}")
        assert isinstance(store.hold("h", (claim(),), 0.0), Held)
        assert store.settle("h", (1,)) == Settled((State(1, 0, 10),), (1,))
        store.close()
        stranger = open_redis(url)
        with pytest.raises(StoreUnavailable, match="certificate"):
            stranger.read(["book"])
        stranger.close()


def test_books_that_move_in_a_cluster(connect: Open) -> None:
    from redis.crc import key_slot

    with RedisServer("--cluster-enabled", "yes") as one, RedisServer("--cluster-enabled", "yes") as two:
        names = {server: server.ask("CLUSTER", "MYID").decode() for server in (one, two)}
        one.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        one.ask("CLUSTER", "MEET", "127.0.0.1", str(two.port))
        for server in (one, two):
            until(lambda server=server: b"cluster_state:ok" in server.ask("CLUSTER", "INFO"))  # type: ignore[misc]
            until(lambda server=server: server.ask("CLUSTER", "NODES").count(b"master") == 2)  # type: ignore[misc]
        two._cluster = True  # the address of the node that has none of the slots
        store = connect(two)
        assert store.read(["book"]) == (State(0, 0, 0),)
        assert store._room._link.nodes.here == ("127.0.0.1", one.port)
        one.flush()
        slot = str(key_slot(store._room._tag.encode()))
        for server in (two, one):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", names[two])
        with pytest.raises(StoreUnavailable, match="no longer has"):  # followed there, where nothing is
            store.read(["book"])
        assert store._room._link.nodes.here == ("127.0.0.1", two.port)
        store.accept_loss()
        assert isinstance(store.hold("h", (claim(),), 0.0), Held)


@contextlib.contextmanager
def sentinel_of(master: RedisServer, folder: Path) -> Iterator[int]:
    """The port of a sentinel that watches one master; alone, it decides alone."""
    port, config = redis_server.free_port(), folder / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor books 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds books 500\nsentinel failover-timeout books 3000\n"
    )
    program = redis_server._program()
    assert program is not None
    # A server can't be told to become a sentinel: it is started as one, with a file.
    process = subprocess.Popen([program, str(config), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        until(lambda: connects(port))
        yield port
    finally:
        process.kill()
        process.wait()


def test_a_sentinel(server: RedisServer, tmp_path: Path) -> None:
    with sentinel_of(server, tmp_path) as port:
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}"
        options = f"?state_dir={tmp_path}&timeout_s=5&lease_s=25"
        store = open_redis(f"{url}/books{options}")
        assert isinstance(store.hold("h", (claim(),), 0.0), Held)
        store.close()
        unknown = open_redis(f"{url}/other{options}")
        with pytest.raises(StoreUnavailable, match="no service 'other'"):
            unknown.read(["book"])
        unknown.close()


def test_the_books_go_on_at_the_replica_when_the_master_dies(tmp_path: Path) -> None:
    redis = pytest.importorskip("redis")
    with RedisServer() as master, RedisServer("--replicaof", "127.0.0.1", str(master.port)) as replica:
        until(lambda: b"master_link_status:up" in replica.ask("INFO", "replication"))
        with sentinel_of(master, tmp_path) as port:
            with redis.Redis(port=port) as client:
                until(lambda: client.sentinel_slaves("books"))
            store = open_redis(f"redis+sentinel://127.0.0.1:{port}/books?state_dir={tmp_path}&timeout_s=1&lease_s=25")
            assert isinstance(store.hold("a", (claim(4),), 0.0), Held)
            assert store.settle("a", (3,)) == Settled((State(3, 0, 10),), (3,))
            assert isinstance(store.hold("b", (claim(5),), 0.0), Held)
            assert master.ask("WAIT", "1", "5000") == b"1"  # what no replica had yet would be gone

            master.kill()
            with pytest.raises(StoreUnavailable):
                store.read(["book"])
            assert until(lambda: answers(store))

            assert b"role:master" in replica.ask("INFO", "replication")
            assert store.read(["book"]) == (State(3, 5, 10),)
            assert isinstance(store.hold("c", (claim(3),), 0.0), Short)
            assert store.settle("b", (2,)) == Settled((State(5, 0, 10),), (2,))
            assert store.settle("a", (3,)) is None
            store.close()


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_name_that_is_not_found_in_time(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, found = socket.getaddrinfo, threading.Event()

    def slow(host: Any, *rest: Any, **options: Any) -> Any:
        if host == "redis.test":
            found.wait(LONG_S)
            host = "127.0.0.1"
        return whole(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    store = open_redis(f"redis://redis.test:{server.port}?state_dir={tmp_path}&timeout_s=0.25")
    assert isinstance(within(lambda: store.read(["book"])), StoreUnavailable)
    found.set()
    assert until(lambda: answers(store))
    store.close()


# -- inside one process


def test_nobody_takes_himself_for_dead(shared: RedisServer, connect: Open) -> None:
    """As after a long sleep, before the heartbeat wakes up too."""
    store = connect(shared)
    store.hold("h", (claim(6),), 0.0)
    shared.ask("ZADD", f"{{tokenmeter:{store.options.tenant}}}:owners", "0", store._owner.id.decode())
    assert isinstance(store.hold("i", (claim(6),), 0.0), Short)
    assert store.recover() == 0
    assert store.sent("h")


def test_who_came_back_to_life_is_not_buried(shared: RedisServer, connect: Open) -> None:
    from tokenmeter.budgets import redis_scripts as scripts
    from tokenmeter.budgets.redis_words import bulk

    store, other = connect(shared), connect(shared)
    store.hold("h", (claim(6),), 0.0)
    # The other one saw it dead, and it said that it lives before it was buried.
    assert other._room.run(scripts.bury, bulk(b"h"), ids=(b"h",)) == b"N 0"
    assert store.sent("h")


def test_an_id_may_be_used_again_after_a_release(shared: RedisServer, connect: Open) -> None:
    store, other = connect(shared), connect(shared)
    store.hold("h", (claim(6),), 0.0, lambda: b"note")
    store.sent("h")
    store.release("h")
    store.hold("h", (claim(6),), 0.0)
    store._die()
    assert other.recover() == 1
    assert other.read(["book"]) == (State(0, 0, 10),)  # the second one was not sent


def test_a_grant_that_is_over(shared: RedisServer, connect: Open) -> None:
    store = connect(shared)
    now_s = store.time_s()
    key = "calls b||total"
    store.grant(Grant("g", "calls b|", 5, now_s - 10, now_s - 5, "", ""))
    assert isinstance(store.hold("h", (claim(11, 10, key),), 0.0), Short)


def test_accounts_whose_grants_ended_are_forgotten(
    shared: RedisServer, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_views, "MAX_GRANTS", 20)
    store = connect(shared)
    now_s = store.time_s()
    store.grant(Grant("stands", "calls b|", 5, now_s - 10, now_s + 1000, "", ""))
    for number in range(100):
        store.grant(Grant(str(number), f"calls run {number}|", 5, now_s - 10, now_s - 5 + number / 1000, "", ""))
    raises = f"{store._room._tag}:raises"
    assert int(shared.ask("HLEN", raises)) <= 3
    assert store.hold("h", (claim(15, 10, "calls b||total"),), 0.0) == Held((State(0, 15, 15),), ())


def test_a_warning_begins_beyond_the_limit(shared: RedisServer, connect: Open) -> None:
    store = connect(shared)
    soft = claim(10)._replace(enforce=False)
    assert store.hold("h", (soft,), 0.0) == Held((State(0, 10, 10),), ())
    assert store.hold("i", (soft._replace(amount=0),), 0.0) == Held((State(0, 10, 10),), ())


def test_a_hold_does_not_grow_past_those_who_wait(shared: RedisServer, connect: Open) -> None:
    store = connect(shared)
    store.hold("h", (claim(5), claim(1, 10, "other")), 0.0)
    waiting = store.queue("i", (claim(6),), 0.0)
    short = store.adjust("h", (7, 1))
    assert isinstance(short, Short)
    assert (short.spent_out, short.state, short.available) == (False, State(0, 0, 10), (0, 10))
    assert store.adjust("h", (5, 3)) == Held((State(0, 5, 10), State(0, 3, 10)), ())
    assert store.adjust("h", (4, 3)) == Held((State(0, 4, 10), State(0, 3, 10)), ())
    assert not isinstance(waiting, Held | Short)
    assert waiting.wait(LONG_S) == Held((State(0, 10, 10),), ())


def test_a_finalizer_may_settle_in_the_middle_of_a_verb(
    shared: RedisServer, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenmeter.budgets.redis_link import Link

    store = connect(shared)
    store.hold("h", (claim(3),), 0.0)
    whole = Link._ask
    inside: list[Settled | None] = []

    def interrupted(self: Link, connection: Any, packed: bytes, deadline: float) -> object:
        if not inside:
            inside.append(None)
            inside[0] = store.settle("h", (2,))
        return whole(self, connection, packed, deadline)

    monkeypatch.setattr(Link, "_ask", interrupted)
    assert within(lambda: store.read(["book"])) == (State(2, 0, 10),)
    assert inside == [Settled((State(2, 0, 10),), (2,))]


def test_an_interrupt_leaves_no_answer_for_the_next(
    shared: RedisServer, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenmeter.budgets.redis_link import Link

    store = connect(shared)
    store.post("p", (claim(),), (3,))
    whole = Link._ask

    def interrupted(self: Link, connection: Any, packed: bytes, deadline: float) -> object:
        connection.send_packed_command([packed], check_health=False)
        monkeypatch.setattr(Link, "_ask", whole)
        raise KeyboardInterrupt

    monkeypatch.setattr(Link, "_ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.hold("h", (claim(3),), 0.0)
    assert store.release("h") in (True, False)
    assert until(lambda: store.read(["book"]) == (State(3, 0, 10),))


def test_a_closed_store_holds_nothing_and_still_settles(shared: RedisServer, connect: Open) -> None:
    store = connect(shared)
    store.hold("h", (claim(3),), 0.0)
    store.close()
    assert store.settle("h", (2,)) == Settled((State(2, 0, 10),), (2,))
    with pytest.raises(StoreUnavailable, match="closed"):
        store.hold("i", (claim(),), 0.0)


def test_books_of_long_ago_are_dropped(shared: RedisServer, connect: Open) -> None:
    store = connect(shared)
    now_s = store.time_s()
    for key, ended_s in (("old", now_s - 5 * 86_400), ("held", now_s - 5 * 86_400), ("now", now_s + 3600)):
        one = claim(4, 10, key)._replace(resets_at=ended_s)
        store.hold(key, (one,), 0.0)
        store.hold(f"{key} too", (one,), 0.0)
        store.settle(f"{key} too", (1,))
        if key != "held":
            store.settle(key, (1,))
    store._owner.beat()
    assert {book.key for book in store.books()} == {"old", "held", "now"}  # used today
    books = f"{{tokenmeter:{store.options.tenant}}}:books"
    ends = f"{{tokenmeter:{store.options.tenant}}}:ends"
    for key in ("old", "held", "now"):
        text = shared.ask("HGET", books, key).decode().split()
        shared.ask("HSET", books, key, " ".join([*text[:4], str(int(text[4]) - 3)]))
        if key != "now":
            shared.ask("ZADD", ends, "1", key)
    store._owner.beat()
    assert {book.key for book in store.books()} == {"held", "now"}
    assert len(list(store.entries())) == 5


def test_what_a_newer_version_wrote(shared: RedisServer, connect: Open) -> None:
    store = connect(shared)
    shared.ask("SET", f"{{tokenmeter:{store.options.tenant}}}:epoch", "2.abc")
    with pytest.raises(ConfigError, match="newer version"):
        connect(shared, "another machine")


def test_many_holds_of_the_dead(shared: RedisServer, connect: Open) -> None:
    victims, store = [connect(shared) for _ in range(3)], connect(shared)
    for victim in victims:
        for number in range(130):
            victim.hold(f"{id(victim)} {number}", (claim(1, 1000),), 0.0)
        victim._die()
    assert store.recover() == 390
    assert store.read(["book"]) == (State(0, 0, 1000),)


def test_more_books_than_are_read_in_one_step(shared: RedisServer, connect: Open) -> None:
    store = connect(shared)
    for start in range(0, 1500, 100):
        store.post(str(start), [claim(0, 10, f"b{start + n}") for n in range(100)], [1] * 100)
    assert {book.key for book in store.books()} == {f"b{n}" for n in range(1500)}
    assert store.read([f"b{n}" for n in range(1500)]) == (State(1, 0, 10),) * 1500


# -- what is written in an address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", "redis://127.0.0.1:6379"),
        ("redis://host", "redis://host:6379"),
        ("redis://user:secret@host:1/2", "redis://host:1/2"),
        ("rediss://[::1]:7", "rediss://[::1]:7"),
        ("redis+cluster://a,b:7", "redis+cluster://a:6379,b:7"),
        ("redis+sentinel://a:1,b/books/3?tenant=x", "redis+sentinel://a:1,b:26379/books/3"),
    ],
)
def test_addresses(url: str, address: str) -> None:
    from tokenmeter.budgets.redis_url import parse_url

    assert parse_url(url).address == address


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://host", "unknown"),
        ("redis://u:secret@host:x", "makes no sense"),
        ("redis://u:secret@host:99999", "makes no sense"),
        ("redis://u:secret@a,b", "one server"),
        ("redis://u:secret@host/x", "database"),
        ("redis+cluster://u:secret@host/1", "database"),
        ("redis+sentinel://u:secret@host", "service"),
        ("redis://u:secret@host?timeout=1", "did you mean 'timeout_s'"),
        ("redis://u:secret@host?timeout_s=fast", "no number"),
        ("redis://u:secret@host?timeout_s=0", "out of range"),
        ("redis://u:secret@host?timeout_s=nan", "out of range"),
        ("redis://u:secret@host?lease_s=1", "five times"),
        ("redis://u:secret@host?tenant=a}b", "tenant"),
        ("redis://u:secret@host?tenant=", "empty"),
        ("redis://u:secret@host?ssl_ca_certs=x", "rediss://"),
    ],
)
def test_addresses_that_make_no_sense(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as found:
        open_redis(url)
    assert "secret" not in str(found.value)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("redis_owner", "redis_room", "redis_link", "redis_nodes"):
        monkeypatch.delitem(sys.modules, f"tokenmeter.budgets.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.exceptions", None)
    with pytest.raises(ConfigError, match=r"pip install 'tokenmeter-sdk\[redis\]'"):
        open_redis("redis://127.0.0.1:1")
