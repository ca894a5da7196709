"""Which books a Redis had: remembered here, so that a server which lost its data isn't taken for an empty one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from pathlib import Path

from tokenmeter.budgets.journal import default_directory
from tokenmeter.budgets.redis_url import RedisOptions
from tokenmeter.errors import ConfigError

logger = logging.getLogger("tokenmeter")

_MAX_KNOWN = 20


class Epoch:
    """The mark of the books that were seen at one address, in memory and in a file.

    ``known`` are the marks from the oldest on, the last one in force. Where no file can be written, the mark
    lasts as long as the process.
    """

    def __init__(self, options: RedisOptions) -> None:
        nodes = ",".join(sorted(f"{host}:{port}" for host, port in options.nodes))
        place = f"{options.kind} {nodes} {options.db} {options.service} {options.tenant}"
        root = options.state_dir or default_directory()
        self.path = root / f"redis-{hashlib.sha256(place.encode()).hexdigest()[:16]}.json"
        self._place = place
        self.known: list[str] = []
        self.seen_s = 0.0
        if options.state_dir is not None:
            try:
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"redis state_dir={str(root)!r} can't be made: {error.strerror}") from None
        self.reload()

    @property
    def last(self) -> str:
        """The mark in force, or nothing when no books were seen yet."""
        return self.known[-1] if self.known else ""

    def reload(self) -> None:
        """Read the file, if there is none in memory."""
        if self.known:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(self.path.read_text())
            self.known = [str(each) for each in found["epochs"]][-_MAX_KNOWN:]
            self.seen_s = float(found["since_s"])

    def note(self, epoch: str) -> None:
        """These are the books from now on."""
        if epoch == self.last and self.path.exists():
            return
        if epoch != self.last:
            self.known = [*self.known, epoch][-_MAX_KNOWN:]
            self.seen_s = time.time()
        text = json.dumps({"place": self._place, "epochs": self.known, "since_s": self.seen_s})
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name)
            try:
                os.write(file, text.encode())
            finally:
                os.close(file)
            Path(name).replace(self.path)
        except OSError as error:
            logger.warning(
                "tokenmeter can't note in %s which books Redis has (%s): should the server lose them, only the "
                "processes that run then will know. Give ?state_dir= a directory that can be written.",
                self.path,
                error.strerror,
            )
