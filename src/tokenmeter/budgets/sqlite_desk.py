"""The connection to a file of books, and one verb at a time on it, whatever comes in between.

- Threads of one process take turns at a lock; processes do at the file. Who finds the file taken asks again after a
  tenth of a millisecond, and then less and less often, for ``timeout_s``.
- The lock may be taken again by the thread that has it, because a finalizer or a signal handler may interrupt a verb
  and call another one. That can't go between the statements of the first: it raises `Nested`, and what must not be
  lost is left to `later`, which the interrupted verb does at its end.
- A verb is one transaction. What interrupts it rolls it back; where even that was interrupted, the next verb does.
- SQLite must not be carried over a fork: the connection is closed before it, and both sides open another.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from tokenmeter.budgets.sqlite_schema import prepare, version
from tokenmeter.budgets.sqlite_url import SqliteOptions
from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.faults import swallow
from tokenmeter.turn import Turn, in_turn

_T = TypeVar("_T")
Connection = sqlite3.Connection
_Identity = tuple[int, int]  # the device and the number of a file

_FIRST_PAUSE_S = 0.0001
_LONGEST_PAUSE_S = 0.01
_LOOK_S = 1.0  # how often it is looked whether the file is still there
_CHECKPOINT_PAGES = 4_000  # 16 MB: a flush of the disk for some hundred calls
_MAX_LOG_BYTES = 32 << 20
_MAX_LATER = 10_000
_OLDEST = (3, 35)


class Nested(StoreUnavailable):
    """Asked from within a verb that is under way on the same thread."""


class Desk:
    """Does verbs in transactions; opens the file when it is first needed."""

    def __init__(self, options: SqliteOptions) -> None:
        self.options = options
        self.path = options.path
        # Without the same of these, processes would write past each other.
        self._parts = (f"{options.path}-wal", f"{options.path}-shm")
        self.met = False
        """Whether whoever opened the store has been told what is wrong with the file."""
        self._file: _Identity | None = None  # of the file that was opened first
        self._shut = False
        self._forking = False
        self._lost_in_fork = False
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._turn = Turn()
        self._busy: str | None = None  # in a verb; the id of what it ends, "" if nothing
        self._later: dict[str, Callable[[], object]] = {}
        self._catching_up = False
        self._db: Connection | None = None
        self._beside: dict[str, _Identity] = {}  # what lies beside the file as long as the connection is open
        self._look_at = 0.0

    # -- verbs

    def write(self, work: Callable[[Connection], _T], ending: str = "") -> _T:
        """Do it in a transaction of its own. It may be done again, and must change nothing but the file."""
        return self._do("BEGIN IMMEDIATE", work, ending)

    def read(self, work: Callable[[Connection], _T]) -> _T:
        """The same for what changes nothing."""
        return self._do("BEGIN", work, "")

    def later(self, ending: str, verb: Callable[[], object]) -> bool:
        """Leave it to the verb that is under way, or to the next. False: the same is ended already."""
        # One step, so that a handler that interrupts this one finds it done or not done.
        added = self._busy != ending and self._later.setdefault(ending, verb) is verb
        while len(self._later) > _MAX_LATER:
            self._later.pop(next(iter(self._later)), None)
        return added

    @in_turn
    def close(self) -> None:
        """Let go of the file; a verb that comes after opens it for itself alone."""
        self._shut = True
        if self._busy is None:
            self._let_go()

    def _do(self, begin: str, work: Callable[[Connection], _T], ending: str) -> _T:
        return self._alone(begin, work, ending, time.monotonic() + self.options.timeout_s)

    @in_turn
    def _alone(self, begin: str, work: Callable[[Connection], _T], ending: str, deadline: float) -> _T:
        if self._busy is not None:
            raise Nested(
                "the budgets were asked by a finalizer or a signal handler that had interrupted them on the "
                "same thread; make the call elsewhere"
            )
        answers = True
        try:
            self._busy = ending
            return self._try(begin, work, deadline)
        except StoreUnavailable:
            answers = False
            raise
        finally:
            self._busy = None
            if self._later and answers and not self._catching_up:
                self._catch_up()
            if self._shut:
                self._let_go()

    def _try(self, begin: str, work: Callable[[Connection], _T], deadline: float) -> _T:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                if time.monotonic() >= self._look_at:
                    self._look()
                db = self._db
                if db is None:
                    db = self._db = self._open()
                elif db.in_transaction:  # an interrupt came while it was rolled back
                    db.rollback()
                db.execute(begin)
                answer = work(db)
                db.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                left_s = deadline - time.monotonic()
                if not _is_busy(error) or left_s <= 0:
                    raise self._told(error) from error
                time.sleep(min(left_s, pause_s * random.uniform(0.5, 1.5)))  # noqa: S311 - against processes in step
                pause_s = min(_LONGEST_PAUSE_S, pause_s * 1.5)
            except BaseException as error:
                self._roll_back()
                if self.met and isinstance(error, ConfigError):
                    raise StoreUnavailable(str(error)) from error
                raise
            else:
                return answer

    def _catch_up(self) -> None:
        self._catching_up = True
        try:
            while self._later:
                ending, verb = next(iter(self._later.items()))
                try:
                    verb()
                except StoreUnavailable:
                    return  # the next verb tries again
                except Exception as error:  # noqa: BLE001 - whoever called has long been answered
                    swallow(error, "ending a call that a finalizer ended")
                if self._later.get(ending) is verb:
                    del self._later[ending]  # only now: each of these verbs can be done twice
        finally:
            self._catching_up = False

    # -- the file

    def _open(self) -> Connection:
        if self._lost_in_fork:
            raise StoreUnavailable(
                "the process was forked in the middle of a verb of its budgets, and SQLite can't be carried over; "
                "open the store again after the fork"
            )
        self._touch()
        db = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256)
        try:
            self._set_up(db)
        except BaseException:
            db.close()
            raise
        self._file = self._file or _identity(self.path)
        self._beside = {path: found for path in self._parts if (found := _identity(path)) is not None}
        self._look()
        return db

    def _touch(self) -> None:
        """Make the file, so that only its owner can read it, and find out what SQLite would say in fewer words."""
        if sqlite3.sqlite_version_info < _OLDEST:
            raise self._wrong(
                f"budgets in a file need SQLite 3.35 or later, and this Python has {sqlite3.sqlite_version}; "
                "use a newer Python"
            )
        path = self.path
        if self._file is not None:
            self._look()
        try:
            os.close(os.open(path, os.O_RDWR | (os.O_CREAT if self._file is None else 0), 0o600))
        except FileNotFoundError:
            raise self._wrong(f"the folder {path.parent} of the budgets does not exist; make it") from None
        except IsADirectoryError:
            raise self._wrong(f"{path} is a folder; name a file in it for the budgets") from None
        except NotADirectoryError:
            raise self._wrong(f"{path} lies below what is no folder; name a file in one for the budgets") from None
        except PermissionError:
            raise self._wrong(_no_access(path)) from None
        except OSError as error:
            if error.errno == 28:
                raise StoreUnavailable(_full(path)) from None
            text = error.strerror or str(error)
            raise self._wrong(f"the file of the budgets {path} can't be opened: {text}; name another one") from None

    def _set_up(self, db: Connection) -> None:
        version(db, self.path)  # first, so that nothing is done to a file that isn't ours
        [mode] = db.execute("PRAGMA journal_mode = wal").fetchone()
        if mode != "wal":
            raise self._wrong(
                f"the file of the budgets {self.path} can't be shared by processes, as on a network drive; "
                "put it on a disk of this machine, or use redis://"
            )
        db.execute(f"PRAGMA synchronous = {self.options.synchronous}")
        db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {_MAX_LOG_BYTES}")
        prepare(db, self.path)

    def _look(self) -> None:
        """Whether the file is still the one that was opened: what was spent is known there, and nowhere else."""
        self._look_at = time.monotonic() + _LOOK_S
        if self._file is None:
            return
        for path, known in ((str(self.path), self._file), *self._beside.items()):
            if _identity(path) != known:
                self._look_at = 0.0
                raise StoreUnavailable(
                    f"the file of the budgets {path} was removed or replaced while it was in use; "
                    "put it back, or start the program again to go on with what is there now"
                )

    def _let_go(self) -> None:
        db, self._db = self._db, None
        self._beside = {}
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def _roll_back(self) -> None:
        db = self._db
        if db is not None and db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                db.rollback()

    def __del__(self) -> None:
        if hasattr(self, "_db"):
            self._let_go()

    # -- what is said when it can't be done

    def _wrong(self, text: str) -> ConfigError | StoreUnavailable:
        """Whoever opens the store has named the file wrongly; for those who call, it is gone."""
        return StoreUnavailable(text) if self.met else ConfigError(text)

    def _told(self, error: sqlite3.Error) -> ConfigError | StoreUnavailable:
        path = self.path
        kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreUnavailable(
                f"another process has had the file of the budgets {path} locked for {self.options.timeout_s:g} s; "
                "find out who (fuser names them), or raise timeout_s"
            )
        if kind == sqlite3.SQLITE_NOTADB:
            return self._wrong(f"{path} is no SQLite database; name another file for the budgets")
        if kind == sqlite3.SQLITE_CORRUPT:
            return self._wrong(
                f"the file of the budgets {path} is damaged ({error}); put a copy in its place, "
                "or save what can be read with: sqlite3 FILE .recover"
            )
        if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
            return self._wrong(_no_access(path))
        if kind == sqlite3.SQLITE_FULL:
            return StoreUnavailable(_full(path))
        if kind == sqlite3.SQLITE_IOERR:
            return StoreUnavailable(f"the file of the budgets {path} can't be read or written ({error}); see the disk")
        if kind == sqlite3.SQLITE_ERROR:
            return self._wrong(f"the file of the budgets {path} isn't as tokenmeter makes it ({error}); name another")
        return StoreUnavailable(f"the file of the budgets {path} can't be used: {error}; see the disk")

    # -- forks

    def before_fork(self) -> None:
        """Close the connection and let no verb begin."""
        self._forking = self._turn.begin(self.options.timeout_s)
        if self._forking and self._busy is None:
            self._let_go()

    def after_fork_here(self) -> None:
        """In the parent, go on."""
        if self._forking:
            self._forking = False
            self._turn.end()

    def after_fork_there(self) -> None:
        """In the child, start afresh."""
        if self._db is not None or not self._forking:
            # A verb is under way, whose connection is the parent's. Not even closing it here would be safe.
            self._lost_in_fork = True
            _never_closed.append(self._db)
        self._forking = False
        self._start_afresh()


_never_closed: list[Connection | None] = []


def _identity(path: str | os.PathLike[str]) -> _Identity | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - in a call's way
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _full(path: object) -> str:
    return f"the disk with the budgets {path} is full; make room"


def _no_access(path: object) -> str:
    return f"the file of the budgets {path} or its folder can't be written by this user; give write access to both"
