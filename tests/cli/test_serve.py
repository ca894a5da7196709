"""``tokenmeter serve``: a process of its own, which is asked over HTTP, and ends with Ctrl-C."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("jinja2")

from tests.cli.shared_books import ROOT
from tests.report.ledgers import fill, fresh
from tokenmeter.cli import main
from tokenmeter.cli.serve import VARIABLE

PAST = ["--until", "2026-05-29"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("ledger")
    with fresh(folder) as ledger:
        fill(ledger, days=5)
    return f"sqlite:///{folder / 'ledger.db'}"


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[tuple[str, int, subprocess.Popen[str]]]:
    """The line that it says, its port, and the process."""
    source = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "tokenmeter.cli", "serve", "--port", "0", *arguments, *PAST],
        env={**os.environ, "PYTHONPATH": source, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r":(\d+)/", line)
        assert found, line or process.communicate()[1]
        yield line, int(found[1]), process
    finally:
        process.kill()
        process.communicate()


def asked(port: int, **headers: str) -> tuple[int, str]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        link.request("GET", "/", headers=headers)
        answer = link.getresponse()
        return answer.status, answer.read().decode()
    finally:
        link.close()


def test_it_serves_this_machine_until_ctrl_c(url: str, elsewhere: Path) -> None:
    with serving("--ledger", url, "--refresh", "7") as (line, port, process):
        status, page = asked(port)

        assert line == f"http://127.0.0.1:{port}/ until Ctrl-C\n"
        assert status == 200
        assert "Unattributed spend" in page
        assert '<meta http-equiv="refresh" content="7">' in page
        assert asked(port, Host="evil.test")[0] == 421

        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)

    assert (process.returncode, out, err) == (0, "", "")


def test_it_goes_by_the_rules_of_the_configuration(url: str, elsewhere: Path) -> None:
    (elsewhere / "tokenmeter.toml").write_text(
        '[outcomes]\nmin_group = 3\n[teams]\ngrowth = ["person0x0", "person0x1", "person0x2"]', encoding="utf-8"
    )
    with serving("--ledger", url) as (_, port, _process):
        status, page = asked(port)

    assert status == 200
    assert "Adoption by team and week" in page
    assert "Groups of fewer than 3 people" in page
    assert "person0x0" not in page


def test_others_need_the_token_that_is_made(url: str, elsewhere: Path) -> None:
    with serving("--ledger", url, "--host", "0.0.0.0") as (line, port, process):
        assert line.endswith("until Ctrl-C, with the token\n")
        assert asked(port)[0] == 401

        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)

    assert re.fullmatch(r"tokenmeter serve: the token is \S{32}\n", err)


def test_a_token_of_ones_own(url: str, elsewhere: Path) -> None:
    token = "some token of my own"
    (elsewhere / "token").write_text(f"{token}\n", encoding="utf-8")
    for arguments, environment in ((["--token-file", "token"], {}), ([], {VARIABLE: token})):
        with serving("--ledger", url, *arguments, **environment) as (_, port, _process):
            assert asked(port)[0] == 401
            assert asked(port, Authorization=f"Bearer {token}")[0] == 200


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "0.0.0.0", "--me", "person1x2"], "served to others"),
        (["--token-file", "no such file"], "can't be read"),
        (["--host", "256.0.0.1"], "can't be served"),
        (["--team", "two of us"], "fewer than 5 people"),
    ],
)
def test_what_makes_no_sense(
    url: str, elsewhere: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["serve", "--ledger", url, "--port", "0", *arguments, *PAST]) == 2

    assert says in capsys.readouterr().err


def test_a_short_token_is_refused(
    url: str, elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "short")

    assert main(["serve", "--ledger", url, *PAST]) == 2

    assert "16 or more" in capsys.readouterr().err
