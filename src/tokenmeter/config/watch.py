"""A file of settings that is read again when it changes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from tokenmeter.config.load import Config, load_config
from tokenmeter.errors import ConfigError
from tokenmeter.forks import renew_in_child
from tokenmeter.turn import Turn

logger = logging.getLogger("tokenmeter")

INTERVAL_S = 1.0

_Look = tuple[tuple[int, int, int] | None, ...]


class Watched:
    """A configuration that follows its file.

    ``config`` is the one in force. ``changed`` is meant to be asked before every call: it looks at the file once a
    second at most, and costs next to nothing else. ``clock`` is monotonic, in seconds.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        first = load_config(path)
        # Looked at before it is read: what is written in between is seen by the next look.
        self._seen = self._before = _look(first.files)
        self.config = load_config(path)
        if self.config.files != first.files:
            self._seen = self._before = _look(self.config.files)
        self._clock = clock
        self._told = ""
        self._looking = Turn()
        renew_in_child(self, "_looking", Turn)
        self._next_s = clock() + INTERVAL_S

    def changed(self) -> Config | None:
        """The new configuration, once, when there is one. A broken one is logged once and changes nothing."""
        now_s = self._clock()
        if now_s < self._next_s:
            return None
        self._next_s = now_s + INTERVAL_S
        return self._looking.take(self._read_again, None)

    def _read_again(self) -> Config | None:
        found = _look(self.config.files)
        before, self._before = self._before, found
        if found == self._seen:
            return None
        if found != before and _in_place(found, self._seen):
            return None  # somebody may be in the midst of writing it: half a file is a valid file with fewer budgets
        try:
            config = load_config(self.config.path)
        except ConfigError as error:
            self._complain(error)
            self._seen = found
            return None
        self._seen = found if config.files == self.config.files else _look(config.files)
        self._before = self._seen
        self._told = ""
        if config == self.config:
            return None
        self.config = config
        logger.info("tokenmeter goes by the new %s", config.path)
        return config

    def _complain(self, error: ConfigError) -> None:
        text = str(error)
        if text != self._told:
            self._told = text
            logger.error("tokenmeter keeps to its old configuration, because the new one can't be used: %s", text)


def _look(files: tuple[Path, ...]) -> _Look:
    found: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)


def _in_place(found: _Look, seen: _Look) -> bool:
    """Whether a file was written over, not put into the place of the old one."""
    pairs = zip(found, seen, strict=True)
    return any(new != old and (new is None or old is None or new[2] == old[2]) for new, old in pairs)
