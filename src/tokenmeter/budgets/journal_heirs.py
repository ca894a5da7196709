"""What processes of this machine left in their journals when they died, and the locks that tell who is dead."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tokenmeter.budgets.journal_lines import Done, Record, decode

if sys.platform != "win32":
    from fcntl import LOCK_EX, LOCK_NB, flock

WHOLE = b"whole\n"
"""What a lock file says of a journal in which no line is missing."""


def left_behind(directory: Path, own: str) -> Iterator[Left]:
    """The journals of others that are dead, each locked while it is looked at."""
    try:
        paths = sorted(directory.glob("*.lock")) if sys.platform != "win32" else []
    except OSError:
        return
    for path in paths:
        if path.stem == own:
            continue
        with contextlib.suppress(OSError):  # locked: its process lives; gone: another was faster
            yield Left(path, _locked(path))


class Left:
    """What a dead process left; locked meanwhile."""

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock
        self.whole = os.pread(lock, len(WHOLE), 0) == WHOLE
        owner = path.stem
        numbered = [(_number(each), each) for each in path.parent.glob(f"{owner}.*.journal")]
        self._files = [each for number, each in sorted(numbered) if number is not None]

    def __enter__(self) -> Left:
        return self

    def __exit__(self, *args: object) -> None:
        os.close(self._lock)

    def records(self) -> list[Record]:
        """What stands in the files in the end. A line that was torn by the crash is passed over."""
        live: dict[str, Record] = {}
        for path in self._files:
            for line in path.read_bytes().split(b"\n"):
                if not line:
                    continue
                try:
                    record = decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue
                if isinstance(record, Done):
                    for each in record.ids:
                        live.pop(each, None)
                else:
                    live[record.id] = record
        return list(live.values())

    def remove(self) -> None:
        """All is told: the lock last, so that no file is ever without one."""
        for path in [*self._files, self._path]:
            path.unlink(missing_ok=True)


def _locked(path: Path) -> int:
    """The lock file of another, locked and still at its path. Raises ``OSError`` where its process lives."""
    while True:
        file = os.open(path, os.O_RDWR)
        try:
            flock(file, LOCK_EX | LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(file).st_ino:
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # whoever cleaned up took it away between the two steps


def own_lock(path: Path) -> int:
    """A lock file of one's own, locked before it is at its path: others would take it for that of a dead process."""
    fresh = path.with_suffix(".fresh")
    file = os.open(fresh, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        flock(file, LOCK_EX | LOCK_NB)
        fresh.rename(path)
    except BaseException:
        os.close(file)
        fresh.unlink(missing_ok=True)
        raise
    return file


def _number(path: Path) -> int | None:
    try:
        return int(path.name.split(".")[-2])
    except ValueError:
        return None
