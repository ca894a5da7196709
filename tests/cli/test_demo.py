"""``tokenmeter demo`` plays to its end, and its figures are right."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.collector import Collector
from tokenmeter.cli import main
from tokenmeter.cli.demo import cast, clients

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("httpx")
pytest.importorskip("opentelemetry.sdk")


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No delays: they are for the eyes."""
    quick = {name: dataclasses.replace(r, delay_s=0, chunk_delay_s=0) for name, r in cast._REPLIES.items()}
    monkeypatch.setattr(cast, "_REPLIES", quick)


@pytest.fixture(params=["SDKs", "no SDK"])
def sdks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no SDK":
        without(monkeypatch, "openai", "anthropic")
    else:
        pytest.importorskip("openai")
        pytest.importorskip("anthropic")


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Make packages look as if they weren't installed."""
    found: Callable[[str], bool] = clients.installed

    def installed(package: str) -> bool:
        return package not in packages and found(package)

    for module in ("clients", "pipeline", "screen"):
        monkeypatch.setattr(f"tokenmeter.cli.demo.{module}.installed", installed)


def figures(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["demo", "--json"]) == 0
    out = capsys.readouterr()
    assert out.err == ""
    found: dict[str, Any] = json.loads(out.out)  # nothing but JSON
    return found


@pytest.mark.usefixtures("quick", "sdks")
def test_the_figures_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(capsys)

    agents = {line["agent"]: line for line in found["agents"]}
    assert list(agents) == sorted(agents), "people and agents stand in the order of their names"
    assert found["balanced"] is True
    assert all(check["holds"] for check in found["checks"])

    triage = agents["mail-triage"]
    assert triage["refused"] == 1
    assert Decimal("0.04") < Decimal(triage["usd"]) <= Decimal("0.05"), "stopped at its limit, and not long before"
    assert agents["greeter-bot"]["calls"] + agents["answer-bot"]["calls"] == 8
    assert agents["summariser"]["estimated_calls"] == 1
    assert found["unattributed"]["calls"] == 1
    assert sum(line["calls"] for line in [*found["agents"], found["unattributed"]]) == found["total"]["calls"]
    assert [refusal["error"] for refusal in found["refusals"]] == ["BudgetExceeded", "BudgetExceeded", "DepthExceeded"]
    assert "agent=mail-triage" in found["refusals"][0]["message"]
    assert "max_depth is 4" in found["refusals"][2]["message"]
    assert found["spans"]["count"] == found["total"]["calls"] + found["total"]["refused"]
    assert found["spans"]["refusals"] == 3
    for left in found["budgets"]:
        assert Decimal(left["spent"]) <= Decimal(left["limit"])


@pytest.mark.usefixtures("quick")
def test_two_performances_are_alike(capsys: pytest.CaptureFixture[str]) -> None:
    assert figures(capsys) == figures(capsys)


@pytest.mark.usefixtures("quick")
def test_plain_lines_tell_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--plain"]) == 0

    said = capsys.readouterr().out
    assert re.search(r"^mail-triage +REFUSED, not sent: BudgetExceeded: .* limit \$0\.05", said, re.MULTILINE)
    assert re.search(r"^researcher +REFUSED, not sent: DepthExceeded", said, re.MULTILINE)
    assert re.search(r"^\(unattributed\) +1 ", said, re.MULTILINE)
    assert re.search(r"^summariser .*~", said, re.MULTILINE)
    assert "The books balance" in said
    assert "set OTEL_EXPORTER_OTLP_ENDPOINT to export them" in said
    assert "gen_ai.agent.name = mail-triage" in said
    assert "\x1b" not in said


@pytest.mark.usefixtures("quick")
def test_books_that_do_not_balance_are_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenmeter.testing import CapturedCalls

    record = CapturedCalls.record
    monkeypatch.setattr(CapturedCalls, "record", lambda self, row: None if row.agent == "coder" else record(self, row))

    assert main(["demo", "--plain"]) == 1
    assert "THE BOOKS DON'T BALANCE" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_an_agent_that_nobody_stops_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cast, "PATIENCE", 3)

    assert main(["demo", "--plain"]) == 1
    assert "nobody stopped mail-triage" in capsys.readouterr().err


