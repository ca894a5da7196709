"""Books in a file that several processes have: killed, forked, crowded, and on file systems without locks."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tokenmeter.budgets import Budget, Claim, Entry, Held, Settled, Short, State
from tokenmeter.budgets import sqlite_owner as owners
from tokenmeter.budgets.sqlite import SqliteStore, open_sqlite
from tokenmeter.errors import StoreUnavailable

Open = Callable[..., SqliteStore]
SOURCE = Path(__file__).parents[2] / "src"
LONG_S = 120.0

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock and no fork on this system")

HEAD = """
import os, random, signal, sys, threading
from collections import Counter
from tokenmeter.budgets import Budget, Claim, Held
from tokenmeter.budgets.sqlite import open_sqlite
def claim(amount, limit=10, key="book"):
    return Claim(Budget(f"{limit} calls"), key, "global", amount, limit, None, enforce=True)
URL = sys.argv[1]
"""


def claim(amount: int = 1, limit: int = 10, key: str = "book") -> Claim:
    return Claim(Budget(f"{limit} calls"), key, "global", amount, limit, None, enforce=True)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'books.db'}?timeout_s=20&lease_s=100"


@pytest.fixture
def connect(url: str) -> Iterator[Open]:
    """Opens stores on one file, and closes them."""
    opened: list[SqliteStore] = []

    def make(**options: Any) -> SqliteStore:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        opened.append(open_sqlite(f"{url.partition('?')[0]}?{query}" if query else url))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


class Processes:
    """Other processes, which end with the test."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def __call__(self, program: str, *args: str, warnings: str = "error") -> subprocess.Popen[str]:
        self._started.append(
            subprocess.Popen(
                [sys.executable, "-W", warnings, "-c", HEAD + textwrap.dedent(program), *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(SOURCE)},
            )
        )
        return self._started[-1]

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def start() -> Iterator[Processes]:
    """Starts processes."""
    processes = Processes()
    yield processes
    processes.end()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def say(process: subprocess.Popen[str], line: str = "") -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def told(process: subprocess.Popen[str]) -> str:
    """All that it says; it must end well."""
    answer, _ = process.communicate(timeout=LONG_S)
    assert process.returncode == 0
    return answer


def whole(store: SqliteStore) -> dict[str, State]:
    charged = Counter[str]()
    for _, entry in store.entries():
        charged.update(dict(entry.charges))
    books = {book.key: book.state for book in store.books()}
    assert {key: state.posted for key, state in books.items() if state.posted} == +charged
    return books


# -- many at once


def test_ten_of_many(url: str, connect: Open, start: Processes) -> None:
    """Four processes of eight threads each ask for one of ten calls, all cold: there isn't even a file."""
    program = """
        store = open_sqlite(URL)
        held = []
        def call(number):
            name = f"{sys.argv[2]} {number}"
            if isinstance(store.hold(name, (claim(1),), 0.0, lambda: b"estimated"), Held):
                held.append(name)
                assert store.sent(name)
                assert store.settle(name, (1,), name.encode())
        threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
        sys.stdin.readline()
        for each in threads: each.start()
        for each in threads: each.join()
        print(len(held))
        store.close()
    """
    processes = [start(program, url, str(number)) for number in range(4)]
    for process in processes:
        say(process)
    assert sum(int(told(process)) for process in processes) == 10
    store = connect()
    assert whole(store) == {"book": State(10, 0, 10)}
    entries = [entry for _, entry in store.entries()]
    assert len(entries) == 10
    assert all(entry == Entry(entry.id, (("book", 1),), entry.id.encode()) for entry in entries)


def test_a_crowd_of_processes_that_wait(url: str, connect: Open, start: Processes) -> None:
    """Everybody gets through in the end, and never are more under way than the limit allows."""
    store = connect()
    program = """
        store = open_sqlite(URL)
        def calls(number):
            for turn in range(5):
                name = f"{sys.argv[2]} {number} {turn}"
                answer = store.queue(name, (claim(4), claim(1, 1000, "all")), 0.0)
                answer = answer if isinstance(answer, Held) else answer.wait(100)
                assert isinstance(answer, Held), answer
                assert answer.states[0].held <= 10
                assert store.settle(name, (0, 1), b"")
        threads = [threading.Thread(target=calls, args=(number,)) for number in range(4)]
        for each in threads: each.start()
        for each in threads: each.join()
        store.close()
    """
    processes = [start(program, url, str(number)) for number in range(3)]
    for process in processes:
        told(process)
    assert whole(store) == {"book": State(0, 0, 10), "all": State(60, 0, 1000)}


