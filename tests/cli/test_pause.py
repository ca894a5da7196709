"""``tokenmeter pause`` and ``resume``: the kill switch, seen by whoever shares the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.shared_books import SharedBooks, command
from tokenmeter.budgets import Pause
from tokenmeter.budgets.pauses import Pauses
from tokenmeter.cli import main


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    assert main([*arguments]) == status
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.count("\n") == 1
    return out.err


@pytest.mark.parametrize("target", ["all", "agent=triage", "user=a@b.c", "team=R & D", "agent=a=b"])
def test_a_target_is_paused_and_resumed(target: str, shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.configure()
    before_s = shared.store.time_s()

    assert main(["pause", target, "--reason", "it  loops\nagain", "--by", "bob"]) == 0

    said = capsys.readouterr().out
    assert f"Paused {target} in " in said
    assert "tokenmeter resume " in said
    [pause] = shared.store.pauses()
    assert (pause.target, pause.reason, pause.by) == (target, "it loops again", "bob")
    assert before_s - 1 <= pause.at_s <= shared.store.time_s() + 1

    assert main(["resume", target]) == 0
    assert f"Resumed {target} in " in capsys.readouterr().out
    assert shared.store.pauses() == []


def test_a_process_that_shares_the_store_obeys(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    pauses = Pauses(shared.store)
    assert main(["pause", "agent=triage", "--reason", "x", "--store", shared.url]) == 0
    assert pauses.refresh()
    assert pauses.stops("triage", None, None) is not None
    assert pauses.stops("other", None, None) is None
    assert main(["resume", "agent=triage", "--store", shared.url]) == 0
    assert pauses.refresh()
    assert pauses.stops("triage", None, None) is None
    pauses.close()


@pytest.mark.parametrize("name", ["pause", "resume"])
def test_without_a_target_the_pauses_are_listed(
    name: str, shared: SharedBooks, capsys: pytest.CaptureFixture[str]
) -> None:
    shared.configure()
    assert main([name]) == 0
    assert "Nothing is paused in " in capsys.readouterr().out
    shared.store.pause(Pause("team=x", shared.store.time_s() - 7200, "a leak", "bob"))
    shared.store.pause(Pause("all", shared.store.time_s() - 60, "worse", "al\x1b[0m"))

    assert main([name]) == 0

    out = capsys.readouterr().out
    assert out.index("all") < out.index("team=x")
    assert "2 h ago" in out
    assert "a leak" in out
    assert "\x1b" not in out
    assert main([name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["target"] for each in found["pauses"]] == ["all", "team=x"]
    assert set(found["pauses"][0]) == {"target", "since", "by", "reason"}


def test_json(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.configure()
    shared.store.pause(Pause("all", 1.0, "", ""))
    assert main(["pause", "agent=a", "--reason", "x", "--by", "b", "--json"]) == 0
    paused = json.loads(capsys.readouterr().out)
    assert (paused["target"], paused["reason"], paused["by"]) == ("agent=a", "x", "b")
    assert main(["resume", "agent=a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"resumed": "agent=a", "still_paused": ["all"]}


def test_what_is_still_paused_is_said(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.configure()
    shared.store.pause(Pause("all", 1.0, "", ""))
    shared.store.pause(Pause("agent=a", 1.0, "", ""))
    assert main(["resume", "agent=a"]) == 0
    assert "Still paused: all" in capsys.readouterr().out


def test_what_is_not_paused_can_not_be_resumed(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.configure()
    assert "; nothing is" in refused(capsys, "resume", "agent=trige", status=1)
    shared.store.pause(Pause("agent=triage", 1.0, "", ""))
    assert "did you mean 'agent=triage'?" in refused(capsys, "resume", "agent=trige", status=1)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("triage", "--reason", "x"), "write agent=triage, user=triage or team=triage, or all"),
        (("ALL", "--reason", "x"), "write all"),
        (("agnet=x", "--reason", "x"), "write all, agent=NAME, user=NAME or team=NAME"),
        (("model=gpt-5", "--reason", "x"), "'model=gpt-5' is unknown"),
        (("agent=", "--reason", "x"), "names no agent"),
        ((f"agent={'x' * 257}", "--reason", "x"), "1 to 256 characters"),
        (("all",), "--reason"),
        (("all", "--reason", " "), "--reason"),
        (("--reason", "x"), "no target is given"),
    ],
)
def test_what_is_refused_names_the_value_and_the_remedy(
    arguments: tuple[str, ...], part: str, shared: SharedBooks, capsys: pytest.CaptureFixture[str]
) -> None:
    shared.configure()
    assert part in refused(capsys, "pause", *arguments)
    assert shared.store.pauses() == []


def test_a_broken_configuration_does_not_keep_anyone_from_the_switch(
    shared: SharedBooks, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("tokenmeter.toml").write_text("this is no toml")
    assert main(["pause", "all", "--reason", "x", "--store", shared.url]) == 0
    assert [pause.target for pause in shared.store.pauses()] == ["all"]


def test_the_real_command(shared: SharedBooks) -> None:
    shared.configure()

    ran = command("pause", "agent=triage", "--reason", "it loops")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert [pause.target for pause in shared.store.pauses()] == ["agent=triage"]
    ran = command("resume", "agent=triage")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert shared.store.pauses() == []
    ran = command("resume", "agent=triage")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "Traceback" not in ran.stderr
