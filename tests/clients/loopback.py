"""A server on loopback that says exactly what a test wants, byte by byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """A request that arrived."""

    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True)
class Says:
    """An answer. ``framing``: how its end is known. ``cut``: the connection breaks where the pieces end."""

    status: int = 200
    kind: str = "application/json"
    pieces: Sequence[bytes] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    framing: str = "length"  # or "chunked", "close"
    cut: bool = False
    until: threading.Event | None = None  # the last piece waits for it


@dataclass
class Served:
    """The address of the server, and what arrived there."""

    url: str
    port: int
    arrived: list[Asked]

    def bodies(self) -> list[bytes]:
        return [asked.body for asked in self.arrived]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    arrived: list[Asked]
    answer: Callable[[Asked], Says | None]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers, self._body(headers))
        self.arrived.append(asked)
        says = self.answer(asked)
        if says is None:
            self._break()
            return
        self.send_response(says.status)
        self.send_header("content-type", says.kind)
        for name, value in says.headers.items():
            self.send_header(name, value)
        whole = sum(map(len, says.pieces)) + (1000 if says.cut else 0)
        if says.framing == "length":
            self.send_header("content-length", str(whole))
        elif says.framing == "chunked":
            self.send_header("transfer-encoding", "chunked")
        else:
            self.send_header("connection", "close")
            self.close_connection = True
        self.end_headers()
        try:
            for at, piece in enumerate(says.pieces):
                if says.until is not None and at == len(says.pieces) - 1:
                    says.until.wait(20)
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if says.framing == "chunked" else piece)
            if says.cut:
                self._break()
            elif says.framing == "chunked":
                self.wfile.write(b"0\r\n\r\n")
        except OSError:  # the client left
            self.close_connection = True

    do_POST = do_CONNECT = do_GET

    def _break(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that breaks off is what is tested


@contextmanager
def serving(answer: Callable[[Asked], Says | None] | Says) -> Iterator[Served]:
    """A server that answers so; None: it breaks off without a word."""
    arrived: list[Asked] = []
    say = (lambda asked: answer) if isinstance(answer, Says) else answer
    kind = type("Handler", (_Handler,), {"arrived": arrived, "answer": staticmethod(say)})
    server = _Server(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{server.server_port}", server.server_port, arrived)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
