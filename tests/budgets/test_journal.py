"""What a process leaves behind is told to the store once, whatever came in between."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import tokenmeter
import tokenmeter.budgets.journal as journals
from tokenmeter.budgets import Drawn, Entry, MemoryStore, State, journal_heirs
from tokenmeter.budgets.journal import Journal, default_directory
from tokenmeter.budgets.journal_lines import Draw, Lease, Undo, Write, posting
from tokenmeter.errors import ConfigError, StoreUnavailable

from .conftest import MakeClaim
from .flaky import leave

BOOK = ("book",)


class Listening(MemoryStore):
    """Books in memory that remember the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []
        self.gone_after = 10**9

    def post(self, entry_id: str, *rest: Any, **named: Any) -> Any:
        if len(self.heard) >= self.gone_after:
            raise StoreUnavailable("gone")
        self.heard.append(entry_id)
        return super().post(entry_id, *rest, **named)

    def draw(self, hold_ids: Sequence[str], entries: Sequence[Entry]) -> tuple[Drawn, ...]:
        self.heard += [entry.id for entry in entries]
        return super().draw(hold_ids, entries)


def files(directory: Path) -> list[str]:
    return sorted(path.suffix for path in directory.iterdir())


def test_own_lines_are_told_once_and_in_order(tmp_path: Path, claim: MakeClaim) -> None:
    journal, store = Journal(tmp_path), Listening()
    for n in range(5):
        assert journal.put(posting(f"e{n}", (claim(),), (1,)))
    assert journal.replay_own(store) == 5
    assert journal.replay_own(store) == 0
    assert store.heard == ["e0", "e1", "e2", "e3", "e4"]
    assert store.read(BOOK) == (State(5, 0, 10),)
    assert [path.stat().st_size for path in tmp_path.glob("*.journal")] == [0]
    journal.close()
    assert files(tmp_path) == []


def test_a_store_that_goes_away_again(tmp_path: Path, claim: MakeClaim) -> None:
    journal, store = Journal(tmp_path), Listening()
    for n in range(5):
        journal.put(posting(f"e{n}", (claim(),), (1,)))
    store.gone_after = 2
    with pytest.raises(StoreUnavailable):
        journal.replay_own(store)
    assert len(journal) == 3
    leave(journal)
    store.gone_after = 10**9
    assert Journal(tmp_path).replay_dead(store) == 3
    assert store.heard == ["e0", "e1", "e2", "e3", "e4"]


def test_a_dead_process_is_spoken_for(tmp_path: Path, claim: MakeClaim) -> None:
    dead, store = Journal(tmp_path), Listening()
    claims = (claim(4), claim(7, 50, "other"))
    store.hold("settled", claims, 0.0)
    store.hold("given back", claims, 0.0)
    dead.put(posting("settled", claims, (1, 2), b"row"))
    dead.put(Undo("given back", 2))
    dead.put(posting("under way", claims, (4, 7), b"estimated", final=False))
    dead.put(Write("row", b"row"))
    leave(dead)
    assert store.read(["book", "other"]) == (State(0, 8, 10), State(0, 14, 50))
    heir = Journal(tmp_path)
    assert heir.has_dead()
    assert heir.replay_dead(store) == 4
    assert store.read(["book", "other"]) == (State(5, 0, 10), State(9, 0, 50))
    assert files(tmp_path) == []
    assert not heir.has_dead()


def test_the_younger_line_counts(tmp_path: Path, claim: MakeClaim) -> None:
    dead, store = Journal(tmp_path), Listening()
    dead.put(posting("a", (claim(),), (4,), final=False))
    dead.put(posting("b", (claim(),), (4,), final=False))
    dead.put(posting("a", (claim(),), (1,)))
    dead.forget("b")
    assert [record.id for record in dead.waiting()] == ["a"]
    leave(dead)
    Journal(tmp_path).replay_dead(store)
    assert store.read(BOOK) == (State(1, 0, 10),)


