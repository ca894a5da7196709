"""Who may read what is served, what the pages show, and that they ask nobody but this server."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("jinja2")

from tests.ledger.rows import add, call
from tests.report import browser
from tests.report.ledgers import HOSTILE, NOW_S, fill, fresh
from tests.report.test_data import PEOPLE
from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.report import read
from tokenmeter.report.access import Access, is_loopback
from tokenmeter.report.pages import Pages
from tokenmeter.report.server import Server

if TYPE_CHECKING:
    from tokenmeter.ledger.ledger import Ledger

TOKEN = "a token of many letters"
needs_chromium = pytest.mark.skipif(browser.missing() is not None, reason=browser.missing() or "")


class Served:
    """A server on a thread, and how it is asked."""

    def __init__(self, ledger: Ledger, token: str | None = None, *names: str) -> None:
        self.reads = 0
        self.fault: Exception | None = None

        def now() -> object:
            self.reads += 1
            if self.fault is not None:
                raise self.fault
            return read(ledger, since_s=NOW_S - 30 * 86_400, until_s=NOW_S, now_s=NOW_S)

        self.pages = Pages(ledger, now, refresh_s=60)  # type: ignore[arg-type]
        self.server = Server("127.0.0.1", 0, self.pages, Access(token, names))
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Served:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    def ask(
        self, path: str, method: str = "GET", body: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        link = http.client.HTTPConnection("127.0.0.1", self.server.server_address[1], timeout=60)
        try:
            link.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = link.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            link.close()


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with fresh(tmp_path_factory.mktemp("ledger")) as found:
        fill(found, days=20, agents=("coder", "reviewer", "triage", "person1x2-helper", *HOSTILE[:2]))
        many = [
            call(f"many-{n}", at_s=NOW_S - 500 + n, run="many", user="person0x1", team="growth") for n in range(230)
        ]
        add(found, *many, call("his", at_s=NOW_S - 90, run="run of person1x3", user="person1x3", team="platform"))
        yield found


@pytest.fixture
def served(ledger: Ledger) -> Iterator[Served]:
    with Served(ledger) as found:
        yield found


def links(page: str) -> set[str]:
    return {each.replace("&amp;", "&") for each in re.findall(r'href="(/[^"]*)"', page)}


def test_every_page_can_be_reached_and_names_nobody(served: Served) -> None:
    todo, seen = ["/"], {}
    for path in todo:  # the nearest first
        status, headers, page = served.ask(path)
        assert status == 200, path
        seen[path] = page
        assert headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert not [name for name in PEOPLE if name in page], path
        if "html" in headers["Content-Type"] and len(todo) < 100:
            todo += sorted({each for each in links(page) if "theme" not in each} - set(todo))

    assert {"/", "/findings", "/runs", "/report.json", "/report.csv", "/focus.csv"} <= seen.keys()
    assert any(path.startswith("/run?") for path in seen)
    assert any(path.startswith("/runs?agent=chatter") for path in seen)
    assert '<meta http-equiv="refresh" content="60">' in seen["/"]
    assert served.reads == 1, "the report is read once for all who ask"
    assert json.loads(seen["/report.json"])["schema"] == "tokenmeter.report/1"


def test_the_calls_of_a_run_come_a_piece_at_a_time(served: Served) -> None:
    _, _, first = served.ask("/run?id=many")
    [more] = [each for each in links(first) if "after=" in each]
    _, _, second = served.ask(more)

    assert first.count("<tr>") - 1 == 200
    assert second.count("<tr>") - 1 == 30
    assert not [each for each in links(second) if "after=" in each]


@pytest.mark.parametrize(
    "path",
    ["/runs?team=two+of+us", "/runs?agent=person1x2-helper", "/run?id=run+of+person1x3", "/run?id=no", "/run", "/x",
     "/../../etc/passwd", "/run?id=" + quote("'; DROP TABLE x; --"), "//evil.test/"],
)  # fmt: skip
def test_what_is_not_shown(served: Served, path: str) -> None:
    status, _, page = served.ask(path)

    assert status == 404
    assert not [name for name in PEOPLE if name in page]


def test_names_in_addresses_are_text(served: Served) -> None:
    _, _, page = served.ask("/runs?" + urlencode({"agent": HOSTILE[0]}))

    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(served: Served, method: str) -> None:
    status, _, _ = served.ask("/", method, "x=1")

    assert status in (405, 501)


def test_head_has_no_text(served: Served) -> None:
    status, headers, text = served.ask("/", "HEAD")

    assert (status, text) == (200, "")
    assert int(headers["Content-Length"]) > 5_000


@pytest.mark.parametrize("after", ["-1", "x", "9" * 40, "²", ""])
def test_addresses_that_make_no_sense(served: Served, after: str) -> None:
    status, _, _ = served.ask(f"/run?id=many&after={quote(after)}")

    assert status in (200, 400, 404)
    assert served.ask("/?" + "&".join(f"a{n}=1" for n in range(40)))[0] == 400
    assert served.ask("/?" + "a" * 3_000)[0] == 414


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.test", 421), ("127.0.0.1.evil.test", 421), ("", 421), ("localhost:1", 200), ("127.0.0.1", 200),
     ("[::1]:80", 200), ("LOCALHOST", 200), ("reports.example", 200), ("a[b", 421)],
)  # fmt: skip
def test_only_names_that_are_ours_are_answered(ledger: Ledger, host: str, status: int) -> None:
    with Served(ledger, None, "reports.example") as served:
        assert served.ask("/", Host=host)[0] == status


def test_a_token_is_asked_for(ledger: Ledger) -> None:
    with Served(ledger, TOKEN) as served:
        for path in ("/", "/report.json", "/run?id=many", "/nothing"):
            status, headers, page = served.ask(path)
            assert status == 401
            assert headers["WWW-Authenticate"] == "Bearer"
            assert "$" not in page
        assert served.reads == 0
        assert served.ask("/", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert served.ask("/", Authorization=f"bearer  {TOKEN}")[0] == 200
        for wrong in ("Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe4", "tokenmeter"):
            assert served.ask("/", Authorization=wrong)[0] == 401
        for cookie in ("tokenmeter=", "tokenmeter=x", f"tokenmeter={TOKEN}", "a=b; ;;", "tokenmeter"):
            assert served.ask("/", Cookie=cookie)[0] == 401


def test_the_form_gives_a_cookie_for_the_token(ledger: Ledger) -> None:
    kind = {"Content_Type": "application/x-www-form-urlencoded"}
    with Served(ledger, TOKEN) as served:
        wrong = served.ask("/login", "POST", urlencode({"token": "no"}), **kind)
        right = served.ask("/login", "POST", urlencode({"token": TOKEN}), **kind)
        cookie = right[1]["Set-Cookie"]
        allowed = served.ask("/", Cookie=cookie.partition(";")[0])

        assert wrong[0] == 401
        assert "Set-Cookie" not in wrong[1]
        assert "That is not the token" in wrong[2]
        assert (right[0], right[1]["Location"]) == (303, "/")
        assert "HttpOnly; SameSite=Strict" in cookie
        assert TOKEN not in cookie
        assert allowed[0] == 200
        assert served.ask("/login", "POST", "x" * 5_000, **kind)[0] == 400
        assert served.ask("/login", "POST", "x=1&" * 20, **kind)[0] == 400
        for length in ("-1", "²", "9" * 5_000):
            assert served.ask("/login", "POST", None, Content_Length=length)[0] == 400
        assert served.ask("/login", "POST", "token=x", Host="evil.test", **kind)[0] == 421
    with Served(ledger, TOKEN) as another:
        assert another.ask("/", Cookie=cookie.partition(";")[0])[0] == 401, "a cookie is of one process"


def test_a_request_that_comes_a_byte_at_a_time_is_given_up(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, the whole doesn't: who sends so would keep one of few threads for ever."""
    monkeypatch.setattr("tokenmeter.report.server._PATIENCE_S", 0.3)
    with (
        Served(ledger, TOKEN) as served,
        socket.create_connection(("127.0.0.1", served.server.server_address[1])) as slow,
    ):
        slow.settimeout(0.02)
        slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        for _ in range(500):
            try:
                slow.sendall(b"x")
                assert slow.recv(1) == b""
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("the server goes on to wait")
        assert served.ask("/")[0] == 401


