"""``tokenmeter doctor`` finds what is wrong, says what to do, and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.shared_books import SharedBooks, command
from tests.support.redis_server import RedisServer, missing
from tokenmeter.budgets import Need, Pause, open_store
from tokenmeter.budgets.journal import Journal
from tokenmeter.budgets.journal_lines import Write
from tokenmeter.cli import main
from tokenmeter.cli.doctor import journals, libraries, prices, store, telemetry
from tokenmeter.cli.doctor.check import Check
from tokenmeter.clients.instruments import HTTP_LIBRARIES, SDKS
from tokenmeter.version import VERSION


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


def examined(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, dict[str, Any]]:
    """The checks by their name; the last of each."""
    assert main(["doctor", "--json", *arguments]) == status
    out = capsys.readouterr()
    assert out.err == ""
    found = json.loads(out.out)
    for check in found["checks"]:
        assert set(check) == {"name", "status", "found", "remedy"}
        assert check["status"] == "ok" or check["remedy"], check
    order = ["ok", "warn", "fail"]
    assert found["status"] == max((check["status"] for check in found["checks"]), key=order.index)
    return {check["name"]: check for check in found["checks"]}


def test_all_is_well(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    path = shared.configure()
    shared.call("a", Need(1, 1))

    found = examined(capsys)

    assert found["tokenmeter"]["found"] == VERSION
    assert found["config"] == {"name": "config", "status": "ok", "found": str(path), "remedy": ""}
    assert found["budgets"]["status"] == "ok"
    assert "'daily' (told at 50, 80, 100 %)" in found["budgets"]["found"]
    assert "round trip" in found["store"]["found"]
    assert shared.url.partition("?")[0] in found["store"]["found"]
    assert found["clock"]["status"] == "ok"
    assert found["books"]["found"] == "3 budgets have a book"
    assert "genai-prices" in found["prices"]["found"]


def test_people_see_marks_and_remedies(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.configure('[[budgets]]\nlimit = "$0"\n')
    shared.store.pause(Pause("all", 1.0, "x", "y"))

    assert main(["doctor"]) == 0

    out = capsys.readouterr().out
    assert "warn  pauses" in out
    assert "-> tokenmeter resume TARGET" in out
    assert "it refuses every call" in out
    assert " 0 failed." in out


def test_nothing_is_set_up(capsys: pytest.CaptureFixture[str]) -> None:
    found = examined(capsys)
    assert (found["config"]["status"], found["store"]["status"]) == ("warn", "warn")
    assert "--config PATH" in found["config"]["remedy"]
    assert "--store URL" in found["store"]["remedy"]


def test_a_bad_configuration_is_named_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tokenmeter.toml").write_text('[store]\nurl = "memory://"\n[[budgets]]\nlimit = "5"\n')
    config = examined(capsys, status=1)["config"]
    assert config["status"] == "fail"
    assert "tokenmeter.toml:4: " in config["found"]
    assert '"$5"' in config["remedy"]
    assert examined(capsys, "--config", "nowhere.toml", status=1)["config"]["status"] == "fail"


@pytest.mark.parametrize(
    ("budget", "part"),
    [
        ('limit = "$0"', "it refuses every call"),
        ('limit = "100 tokens"', "min_output_tokens"),
        ('limit = "10 calls"\nper = "call"', "each call is one, so that it stops nothing"),
        ('limit = "$5"\non_exceed = "warn"', "it stops nothing"),
        ('limit = "$5"\non_store_error = "open"', "while the store is gone it stops nothing"),
        ('limit = "$5"\nthresholds = []', "no thresholds"),
    ],
)
def test_budgets_that_can_hardly_be_meant(budget: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("tokenmeter.toml").write_text(f'[[budgets]]\nname = "odd"\n{budget}\n')
    assert part in examined(capsys)["budget 'odd'"]["found"]


def test_a_configuration_without_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tokenmeter.toml").write_text("")
    found = examined(capsys)
    assert found["budgets"]["status"] == "warn"
    assert "memory://" in found["store"]["found"]


# -- the store ---------------------------------------------------------------------------------------------------


def test_a_store_that_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("redis")
    found = examined(capsys, "--store", "redis://me:s3cret@127.0.0.1:1", status=1)["store"]
    assert found["status"] == "fail"
    assert "can't be reached" in found["found"]
    assert "look whether the server is up" in found["remedy"]
    assert "s3cret" not in json.dumps(found)


def test_a_store_that_lost_its_data(
    redis_server: RedisServer, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("redis")
    url = f"{redis_server.url}?tenant=lost&state_dir={elsewhere}"
    open_store(url).close()
    redis_server.flush()
    found = examined(capsys, "--store", url, status=1)["store"]
    assert "no longer has the budgets" in found["found"]
    assert "tokenmeter accept-loss" in found["remedy"]


def test_an_address_that_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    found = examined(capsys, "--store", "nosql://s3cret", status=1)["store"]
    assert "nosql://" in found["found"]
    assert "sqlite:///FILE" in found["remedy"]
    assert "s3cret" not in json.dumps(found)


def test_a_file_that_is_not_there_yet(capsys: pytest.CaptureFixture[str]) -> None:
    assert examined(capsys, "--store", "sqlite:///new.db")["store"]["status"] == "warn"
    assert not Path("new.db").exists()
    assert examined(capsys, "--store", "sqlite:///nowhere/new.db", status=1)["store"]["status"] == "fail"


def test_budgets_that_are_used_up_and_pauses(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.call("a", Need(5 * 10**9, 0))
    shared.store.pause(Pause("team=x", 1.0, "", ""))
    found = examined(capsys, "--store", shared.url)
    assert "1 of them without anything left: daily agent=a" in found["books"]["found"]
    assert found["pauses"]["found"] == "paused: team=x"


@pytest.mark.parametrize(
    ("ahead_s", "status"),
    [(0.0, "ok"), (2.0, "ok"), (-2.1, "warn"), (2.1, "warn"), (30.0, "warn"), (30.1, "fail"), (-31.0, "fail")],
)
def test_clock_skew(ahead_s: float, status: str) -> None:
    check = store.skew(ahead_s)
    assert check.status == status
    assert ("behind" if ahead_s < 0 else "ahead of") in check.found


def test_clocks_that_differ_are_found(
    shared: SharedBooks, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(shared.store)
    time_s = kind.time_s
    monkeypatch.setattr(kind, "time_s", lambda self: time_s(self) + 3600)
    assert examined(capsys, "--store", shared.url, status=1)["clock"]["status"] == "fail"


@pytest.mark.parametrize(
    ("facts", "name", "status"),
    [
        ({"maxmemory_policy": "noeviction"}, "redis", "ok"),
        ({"maxmemory_policy": "allkeys-lru"}, "redis", "fail"),
        ({}, "redis", "warn"),
        ({"aof_enabled": "1"}, "persistence", "ok"),
        ({"aof_enabled": "1", "aof_last_write_status": "err"}, "persistence", "fail"),
        ({"aof_enabled": "0"}, "persistence", "warn"),
        ({"aof_enabled": "0", "rdb_last_bgsave_status": "err"}, "persistence", "fail"),
    ],
)
def test_what_redis_says_of_itself(facts: dict[str, str], name: str, status: str) -> None:
    found = {check.name: check for check in store.redis({"redis_version": "7.4", **facts})}
    assert found[name].status == status


@pytest.fixture
def evicting() -> Iterator[RedisServer]:
    if reason := missing():
        pytest.skip(f"no Redis server: {reason}")
    with RedisServer("--maxmemory-policy", "allkeys-lru", "--appendonly", "yes") as server:
        yield server


def test_a_redis_that_may_drop_budgets(evicting: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tokenmeter.budgets.redis")
    found = examined(capsys, "--store", evicting.url, status=1)["store"]
    assert "allkeys-lru" in found["found"]
    assert "noeviction" in found["remedy"]
    assert evicting.ask("CONFIG", "SET", "maxmemory-policy", "noeviction") == b"OK"
    found = examined(capsys, "--store", evicting.url)
    assert found["redis"]["status"] == "ok"
    assert found["persistence"] == {"name": "persistence", "status": "ok", "found": "appendonly yes", "remedy": ""}


# -- prices ------------------------------------------------------------------------------------------------------

DAY_S = 86_400


@pytest.mark.parametrize(("days", "status"), [(0, "ok"), (60, "ok"), (61, "warn"), (400, "warn")])
def test_the_age_of_prices(days: int, status: str) -> None:
    check = prices.age("1.2.3", 1.8e9, 1.8e9 + days * DAY_S)
    assert check.status == status
    assert f"{days} days" in check.found
    assert "1.2.3" in check.found


def test_prices_whose_age_can_not_be_seen() -> None:
    assert prices.age("1.2.3", None, 1.8e9).status == "ok"


def test_models_without_a_price(capsys: pytest.CaptureFixture[str]) -> None:
    text = """