def test_leases_end_after_what_was_drawn_from_them(tmp_path: Path, claim: MakeClaim) -> None:
    dead, store = Journal(tmp_path), MemoryStore()
    store.hold("lease:x:1", (claim(8),), 0.0)
    dead.put(Lease("lease:x:1"))
    dead.put(Draw("drawn", ("lease:x:1",), (("book", 1),), b"", final=True))
    dead.put(Draw("under way", ("lease:x:1",), (("book", 2),), b"estimated", final=False))
    leave(dead)
    Journal(tmp_path).replay_dead(store)
    assert store.read(BOOK) == (State(3, 0, 10),)


def test_a_living_process_is_left_alone(tmp_path: Path, claim: MakeClaim) -> None:
    living, store = Journal(tmp_path), Listening()
    living.put(posting("a", (claim(),), (1,)))
    assert Journal(tmp_path).replay_dead(store) == 0
    assert store.heard == []


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_torn_last_line_is_passed_over(tmp_path: Path, claim: MakeClaim, cut: int) -> None:
    dead, store = Journal(tmp_path), Listening()
    dead.put(posting("whole", (claim(),), (1,)))
    dead.put(posting("torn", (claim(),), (1,)))
    leave(dead)
    [path] = tmp_path.glob("*.journal")
    os.truncate(path, path.stat().st_size - cut)
    with path.open("ab") as file:
        file.write(b"\n\0\0\0\0\xff\n{]\n")
    assert Journal(tmp_path).replay_dead(store) == (1 if cut > 1 else 2)
    assert store.heard[0] == "whole"


def test_the_file_stays_small(tmp_path: Path, claim: MakeClaim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenmeter.budgets.journal._COMPACT_BYTES", 2_000)
    journal, store = Journal(tmp_path), Listening()
    journal.put(posting("stays", (claim(),), (3,), final=False))
    for n in range(500):
        journal.put(posting(f"e{n}", (claim(),), (0,), b"x" * 50))
        journal.replay_own(store)
        [path] = tmp_path.glob("*.journal")
        assert path.stat().st_size < 4_000
    assert journal._segment > 3
    leave(journal)
    Journal(tmp_path).replay_dead(store)
    assert len(store.heard) == 501
    assert store.read(BOOK)[0].posted == 3


def test_a_full_journal_says_so(tmp_path: Path, claim: MakeClaim, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path, max_bytes=2_000)
    written = [journal.put(posting(f"e{n}", (claim(),), (1,), final=False)) for n in range(100)]
    kept = written.count(True)
    assert 5 < kept < 30
    assert journal.full
    assert journal.put(posting("e0", (claim(),), (1,)))  # what is there may still be brought to its end
    assert len(caplog.records) == 1
    assert "full" in caplog.text
    assert journal.replay_own(Listening()) == 1
    assert journal.put(posting("again", (claim(),), (1,)))


def test_rows_that_charge_nothing_leave_room_for_charges(
    tmp_path: Path, claim: MakeClaim, caplog: pytest.LogCaptureFixture
) -> None:
    journal, line = Journal(tmp_path, max_bytes=20_000), posting("e", (claim(),), (1,))
    kept = [journal.put(Write(f"w{n}", b"x" * 100)) for n in range(500)].count(True)
    assert 20 < kept < 100
    assert not journal.full
    assert [journal.put(line.__class__(f"e{n}", line.accounts, line.amounts)) for n in range(40)] == [True] * 40
    assert not journal.put(Write("late", b""))
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "half full" in caplog.text
    leave(journal)
    store = Listening()
    assert Journal(tmp_path).replay_dead(store) == kept + 40, "an heir takes it for whole"
    assert store.read(BOOK) == (State(40, 0, 10),)


def test_a_disk_that_takes_nothing(tmp_path: Path, claim: MakeClaim, caplog: pytest.LogCaptureFixture) -> None:
    journal, store = Journal(tmp_path), Listening()
    journal.put(posting("a", (claim(),), (1,)))
    assert journal._file is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, journal._file)
    os.close(full)
    assert not journal.put(posting("b", (claim(),), (1,)))
    assert not journal.put(posting("c", (claim(),), (1,)))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert journal.replay_own(store) == 3  # from memory


