"""A model provider that answers from a script: real HTTP on loopback, in the real protocols."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from tokenmeter.testing import dialects
from tokenmeter.testing.connection import Connection, Gone, to_json
from tokenmeter.testing.delivery import Delivery
from tokenmeter.testing.dialects import EMBEDDINGS
from tokenmeter.testing.dialects.base import Dialect, openai_error
from tokenmeter.testing.script import Reply, Request, Script, count_input, work_out

_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Billed:
    """What the provider charges for: the truth that a meter is compared with.

    ``input_tokens`` includes cached ones and ``output_tokens`` reasoning. Errors are not billed. A client
    that leaves early pays for its input and for what was generated until the provider noticed.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


class ScriptedProvider:
    """Speaks OpenAI chat completions, completions, Responses and embeddings, and Anthropic messages.

    Runs in threads of this process from when it is made until ``close()`` or the end of its ``with`` block.
    It keeps the last ``max_requests`` requests. If a function given as ``reply`` raises, its request is
    answered with a 500 and the error is raised again at the end of the ``with`` block.
    """

    def __init__(self, reply: Script = Reply(), *, max_requests: int = 10_000, port: int = 0) -> None:  # noqa: B008  frozen
        self._script = reply
        self._requests: deque[Request] = deque(maxlen=max_requests)
        self._received = 0
        self._answering = 0
        self._replies_used = 0
        self._billed = Billed()
        self._held = False
        self._passes = 0
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._threads: dict[threading.Thread, Connection] = {}
        self._listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self._port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="scripted-provider", daemon=True)
        self._acceptor.start()

    # Where it is

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def openai_url(self) -> str:
        """The ``base_url`` for OpenAI's SDK."""
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        """The ``base_url`` for Anthropic's SDK, which adds ``/v1`` itself."""
        return self.url

    # What it saw

    @property
    def requests(self) -> list[Request]:
        """The requests in order of arrival, the oldest first."""
        with self._changed:
            return list(self._requests)

    @property
    def received(self) -> int:
        """How many requests arrived, those that are no longer kept among them."""
        with self._changed:
            return self._received

    @property
    def billed(self) -> Billed:
        """What was charged up to now."""
        with self._changed:
            return self._billed

    def wait_for(self, n: int, timeout_s: float = 10.0) -> list[Request]:
        """Wait until ``n`` requests have arrived, held ones among them. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._received >= n, timeout_s):
                raise TimeoutError(f"{self._received} of {n} requests arrived within {timeout_s} s")
            return list(self._requests)

    def wait_idle(self, timeout_s: float = 10.0) -> Billed:
        """Wait until no request is being answered, so that the bill is final. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._answering, timeout_s):
                raise TimeoutError(f"{self._answering} requests are still being answered after {timeout_s} s")
            return self._billed

    # What it shall do

    @property
    def reply(self) -> Script:
        """The script; a new one may be given at any time, and a list then begins at its first."""
        return self._script

    @reply.setter
    def reply(self, reply: Script) -> None:
        with self._changed:
            self._script = reply
            self._replies_used = 0

    def hold(self) -> None:
        """Keep every request that arrives from now on standing inside the server."""
        with self._changed:
            self._held = True
            self._passes = 0

    def release(self, n: int | None = None) -> None:
        """Let ``n`` of the held requests go on; without ``n`` all of them and those to come."""
        with self._changed:
            if n is None:
                self._held = False
            else:
                self._passes += n
            self._changed.notify_all()

    def close(self) -> None:
        """Close all connections and end all threads. May be called again."""
        with self._changed:
            if self._closing.is_set():
                return
            self._closing.set()
            self._changed.notify_all()
        with socket.create_connection(("127.0.0.1", self._port)):  # wakes the acceptor
            self._acceptor.join()
        self._listener.close()
        with self._changed:
            threads = dict(self._threads)
        for thread, connection in threads.items():
            connection.shut()
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
        if self._failure is not None and error is None:
            raise self._failure

    # How it does it

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._closing.is_set():
                sock.close()
                return
            connection = Connection(sock, self._closing)
            thread = threading.Thread(target=self._serve, args=(connection,), name="scripted-provider", daemon=True)
            with self._changed:
                self._threads[thread] = connection
            thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            while connection.keep_alive:
                request = connection.read()
                with self._changed:
                    self._requests.append(request)
                    self._received += 1
                    self._answering += 1
                    number = self._received
                    self._changed.notify_all()
                try:
                    self._pass_gate()
                    self._answer(connection, request, number)
                finally:
                    with self._changed:
                        self._answering -= 1
                        self._changed.notify_all()
        except Gone:
            pass
        except Exception as error:  # noqa: BLE001  raised again when the provider is closed
            self._failure = error
        finally:
            connection.close()
            with self._changed:
                del self._threads[threading.current_thread()]

    def _pass_gate(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._passes or self._closing.is_set())
            if self._held and self._passes:
                self._passes -= 1
        if self._closing.is_set():
            raise Gone

    def _answer(self, connection: Connection, request: Request, number: int) -> None:
        headers = {"x-request-id": f"req_{number:06}", "request-id": f"req_{number:06}"}
        dialect = dialects.find(request.path)
        ask = request.json if isinstance(request.json, dict) else None
        if dialect is None or request.method != "POST":
            status, found = _beside(request, ask)
            return connection.answer(status, to_json(found), _JSON | headers)
        reply = self._next_reply(request)
        headers |= {name.lower(): value for name, value in reply.headers.items()}
        refusal = _refusal(reply, dialect, ask)
        if refusal is not None or ask is None or reply.hang_up:
            connection.wait(reply.delay_s)
            if reply.hang_up:
                raise Gone
            status, body = refusal or (
                400,
                to_json(dialect.error(400, "The body is not a JSON object.", None)),
            )
            return connection.answer(status, body, _JSON | headers, gzip=reply.gzip)
        connection.check()
        generates = dialect is not EMBEDDINGS
        answer = work_out(reply, ask, number=number, created_s=int(time.time()), generates=generates)
        self._bill(
            calls=1,
            input_tokens=answer.input_tokens,
            cache_read_tokens=answer.cache_read_tokens,
            cache_write_tokens=answer.cache_write_tokens,
        )
        connection.wait(reply.delay_s)
        delivery = Delivery(connection, dialect, reply, answer, ask, headers, self._bill)
        return delivery.stream() if request.stream and dialect.events else delivery.whole()

    def _next_reply(self, request: Request) -> Reply:
        script = self._script
        if callable(script):
            try:
                found = script(request)
            except Exception as error:  # noqa: BLE001  raised again when the provider is closed
                self._failure = error
                return Reply(f"The script failed: {error!r}", status=500, headers={"x-should-retry": "false"})
        elif isinstance(script, (str, Reply)):
            found = script
        else:
            with self._changed:
                found = script[min(self._replies_used, len(script) - 1)]
                self._replies_used += 1
        return Reply(found) if isinstance(found, str) else found

    def _bill(self, **counts: int) -> None:
        with self._changed:
            old = self._billed
            self._billed = replace(old, **{name: getattr(old, name) + n for name, n in counts.items()})


def _refusal(reply: Reply, dialect: Dialect, ask: Mapping[str, Any] | None) -> tuple[int, bytes] | None:
    if reply.status >= 400:
        error = to_json(dialect.error(reply.status, reply.text, None))
        return reply.status, error if reply.body is None else reply.body
    if reply.reject_stream_options and ask is not None and "stream_options" in ask:
        message = "Unrecognized request argument supplied: stream_options"
        return 400, to_json(dialect.error(400, message, "stream_options"))
    return None


def _beside(request: Request, ask: Mapping[str, Any] | None) -> tuple[int, Any]:
    """Answers what is no model call."""
    path = request.path.partition("?")[0]
    if path.endswith("/messages/count_tokens") and ask is not None:
        return 200, {"input_tokens": count_input(ask)}
    if path.endswith("/models"):
        return 200, {
            "object": "list",
            "data": [{"id": "scripted", "object": "model", "created": 0, "owned_by": "you"}],
        }
    return 404, openai_error(404, f"There is nothing at {request.method} {path}.")
