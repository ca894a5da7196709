"""The report over HTTP, on this machine unless somebody says otherwise: it answers GET, and POST of the login alone.

No page loads anything from anywhere. What goes wrong is a page with a line of text, never a traceback.
"""

from __future__ import annotations

import io
import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.report.access import Access
from tokenmeter.report.html import policy
from tokenmeter.report.pages import Page, Pages

logger = logging.getLogger("tokenmeter")
_MOST_AT_ONCE: Final = 16
_LONGEST_FORM: Final = 4096
_LONGEST_PATH: Final = 2048
_PATIENCE_S: Final = 10.0  # for a request to come, all of it, and for an answer to go
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Server(ThreadingHTTPServer):
    """Serves the pages of one report. ``address`` is where."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str, port: int, pages: Pages, access: Access) -> None:
        self.pages, self.access = pages, access
        self._room = threading.BoundedSemaphore(_MOST_AT_ONCE)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host.strip("[]"), port), Handler)
        except OSError as error:
            raise ConfigError(
                f"{host}:{port} can't be served: {error.strerror or error}; give another --port"
            ) from None

    @property
    def address(self) -> str:
        """What to type into a browser."""
        host, port = self.server_address[:2]
        name = str(host)
        return f"http://{f'[{name}]' if ':' in name else name}:{port}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """One more thread, if there is room for it."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """What a thread does."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no fault; anything else is logged."""
        logger.debug("a request from %s ended early", client_address, exc_info=True)


class _Arriving(io.RawIOBase):
    """What comes from a client, which has so long for all of it: a byte now and then would keep a thread for ever."""

    def __init__(self, connection: socket.socket, patience_s: float) -> None:
        self._connection = connection
        self._until_s = time.monotonic() + patience_s

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, into: Any) -> int:
        """What has come, into these bytes. Raises TimeoutError."""
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the request took too long to come")
        before_s = self._connection.gettimeout()
        self._connection.settimeout(left_s)
        try:
            return self._connection.recv_into(into)
        finally:
            self._connection.settimeout(before_s)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server_version = "tokenmeter"
    sys_version = ""
    timeout = _PATIENCE_S

    def setup(self) -> None:
        """Before the request is read."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Arriving(self.connection, _PATIENCE_S))

    def do_GET(self) -> None:
        """A page."""
        if not self._is_welcome():
            return
        if not self._server.access.may_read(self.headers.get("Authorization"), self.headers.get("Cookie")):
            self._send(self._server.pages.login(), {"WWW-Authenticate": "Bearer"})
            return
        self._send(self._page())

    def do_HEAD(self) -> None:
        """The same without its text."""
        self.do_GET()

    def do_POST(self) -> None:
        """The login, which gives a cookie for the token."""
        if not self._is_welcome():
            return
        access = self._server.access
        if self.path.partition("?")[0] != "/login" or access.is_open:
            self._send(self._server.pages.trouble("There is nothing to send to here.", 405), {"Allow": "GET, HEAD"})
            return
        length = self.headers.get("Content-Length", "")
        try:
            token = self._form(length).get("token", "")
        except ValueError:
            self._send(self._server.pages.trouble("That is no login.", 400))
            return
        if access.is_token(token):
            self._send(Page("", status=303), {"Location": "/", "Set-Cookie": access.cookie()})
        else:
            self._send(self._server.pages.login(wrong=True))

    def _form(self, length: str) -> dict[str, str]:
        if not (length.isascii() and length.isdigit() and int(length[:9]) <= _LONGEST_FORM):
            raise ValueError(f"{length[:40]!r} is no length of a form")
        return dict(parse_qsl(self.rfile.read(int(length)).decode("utf-8", "replace"), max_num_fields=8))

    @property
    def _server(self) -> Server:
        return cast(Server, self.server)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that the base class has
        """What was asked for is nobody's business: addresses may name runs."""

    def _is_welcome(self) -> bool:
        if len(self.path) > _LONGEST_PATH:
            self._send(self._server.pages.trouble("That address is too long.", 414))
        elif not self._server.access.knows_host(self.headers.get("Host")):
            self._send(self._server.pages.trouble("This server doesn't go by that name; --allow-host names one.", 421))
        else:
            return True
        return False

    def _page(self) -> Page:
        pages = self._server.pages
        parts = urlsplit(self.path)
        try:
            query = dict(parse_qsl(parts.query, max_num_fields=16))
            found = pages.answer(parts.path, query)
        except (StoreUnavailable, ConfigError) as error:
            return pages.trouble(str(error), 503)
        except ValueError:
            return pages.trouble("That address makes no sense.", 400)
        except Exception:
            logger.exception("a page of the report can't be made")
            return pages.trouble("The page can't be made; the log says why.", 500)
        return pages.trouble("There is no such page.", 404) if found is None else found

    def _send(self, page: Page, more: dict[str, str] | None = None) -> None:
        body = page.body.encode("utf-8", "replace")
        self.send_response(page.status)
        for name, value in {**_HEADERS, **(more or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", f"{policy()}; frame-ancestors 'none'")
        self.send_header("Content-Type", page.kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