def _no_room(*_: object) -> int:
    raise OSError(28, "No space left on device")


def _no_files(*_: object) -> int:
    raise OSError(24, "Too many open files")


@pytest.mark.parametrize("hindered", [("write", _no_room), ("open", _no_files)], ids=["disk", "files"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_hindrance_that_passes(
    tmp_path: Path,
    claim: MakeClaim,
    monkeypatch: pytest.MonkeyPatch,
    hindered: tuple[str, Callable[..., int]],
    begun: bool,
) -> None:
    """What could not be written meanwhile is written then, for whoever comes when this process is dead."""
    journal = Journal(tmp_path)
    if begun:
        journal.put(posting("a", (claim(),), (1,)))
    with monkeypatch.context() as patched:
        patched.setattr(os, *hindered)
        written = journal.put(posting("b", (claim(),), (2,)))
        assert written == (begun and hindered[0] == "open")
        patched.setattr(journals, "_MEND_S", 0.0)
        journal._mend_s = 0.0  # a second later
        journal.put(posting("c", (claim(),), (4,)))
    journal._mend_s = 0.0
    assert journal.put(Lease("lease"))
    leave(journal)
    store = Listening()
    assert Journal(tmp_path).replay_dead(store) == (4 if begun else 3)
    assert store.read(BOOK) == (State(7 if begun else 6, 0, 10),)
    assert list(tmp_path.iterdir()) == []


def test_directories(tmp_path: Path, claim: MakeClaim, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="give another"):
        Journal(tmp_path / "file" / "below")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert default_directory() == tmp_path / "state" / "tokenmeter"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert default_directory() == tmp_path / "file" / ".local" / "state" / "tokenmeter"
    journal = Journal()
    assert not journal.put(posting("a", (claim(),), (1,)))
    assert journal.replay_own(Listening()) == 1


def test_books_of_another_store_lie_elsewhere(tmp_path: Path, claim: MakeClaim) -> None:
    one = Journal(tmp_path, store="redis://a")
    one.put(posting("a", (claim(),), (1,)))
    leave(one)
    assert Journal(tmp_path, store="redis://b").replay_dead(Listening()) == 0
    assert Journal(tmp_path, store="redis://a").replay_dead(Listening()) == 1
    assert oct(one.directory.stat().st_mode)[-3:] == "700"


def test_a_line_that_the_store_refuses(tmp_path: Path, claim: MakeClaim, caplog: pytest.LogCaptureFixture) -> None:
    class Choosy(Listening):
        def draw(self, hold_ids: Sequence[str], entries: Sequence[Entry]) -> tuple[Drawn, ...]:
            if any(entry.id == "bad" for entry in entries):
                raise ValueError("no")
            return super().draw(hold_ids, entries)

    journal, store = Journal(tmp_path), Choosy()
    for name in ("a", "bad", "b"):
        journal.put(Draw(name, (), (("book", 1),)))
    journal.replay_own(store)
    assert sorted(store.heard) == ["a", "b"]
    assert len(caplog.records) == 1
    [rejected] = tmp_path.glob("*.rejected")
    assert b'"bad"' in rejected.read_bytes()


def test_a_writer_that_is_interrupted_by_a_writer(tmp_path: Path, claim: MakeClaim) -> None:
    """A signal handler writes while the same thread crosses out, compacts, or writes."""
    journal = Journal(tmp_path)
    made = 0

    def handler(*_: object) -> None:
        nonlocal made
        made += 1
        journal.put(posting(f"signal{made}", (claim(),), (1,)))

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        for n in range(3_000):
            journal.put(posting(f"e{n}", (claim(),), (1,)))
            journal.forget(f"e{n}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert made
    assert len(journal) == made
    leave(journal)
    store = Listening()
    Journal(tmp_path).replay_dead(store)
    assert {f"signal{n + 1}" for n in range(made)} <= set(store.heard)


def test_threads(tmp_path: Path, claim: MakeClaim) -> None:
    journal = Journal(tmp_path)

    def write(name: int) -> None:
        for n in range(200):
            journal.put(posting(f"{name}-{n}", (claim(),), (1,)))
            if n % 2:
                journal.forget(f"{name}-{n}")

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    leave(journal)
    store = Listening()
    assert Journal(tmp_path).replay_dead(store) == 400
    assert len(set(store.heard)) == 400


def test_heirs_share_what_is_left(tmp_path: Path, claim: MakeClaim) -> None:
    for n in range(20):
        dead = Journal(tmp_path)
        dead.put(posting(f"e{n}", (claim(1, 100),), (1,)))
        leave(dead)
    store = Listening()
    heirs = [threading.Thread(target=lambda: Journal(tmp_path).replay_dead(store)) for _ in range(4)]
    for heir in heirs:
        heir.start()
    for heir in heirs:
        heir.join(30)
    assert store.read(BOOK) == (State(20, 0, 100),)
    assert files(tmp_path) == []


def test_a_fork_leaves_the_file_to_the_parent(tmp_path: Path, claim: MakeClaim) -> None:
    journal = Journal(tmp_path)
    journal.put(posting("parent", (claim(),), (1,)))
    child = os.fork()
    if not child:
        try:
            assert len(journal) == 0
            journal.put(posting("child", (claim(),), (1,)))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    store = Listening()
    assert Journal(tmp_path).replay_dead(store) == 1  # the child's; the parent lives
    assert store.heard == ["child"]
    assert journal.replay_own(store) == 1


CHILD = """
import sys
from tokenmeter.budgets import Budget, Claim
from tokenmeter.budgets.journal import Journal
from tokenmeter.budgets.journal_lines import posting
journal = Journal(sys.argv[1])
claim = Claim(Budget("$5", per="day"), "book", "global", 1, 5_000_000_000, 1e9, True)
n = 0
while True:
    journal.put(posting(str(n), (claim,), (n,), b"row"))
    print(n, flush=True)
    n += 1
"""


def test_kill_minus_nine(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(tokenmeter.__file__).parents[1])}
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, env=environment)
    assert child.stdout is not None
    with child, child.stdout as out:
        for _ in range(200):
            out.readline()
        child.kill()
        said = 199 + len([line for line in out.read().split(b"\n") if line])
    store = Listening()
    assert Journal(tmp_path).replay_dead(store) >= said
    assert store.heard[: said + 1] == [str(n) for n in range(len(store.heard[: said + 1]))]
    assert store.books()[0].resets_at == 1e9


def test_a_journal_that_is_just_begun_is_not_taken_for_a_dead_one(
    tmp_path: Path, claim: MakeClaim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another, who looks for what dead processes left, comes between the making of the lock and the locking."""
    lock: Callable[[int, int], None] = getattr(journal_heirs, "flock")  # noqa: B009 - it is not of this module
    taken: list[int] = []

    def late(file: int, how: int) -> None:
        for path in tmp_path.glob("*.lock"):
            taken.append(os.open(path, os.O_RDWR))
            lock(taken[-1], how)
        lock(file, how)

    monkeypatch.setattr(journal_heirs, "flock", late)
    journal = Journal(tmp_path)
    assert journal.put(posting("e", (claim(),), (1,)))
    assert not taken
    monkeypatch.undo()
    assert Journal(tmp_path).replay_dead(Listening()) == 0  # its process lives
    journal.forget("e")
    journal.close()
    assert not list(tmp_path.iterdir())