# -- kill -9


def test_killed_at_any_moment(url: str, connect: Open, start: Processes) -> None:
    """Forty rounds: two processes of two threads each are killed as they go; what they said was done is done."""
    program = """
        def work(say, tag):
            store = open_sqlite(URL)
            def calls(part):
                for number in range(10_000):
                    name = f"{tag} {part} {number}"
                    claims = (claim(3, 10**9), claim(1, 3, "narrow"))
                    if not isinstance(store.hold(name, claims, 0.0, lambda: b"estimated"), Held):
                        continue
                    os.write(say, f"held|{name}\\n".encode())
                    if number % 7 == 3:
                        assert store.release(name)
                        os.write(say, f"released|{name}\\n".encode())
                        continue
                    assert store.sent(name)
                    os.write(say, f"sent|{name}\\n".encode())
                    assert store.settle(name, (2, 0), b"true")
                    os.write(say, f"settled|{name}\\n".encode())
            other = threading.Thread(target=calls, args=("b",))
            other.start()
            calls("a")

        chance = random.Random(7)
        for turn in range(40):
            children = []
            for which in range(2):
                hear, say = os.pipe()
                child = os.fork()
                if child == 0:
                    try:
                        work(say, f"{turn} {which}")
                    finally:
                        os._exit(1)
                os.close(say)
                children.append((child, hear))
            said = {}
            enough = chance.randrange(1, 4000)
            heard = b""
            while len(heard) < enough:
                more = os.read(children[0][1], 100)
                assert more, "it died by itself"
                heard += more
            for child, _ in children:
                os.kill(child, signal.SIGKILL)
            for child, _ in children:
                assert os.waitpid(child, 0)[1] == signal.SIGKILL
            for place, (_, hear) in enumerate(children):
                text = heard if place == 0 else b""
                while more := os.read(hear, 65536):
                    text += more
                os.close(hear)
                for line in text.decode().split("\\n")[:-1]:
                    what, name = line.split("|")
                    said[name] = what
            store = open_sqlite(URL)
            # What was given back makes room for who looks, and what was sent takes it until somebody knows better.
            store.recover()
            entries = {}
            posted = Counter()
            for _, entry in store.entries():
                assert entry.id not in entries
                entries[entry.id] = entry
                posted.update(dict(entry.charges))
            books = {book.key: book.state for book in store.books()}
            assert all(state.held == 0 for state in books.values()), books
            assert {key: state.posted for key, state in books.items() if state.posted} == +posted
            estimates = []
            for name, what in said.items():
                entry = entries.get(name)
                if what == "settled":
                    assert (entry.row, dict(entry.charges)) == (b"true", {"book": 2, "narrow": 0})
                elif what == "sent":
                    assert entry.row in (b"true", b"estimated")
                elif what == "released":
                    assert entry is None
                elif entry is not None:  # it came further than it said
                    assert entry.row in (b"true", b"estimated")
            for name, entry in entries.items():
                if entry.row == b"estimated":
                    assert dict(entry.charges) == {"book": 3, "narrow": 1}
                    assert store.settle(name, (2, 0), b"true").added == (-1, -1)
                    assert store.settle(name, (2, 0), b"true") is None
            store.close()
        print("done")
    """
    assert told(start(program, url)) == "done\n"
    store = connect()
    books = whole(store)
    assert books["narrow"] == State(0, 0, 3)
    assert not store._owner.folder.exists()


def test_the_dead_make_room_at_once(url: str, connect: Open, start: Processes) -> None:
    store = connect()
    program = """
        store = open_sqlite(URL)
        store.hold("unsent", (claim(3),), 0.0, lambda: b"never left")
        store.hold("sent", (claim(4),), 0.0, lambda: b"estimated")
        assert store.sent("sent")
        print("held", flush=True)
        sys.stdin.readline()
    """
    other = start(program, url)
    assert hear(other) == "held"
    short = store.hold("h", (claim(6),), 0.0)
    assert isinstance(short, Short)
    assert short.state == State(0, 7, 10)
    assert store.recover() == 0
    other.kill()
    other.wait()
    assert store.hold("h", (claim(6),), 0.0) == Held((State(4, 6, 10),), ())
    assert store.settle("sent", (1,), b"true") == Settled((State(1, 6, 10),), (-3,))


