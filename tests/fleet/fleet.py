"""Real processes for tests: a nursery that has imported everything forks them, and each is spoken with over a socket.

A child is told its role and its options, and from then on both sides send lines of JSON. A test may kill a child at
any moment; a child that loses its test ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
LONG_S = 120.0  # a deadline that only a hang reaches
FULL = os.environ.get("TOKENMETER_FULL") == "1"


def size(small: int, full: int) -> int:
    """How often; TOKENMETER_FULL=1 asks for the full figures."""
    return full if FULL else small


class Gone(Exception):
    """The other side is not there any more."""


class Link:
    """Lines of JSON over a socket; any thread may send."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")
        self._lock = threading.Lock()

    def send(self, message: Any) -> None:
        """Send one message."""
        try:
            with self._lock:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Gone(str(error)) from error

    def receive(self, timeout_s: float = LONG_S) -> Any:
        """The next message. Raises `Gone` at the end of the other side."""
        self._socket.settimeout(timeout_s)
        try:
            line = self._file.readline()
        except TimeoutError:
            raise
        except OSError as error:
            raise Gone(str(error)) from error
        if not line.endswith(b"\n"):
            raise Gone("the other side ended")
        return json.loads(line)

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()


class Worker:
    """One child, as the test sees it."""

    def __init__(self, link: Link, pid: int) -> None:
        self.link = link
        self.pid = pid
        self._handle = os.pidfd_open(pid)

    def ask(self, message: Any, timeout_s: float = LONG_S) -> Any:
        """Send a message, and return the answer."""
        self.link.send(message)
        return self.link.receive(timeout_s)

    def signal(self, number: int) -> None:
        """Send it a signal; never to another process that has its id now."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """End it at once, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, timeout_s: float = LONG_S) -> None:
        """Wait until it is gone."""
        assert select.select([self._handle], [], [], timeout_s)[0], f"process {self.pid} does not end"

    def close(self) -> None:
        """End it if it still is there."""
        self.kill()
        self.link.close()
        os.close(self._handle)


class Nursery:
    """The process that forks the children of all fleets."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.fleet.nursery"],
            stdin=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
        )

    def order(self, order: dict[str, Any]) -> None:
        """Ask for a child."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(LONG_S)


class Fleet:
    """Starts children, and ends what is left of them. ``folder`` is for what they write."""

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        self._nursery = nursery
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.settimeout(LONG_S)
        self._errors = folder / "stderr"
        self._errors.touch()
        self.workers: list[Worker] = []

    @property
    def complaints(self) -> str:
        """What the children wrote to stderr up to now."""
        return self._errors.read_text(errors="replace")

    def start(self, role: str, **options: Any) -> Worker:
        """Have a child born, and have it begin."""
        self._nursery.order(
            {
                "role": role,
                "options": options,
                "port": self._listener.getsockname()[1],
                "errors": str(self._errors),
                "state": os.environ["XDG_STATE_HOME"],
            }
        )
        try:
            connection, _ = self._listener.accept()
        except TimeoutError:
            raise AssertionError(f"no child was born: {self.complaints}") from None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(connection)
        worker = Worker(link, link.receive()["pid"])
        self.workers.append(worker)
        return worker

    def forget(self, worker: Worker) -> None:
        """End a child, and keep nothing of it."""
        worker.close()
        self.workers.remove(worker)

    def dismiss(self) -> None:
        """Have all end well: each closes its meter and leaves."""
        for worker in self.workers:
            with contextlib.suppress(Gone):
                worker.link.send({"do": "end"})
        for worker in list(self.workers):
            worker.wait()
            self.forget(worker)

    def close(self) -> None:
        """End all."""
        for worker in list(self.workers):
            self.forget(worker)
        self._listener.close()
        if said := self.complaints:
            print("the children wrote:\n" + said[:8000])  # pytest shows it where a test fails

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def until(done: Any, timeout_s: float = LONG_S, pause_s: float = 0.02) -> None:
    """Wait until something is true."""
    end_s = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end_s, "it does not become true"
        time.sleep(pause_s)
