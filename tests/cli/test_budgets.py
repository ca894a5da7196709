"""``tokenmeter budgets`` shows what stands in the books, the urgent ones first, and says plainly what it can't do."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.shared_books import SharedBooks, command
from tests.clients.faces import ASK, FACES, URL, Origin
from tokenmeter import Budget, Meter
from tokenmeter.budgets import Grant, Held, Need, Pause, Policy
from tokenmeter.cli import main, tables
from tokenmeter.cli import where as where_module
from tokenmeter.errors import StoreUnavailable

USD = 10**9


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["budgets", "--json", *arguments]) == 0
    out = capsys.readouterr()
    assert out.err == ""
    found: dict[str, Any] = json.loads(out.out)
    return found


def scopes(found: dict[str, Any], budget: str = "daily") -> list[str]:
    return [line["scope"] for line in found["budgets"] if line["budget"] == budget]


def test_every_budget_is_shown_as_it_stands(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.configure()
    shared.call("triage", Need(2 * USD, 1000), team="support", model="gpt-4o")
    shared.call("triage", Need(USD, 500), settle=False, team="support", model="gpt-4o")
    now_s = shared.store.time_s()
    account = shared.account("daily", agent="triage")
    for name, at_s, by in (("g1", now_s - 60, "bob"), ("g2", now_s - 30, "alice")):
        shared.store.grant(Grant(name, account, USD, at_s, now_s + 900, "a migration", by))
    shared.store.grant(Grant("ended", account, USD, now_s - 60, now_s - 30, "old", "carol"))

    found = shown(capsys)

    lines = {(line["budget"], line["scope"]): line for line in found["budgets"]}
    daily = lines["daily", "agent=triage"]
    amounts = {name: Decimal(daily[name]) for name in ("limit", "granted", "spent", "held", "leased", "left")}
    assert amounts == {"limit": 7, "granted": 2, "spent": 2, "held": 1, "leased": 0, "left": 4}
    assert daily["used"] == pytest.approx(3 / 7, abs=1e-6)
    assert daily["account"] == account
    assert found["at"] < daily["resets_at"] <= found["at"] + 86_400 + 60
    assert (daily["newest_grant"]["by"], daily["newest_grant"]["reason"]) == ("alice", "a migration")
    calls = lines["calls", "global"]
    assert (calls["unit"], calls["limit"], calls["spent"], calls["held"], calls["left"]) == ("calls", 10, 1, 1, 8)
    assert calls["resets_at"] is None
    assert calls["newest_grant"] is None
    tokens = next(line for line in found["budgets"] if line["unit"] == "tokens")
    assert (tokens["scope"], tokens["spent"]) == ("team=support,model=gpt-4o", 1000)


def test_leases_are_told_apart_from_what_calls_hold(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    claims = [claim for claim in shared.claims({"run": "r"}, Need(0, 0, 4)) if claim.budget.name == "calls"]
    shared.store.hold("lease:x", claims, shared.store.time_s())
    shared.call("a", Need(0, 0), settle=False)

    [line] = [line for line in shown(capsys, "--store", shared.url)["budgets"] if line["budget"] == "calls"]

    assert (line["held"], line["leased"], line["left"]) == (1, 4, 5)


def test_the_urgent_come_first(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.configure()
    for agent, cents in (("calm", 10), ("full", 500), ("near", 450), ("busy", 300)):
        shared.call(agent, Need(cents * USD // 100, 0))
    shared.call("calm", Need(0, 0, calls=2))

    found = shown(capsys)

    assert scopes(found) == ["agent=full", "agent=near", "agent=busy", "agent=calm"]
    budgets = [line["budget"] for line in found["budgets"]]
    assert budgets[:2] == ["daily", "daily"], "near their limit"
    assert budgets.index("calls") > budgets.index("daily"), "what ends soon before what never does"
    assert budgets.index("run") > budgets.index("calls"), "runs are many"


def test_people_are_not_ranked(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    """Who is near a limit is seen; who spent more than whom is not what the order says."""
    policy = Policy([Budget("$5", per="day", scope="user", name="each user")])
    for user, cents in (("cleo", 480), ("ann", 420), ("bob", 500), ("eve", 10), ("fay", 300), ("dan", 200)):
        claims = policy.claims({"user": user}, Need(cents * USD // 100, 0), shared.store.time_s())
        assert isinstance(shared.store.hold(user, claims, shared.store.time_s()), Held)
        shared.store.settle(user, [cents * USD // 100])

    found = [line["scope"] for line in shown(capsys, "--store", shared.url)["budgets"]]

    assert found == [f"user={name}" for name in ("ann", "bob", "cleo", "dan", "eve", "fay")]


def test_a_window_that_ended_is_not_live(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    claims = shared.claims({"agent": "old", "run": "r"}, Need(USD, 0), ago_s=3 * 86_400)
    shared.store.hold("h", claims, shared.store.time_s())
    shared.call("new", Need(USD, 0))

    assert scopes(shown(capsys, "--store", shared.url)) == ["agent=new"]


def test_filters(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.configure()
    shared.call("triage", Need(USD, 10), team="support", model="gpt-4o")
    shared.call("triage-2", Need(USD, 10), team="sales", model="gpt-4o")

    assert scopes(shown(capsys, "--agent", "triage")) == ["agent=triage"]
    assert [line["scope"] for line in shown(capsys, "--team", "sales")["budgets"]] == ["team=sales,model=gpt-4o"]
    assert shown(capsys, "--user", "nobody")["budgets"] == []
    assert scopes(shown(capsys, "triage")) == ["agent=triage", "agent=triage-2"]
    assert {line["budget"] for line in shown(capsys, "dail")["budgets"]} == {"daily"}


def test_text_for_people(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.configure()
    shared.call("tri\x1b[31mage\n", Need(3 * USD, 0))
    shared.store.pause(Pause("agent=x", shared.store.time_s(), "it loops", "bob"))
    now_s = shared.store.time_s()
    account = shared.account("daily", agent="tri\x1b[31mage\n")
    shared.store.grant(Grant("g", account, USD, now_s - 5, now_s + 500, "why", "alice"))

    assert main(["budgets"]) == 0

    out = capsys.readouterr().out
    assert "\x1b" not in out, "names of strangers don't steer the terminal"
    first, head, *lines = out.splitlines()
    assert first.startswith("PAUSED: agent=x")
    assert "it loops" in first
    assert head.split()[:4] == ["budget", "kept", "for", "limit"]
    [line] = [line for line in lines if line.startswith("daily")]
    for part in ("$6 (+$1)", "$3.0000", "50 %", "UTC, in ", "$1 by alice: why"):
        assert part in line
    assert shared.url.partition("?")[0] in lines[-1]


def test_rows_beyond_the_top_are_said_to_be_there(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        shared.call(f"a{number}", Need(USD, 0))
    shared.configure()

    assert main(["budgets", "daily", "--top", "2"]) == 0
    out = capsys.readouterr().out
    assert "2 of 4 budgets; 2 more: --top 0 shows all" in out
    assert main(["budgets", "daily", "--top", "0"]) == 0
    assert "4 of 4 budgets." in capsys.readouterr().out


def test_no_books_yet(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["budgets", "--store", shared.url]) == 0
    assert "No budget of that kind has a book yet" in capsys.readouterr().out


def test_rich_draws_it_on_a_terminal(
    shared: SharedBooks, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr(tables, "fancy", lambda _: True)
    monkeypatch.setenv("COLUMNS", "200")
    shared.call("[bold]x", Need(5 * USD, 0))

    assert main(["budgets", "--store", shared.url]) == 0

    out = capsys.readouterr().out
    assert "─" in out
    assert "agent=[bold]x" in out, "a name is no markup"


# -- watching ----------------------------------------------------------------------------------------------------


class Naps:
    """In the place of ``time.sleep``: Ctrl-C at the third."""

    def __init__(self, *doings: Any) -> None:
        self._doings = list(doings)
        self.slept_s: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        if not self._doings:
            raise KeyboardInterrupt
        self._doings.pop(0)()


def test_watching_until_ctrl_c(
    shared: SharedBooks, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    naps = Naps(lambda: shared.call("late", Need(USD, 0)), lambda: None)
    monkeypatch.setattr("tokenmeter.cli.budgets.time.sleep", naps)

    assert main(["budgets", "--store", shared.url, "--json", "--watch", "5"]) == 0

    pictures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [scopes(picture) for picture in pictures] == [[], ["agent=late"], ["agent=late"]]
    assert naps.slept_s == [5, 5, 5]


def test_watching_outlives_an_outage(
    shared: SharedBooks, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(shared.store)
    books = kind.books
    shared.call("a", Need(USD, 0))

    def gone(self: object) -> None:
        raise StoreUnavailable("it is gone; wait")

    monkeypatch.setattr(
        "tokenmeter.cli.budgets.time.sleep",
        Naps(lambda: monkeypatch.setattr(kind, "books", gone), lambda: monkeypatch.setattr(kind, "books", books)),
    )

    assert main(["budgets", "--store", shared.url, "--watch"]) == 0

    out = capsys.readouterr()
    assert out.err == "tokenmeter budgets: it is gone; wait\n"
    assert out.out.count("agent=a") == 2


def test_a_terminal_is_cleared_between_pictures(
    shared: SharedBooks, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenmeter.cli.budgets.time.sleep", Naps())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["budgets", "--store", shared.url, "--watch"]) == 0
    assert capsys.readouterr().out.startswith("\x1b[H\x1b[2J")


# -- where the books are -----------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> str:
    assert main([*arguments]) == status
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.count("\n") == 1, "one line"
    assert out.err.startswith(f"tokenmeter {arguments[0]}: ")
    return out.err


COMMANDS = [
    ("budgets",),
    ("pause",),
    ("resume", "all"),
    ("pause", "all", "--reason", "x"),
    ("grant", "--list"),
    ("grant", "$5", "--budget", "daily", "--for", "1h", "--reason", "x"),
]


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
class TestEachCommand:
    def test_says_what_to_do_without_a_store(
        self, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        said = refused(capsys, 2, *arguments)
        assert "no store is named" in said
        assert "--store redis://" in said
        assert "tokenmeter.toml" in said

    def test_says_that_memory_can_not_be_seen(
        self, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "memory://" in refused(capsys, 2, *arguments, "--store", "memory://")
        Path("tokenmeter.toml").write_text('[[budgets]]\nlimit = "$5"\nname = "daily"\n')
        assert "tokenmeter.toml keeps its budgets in memory://" in refused(capsys, 2, *arguments)

    def test_names_the_line_of_a_bad_configuration(
        self, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("tokenmeter.toml").write_text('[[budgets]]\nlimit = "5"\n')
        assert "tokenmeter.toml:2: " in refused(capsys, 2, *arguments)
        assert "nowhere.toml" in refused(capsys, 2, *arguments, "--config", "nowhere.toml")

    def test_fails_when_the_store_is_gone_and_tells_no_secret(
        self, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("redis")
        said = refused(capsys, 1, *arguments, "--store", "redis://me:s3cret@127.0.0.1:1/0")
        assert "s3cret" not in said
        assert "127.0.0.1:1" in said

    @pytest.mark.parametrize("url", ["redis://:s3cret@h:x", "nosql://s3cret@h", "s3cret", "sqlite://s3cret@h/x.db"])
    def test_refuses_an_address_that_makes_no_sense_and_tells_no_secret(
        self, arguments: tuple[str, ...], url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "s3cret" not in refused(capsys, 2, *arguments, "--store", url)

    def test_makes_no_file_by_mistake(self, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
        assert "nowhere.db" in refused(capsys, 2, *arguments, "--store", "sqlite:///nowhere.db")
        assert not Path("nowhere.db").exists()


def test_the_store_that_is_given_wins(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    Path("tokenmeter.toml").write_text('[store]\nurl = "redis://127.0.0.1:1"\n')
    assert shown(capsys, "--store", shared.url)["budgets"] == []


def test_an_address_may_say_whether_a_meter_takes_leases(
    shared: SharedBooks, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{shared.url}{'&' if '?' in shared.url else '?'}leases=on"
    assert shown(capsys, "--store", url) == {**shown(capsys, "--store", shared.url), "at": pytest.approx(0, abs=1e12)}
    assert main(["doctor", "--store", url]) == 0


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("redis://h?leases=on", "redis://h"),
        ("redis://h?leases=off&tenant=t", "redis://h?tenant=t"),
        ("redis://h?tenant=t&leases=off", "redis://h?tenant=t"),
        ("redis://h?tenant=leases=on", "redis://h?tenant=leases=on"),
        ("sqlite:///leases=on.db", "sqlite:///leases=on.db"),
    ],
)
def test_leases_are_none_of_a_commands_business(url: str, bare: str) -> None:
    assert where_module.find(argparse.Namespace(config=None, store=url), with_policy=False).url == bare


def test_a_configuration_that_is_named_is_gone_by(
    shared: SharedBooks, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shared.configure()
    monkeypatch.chdir("/")
    assert shown(capsys, "--config", str(path))["store"].partition("?")[0] == shared.url.partition("?")[0]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://u:s3cret@h:7/2?tenant=t&sentinel_password=s3cret", "redis://h:7/2?tenant=t"),
        ("rediss+sentinel://:s3cret@a,b/svc", "rediss+sentinel://a:26379,b:26379/svc"),
        ("redis://:s3cret@h:port", "redis://…"),
        ("sqlite:////x/y.db?key=s3cret", "sqlite:////x/y.db"),
        ("sqlite://s3cret/x", "sqlite://…"),
        ("other://s3cret", "other://…"),
        ("s3cret", "…"),
        ("memory://", "memory://"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, address: str) -> None:
    assert where_module.shown_address(url) == address


@pytest.mark.parametrize("arguments", [["--watch", "0"], ["--watch", "soon"], ["--top", "-1"], ["--top", "x"]])
def test_figures_that_make_no_sense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["budgets", *arguments])
    assert ended.value.code == 2
    assert repr(arguments[-1]) in capsys.readouterr().err


def test_the_real_command(shared: SharedBooks) -> None:
    shared.configure()
    shared.call("triage", Need(USD, 0))

    ran = command("budgets")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "agent=triage" in ran.stdout
    assert json.loads(command("budgets", "--json").stdout)["budgets"]


def test_a_terminal_that_can_write_little(tmp_path: Path) -> None:
    """As in a container without a locale."""
    address = f"sqlite:///{tmp_path / 'books.db'}"
    with Meter([Budget("$5", name="müll", scope="agent")], store=address) as meter, meter.agent("mäx"):
        meter.wrap(Origin(FACES[2]).client()).post(URL, json=ASK)
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    env.pop("PYTHONIOENCODING", None)
    budgets = [sys.executable, "-m", "tokenmeter.cli", "budgets", "--store", address]
    done = subprocess.run(budgets, capture_output=True, text=True, env=env, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "m\\xfcll" in done.stdout