def test_a_short_token_is_none() -> None:
    with pytest.raises(ConfigError, match="16 or more"):
        Access("short")


def test_loopback() -> None:
    assert [is_loopback(each) for each in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")] == [True] * 5
    assert [is_loopback(each) for each in ("0.0.0.0", "::", "10.0.0.1", "example.test", "")] == [False] * 5


def test_a_ledger_that_is_gone_is_a_page(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.fault = StoreUnavailable("the ledger x can't be reached")
    status, _, page = served.ask("/")
    assert status == 503
    assert "can&#39;t be reached" in page

    served.fault = RuntimeError("secret")
    status, _, page = served.ask("/")
    assert status == 500
    assert "secret" not in page
    assert "Traceback" not in page
    assert "secret" in caplog.text

    served.fault = None
    assert served.ask("/")[0] == 200


def test_a_port_that_is_taken_is_said(served: Served) -> None:
    with pytest.raises(ConfigError, match="give another --port"):
        Server("127.0.0.1", served.server.server_address[1], served.pages, Access(None))


@needs_chromium
@pytest.mark.parametrize("path", ["/", "/findings", "/runs", "/run?id=many"])
def test_the_pages_in_a_browser(served: Served, path: str, tmp_path: Path) -> None:
    url = served.server.address.rstrip("/") + path

    assert browser.hosts(url, tmp_path) == {"127.0.0.1"}
    for size in (browser.WIDE, browser.PHONE):
        for theme in ("light", "dark"):
            sign = "&" if "?" in path else "?"
            _, _, page = served.ask(f"{path}{sign}theme={theme}")
            found = browser.looked_at(page, tmp_path, size)
            assert (found["overlaps"], found["wide"], found["small"]) == ([], [], [])
            assert found["scroll"] <= 0
