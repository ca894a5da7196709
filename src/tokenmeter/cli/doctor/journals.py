"""Journals of processes that died before they could tell the store what they had spent."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenmeter.cli.doctor.check import Check, ok, warn
from tokenmeter.errors import ConfigError

if sys.platform != "win32":
    from fcntl import LOCK_NB, LOCK_SH, flock


def directories(url: str | None) -> list[Path]:
    """Where journals may lie: in the default place, and where the store's address says or is."""
    from tokenmeter.budgets import redis_url, sqlite_url
    from tokenmeter.budgets.journal import default_directory

    found = [default_directory()]
    with contextlib.suppress(ConfigError):
        if url is not None and url.startswith("sqlite:"):
            path = sqlite_url.parse_url(url).path
            found.append(path.with_name(f"{path.name}-journals"))
        elif url is not None and url.startswith("redis"):
            given = redis_url.parse_url(url).state_dir
            found += [given] if given is not None else []
    return found


def checks(roots: Sequence[Path]) -> Iterator[Check]:
    """What lies in the directories that there are, whatever store it is for."""
    roots = [root for root in roots if root.is_dir()]
    if not roots:
        return
    where = ", ".join(map(str, roots))
    left = [lock for root in roots for lock in _files(root, "*.lock") if _bytes_of(lock) and not _lives(lock)]
    rejected = [path for root in roots for path in _files(root, "*.rejected")]
    if left:
        size = sum(map(_bytes_of, left))
        yield warn(
            "journals",
            f"{len(left)} processes died and left {size:,} bytes that the store wasn't told, in {where}",
            "start a program with the same store: its Meter tells them. Until then that spend is missing",
        )
    else:
        yield ok("journals", f"nothing is left behind in {where}")
    if rejected:
        yield warn(
            "rejected lines",
            f"{len(rejected)} files with lines that the store would not take, the first is {rejected[0]}",
            "report this with the log of the program; remove the files when it is settled",
        )


def _files(root: Path, pattern: str) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(root.rglob(pattern))
    return []


def _bytes_of(lock: Path) -> int:
    size = 0
    for path in lock.parent.glob(f"{lock.stem}.*.journal"):
        with contextlib.suppress(OSError):
            size += path.stat().st_size
    return size


def _lives(lock: Path) -> bool:
    """Whether its process has it still; looked at with a shared lock that is given back at once."""
    if sys.platform == "win32":
        return True
    try:
        file = os.open(lock, os.O_RDWR)
    except OSError:
        return True  # gone, or another user's: nothing can be said
    try:
        flock(file, LOCK_SH | LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False
