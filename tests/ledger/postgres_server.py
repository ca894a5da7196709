"""A real PostgreSQL on a free port of the loopback, for tests."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tests.support.redis_server import free_port

_READY_S = 60.0
_NOBODY = 65534
_QUICK = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=32MB", "max_connections=40")


def _folder() -> Path | None:
    """Where initdb and postgres are."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


def missing() -> str | None:
    """Why there is no server to be had, or None."""
    for package in ("sqlalchemy", "psycopg"):
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed"
    if _folder() is None:
        return "no initdb on the PATH or under /usr/lib/postgresql"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL refuses root, and there is no setpriv to become somebody else"
    return None


class PostgresServer:
    """One server, whose data is gone when it ends."""

    _databases = itertools.count()

    def __init__(self) -> None:
        folder = _folder()
        assert folder is not None
        self._programs = folder
        self._folder = Path(tempfile.mkdtemp(prefix="tokenmeter-postgres-"))
        self.port = free_port()
        self._as: list[str] = []
        if os.geteuid() == 0:
            os.chown(self._folder, _NOBODY, _NOBODY)
            self._as = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
        made = subprocess.run(
            [*self._as, folder / "initdb", "-D", self._folder / "data", "-U", "meter", "-A", "trust", "-E", "UTF8",
             "--no-locale", "--no-sync"],
            cwd="/", capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stderr[-2000:]}")
        self._start()

    def _start(self) -> None:
        options = [word for option in _QUICK for word in ("-c", option)]
        self._process = subprocess.Popen(
            [*self._as, self._programs / "postgres", "-D", self._folder / "data", "-p", str(self.port),
             "-c", "listen_addresses=127.0.0.1", "-k", self._folder, *options],
            cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end_s = time.monotonic() + _READY_S
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "meter"]
        while subprocess.run([*ready, "-d", "postgres"], check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > end_s:
                self.close()
                raise RuntimeError(f"PostgreSQL was not ready within {_READY_S:g} s")
            time.sleep(0.05)

    def database(self) -> str:
        """The address of a fresh database."""
        import psycopg

        name = f"ledger{next(self._databases)}"
        with psycopg.connect(f"postgresql://meter@127.0.0.1:{self.port}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql://meter@127.0.0.1:{self.port}/{name}"

    def close(self) -> None:
        """End it and remove what it left."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown: whoever is connected is sent away
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
