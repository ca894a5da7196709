"""``tokenmeter drain``: what it does, what it says, and where it finds the ledger."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.shared_books import ROOT, SharedBooks, command
from tests.ledger.rows import NOON_S, call
from tokenmeter.budgets import Entry
from tokenmeter.cli import main
from tokenmeter.ledger import ledger_beside, open_ledger
from tokenmeter.record import encode

pytest.importorskip("sqlalchemy")


def charge(shared: SharedBooks, *names: str, at_s: float = NOON_S) -> None:
    rows = [call(name, at_s=at_s) for name in names]
    shared.store.draw(
        (), [Entry(row.id, (("usd all|global|total", row.cost_nanos or 0),), encode(row)) for row in rows]
    )


def calls_in(url: str) -> int:
    with open_ledger(url) as ledger:
        return ledger.totals().calls


@pytest.fixture
def ledger(elsewhere: Path) -> str:
    return f"sqlite:///{elsewhere / 'kept.db'}"


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_it_drains_once(shared: SharedBooks, ledger: str, capsys: pytest.CaptureFixture[str]) -> None:
    charge(shared, "a", "b")
    assert main(["drain", "--store", shared.url, "--ledger", ledger]) == 0
    out = capsys.readouterr().out
    assert "2 entries: 2 new calls, 0 estimates corrected." in out
    assert f"into {ledger}." in out
    assert main(["drain", "--once", "--store", shared.url, "--ledger", ledger, "--json"]) == 0
    told = said(capsys)
    assert (told["entries"], told["rows"], told["pruned"], told["trimmed"]) == (0, 0, 0, 0)
    assert calls_in(ledger) == 2


def test_the_configuration_names_the_ledger_and_how_long_rows_stay(
    shared: SharedBooks, ledger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shared.configure('[ledger]\nurl = "sqlite:///kept.db"\nkeep_days = 30\n')
    charge(shared, "old", at_s=shared.store.time_s() - 40 * 86_400)
    charge(shared, "new", at_s=shared.store.time_s() - 20 * 86_400)
    assert main(["drain", "--json"]) == 0
    told = said(capsys)
    assert (told["rows"], told["pruned"], told["ledger"]) == (2, 1, ledger)
    assert calls_in(ledger) == 2


def test_without_a_name_it_is_beside_a_file_and_nowhere_for_a_server(
    shared: SharedBooks, capsys: pytest.CaptureFixture[str]
) -> None:
    charge(shared, "a")
    beside = ledger_beside(shared.url)
    if beside is not None:
        assert main(["drain", "--store", shared.url]) == 0
        assert calls_in(beside) == 1
        return
    assert main(["drain", "--store", shared.url]) == 2
    error = capsys.readouterr().err
    assert "no ledger is named for redis://" in error
    assert "--ledger postgresql://USER@HOST/DATABASE" in error


def test_what_makes_no_sense_is_refused(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drain", "--store", shared.url, "--ledger", "mysql://u:geheim@h/db"]) == 2
    error = capsys.readouterr().err
    assert "ledger scheme 'mysql://' is unknown" in error
    assert "geheim" not in error
    for arguments in (["--trim", "0"], ["--follow", "0"], ["--once", "--follow"]):
        with pytest.raises(SystemExit) as ended:
            main(["drain", *arguments])
        assert ended.value.code == 2


def test_it_trims_only_if_asked(shared: SharedBooks, ledger: str, capsys: pytest.CaptureFixture[str]) -> None:
    charge(shared, "a", "b")
    assert main(["drain", "--store", shared.url, "--ledger", ledger, "--trim", "--json"]) == 0
    assert said(capsys)["trimmed"] == 0  # none is a week old
    assert len(list(shared.store.entries())) == 2


def test_a_server_that_is_gone(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("psycopg")
    assert main(["drain", "--store", shared.url, "--ledger", "postgresql://u:geheim@127.0.0.1:1/db"]) == 1
    error = capsys.readouterr().err
    assert "the ledger postgresql://127.0.0.1:1/db can't be reached" in error
    assert "geheim" not in error


def test_the_real_command_follows_until_it_is_told_to_end(shared: SharedBooks, ledger: str) -> None:
    source = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tokenmeter.cli", "drain", "--follow", "0.1", "--json",
         "--store", shared.url, "--ledger", ledger],
        env={**os.environ, "PYTHONPATH": source}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        charge(shared, "a")
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["rows"] == 1
        charge(shared, "b", "c")
        rows = 0
        while rows < 2:
            rows += json.loads(process.stdout.readline())["rows"]
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
        assert (process.returncode, rest, errors) == (0, "", "")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    assert calls_in(ledger) == 3


def test_the_real_command(shared: SharedBooks, ledger: str) -> None:
    charge(shared, "a")
    ran = command("drain", "--store", shared.url, "--ledger", ledger)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "1 entries: 1 new calls" in ran.stdout