def test_a_number_of_a_process_that_comes_again(connect: Open) -> None:
    """Nobody goes by the numbers that the system gives: one process here is two owners."""
    victim, store = connect(), connect()
    victim.hold("h", (claim(4),), 0.0)
    assert store.recover() == 0
    victim._die()
    assert store.recover() == 1


# -- fork


def test_a_forked_child_is_another_process(url: str, connect: Open, start: Processes) -> None:
    program = """
        store = open_sqlite(URL)
        store.hold("parent", (claim(3),), 0.0, lambda: b"estimated")
        child = os.fork()
        for number in range(200):
            name = f"{os.getpid()} {number}"
            assert isinstance(store.hold(name, (claim(1),), 0.0), Held)
            assert store.settle(name, (0,)).added == (0,)
        if child:
            assert os.waitpid(child, 0)[1] == 0
            assert store.recover() == 1  # what the child held
            assert store.sent("parent")
            assert store.settle("parent", (1,))
            print("done")
            store.close()
        else:
            store.hold("child", (claim(2),), 0.0)
            assert store.read(["book"])[0].held in (5, 6)  # the parent may hold one more
            os._exit(0)
    """
    assert told(start(program, url)) == "done\n"
    assert whole(connect()) == {"book": State(1, 0, 10)}


def test_the_parent_dies_and_its_child_lives(url: str, connect: Open, start: Processes) -> None:
    """The child has the parent's lock open as well, and must not keep it."""
    program = """
        store = open_sqlite(URL)
        store.hold("parent", (claim(3),), 0.0)
        if os.fork():
            os._exit(0)
        store.hold("child", (claim(2),), 0.0)
        print("held", flush=True)
        sys.stdin.readline()
        print(store.sent("child"))
        store.close()
    """
    process = start(program, url)
    assert hear(process) == "held"
    store = connect()
    assert store.read(["book"]) == (State(0, 2, 10),)
    assert store.recover() == 0
    say(process)
    assert hear(process) == "True"


def test_a_fork_while_other_threads_are_busy(url: str, connect: Open, start: Processes) -> None:
    program = """
        store = open_sqlite(URL)
        over = threading.Event()
        def busy(part):
            number = 0
            while not over.is_set():
                name = f"{part} {number}"
                number += 1
                assert isinstance(store.hold(name, (claim(1, 1000),), 0.0), Held)
                assert store.settle(name, (0,))
        threads = [threading.Thread(target=busy, args=(part,)) for part in range(3)]
        for each in threads: each.start()
        for turn in range(20):
            child = os.fork()
            if child == 0:
                try:
                    name = f"child {turn}"
                    assert isinstance(store.hold(name, (claim(1, 1000),), 0.0), Held)
                    assert store.settle(name, (1,))
                    store.close()
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
        over.set()
        for each in threads: each.join()
        store.close()
        print("done")
    """
    process = start(program, url, warnings="ignore")  # newer Pythons warn of such forks
    assert told(process) == "done\n"
    assert whole(connect()) == {"book": State(20, 0, 1000)}


def test_a_fork_in_the_middle_of_a_verb_is_told(connect: Open, url: str, start: Processes) -> None:
    program = """
        from tokenmeter.errors import StoreUnavailable
        store = open_sqlite(URL)
        def fork(db):
            child = os.fork()
            if child == 0:
                try:
                    store.read(["book"])
                except StoreUnavailable as error:
                    os.write(1, f"{error}\\n".encode())
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
        store._desk.write(fork)
        assert isinstance(store.hold("h", (claim(1),), 0.0), Held)
        store.close()
    """
    assert "open the store again after the fork" in told(start(program, url))


# -- locks that are in the way