[prices]
"my-model" = {input = "1", output = "2"}
"openai/ft" = {input = "1", output = "2"}

[[budgets]]
limit = "$5"
match = {model = ["gpt-5-mini", "no-such-model-*"]}
"""
    Path("tokenmeter.toml").write_text(text)
    assert examined(capsys)["models"]["found"] == "all 3 that the configuration names have a price"
    Path("tokenmeter.toml").write_text(text.replace("gpt-5-mini", "no-such-model-9"))
    found = examined(capsys)["models"]
    assert (found["status"], found["found"]) == ("warn", "without a price: no-such-model-9")
    Path("tokenmeter.toml").write_text('[meter]\nunpriced = "allow"\n' + text.replace("gpt-5-mini", "no-such-model-9"))
    assert examined(capsys)["models"]["status"] == "ok"


# -- libraries ---------------------------------------------------------------------------------------------------


def libraries_of(**versions: str) -> dict[str, Check]:
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    return {check.name: check for check in libraries.checks(named.get)}


def test_what_is_metered_is_what_is_instrumented() -> None:
    known = {known.name for known in libraries.METERED}
    packages = {name.partition(".")[0] for name in HTTP_LIBRARIES}
    assert {"boto3" if name == "botocore" else name for name in packages} <= known
    distributions = {
        "fireworks": "fireworks-ai",
        "perplexity": "perplexityai",
        "writerai": "writer-sdk",
        "portkey_ai._vendor.openai": "portkey-ai",
    }
    assert {distributions.get(name, name.replace(".", "-").replace("_", "-")) for name in SDKS} <= known
    assert {"google-genai", "mistralai", "cohere", "ollama", "litellm", "aiobotocore"} <= known


def test_clients_that_are_metered_and_clients_that_are_not() -> None:
    found = libraries_of(httpx="0.28.1", openai="3.1", anthropic="0.90", grpcio="1.7")
    assert found["httpx"].status == found["openai"].status == "ok"
    assert "metered" in found["openai"].found
    assert found["anthropic"].status == "warn"
    assert found["anthropic"].remedy == "update it to 1 or later"
    assert "grpcio" not in found, "many have it for their telemetry"
    assert "cohere" in found["not installed"].found
    assert (libraries_of(httpx="1.0", grpcio="1.7", xai_sdk="1")["grpcio"].found) == "1.7: NOT METERED"


def test_nothing_to_meter() -> None:
    assert libraries_of(grpcio="1")["clients"].status == "warn"
    assert "clients" not in libraries_of(boto3="1.40")


@pytest.mark.parametrize(
    ("environment", "installed", "statuses"),
    [
        ({}, {"opentelemetry-sdk": "1"}, ("ok", "ok")),
        ({}, {}, ("warn", "ok")),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:s3cret@h:1/x?k=s3cret"}, {"opentelemetry-sdk": "1"}, ("ok", "warn")),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318"},
            {"opentelemetry-sdk": "1", "opentelemetry-exporter-otlp-proto-http": "1"},
            ("ok", "ok"),
        ),
        ({"OTEL_SDK_DISABLED": "true"}, {"opentelemetry-sdk": "1"}, ("warn", "ok")),
    ],
)  # fmt: skip
def test_telemetry(environment: dict[str, str], installed: dict[str, str], statuses: tuple[str, str]) -> None:
    checks = list(telemetry.checks(environment, installed.get))
    assert tuple(check.status for check in checks) == statuses
    assert "s3cret" not in str(checks)


# -- journals ----------------------------------------------------------------------------------------------------


def test_journals_of_the_living_and_of_the_dead(tmp_path: Path) -> None:
    root = tmp_path / "journals"
    assert list(journals.checks([root])) == [], "no such directory"
    code = (
        "import os, sys; from tokenmeter.budgets.journal import Journal; "
        "from tokenmeter.budgets.journal_lines import Write; "
        "Journal(sys.argv[1], store='s').put(Write('w', b'row')); os._exit(0)"
    )
    living = Journal(root, store="s")
    living.put(Write("w", b"row"))

    [check] = journals.checks([root])
    assert check.status == "ok"

    subprocess.run([sys.executable, "-c", code, str(root)], check=True, timeout=60)
    before = sorted(root.rglob("*"))
    [check] = journals.checks([root])
    assert check.status == "warn"
    assert "1 processes died" in check.found
    assert sorted(root.rglob("*")) == before, "nothing is changed"
    (root / "x.rejected").write_text("{}")
    assert [each.status for each in journals.checks([root])] == ["warn", "warn"]
    living.close()


def test_where_journals_lie(tmp_path: Path, elsewhere: Path) -> None:
    default = tmp_path / "state" / "tokenmeter"
    assert journals.directories(None) == journals.directories("redis://h") == [default]
    assert journals.directories("sqlite:///x.db") == [default, elsewhere / "x.db-journals"]
    assert journals.directories("redis://h?state_dir=/some/where") == [default, Path("/some/where")]
    assert journals.directories("redis://h:x") == [default]


def test_a_meter_of_a_process_that_died_is_found(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The journal lies where a meter puts it."""
    pytest.importorskip("tokenmeter.budgets.sqlite")
    code = (
        "import os; from tokenmeter.budgets.assembly import assemble; "
        "from tokenmeter.budgets.journal_lines import Write; "
        "assemble('sqlite:///books.db').journal.put(Write('w', b'row')); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=elsewhere)
    assert "1 processes died" in examined(capsys, "--store", "sqlite:///books.db")["journals"]["found"]


def test_the_real_command(shared: SharedBooks) -> None:
    shared.configure()

    ran = command("doctor")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert " 0 failed." in ran.stdout
    ran = command("doctor", "--store", "redis://127.0.0.1:1")
    assert (ran.returncode, ran.stderr) == (1, "")
    assert "FAIL  store" in ran.stdout
