"""What a process still has to tell the store, in a file of its own that survives it.

A line is one `os.write` to a file opened for appending: it is in the kernel's hands, and survives ``kill -9``, but no
power cut. The file belongs to its process as long as that has the lock beside it (``flock``, which the kernel lets go
of at death). Each line is told to the store by verbs that are exactly once by their id, so that a crash between the
telling and the crossing out does no harm.

    ID.lock        locked while the process lives; empty if a line is missing
    ID.3.journal   the lines; a younger one replaces an older one of the same id
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tokenmeter.budgets.journal_heirs import WHOLE, left_behind, own_lock
from tokenmeter.budgets.journal_lines import (
    Done,
    Lease,
    Record,
    Undo,
    Write,
    encode,
    is_final,
    steps,
)
from tokenmeter.budgets.store import Store
from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.forks import each_in_child
from tokenmeter.turn import Turn, in_turn

logger = logging.getLogger("tokenmeter")

MAX_BYTES = 64 << 20
_COMPACT_BYTES = 1 << 20
_MEND_S = 1.0


class Journal:
    """The lines of this process that wait to be told, in memory and in a file.

    ``directory``: by default ``$XDG_STATE_HOME/tokenmeter`` or ``~/.local/state/tokenmeter``. ``store``: which books
    the lines are for; those of another store lie elsewhere. ``max_bytes`` bounds what waits; rows that charge nothing
    are taken up to the half of it, so that charges have room.

    Files are made at the first line. Any thread may write, and a finalizer or a signal handler that interrupted
    another writing on the same thread too. A directory that was given and can't be made raises ``ConfigError``;
    where the default one can't, lines are kept in memory alone, and the log says so once.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        store: str = "",
        max_bytes: int = MAX_BYTES,
    ) -> None:
        given = directory is not None
        root = Path(directory) if directory is not None else default_directory()
        if store:
            root /= hashlib.sha256(store.encode()).hexdigest()[:16]
        self.directory = root
        self._max_bytes = max_bytes
        self._told: set[str] = set()  # what the log said already
        self._start_afresh()
        if given:
            try:
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"the journal's directory {str(root)!r} can't be made: {error.strerror}; give another"
                ) from None
        _journals.add(self)

    def _start_afresh(self) -> None:
        self.owner = f"process-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._turn = Turn()
        self._live: dict[str, tuple[Record, int]] = {}
        self._live_bytes = 0
        self._file: int | None = None
        self._lock_file: int | None = None
        self._file_bytes = 0
        self._segment = 0
        self._torn = False
        self._broken = False  # no file is to be had any more
        self._gap = False  # lines are missing in the file, or there is none
        self._mend_s = 0.0  # when to try next to write them
        self._lost = False  # a line is neither there nor in memory
        self._busy = False  # crossing out or moving to a fresh file; what comes meanwhile is written once more
        self._late: list[bytes] = []

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._live

    @property
    def full(self) -> bool:
        """Whether so much waits that nothing new should be begun."""
        return self._live_bytes > self._max_bytes * 0.9

    def get(self, record_id: str) -> Record | None:
        """The line of that id, if it waits."""
        found = self._live.get(record_id)
        return None if found is None else found[0]

    def waiting(self) -> list[Record]:
        """The lines that wait to be told, the oldest first; not those of calls that are under way."""
        return [record for record, _ in list(self._live.values()) if not isinstance(record, Lease) and is_final(record)]

    @in_turn
    def put(self, record: Record) -> bool:
        """Write a line; it replaces one of the same id. False: it is not in the file, and the log said why."""
        line = encode(record) + b"\n"
        size = len(line)
        before = self._live.get(record.id)
        if before is None and isinstance(record, Write) and self._live_bytes + size > self._max_bytes // 2:
            self._tell_once(
                "rows",
                "tokenmeter's journal %s is half full (%d bytes): rows of calls that charge nothing, such as "
                "refused ones, are left out from now on; what calls spend is kept",
                self._live_bytes,
            )
            return False
        if before is None and self._live_bytes + size > self._max_bytes:
            self._tell_once(
                "full",
                "tokenmeter's journal %s is full (%d bytes): what calls spend from now on is lost until the "
                "store is back",
                self._max_bytes,
            )
            self._lost = True
            self._not_whole()
            return False
        self._live[record.id] = record, size
        self._live_bytes += size - (before[1] if before is not None else 0)
        if self._busy:
            self._late.append(line)
        written = (self._gap and self._mend()) or self._append(line)
        while self._late and not self._busy:  # of those who came in while the file was opened
            self._append(self._late.pop(0))
        if not written:
            self._not_whole()
        return written

    @in_turn
    def drop(self, records: Iterable[Record]) -> None:
        """Cross lines out, but for those that were replaced meanwhile."""
        gone = []
        for record in records:
            found = self._live.get(record.id)
            if found is not None and found[0] is record:
                del self._live[record.id]
                self._live_bytes -= found[1]
                gone.append(record.id)
        if gone:
            self._cross_out(gone)

    def forget(self, record_id: str) -> None:
        """Cross a line out by its id."""
        found = self._live.get(record_id)
        if found is not None:
            self.drop((found[0],))

    def replay_own(self, store: Store, undoing: Turn | None = None) -> int:
        """Tell the store what waits here. Raises `StoreUnavailable` where it stops.

        A hold is given back in the turn of ``undoing``: whoever takes its id into use again has it meanwhile.
        """
        undoing = undoing or Turn()
        count = 0
        for work, records in steps(self.waiting()):
            if isinstance(records[0], Undo):
                count += undoing.run(self._replay_undo, work, store, records)
            else:
                count += self._replay(work, store, records)
        return count

    def _replay_undo(self, work: Callable[[Store], object], store: Store, records: Sequence[Record]) -> int:
        in_use_again = self.get(records[0].id) is not records[0]
        return 0 if in_use_again else self._replay(work, store, records)

    def _replay(self, work: Callable[[Store], object], store: Store, records: Sequence[Record]) -> int:
        self._tell(work, store, records)
        self.drop(records)
        return len(records)

    def replay_dead(self, store: Store) -> int:
        """Tell the store what processes of this machine left that are gone, and end their leases."""
        count = 0
        for left in left_behind(self.directory, self.owner):
            with left:
                records = left.records()
                calls = [record for record in records if not isinstance(record, Lease)]
                leases = [record for record in records if isinstance(record, Lease) and left.whole]
                for work, some in [*steps(calls), *steps(leases)]:
                    self._tell(work, store, some)
                    count += len(some)
                left.remove()
        return count

    def has_dead(self) -> bool:
        """Whether there may be something that other processes left."""
        try:
            return any(path.stem != self.owner for path in self.directory.glob("*.lock"))
        except OSError:
            return False

    @in_turn
    def close(self) -> None:
        """Let go of the file; one with lines in it is left to whoever comes next."""
        self._let_go(remove=not self._live)
        self._broken = True

    # -- inside

    def _tell(self, work: Callable[[Store], object], store: Store, records: Sequence[Record]) -> None:
        try:
            work(store)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - a line that the store can't take must not stand before all others
            if len(records) > 1:
                for each, alone in steps(records, at_once=1):
                    self._tell(each, store, alone)
                return
            logger.error("tokenmeter: the store won't take a line of the journal %s: %s", self.directory, error)
            with contextlib.suppress(OSError):
                path = self.directory / f"{self.owner}.rejected"
                with path.open("ab") as file:
                    file.writelines(encode(record) + b"\n" for record in records)

    def _mend(self) -> bool:
        """Write all that waits into a fresh file, now that the disk may take it. Whether it is there."""
        now_s = time.monotonic()
        if self._busy or self._broken or now_s < self._mend_s:
            return False
        self._mend_s = now_s + _MEND_S
        self._busy = True
        try:
            if self._file is None:
                self._open()
            self._move()
            self._gap = False
            if not self._lost and self._lock_file is not None:
                os.pwrite(self._lock_file, WHOLE, 0)
        except OSError:
            return False
        finally:
            self._busy = False
        return True

    def _append(self, line: bytes) -> bool:
        try:
            if self._file is None and not self._broken and not self._gap:
                if self._busy:
                    return True  # a finalizer in the midst of the opening: the line is written after it
                self._busy = True
                try:
                    if self._file is None:
                        self._open()
                finally:
                    self._busy = False
            if self._file is None:
                return False
            if self._torn:
                line = b"\n" + line
            written = os.write(self._file, line)
            self._file_bytes += written
            self._torn = written < len(line)
            if self._torn:
                raise OSError(28, "no space left")
        except OSError as error:
            self._tell_once("broken", "tokenmeter's journal %s can't be written: %s", error.strerror or error)
            return False
        return True

    def _open(self) -> None:
        if sys.platform == "win32":
            self._broken = True
            raise OSError(38, "this system has no flock")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lock_file is None:
            self._lock_file = own_lock(self.directory / f"{self.owner}.lock")
        self._file = self._fresh()
        with contextlib.suppress(OSError):
            os.pwrite(self._lock_file, WHOLE, 0)

    def _not_whole(self) -> None:
        """A line is missing: no heir may take the rest for all that was spent. Works on a full disk too."""
        if not self._gap:
            self._gap, self._mend_s = True, time.monotonic() + _MEND_S
        if self._lock_file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._lock_file, 0)

    def _fresh(self) -> int:
        segment = self._segment + 1
        file = os.open(self._path(segment), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self._segment = segment
        self._file_bytes = 0
        self._torn = False
        return file

    def _path(self, segment: int) -> Path:
        return self.directory / f"{self.owner}.{segment}.journal"

    def _cross_out(self, gone: Sequence[str]) -> None:
        if self._file is None or self._busy:
            return
        self._busy = True
        try:
            if not self._live:
                os.ftruncate(self._file, 0)
                self._file_bytes = 0
            elif self._file_bytes > _COMPACT_BYTES + 2 * self._live_bytes:
                self._move()
            else:
                self._append(encode(Done(tuple(gone))) + b"\n")
        except OSError as error:
            self._tell_once("broken", "tokenmeter's journal %s can't be written: %s", error.strerror or error)
        finally:
            self._busy = False
            while self._late:
                self._append(self._late.pop(0))

    def _move(self) -> None:
        """Go on in a fresh file that has only what waits."""
        old, segment, state = self._file, self._segment, (self._file_bytes, self._torn)
        fresh = self._fresh()
        data = b"".join([encode(record) + b"\n" for record, _ in list(self._live.values())])
        try:
            written = os.write(fresh, data)
            while written < len(data):
                written += os.write(fresh, data[written:])
        except OSError:
            os.close(fresh)
            self._path(self._segment).unlink(missing_ok=True)
            self._segment, (self._file_bytes, self._torn) = segment, state
            raise
        self._file, self._file_bytes = fresh, len(data)
        if old is not None:
            os.close(old)
        self._path(segment).unlink(missing_ok=True)

    def _let_go(self, *, remove: bool) -> None:
        file, lock = self._file, self._lock_file
        self._file = self._lock_file = None
        if file is not None:
            os.close(file)
            if remove:
                with contextlib.suppress(OSError):
                    self._path(self._segment).unlink(missing_ok=True)
        if lock is not None:
            if remove:
                with contextlib.suppress(OSError):
                    (self.directory / f"{self.owner}.lock").unlink(missing_ok=True)
            os.close(lock)

    def _tell_once(self, what: str, text: str, detail: object) -> None:
        if what not in self._told:
            self._told.add(what)
            logger.error(text, self.directory, detail)

    def _after_fork(self) -> None:
        """In a forked child: the file and its lines are the parent's."""
        for file in (self._file, self._lock_file):
            if file is not None:
                with contextlib.suppress(OSError):
                    os.close(file)
        self._start_afresh()


def default_directory() -> Path:
    """Where journals lie when nobody says: ``$XDG_STATE_HOME/tokenmeter``, or ``~/.local/state/tokenmeter``."""
    state = os.environ.get("XDG_STATE_HOME")
    if state and Path(state).is_absolute():
        return Path(state) / "tokenmeter"
    return Path(os.path.expanduser("~")) / ".local" / "state" / "tokenmeter"  # noqa: PTH111 - never raises


_journals: weakref.WeakSet[Journal] = weakref.WeakSet()


each_in_child(_journals, lambda journal: journal._after_fork())
