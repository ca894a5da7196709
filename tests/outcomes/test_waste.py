"""Signs of waste, each on an agent that has it and beside agents that don't; and adoption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.outcomes.parts import DAY_S, HOUR_S, hour, outcome, run
from tokenmeter.errors import ConfigError
from tokenmeter.ledger.views import HourSum, Outcome, RepeatSum, RunSum
from tokenmeter.outcomes import Adoption, Finding, Rules, adoption, find_waste, judge, link
from tokenmeter.outcomes.people import names_a_person

MONDAY_S = 1_767_571_200
D = 1_000_000_000


def plain_hours(agent: str, days: int = 28, **more: Any) -> list[HourSum]:
    """An agent that works in the mornings: $1 a day, ten calls of 1,000 tokens in and 400 out."""
    usual: dict[str, Any] = {"calls": 10, "input_tokens": 10_000, "output_tokens": 4_000}
    return [
        hour(D, f"u-{agent}", hour_s=MONDAY_S + day * DAY_S + 9 * HOUR_S, agent=agent, **{**usual, **more})
        for day in range(days)
    ]


def found(
    hours: Sequence[HourSum],
    runs: Sequence[RunSum] = (),
    repeats: Sequence[RepeatSum] = (),
    outcomes: Sequence[Outcome] = (),
) -> list[Finding]:
    """The findings, beside five agents that work well."""
    for i in range(5):
        agent = f"good{i}"
        hours = [*hours, *plain_hours(agent)]
        for day in range(28):
            at_s = MONDAY_S + day * DAY_S + 9.0 * HOUR_S
            runs = [*runs, run(f"{agent}-{day}", f"u-{agent}", agents=(agent,), at_s=at_s, nanos=D, calls=10)]
            outcomes = [*outcomes, outcome(f"{agent}-{day}", at_s + 7_000, run=f"{agent}-{day}")]
    judged = judge(outcomes, runs, link(outcomes, runs))
    told = list(find_waste(hours, runs, repeats, judged))
    assert not [each for each in told if (each.agent or "").startswith("good")]
    return told


def kinds(findings: list[Finding]) -> set[str]:
    return {each.kind for each in findings}


def test_agents_that_work_are_not_told_of() -> None:
    assert found([]) == []


def test_repeats_and_duplicates() -> None:
    repeats = [
        RepeatSum("a", "bad", "blue", runs=1, calls=40, nanos=16 * D, first_nanos=D),
        RepeatSum("b", "bad", "blue", runs=9, calls=9, nanos=9 * D, first_nanos=D),
        RepeatSum("c", "good1", "blue", runs=1, calls=2, nanos=9 * D, first_nanos=D),
    ]

    told = {each.kind: each for each in found(plain_hours("bad"), repeats=repeats)}

    assert told["repeats"].money_nanos == 15 * D
    assert told["duplicates"].money_nanos == 8 * D
    assert told["repeats"].evidence == {"requests": 1, "calls": 40, "most": 40}


def test_loops() -> None:
    runs = [
        run(f"l{i}", agents=("bad", "worse"), at_s=MONDAY_S + i * DAY_S, calls=300, nanos=2 * D, max_depth=9)
        for i in range(5)
    ]
    fresh = [run(f"f{i}", agents=("new",), at_s=MONDAY_S + 27.0 * DAY_S, calls=300, nanos=9 * D) for i in range(2)]

    told = found(plain_hours("bad", 5) + plain_hours("worse", 5) + plain_hours("new", 2), [*runs, *fresh])

    loops = [each for each in told if each.kind == "loops"]
    assert {(each.agent, each.money_nanos) for each in loops} == {("bad", 5 * D), ("worse", 5 * D)}
    assert loops[0].evidence["max_depth"] == 9


def test_chatter_at_all_hours() -> None:
    hours = [hour(D // 20, "x", hour_s=MONDAY_S + i * HOUR_S, agent="bad", calls=2) for i in range(24 * 28)]

    assert "chatter" in kinds(found(hours))


def test_padding() -> None:
    before = plain_hours("bad", 14)
    after = [
        hour(
            8 * D,
            "x",
            hour_s=MONDAY_S + day * DAY_S + 9 * HOUR_S,
            agent="bad",
            calls=10,
            input_tokens=90_000,
            output_tokens=4_000,
        )
        for day in range(14, 28)
    ]

    [told] = [each for each in found(before + after) if each.kind == "padding"]

    assert told.evidence["before_or_usual"] == 1_000
    assert 0 < told.money_nanos < 14 * 8 * D


def test_a_dear_model_for_a_word() -> None:
    dear = plain_hours("bad", model="large", input_tokens=2_000, output_tokens=50)

    [told] = [each for each in found(dear) if each.kind == "oversized"]

    assert told.evidence["cheaper"] == "m"
    assert told.money_nanos > 20 * D


def test_what_was_reverted() -> None:
    runs = [run(f"b{i}", agents=("bad",), at_s=MONDAY_S + i * DAY_S, nanos=2 * D) for i in range(9)]
    outcomes = [
        outcome(f"b{i}", MONDAY_S + (i + 0.5) * DAY_S, run=f"b{i}", revoked_s=MONDAY_S + 30.0 * DAY_S) for i in range(9)
    ]

    [told] = [each for each in found(plain_hours("bad"), runs, outcomes=outcomes) if each.kind == "reverted"]

    assert told.money_nanos == 18 * D


def test_retries_streams_that_were_left_and_caches_that_were_missed() -> None:
    hours = plain_hours("retrier", failed=8, incomplete=4) + plain_hours("leaver", incomplete=5)
    hours += plain_hours("coldly", input_tokens=100_000)
    hours += plain_hours("warm", input_tokens=100_000, cache_read_tokens=90_000)

    told = {(each.agent, each.kind) for each in found(hours)}

    assert {("retrier", "retries"), ("leaver", "abandoned"), ("coldly", "cache")} <= told
    assert ("warm", "cache") not in told


def test_no_person_is_named() -> None:
    hours = plain_hours("bad")
    hours = [
        *hours,
        *(hour(D, "alice@example.com", hour_s=each.hour_s, agent="alice-mail", calls=10) for each in hours),
    ]

    told = found(hours)

    assert "fruitless" in kinds(told)
    assert {each.agent for each in told} == {"bad", None}
    assert "alice" not in repr(told)


def test_adoption_is_a_yes_or_a_no() -> None:
    groups = {f"u{i}": "blue" for i in range(5)} | {"x": "tiny"}
    week = [hour(1, f"u{i}", hour_s=MONDAY_S, calls=5) for i in range(3)]
    ping = hour(1, "u3", hour_s=MONDAY_S + DAY_S)
    strangers = [hour(1, f"bot{i}", hour_s=MONDAY_S, calls=9) for i in range(9)]

    [small] = adoption(week, groups)
    [more] = adoption([*week * 50, ping, *strangers, hour(1, "u4", hour_s=MONDAY_S, calls=0)], groups)

    assert (small.people, small.used, small.share, small.reached) == (6, 3, 0.5, False)
    assert (more.used, more.faint, more.week_s) == (4, 1, MONDAY_S)
    assert adoption(week, {"u0": "blue"}) == ()
    assert adoption([*week, ping], {f"u{i}": "blue" for i in range(5)})[0].reached
    assert [each.week_s for each in adoption([*week, hour(1, "u0", hour_s=MONDAY_S + 7 * DAY_S)], groups)] == [
        MONDAY_S,
        MONDAY_S + 7 * DAY_S,
    ]
    silent = adoption(week, groups, since_s=MONDAY_S + DAY_S, until_s=MONDAY_S + 15 * DAY_S)
    assert [(each.week_s - MONDAY_S, each.used) for each in silent] == [(0, 3), (7 * DAY_S, 0), (14 * DAY_S, 0)]
    assert Adoption("a", MONDAY_S, people=100, used=55, faint=0, target=0.55).reached
    with pytest.raises(ConfigError, match="target is 80"):
        adoption(week, groups, target=80)


def test_rules_know_the_team() -> None:
    rules = Rules(teams={"u-bad": "red"})

    told = find_waste(plain_hours("bad"), repeats=[RepeatSum("a", "bad", "red", 1, 9, 20 * D, D)], rules=rules)

    assert [(each.kind, each.team) for each in told] == [("repeats", "red")]


@pytest.mark.parametrize(
    ("agent", "gives_away"),
    [
        ("alice-mail", True),
        ("mail_of_Alice", True),
        ("bo.smith-helper", True),
        ("helper-bo-smith", True),
        ("aliceMail", True),
        ("MailOfAlice", True),
        ("alice2", True),
        ("mail-ann17-night", True),
        ("al\u200bice-mail", True),
        ("bot+alice@example.com", True),
        ("bosmith", False),
        ("0c4ann7e", False),  # of a run
        ("annual", False),
        ("planner", False),
        ("malice", False),
        ("", False),
    ],
)
def test_names_that_give_a_person_away(agent: str, gives_away: bool) -> None:
    assert names_a_person(agent, frozenset({"alice", "ann", "bo.smith"})) is gives_away