# -- where the spans go ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_spans_are_exported_where_the_environment_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)

    spans = figures(capsys)["spans"]

    assert spans["exported"] is True
    assert spans["endpoint"] == collector.endpoint
    assert collector.posts["/v1/traces"] >= 1
    assert collector.posts["/v1/metrics"] >= 1
    assert b"mail-triage" in collector.sent
    assert b"tokenmeter.refusals" in collector.sent


@pytest.mark.usefixtures("quick")
def test_an_export_that_fails_is_said_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    collector.status = 400
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)

    assert main(["demo", "--plain"]) == 0

    out = capsys.readouterr()
    assert f"NOT exported: {collector.endpoint}" in out.out
    assert out.err == ""


def test_an_export_without_its_package_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "opentelemetry.exporter.otlp.proto.http")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")

    assert main(["demo"]) == 2
    assert "tokenmeter-sdk[otlp]" in capsys.readouterr().err


# -- what may be missing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packages", [("httpx", "httpx2"), ("opentelemetry.sdk",)], ids=lambda p: p[0])
def test_a_missing_package_names_the_extra(
    packages: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, *packages)

    assert main(["demo"]) == 2

    out = capsys.readouterr()
    assert packages[0].replace(".", "-") in out.err
    assert "tokenmeter-sdk[demo]" in out.err
    assert out.out == ""


@pytest.mark.usefixtures("quick")
def test_without_rich_a_terminal_gets_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "rich")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    assert main(["demo"]) == 0

    out = capsys.readouterr()
    assert "tokenmeter-sdk[demo]" in out.err
    assert "The books balance" in out.out


@pytest.mark.usefixtures("quick")
def test_httpx2_alone_will_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("httpx2")
    without(monkeypatch, "httpx", "openai", "anthropic")

    assert clients.http_library().__name__ == "httpx2"
    assert figures(capsys)["balanced"] is True


# -- the command -------------------------------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    source = os.pathsep.join(filter(None, [str(ROOT / "src"), environment.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "tokenmeter.cli", *arguments],
        env={**environment, "PYTHONPATH": source, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_the_command_runs_as_it_is() -> None:
    ran = command("demo")

    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert "The books balance" in ran.stdout


def test_version() -> None:
    from tokenmeter import __version__

    ran = command("--version")
    assert (ran.returncode, ran.stdout.strip()) == (0, f"tokenmeter {__version__}")


def test_help_names_the_commands() -> None:
    ran = command("--help")
    assert ran.returncode == 0
    assert "demo" in ran.stdout


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("demo", "--nonsense")])
def test_what_is_not_understood_is_an_error_with_the_usage(arguments: tuple[str, ...]) -> None:
    ran = command(*arguments)
    assert ran.returncode == 2
    assert "usage: tokenmeter" in ran.stderr


def test_a_terminal_gets_a_live_table() -> None:
    pytest.importorskip("rich")
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    source = os.pathsep.join(filter(None, [str(ROOT / "src"), environment.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "tokenmeter.cli", "demo"],
        env={**environment, "PYTHONPATH": source, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "50"},
        stdout=theirs,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
    )
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:  # on Linux the end of a terminal is an error
        pass
    finally:
        os.close(ours)

    assert process.wait(60) == 0, seen.decode(errors="replace")
    text = seen.decode("utf-8", errors="replace")
    assert text.count("what was spent up to now") > 3, "drawn again and again"
    assert "mail-triage refused, not sent:" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "The books balance" in text


def test_a_reader_that_leaves_is_no_error() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tokenmeter.cli", "demo", "--plain"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()

    assert process.wait(60) == 141
    assert errors == b""