def test_what_else_lies_in_the_folder_is_left_alone(connect: Open) -> None:
    store, other = connect(), connect()
    other.hold("h", (claim(4),), 0.0)
    folder = store._owner.folder
    (folder / "README").write_text("what is this?")
    (folder / "what.lock").write_text("")
    (folder / f"{5:016x}.lock").write_text("")
    store.hold("i", (claim(4),), 0.0)
    assert isinstance(store.hold("j", (claim(4),), 0.0), Short)
    assert sorted(path.name for path in folder.iterdir() if len(path.name) < 20) == ["README", "what.lock"]
    assert store.read(["book"]) == (State(0, 8, 10),)
    assert not (folder / f"{5:016x}.lock").exists()


def test_a_folder_that_was_thrown_away(connect: Open) -> None:
    """Whose lock is gone is taken for dead, and hears of it."""
    store, other = connect(), connect()
    store.hold("h", (claim(4),), 0.0)
    shutil.rmtree(store._owner.folder)
    assert other.recover() == 1
    assert not store.sent("h")
    other.hold("i", (claim(4),), 0.0)
    assert other.sent("i")


def test_a_lock_of_another_user_is_taken_for_held(connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = connect(), connect()
    other.hold("h", (claim(4),), 0.0)
    other._die()

    def refuse(path: Path) -> int:
        raise PermissionError(errno.EACCES, "no", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(owners, "_looked_at", refuse)
        assert store.recover() == 0
    assert store.recover() == 1


def test_who_takes_a_lock_bears_those_who_look(connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = connect(), connect()
    lock, taken = owners._lock, []

    def in_between(path: Path, mode: int) -> int:
        taken.append(path)
        if len(taken) == 1:
            path.touch()
            other.recover()  # takes it for a dead one's
            raise BlockingIOError(errno.EWOULDBLOCK, "somebody looks at it")
        found = lock(path, mode)
        if len(taken) == 2:
            path.unlink()  # by one who looked before it was locked
        return found

    monkeypatch.setattr(owners, "_lock", in_between)
    store.hold("h", (claim(4),), 0.0)
    assert len(taken) == 3
    assert not store._owner.by_lease
    assert other.recover() == 0
    assert store.sent("h")


# -- where there are no locks


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: int) -> int:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(owners, "_lock", refuse)


def alone(file: Path, statement: str, *values: object) -> list[Any]:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
        return db.execute(statement, values).fetchall()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_process_says_that_it_lives(connect: Open) -> None:
    store, other = connect(), connect()
    store.hold("unsent", (claim(3),), 0.0)
    store.hold("sent", (claim(4),), 0.0, note=lambda: b"estimated")
    store.sent("sent")
    assert store._owner.by_lease
    assert other.recover() == 0
    assert isinstance(other.hold("h", (claim(4),), 0.0), Short)
    store._die()
    assert other.hold("h", (claim(4),), 0.0) == Held((State(4, 4, 10),), ())
    assert whole(other) == {"book": State(4, 4, 10)}


@pytest.mark.usefixtures("no_locks")
def test_who_was_silent_for_long_and_goes_on(connect: Open) -> None:
    store, other = connect(), connect()
    store.hold("h", (claim(4),), 0.0)
    alone(store.options.path, "UPDATE owners SET lives_until_s = 1 WHERE id = ?", store._owner.id)
    assert other.recover() == 1
    assert not store.sent("h")
    store._owner.beat()
    store.hold("i", (claim(4),), 0.0)
    assert other.recover() == 0
    assert store.sent("i")


@pytest.mark.usefixtures("no_locks")
def test_the_thread_keeps_it_alive(connect: Open) -> None:
    store = connect(timeout_s=0.1, lease_s=0.5)
    store.hold("h", (claim(4),), 0.0)

    def lives_until() -> float:
        [[found]] = alone(store.options.path, "SELECT lives_until_s FROM owners")
        return float(found)

    first = lives_until()
    for _ in range(6000):
        if lives_until() > first:
            break
        time.sleep(0.01)
    assert lives_until() > first


@pytest.mark.usefixtures("no_locks")
def test_a_beginning_that_fails_is_made_up_for(connect: Open) -> None:
    store = connect(timeout_s=0.02, lease_s=0.5)
    with contextlib.closing(sqlite3.connect(store.options.path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            store.hold("h", (claim(4),), 0.0)
    assert isinstance(store.hold("h", (claim(4),), 0.0), Held)
