"""Which processes live, as a file of books can tell: each has a lock that the kernel lets go of at its death.

The lock is on a file of its own, in a folder beside the books, named by a number that is drawn once: a number is
never met again, as that of a process may be. Where there are no such locks, a thread says five times in ``lease_s``
that the process lives, in the books themselves.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.rounds import Rounds
from tokenmeter.turn import Turn, in_turn

if sys.platform != "win32":
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock

_LOCK = ".lock"
_BEATS_A_LEASE = 5
_TRIES = 20


class Owner:
    """One process, and its lock or its heartbeat. ``beat`` writes until when it lives."""

    def __init__(self, books: Path, lease_s: float, beat: Callable[[float], object]) -> None:
        self.folder = books.with_name(books.name + "-owners")
        self._books = books
        self._lease_s = lease_s
        self._pause_s = lease_s / _BEATS_A_LEASE
        self._beat = weakref.WeakMethod(beat)
        self._lock: int | None = None
        self.forget()

    def forget(self) -> None:
        """In a forked child: another one. The lock stays with the parent, who has it open too."""
        self._turn = Turn()
        self._in_start = False
        self._let_go()
        self.id = secrets.randbits(62)
        self.begun = False
        self.by_lease = False
        self._heart = Rounds(
            self._round, name="sqlite-heartbeat", doing="keeping holds in SQLite alive", first_s=self._pause_s
        )

    @in_turn
    def begin(self) -> None:
        """Show from now on that this process lives."""
        if self.begun or self.ended:
            return
        if self._in_start:
            raise StoreUnavailable("the budgets were asked by a signal handler as they began; make the call later")
        try:
            self._in_start = True
            self._start()
            self.begun = True
        finally:
            self._in_start = False

    def end(self) -> None:
        """As death does: let the others end what is still held."""
        self._heart.end()
        self._let_go()
        if self.by_lease:
            with contextlib.suppress(StoreUnavailable):
                self._say(0.0)

    @property
    def ended(self) -> bool:
        """Whether it said that it is gone."""
        return self._heart.ended

    def beat(self) -> None:
        """Say once that this process lives."""
        self._say(time.time() + self._lease_s)

    def lives(self, owner: int, lives_until_s: float | None) -> bool:
        """Whether a process lives. ``lives_until_s``: what the books say of it, if anything."""
        if owner == self.id and not self.ended:
            return True
        if lives_until_s is not None:
            return lives_until_s > time.time()
        return _is_locked(self._path(owner))

    def dead(self) -> list[int]:
        """Those who left a lock, and some who are just about to take it: ask `lives` before they are buried."""
        try:
            names = [name for name in os.listdir(self.folder) if name.endswith(_LOCK)]  # noqa: PTH208 - in a call's way
        except OSError:
            return []
        found = []
        for name in names:
            with contextlib.suppress(ValueError):
                owner = int(name.removesuffix(_LOCK), 16)
                if (owner != self.id or self.ended) and not _is_locked(self._path(owner)):
                    found.append(owner)
        return found

    def remove(self, dead: Iterable[int]) -> None:
        """Take the locks of the dead away, when their holds have ended."""
        for owner in dead:
            _remove(self._path(owner))
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def __del__(self) -> None:
        self._let_go()

    def _let_go(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(OSError):
                os.close(lock)

    def _path(self, owner: int) -> Path:
        return self.folder / f"{owner:016x}{_LOCK}"

    def _start(self) -> None:
        try:
            self._lock = self._locked_file()
        except OSError:
            self.by_lease = True
            self.beat()
            self._heart.start()  # without a thread, what is held for longer is ended by the others

    def _locked_file(self) -> int:
        path = self._path(self.id)
        mode = self._books.stat().st_mode & 0o666  # who shares the books must be able to look
        for attempt in range(_TRIES):
            # Whoever tidies up may have it locked, or have taken the folder or the file away.
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                with contextlib.suppress(FileExistsError):
                    self.folder.mkdir(mode=mode | (mode & 0o444) >> 2)
                lock = _lock(path, mode)
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_ino == os.fstat(lock).st_ino:
                        return lock
                os.close(lock)
            time.sleep(0.0001 * attempt)
        raise FileNotFoundError(path)

    def _round(self) -> float:
        with contextlib.suppress(StoreUnavailable, ConfigError):  # those who call will hear of it
            self.beat()
        return self._pause_s

    def _say(self, lives_until_s: float) -> None:
        beat = self._beat()
        if beat is not None:
            beat(lives_until_s)


def _lock(path: Path, mode: int) -> int:
    if sys.platform == "win32":
        raise OSError(38, "this system has no flock")
    lock = os.open(path, os.O_RDWR | os.O_CREAT, mode)
    try:
        flock(lock, LOCK_EX | LOCK_NB)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _is_locked(path: Path) -> bool:
    """Whether somebody has the lock; where that can't be known, somebody may."""
    try:
        os.close(_looked_at(path))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _looked_at(path: Path) -> int:
    """The lock file of a dead process, which nobody can lock now. ``OSError`` if its process lives."""
    if sys.platform == "win32":
        raise OSError(38, "this system has no flock")
    lock = os.open(path, os.O_RDONLY)
    try:
        flock(lock, LOCK_SH | LOCK_NB)  # shared, so that those who look are not in each other's way
    except BaseException:
        os.close(lock)
        raise
    return lock


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        lock = _looked_at(path)
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(lock)
