"""``tokenmeter report``: from a ledger alone, or from a store that is drained first; in every form."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("jinja2")

from tests.cli.shared_books import SharedBooks
from tests.ledger.rows import call
from tests.report.ledgers import NOW_S, fill, fresh
from tokenmeter.budgets import Need
from tokenmeter.cli import main, report, sources
from tokenmeter.cli.trouble import Trouble
from tokenmeter.record import encode

UNTIL = ["--until", "2026-05-29"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The address of a ledger of a month, and what was spent."""
    folder = tmp_path_factory.mktemp("ledger")
    with fresh(folder) as ledger:
        fill(ledger)
        yield f"sqlite:///{folder / 'ledger.db'}", ledger.totals().nanos


def told(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(["report", *arguments]) == status
    out, err = capsys.readouterr()
    return err if status else out


def test_tables(filled: tuple[str, int], elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "--ledger", filled[0], "--since", "all", *UNTIL)

    assert text.startswith("Unattributed spend: $")
    for title in ("What came of the spend", "Showback by team", "Waste", "Budgets", "By agent", "Apart"):
        assert f"\n{title}" in text
    rows = text.partition("Showback by team")[2].splitlines()
    assert rows[4].startswith("(unattributed)")
    assert "remedy: " in text
    assert "person" not in text


def test_a_terminal_gets_tables_of_rich(
    filled: tuple[str, int], elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr("tokenmeter.cli.tables.fancy", lambda _: True)

    fancy = told(capsys, "--ledger", filled[0], *UNTIL)
    plain = told(capsys, "--ledger", filled[0], *UNTIL, "--plain")

    assert "\u2500" in fancy
    assert "\u2500" not in plain


def test_json(filled: tuple[str, int], elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(told(capsys, "--ledger", filled[0], "--since", "all", *UNTIL, "--json"))

    assert Decimal(found["total"]["usd"]).scaleb(9) == filled[1]
    assert (found["since"], found["until"]) == ("2026-04-29T00:00:00Z", "2026-05-29T00:00:00Z")


@pytest.mark.parametrize(("form", "column"), [("--csv", "usd"), ("--focus", "BilledCost")])
def test_csv(
    filled: tuple[str, int], elsewhere: Path, capfdbinary: pytest.CaptureFixture[bytes], form: str, column: str
) -> None:
    assert main(["report", "--ledger", filled[0], "--since", "all", *UNTIL, form]) == 0
    text = capfdbinary.readouterr().out.decode()

    assert text.count("\r\n") == text.count("\n")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert sum((Decimal(row[column]).scaleb(9) for row in rows), Decimal()) == filled[1]


def test_the_account_of_the_bill(filled: tuple[str, int], elsewhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--ledger", filled[0], *UNTIL, "--focus", "--billing-account", "acme-1"]) == 0

    assert {row["BillingAccountId"] for row in csv.DictReader(io.StringIO(capfd.readouterr().out))} == {"acme-1"}


def test_a_page(filled: tuple[str, int], elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "--ledger", filled[0], *UNTIL, "--html", "page.html")

    page = (elsewhere / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert text == f"page.html: {len(page.encode()):,} bytes\n"
    assert [each.name for each in elsewhere.iterdir()] == ["page.html"]


def test_ones_own_figures(filled: tuple[str, int], elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "--ledger", filled[0], *UNTIL, "--me", "person1x2")

    assert "Your own figures, person1x2" in text
    assert "person1x3" not in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--since", "2026-06-01", *UNTIL], "ends before it begins"),
        (["--since", "soon"], "is no duration"),
        (["--until", "soon"], "is no ISO 8601 time"),
        (["--team", "two of us", *UNTIL], "fewer than 5 people"),
        (["--csv", "--json"], "choose one"),
        (["--html", "no/such/folder/x.html"], "can't be written"),
        (["--html", "."], "can't be written"),
    ],
)
def test_what_makes_no_sense(
    filled: tuple[str, int], elsewhere: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert says in told(capsys, "--ledger", filled[0], *arguments, status=2)


@pytest.mark.parametrize("size", ["1", "0", "-3", "x"])
def test_a_group_has_at_least_two(elsewhere: Path, capsys: pytest.CaptureFixture[str], size: str) -> None:
    with pytest.raises(SystemExit):
        main(["report", f"--min-group={size}"])

    assert "give 2 or more" in capsys.readouterr().err


def test_there_is_no_option_that_ranks_people() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    report.add(parser.add_subparsers())
    options = {option for action in parser._actions for option in getattr(action, "choices", None) or {}}
    assert options == {"report"}
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    named = {option for action in commands.choices["report"]._actions for option in action.option_strings}
    assert not {"--user", "--users", "--people", "--top", "--by-user", "--rank", "--sort"} & named


CONFIGURATION = """
[outcomes]
min_group = 2
[outcomes.kinds.merge]
weight = 0
[teams]
growth = ["person0x0", "person0x1", "person0x2"]
search = ["person2x0", "person2x1", "person2x2"]
"""


def test_the_rules_of_the_configuration(
    filled: tuple[str, int], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--ledger", filled[0], "--since", "all", *UNTIL, "--json"]
    without = json.loads(told(capsys, *arguments))
    path = elsewhere / "tokenmeter.toml"
    path.write_text(CONFIGURATION, encoding="utf-8")
    found = json.loads(told(capsys, *arguments))
    wide = json.loads(told(capsys, *arguments, "--min-group", "4"))
    (elsewhere / "other.toml").write_text("[outcomes]\nmin_group = 3", encoding="utf-8")
    other = json.loads(told(capsys, *arguments, "--config", "other.toml"))

    def units(report: dict[str, Any], kind: str) -> list[str]:
        return [each["units"] for each in report["outcomes"]["by_kind"] if each["kind"] == kind]

    assert [each["min_group"] for each in (without, found, wide, other)] == [5, 2, 4, 3]
    assert units(without, "merge") > ["0"]
    assert units(found, "merge") in ([], ["0"])
    assert units(found, "deployment") != []
    assert without["adoption"] is other["adoption"] is None
    assert {each["team"] for each in found["adoption"]} == {"growth", "search"}
    assert {each["team"] for each in wide["adoption"]} == {"(small groups)"}
    assert found["total"] == without["total"]
    assert "person" not in json.dumps(found)


def test_a_fault_in_the_rules_is_told(
    filled: tuple[str, int], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "tokenmeter.toml").write_text("[outcomes]\nmin_group = 1", encoding="utf-8")

    assert "tokenmeter.toml:2: [outcomes] min_group is 1" in told(capsys, "--ledger", filled[0], *UNTIL, status=2)


def test_a_ledger_that_is_not_there_is_not_made(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "--ledger", f"sqlite:///{elsewhere / 'no.db'}", status=2)

    assert "no ledger" in text
    assert not list(elsewhere.iterdir())


def test_without_a_ledger_or_a_store(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no store is named" in told(capsys, status=2)


def test_a_store_is_drained_first(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.configure()
    shared.call("triage", Need(3_000_000, 10))
    now_s = shared.store.time_s()
    record = call("one", nanos=7_000_000_001, at_s=now_s - 60)
    shared.store.post("one", (), (), encode(record))
    where = ["--store", shared.url, "--ledger", f"sqlite:///{shared.folder / 'ledger.db'}", "--since", "1h", "--json"]

    early = told(capsys, *where, "--no-drain", status=2)
    found = json.loads(told(capsys, *where))
    shared.store.post("two", (), (), encode(call("two", nanos=1, at_s=now_s - 50)))
    same = json.loads(told(capsys, *where, "--no-drain"))
    more = json.loads(told(capsys, *where))

    assert "no ledger" in early
    spent = Decimal(found["total"]["usd"])
    assert spent >= Decimal("7.000000001")
    assert same["total"] == found["total"]
    assert Decimal(more["total"]["usd"]) - spent == Decimal("0.000000001")
    assert {each["budget"] for each in found["budgets"]} >= {"daily"}


def test_windows() -> None:
    import argparse

    def of(since: str, until: str | None = None) -> tuple[float, float]:
        return sources.window(argparse.Namespace(since=since, until=until), NOW_S)

    assert of("30d") == (NOW_S - 30 * 86_400, NOW_S)
    assert of("12h", "2026-05-01T12:00Z") == (1_777_593_600, 1_777_636_800)
    assert of("all") == (0.0, NOW_S)
    assert of("2026-05-01") == (1_777_593_600, NOW_S)
    assert of("3650d", "1971-01-01")[0] == 0.0
    with pytest.raises(Trouble):
        of("2026-05-30")


def test_a_page_leaves_what_it_is_written_to_as_it_was(
    filled: tuple[str, int], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe stays a pipe, a link a link, and a file is for whoever it was for."""
    old, link, pipe, new = (elsewhere / name for name in ("old.html", "link.html", "pipe.html", "new.html"))
    old.touch()
    old.chmod(0o640)
    link.symlink_to(old)
    os.mkfifo(pipe)
    before = os.umask(0o022)
    try:
        told(capsys, "--ledger", filled[0], "--html", str(link), *UNTIL)
        told(capsys, "--ledger", filled[0], "--html", str(new), *UNTIL)
        with ThreadPoolExecutor(1) as other:
            read = other.submit(pipe.read_bytes)
            assert told(capsys, "--ledger", filled[0], "--html", str(pipe), *UNTIL) == ""
            assert read.result(60).startswith(b"<!doctype html>")
    finally:
        os.umask(before)

    assert link.is_symlink()
    assert pipe.is_fifo()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (old, new)] == [0o640, 0o644]
    assert old.read_bytes().startswith(b"<!doctype html>")
    assert [path.name for path in elsewhere.iterdir() if path.name.startswith(".tokenmeter-")] == []


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full, as Linux has")
@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_an_output_that_is_full_or_closed(filled: tuple[str, int], elsewhere: Path, form: list[str]) -> None:
    command = [sys.executable, "-m", "tokenmeter.cli", "report", "--ledger", filled[0], *form, *UNTIL]
    with Path("/dev/full").open("w") as full:
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (1, "tokenmeter report: No space left on device\n")

    closed = subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *command], timeout=60)
    assert closed.returncode == 0


def test_a_name_without_a_call_is_told(
    filled: tuple[str, int], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped team must not read as one that spent nothing."""
    for arguments, says in (
        (["--team", "gorwth"], "tokenmeter report: no call of team 'gorwth' is in this window\n"),
        (["--team", "growth"], ""),
        ([], ""),
    ):
        assert main(["report", "--json", "--ledger", filled[0], "--since", "all", *arguments, *UNTIL]) == 0
        assert capsys.readouterr().err == says
