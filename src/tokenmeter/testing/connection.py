"""One HTTP/1.1 connection of a client, from the server's side."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import zlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from tokenmeter.testing.script import Request

_FLUSH_BYTES = 8192
_GZIP = 16 + zlib.MAX_WBITS


class Gone(Exception):
    """The other side has left."""


class Connection:
    """Reads requests and writes answers; every method raises `Gone` once the client has left."""

    def __init__(self, sock: socket.socket, closing: threading.Event) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._closing = closing
        self._buffer = b""
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._gzip: Any = None
        self.keep_alive = True

    def read(self) -> Request:
        """The next request, in whole."""
        try:
            return self._parse()
        except ValueError as error:
            raise Gone from error  # it speaks something else

    def _parse(self) -> Request:
        head, self._buffer = self._until(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        pairs = (line.partition(":") for line in lines[1:])
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self.keep_alive = headers.get("connection", "").lower() != "close"
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = self._chunked()
        else:
            body = self._take(int(headers.get("content-length", "0")))
        return Request(method=method, path=path, headers=headers, body=body, at_s=time.time())

    def answer(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str],
        *,
        gzip: bool = False,
        half: bool = False,
    ) -> None:
        """Send an answer of known length, or only half of its body."""
        if gzip:
            packer = zlib.compressobj(wbits=_GZIP)
            body = packer.compress(body) + packer.flush()
        extra = {"content-encoding": "gzip"} if gzip else {}
        self._send(
            _head(status, {**headers, **extra, "content-length": str(len(body))})
            + body[: len(body) // 2 if half else None]
        )

    def start(self, headers: Mapping[str, str], *, gzip: bool = False) -> None:
        """Begin an answer whose length isn't known."""
        self._gzip = zlib.compressobj(wbits=_GZIP) if gzip else None
        extra = {"content-encoding": "gzip"} if gzip else {}
        self._put(_head(200, {**headers, **extra, "transfer-encoding": "chunked"}))

    def chunk(self, data: bytes) -> None:
        """Send the next bytes of it, together with those before if they come at once."""
        if self._gzip is not None:
            data = self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        if data:  # an empty chunk would be the end
            self._put(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """Send the end of it."""
        if self._gzip is not None:
            data = self._gzip.flush()
            self._put(b"%x\r\n%b\r\n" % (len(data), data))
        self._put(b"0\r\n\r\n")
        self.flush()

    def flush(self) -> None:
        """Send what still waits for company."""
        data = b"".join(self._out)
        self._out, self._out_bytes = [], 0
        if data:
            self.check()
            self._send(data)

    def wait(self, seconds: float | None) -> None:
        """Let time pass, for ever if it is ``None``."""
        self.flush()
        started_s = time.monotonic()
        try:
            self._sock.settimeout(seconds)
            data = self._sock.recv(1, socket.MSG_PEEK)
        except (TimeoutError, BlockingIOError):
            return
        except OSError as error:
            raise Gone from error
        finally:
            self._sock.settimeout(None)
        if not data:
            raise Gone
        left_s = None if seconds is None else max(0.0, seconds - (time.monotonic() - started_s))
        if self._closing.wait(left_s):  # the client has sent its next request already; it is there
            raise Gone

    def check(self) -> None:
        """Notice whether the client has left."""
        self.wait(0.0)

    def shut(self) -> None:
        """Wake whoever uses the connection; may be called from another thread."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket."""
        self.shut()
        self._sock.close()

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes >= _FLUSH_BYTES:
            self.flush()

    def _send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise Gone from error

    def _chunked(self) -> bytes:
        body = b""
        while True:
            line, self._buffer = self._until(b"\r\n")
            size = int(line.partition(b";")[0], 16)
            body += self._take(size)
            self._take(2)
            if not size:
                return body

    def _until(self, mark: bytes) -> tuple[bytes, bytes]:
        while mark not in self._buffer:
            self._buffer += self._receive()
        found, _, rest = self._buffer.partition(mark)
        return found, rest

    def _take(self, size: int) -> bytes:
        parts = [self._buffer]
        have = len(self._buffer)
        while have < size:
            parts.append(self._receive())
            have += len(parts[-1])
        data = b"".join(parts)
        self._buffer = data[size:]
        return data[:size]

    def _receive(self) -> bytes:
        try:
            data = self._sock.recv(65536)
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        return data


def to_json(value: Any) -> bytes:
    """A value as the bytes of a body."""
    return json.dumps(value, ensure_ascii=False).encode()


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Scripted"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")
