"""Groups are folded, persons are not named, and what was read is what is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from tests.ledger.rows import add, call, refusal
from tests.report.ledgers import DAY_S, NOW_S, fill, fresh
from tokenmeter.budgets.store import Book, State
from tokenmeter.errors import ConfigError
from tokenmeter.ledger.views import Outcome
from tokenmeter.outcomes import Rules
from tokenmeter.outcomes.groups import SMALL_GROUPS
from tokenmeter.report import ReportData, Sums, read, to_csv, to_focus, to_json
from tokenmeter.report.html import to_html
from tokenmeter.report.shown import OF_A_PERSON
from tokenmeter.report.terminal import sections

PEOPLE = [f"person{team}x{number}" for team in range(5) for number in range(6)]


def month_book(scope: str, posted: int, *, budget: str = "monthly", limit: int = 80 * 10**9) -> Book:
    key = f"usd {budget}|{scope}|month:2026-05-01T00:00:00+00:00"
    return Book(key, budget, scope, "usd", NOW_S + 3 * DAY_S, State(posted, 0, limit))


def texts(data: ReportData) -> dict[str, str]:
    terminal = "\n".join(
        "\n".join([part.title, *part.lines, *(" ".join(row) for row in part.rows)]) for part in sections(data)
    )
    return {
        "html": to_html(data),
        "json": to_json(data),
        "csv": to_csv(data),
        "focus": to_focus(data),
        "terminal": terminal,
    }


def test_no_person_is_named_anywhere(tmp_path: Path) -> None:
    with fresh(tmp_path) as ledger:
        fill(ledger, days=8, agents=("coder", "person1x2-helper", "triage"))
        ledger.put_outcome(Outcome("case", "by person1x2", NOW_S - 9_000, user="person1x2", accepted_by="person1x3"))
        books = [month_book(f"user={name}", 10**9, budget="each user") for name in PEOPLE]
        books += [month_book("agent=person1x2-helper", 10**9, budget="for person1x2")]
        data = read(ledger, until_s=NOW_S, now_s=NOW_S, books=books)

    for form, text in texts(data).items():
        assert not [name for name in PEOPLE if name in text], form
        assert OF_A_PERSON in text, form


def test_who_asks_for_their_own_figures_gets_theirs(tmp_path: Path) -> None:
    with fresh(tmp_path) as ledger:
        fill(ledger, days=8)
        data = read(ledger, until_s=NOW_S, now_s=NOW_S, me="person1x2")
        theirs = sum(hour.nanos for hour in ledger.hours(user="person1x2"))

    assert data.own is not None
    assert data.own.nanos == theirs > 0
    for form in ("html", "json", "terminal"):
        text = texts(data)[form]
        assert "person1x2" in text
        assert not [name for name in PEOPLE if name != "person1x2" and name in text], form
    assert json.loads(to_json(data))["own"]["user"] == "person1x2"


def test_there_is_no_way_to_ask_for_people() -> None:
    import inspect

    assert not {"user", "users", "by_user", "people", "top"} & set(inspect.signature(read).parameters)


def test_small_groups_are_folded(tmp_path: Path) -> None:
    with fresh(tmp_path) as ledger:
        fill(ledger, days=12)
        data = read(ledger, until_s=NOW_S, now_s=NOW_S)
        wide = read(ledger, until_s=NOW_S, now_s=NOW_S, rules=Rules(min_group=2))

    assert "two of us" not in {line.team for line in data.lines}
    assert SMALL_GROUPS in {line.team for line in data.lines}
    assert all("two of us" not in text for text in texts(data).values())
    assert "two of us" in {line.team for line in wide.lines}
    assert SMALL_GROUPS not in {line.team for line in wide.lines}
    # What is folded is no remainder that could be worked out: it is never a single small team.
    folded = next(row for row in data.spend.by_team if row.name == SMALL_GROUPS)
    assert folded.groups > 1
    assert (folded.people or 0) >= 5


def test_a_small_team_is_not_shown_by_itself(tmp_path: Path) -> None:
    with fresh(tmp_path) as ledger:
        fill(ledger, days=8, agents=("coder", "person1x2-helper"))

        with pytest.raises(ConfigError, match="fewer than 5 people"):
            read(ledger, until_s=NOW_S, now_s=NOW_S, team="two of us")
        with pytest.raises(ConfigError, match="named after a person"):
            read(ledger, until_s=NOW_S, now_s=NOW_S, agent="person1x2-helper")
        alone = read(ledger, until_s=NOW_S, now_s=NOW_S, team="growth")
        nothing = read(ledger, until_s=NOW_S, now_s=NOW_S, team="no such team")

    assert {line.team for line in alone.lines} == {"growth"}
    assert {row.name for row in alone.spend.by_team} == {"growth"}
    assert nothing.total.nanos == 0


def test_one_agent_alone(tmp_path: Path) -> None:
    with fresh(tmp_path) as ledger:
        fill(ledger, days=12)
        data = read(ledger, until_s=NOW_S, now_s=NOW_S, agent="coder")
        every = read(ledger, until_s=NOW_S, now_s=NOW_S)
        theirs = sum(hour.nanos for hour in ledger.hours(agent="coder"))

    assert data.total.nanos == theirs
    # Of what it did with others it has its part, alone as among all: else what a unit of it costs would be two things.
    assert data.spend.by_agent == tuple(row for row in every.spend.by_agent if row.name == "coder")
    assert data.spend.micros == data.spend.by_agent[0].micros > 0


def test_what_is_unattributed_and_what_led_to_nothing_add_up(tmp_path: Path) -> None:
    with fresh(tmp_path) as ledger:
        fill(ledger, days=12)
        data = read(ledger, until_s=NOW_S, now_s=NOW_S)

    spend = data.spend
    assert data.unattributed.nanos == spend.unattributed_nanos > 0
    assert spend.unattributed_nanos + spend.linked_nanos + spend.fruitless_nanos == data.total.nanos
    assert [each.key for each in data.spendless] == ["v1"]
    assert spend.linked_nanos > 0 < spend.fruitless_nanos
    assert data.teams[0].name is None


def test_findings_have_money_evidence_and_a_remedy(tmp_path: Path) -> None:
    with fresh(tmp_path) as ledger:
        fill(ledger, days=20)
        data = read(ledger, until_s=NOW_S, now_s=NOW_S)

    assert data.findings
    for each in data.findings:
        assert each.money_nanos > 0
        assert each.evidence
        assert each.remedy


def test_stopped_calls_and_depth(tmp_path: Path) -> None:
    with fresh(tmp_path) as ledger:
        add(
            ledger,
            call("a", at_s=NOW_S - 50, run="flat", path=("root",)),
            call("b", at_s=NOW_S - 50, run="deep", path=("root",) * 12),
            refusal("c", at_s=NOW_S - 40, run="deep", path=("root",) * 13),
        )
        data = read(ledger, since_s=NOW_S - DAY_S, until_s=NOW_S, now_s=NOW_S)

    assert [(each.depth, each.runs, each.stopped, each.or_more) for each in data.depths] == [
        (1, 1, 0, False),
        (8, 1, 1, True),
    ]
    assert sum(data.refused) == 1
    assert data.steps.step_s == 3_600


def test_budgets_of_persons_and_small_teams_are_one_line(tmp_path: Path) -> None:
    with fresh(tmp_path) as ledger:
        fill(ledger, days=25)
        support = sum(hour.nanos for hour in ledger.hours(1_777_593_600, NOW_S, team="support"))
        books = [month_book(f"user={name}", 10**9, budget="each user") for name in PEOPLE[:7]]
        books += [month_book(f"user={name}", 10**9, budget="a few users") for name in PEOPLE[:3]]
        books += [month_book("team=support", support), month_book("team=two of us", 10**9)]
        books += [month_book("team=growth", 10**9)]  # goes with the small ones, so that none is told apart
        books += [month_book("team=platform", 7)]  # of which the ledger says otherwise: no curve is drawn
        ended = replace_window(month_book("global", 5, budget="ended"), NOW_S - 5)
        data = read(ledger, until_s=NOW_S, now_s=NOW_S, books=[*books, ended])

    lines = {(line.budget, line.scope): line for line in data.budgets}
    assert set(lines) == {
        ("each user", "each user"),
        ("a few users", "each user (fewer than 5)"),
        ("monthly", "team support"),
        ("monthly", "team platform"),
        ("monthly", SMALL_GROUPS),
    }
    assert (lines["each user", "each user"].books, lines["each user", "each user"].posted) == (7, 7 * 10**9)
    assert lines["a few users", "each user (fewer than 5)"].posted == 0
    curve = lines["monthly", "team support"].curve
    assert curve[0] == (1_777_593_600.0, 0)
    assert curve[-1][1] == support
    assert lines["monthly", SMALL_GROUPS].posted == 2 * 10**9
    assert lines["monthly", "team platform"].curve == ()


def test_the_budget_of_a_single_small_team_has_no_figures(tmp_path: Path) -> None:
    with fresh(tmp_path) as ledger:
        fill(ledger, days=9)
        data = read(ledger, until_s=NOW_S, now_s=NOW_S, books=[month_book("team=two of us", 123 * 10**9)])

    [line] = data.budgets
    assert (line.posted, line.limit, line.books) == (0, 0, 1)
    assert all("123" not in text for form, text in texts(data).items() if form == "terminal")


def replace_window(book: Book, ends_s: float) -> Book:
    return book._replace(resets_at=ends_s)


def test_an_empty_ledger_can_be_reported(tmp_path: Path) -> None:
    with fresh(tmp_path) as ledger:
        data = read(ledger, until_s=NOW_S, now_s=NOW_S)

    assert data.total == Sums()
    assert data.unattributed == Sums()
    assert all(texts(data).values())


def test_a_window_has_a_length(tmp_path: Path) -> None:
    with fresh(tmp_path) as ledger, pytest.raises(ConfigError, match="ends before it begins"):
        read(ledger, since_s=NOW_S, until_s=NOW_S, now_s=NOW_S)


def test_a_report_is_data_that_can_be_compared(tmp_path: Path) -> None:
    with fresh(tmp_path) as ledger:
        fill(ledger, days=3)
        one, other = (read(ledger, until_s=NOW_S, now_s=NOW_S) for _ in range(2))

    assert one == other
    assert replace(one, made_s=5) != other


def test_nobodys_calls_without_a_price_are_not_passed_over(tmp_path: Path) -> None:
    """What they cost is unknown, which is not zero: nobody may read that a team answers for every dollar."""
    pytest.importorskip("jinja2")
    with fresh(tmp_path) as ledger:
        add(ledger, call("own"), *(call(f"nobodys{n}", team=None, user=None, nanos=None) for n in range(3)))
        data = read(ledger, until_s=NOW_S + DAY_S, now_s=NOW_S)

    assert data.spend.by_team[0].name is None
    first, figures, *_ = sections(data)
    assert first.title == "Unattributed spend: $0.00, and 3 calls without a known price"
    assert "3 calls have no known price: what they cost is not in these figures." in figures.lines
    page = texts(data)["html"]
    assert "A team answers for every dollar" not in page
    assert "3 of its calls have no known price" in page


def test_calls_of_a_clock_that_is_ahead_are_told(tmp_path: Path) -> None:
    """A report until now has none of them: whoever sets a clock forward must not spend unseen."""
    pytest.importorskip("jinja2")
    with fresh(tmp_path) as ledger:
        add(ledger, call("now", nanos=10**9), call("ahead", nanos=7 * 10**9, at_s=NOW_S + 400 * DAY_S))
        data = read(ledger, until_s=NOW_S + 60, now_s=NOW_S)
        past = read(ledger, since_s=NOW_S - DAY_S, until_s=NOW_S - 60, now_s=NOW_S)
        totals = ledger.totals().nanos

    assert data.total.nanos + data.ahead.nanos == totals
    assert json.loads(to_json(data))["ahead"]["usd"] == "7"
    said = "1 more calls, of $7.00, say they are made after now: a clock is ahead."
    told, before = texts(data), texts(past)
    assert all(said in told[form] and said not in before[form] for form in ("html", "terminal"))
