"""Adoption in the report: a yes or a no for each person and week, of groups that are large enough, without names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from tests.ledger.rows import add, call, refusal
from tests.report.ledgers import DAY_S, NOW_S, fresh
from tests.report.test_data import texts
from tokenmeter.outcomes import Rules
from tokenmeter.outcomes.groups import SMALL_GROUPS
from tokenmeter.report import ReportData, read, to_json
from tokenmeter.report.pages import Pages
from tokenmeter.report.terminal import sections

MONDAY_S = NOW_S - 4 * DAY_S  # the window ends on a Friday
WEEK_S = 7 * DAY_S
BLUE = [f"bluebird{n}" for n in range(6)]
RED = [f"redstart{n}" for n in range(5)]
TEAMS = {**dict.fromkeys(BLUE, "blue"), **dict.fromkeys(RED, "red"), "wren1": "tiny", "wren2": "tiny"}


def fill(
    folder: Path, *, more: int = 1, rules: Rules | None = None, team: str | None = None, agent: str | None = None
) -> ReportData:
    """Two weeks before this one: five of blue called, of red one and only once; this week two of blue did."""
    with fresh(folder) as ledger:
        rows = [
            call(f"{user}-{n}", user=user, team="blue" if n else "elsewhere", run=user, at_s=MONDAY_S - WEEK_S + n)
            for user in BLUE[:5]
            for n in range(5 * more)
        ]
        rows += [call(f"now-{user}", user=user, team="blue", run="now", at_s=MONDAY_S) for user in BLUE[:2]]
        rows += [call("red", user=RED[0], team="red", run="red", at_s=MONDAY_S - WEEK_S + DAY_S)]
        rows += [refusal("red-no", user=RED[1], team="red", run="red", at_s=MONDAY_S - WEEK_S)]
        rows += [call(f"bot{n}", user=f"bot{n}", team="red", run="bot", at_s=MONDAY_S - 2) for n in range(30)]
        add(ledger, *rows)
        return read(ledger, since_s=MONDAY_S - 2 * WEEK_S - DAY_S, until_s=NOW_S, now_s=NOW_S,
                    rules=rules or Rules(teams=TEAMS), team=team, agent=agent)  # fmt: skip


def weeks(data: ReportData) -> dict[str, list[tuple[int, int, int]]]:
    found: dict[str, list[tuple[int, int, int]]] = {}
    for each in data.adoption or ():
        found.setdefault(each.group, []).append((each.people, each.used, each.faint))
    return found


def test_each_week_of_each_group(tmp_path: Path) -> None:
    data = fill(tmp_path)

    # Two of tiny are too few to be shown, so that the smallest group goes with them.
    assert weeks(data) == {
        "blue": [(6, 0, 0), (6, 0, 0), (6, 5, 0), (6, 2, 2)],
        SMALL_GROUPS: [(7, 0, 0), (7, 0, 0), (7, 1, 1), (7, 0, 0)],
    }
    told = json.loads(to_json(data))["adoption"]
    assert [(each["whole"], each["reached"]) for each in told if each["team"] == "blue"] == [
        (False, None), (True, False), (True, True), (False, None),
    ]  # fmt: skip
    assert told[2] == {
        "team": "blue", "week": "2026-05-18T00:00:00Z", "whole": True, "people": 6, "used": 5, "faint": 0,
        "share": 0.833333, "target": 0.8, "reached": True,
    }  # fmt: skip


def test_it_is_shown_in_words(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    data = fill(tmp_path)

    [section] = [each for each in sections(data) if each.title == "Adoption by team and week"]
    assert section.head == ["team", "people", "2026-05-04 (part)", "2026-05-11", "2026-05-18", "2026-05-25 (part)"]
    assert section.rows[0] == ["blue", "6", "0 %", "0 %", "83 %, met", "33 % (2 faint)"]
    assert section.rows[1][0] == SMALL_GROUPS
    assert any("The target is 80 %." in line for line in section.lines)
    told = texts(data)
    assert "Adoption by team and week" in told["html"]
    assert "83 %, met" in told["html"]
    for form, text in told.items():
        assert not [name for name in (*BLUE, *RED, "wren1") if name in text], form


def test_more_calls_raise_nothing(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    (tmp_path / "many").mkdir()

    assert weeks(fill(tmp_path / "few")) == weeks(fill(tmp_path / "many", more=20))


def test_target_and_size_are_the_owners(tmp_path: Path) -> None:
    data = fill(tmp_path, rules=Rules(teams=TEAMS, min_group=2, adoption_target=0.9))

    assert weeks(data).keys() == {"blue", "red", "tiny"}
    assert not any(each.reached for each in data.adoption or ())


def test_of_one_team_all_calls_of_its_people_count(tmp_path: Path) -> None:
    data = fill(tmp_path, team="blue", more=2)

    assert weeks(data) == {"blue": [(6, 0, 0), (6, 0, 0), (6, 5, 0), (6, 2, 2)]}


def test_without_a_directory_and_of_one_agent_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    pytest.importorskip("jinja2")

    for data in (fill(tmp_path, rules=Rules()), fill(tmp_path / "agent", agent="triage")):
        assert data.adoption is None
        assert json.loads(to_json(data))["adoption"] is None
        assert all("Adoption" not in text for text in texts(data).values())


def test_a_directory_of_few_has_no_figures(tmp_path: Path) -> None:
    data = fill(tmp_path, rules=Rules(teams={"wren1": "tiny"}))

    assert data.adoption == ()
    [section] = [each for each in sections(data) if each.title == "Adoption by team and week"]
    assert section.lines == ["The directory has no group that is large enough to be shown."]


@pytest.mark.parametrize("team", ["blue", "red"])
def test_one_team_alone_is_what_it_is_among_all(tmp_path: Path, team: str) -> None:
    """Whoever a call was charged to, the directory says whose it is: alone as among all, in sums and in runs."""
    rules = Rules(teams=TEAMS)
    with fresh(tmp_path) as ledger:
        rows = [call(f"{user}-own", user=user, team=TEAMS[user], run=f"own-{user}") for user in (*BLUE, *RED)]
        rows += [call("lent", user=BLUE[0], team="red", run="lent", nanos=50_000_000)]
        rows += [call("away", user=RED[0], team="elsewhere", run="away", nanos=7_000_000)]
        add(ledger, *rows)
        every, alone = (read(ledger, until_s=NOW_S + DAY_S, now_s=NOW_S, rules=rules, team=one) for one in (None, team))
        pages = Pages(ledger, lambda: every, refresh_s=60)
        runs = pages.answer("/runs", {"team": team})

    [among] = [each for each in every.spend.by_team if each.name == team]
    assert [each.nanos for each in alone.spend.by_team] == [among.nanos]
    assert alone.total.nanos == among.nanos
    assert {line.team for line in alone.lines} == {team}
    assert runs is not None
    assert ("lent" in runs.body, "away" in runs.body) == ((True, False) if team == "blue" else (False, True))
