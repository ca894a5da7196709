"""Each known way of gaming meets its rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.outcomes.parts import DAY_S, HOUR_S, hour, judged, outcome, run, verdicts
from tokenmeter.errors import ConfigError
from tokenmeter.outcomes import Kind, Revocation, Rules, declare, link, new_outcome, normalize, own_figures


def test_the_runs_of_others_dont_count_for_who_claims_them() -> None:
    runs = [run("hers", "ann"), run("his", "bob", team="red")]

    found = judged(
        [
            outcome("a", run="his", user="ann"),
            outcome("b", run="his", user="ann", team="blue"),
            outcome("c", run="his", team="blue"),
            outcome("d", run="his"),
            outcome("e", run="hers", user="Ann@example.com", team="blue"),
        ],
        runs,
    )

    assert verdicts(found) == {
        "deployment a": "disputed",
        "deployment b": "disputed",
        "deployment c": "disputed",
        "deployment d": "counted",
        "deployment e": "counted",
    }
    assert found["deployment d"].credits[0].claimant == ("red", "bob")
    assert "somebody else" in found["deployment a"].why


def test_a_directory_says_whose_a_run_is() -> None:
    rules = Rules(teams={"ann": "blue", "bob": "red"})
    runs = [run("r", "ann", team="red")]  # charged to another team

    found = judged([outcome("a", run="r"), outcome("b", run="r", team="red")], runs, rules)
    told = normalize([hour(10, "ann", team="red")], runs, [outcome("a", run="r")], rules=rules)

    assert verdicts(found) == {"deployment a": "counted", "deployment b": "disputed"}
    assert [(row.name, row.nanos) for row in told.by_team] == [("(small groups)", 10)]
    assert found["deployment a"].credits[0].claimant == ("blue", "ann")


@pytest.mark.parametrize(
    ("user", "team"),
    [("ann", "blue"), ("Ann ", "blue"), ("ann@example.com", "blue"), ("a\u200bnn", "blue"), ("annie", "charged"),
     ("bob@example.com", "red"), ("BOB", "red"), ("bob@elsewhere.test", "charged"), (None, "charged"),
     ("cy", "charged"), ("cy@two.test", "blue")],
)  # fmt: skip
def test_nobody_leaves_the_directory_by_another_spelling(user: str | None, team: str) -> None:
    teams = {"ann": "blue", "bob@example.com": "red", "cy@one.test": "red", "cy@two.test": "blue"}

    assert Rules(teams=teams).team_of(user, "charged") == team
    assert Rules().team_of(user, "charged") == "charged"


@pytest.mark.parametrize(
    "by",
    ["ann", "ANN@example.com", "coder", "an\u200bn", "\uff41nn", "ann+reviews@example.com", "Ann L. <ann@example.com>",
     "4711+ann@users.noreply.github.com"],
)  # fmt: skip
def test_who_spent_cant_accept(by: str) -> None:
    assert verdicts(judged([outcome(run="r", accepted_by=by)], [run("r")])) == {"deployment api#1": "self_accepted"}


def test_an_agent_of_another_run_is_the_spender_if_nobody_else_has_it() -> None:
    mine, rival = run("z", "ann", agents=("checker",)), run("y", "bob", agents=("checker",))
    claims = [outcome(run="r", accepted_by="Checker")]
    trusted = declare(Kind("deployment", accepters=("Checker",)))

    assert verdicts(judged(claims, [run("r"), mine])) == {"deployment api#1": "self_accepted"}
    assert verdicts(judged(claims, [run("r"), mine, rival])) == {"deployment api#1": "counted"}
    assert verdicts(judged(claims, [run("r"), mine], kinds=trusted)) == {"deployment api#1": "counted"}


def test_nobody_said_who_accepted_it() -> None:
    found = judged([outcome(run="r", accepted_by=None)], [run("r")])
    strict = declare(Kind("deployment", accepters=("ci", "qa-*")))

    assert found["deployment api#1"].micros == 500_000
    assert verdicts(judged([outcome(run="r", accepted_by=None)], [run("r")], kinds=strict)) == {
        "deployment api#1": "not_accepted"
    }
    assert verdicts(judged([outcome(run="r", accepted_by="rev")], [run("r")], kinds=strict)) == {
        "deployment api#1": "not_accepted"
    }
    assert verdicts(judged([outcome(run="r", accepted_by="qa-eve")], [run("r")], kinds=strict)) == {
        "deployment api#1": "counted"
    }


def test_own_word_may_be_worth_less() -> None:
    found = judged([outcome(run="r", source="api")], [run("r")], Rules(own_word=0.25))

    assert found["deployment api#1"].micros == 250_000


def test_weights_and_kinds_cant_be_inflated() -> None:
    found = judged(
        [
            outcome("a", run="r1", weight=1_000.0),
            outcome("b", run="r2", kind="synergy", weight=1_000.0),
            outcome("c", run="r3", weight=1_000.0, confidence=0.01),
            outcome("d", run="r4", weight=0.25),
        ],
        [run(f"r{i}") for i in range(1, 5)],
    )

    assert found["deployment a"].micros == 1_000_000
    assert found["deployment d"].micros == 250_000
    assert verdicts(found)["synergy b"] == "undeclared"
    assert verdicts(found)["deployment c"] == "unsure"


def test_one_change_by_many_kinds_counts_as_its_strongest() -> None:
    kinds = ("commit", "merge", "deployment", "release", "checks")
    found = judged([outcome(kind, 1_000.0 + i, kind=kind, run="r") for i, kind in enumerate(kinds)], [run("r")])

    assert sum(each.micros for each in found.values()) == 1_000_000
    assert verdicts(found)["deployment deployment"] == "counted"
    assert list(verdicts(found).values()).count("folded") == 4


def test_a_run_may_settle_many_cases() -> None:
    found = judged([outcome(f"c{i}", kind="case", run="r") for i in range(4)], [run("r")])

    assert sum(each.micros for each in found.values()) == 4 * 250_000


def test_before_its_run_and_long_after_it_nothing_is_linked() -> None:
    runs = [run("r", at_s=100.0 * DAY_S)]
    early, late = outcome("a", 99.0 * DAY_S, run="r"), outcome("b", 140.0 * DAY_S, run="r")

    assert link([early, late], runs) == ()
    assert set(verdicts(judged([early, late], runs)).values()) == {"spendless"}


def test_what_no_spend_led_to_stands_apart() -> None:
    runs = [run("r", calls=0)]

    found = judged([outcome("a", run="no-such"), outcome("b", run="r"), outcome("c", user="eve")], runs)

    assert set(verdicts(found).values()) == {"spendless"}


def test_deployed_reverted_and_deployed_again_counts_once() -> None:
    runs = [run("r")]
    times = [(1_000.0, 2_000.0), (3_000.0, 4_000.0), (5_000.0, None)]
    every = [outcome(f"v{i}", at_s, run="r", fold="f", revoked_s=back) for i, (at_s, back) in enumerate(times)]

    found = judged(every, runs)

    assert list(verdicts(found).values()) == ["revoked", "revoked", "counted"]
    assert sum(each.micros for each in found.values()) == 1_000_000
    assert sum(each.micros for each in judged(every[:2], runs).values()) == 0


def test_a_revocation_takes_back_the_rest_of_the_change() -> None:
    runs = [run("r"), run("s")]
    deployed = outcome("d", 1_000.0, run="r", fold="f", revoked_s=2_000.0)
    merged = outcome("m", 900.0, kind="merge", run="s", fold="f")

    assert verdicts(judged([deployed, merged], runs))["merge m"] == "revoked"
    weaker = [replace(deployed, revoked_s=None), replace(merged, revoked_s=2_000.0)]
    assert verdicts(judged(weaker, runs))["deployment d"] == "counted"


def test_a_claim_that_was_read_from_the_work_goes_before_ones_own_word() -> None:
    runs = [run("hers", "ann"), run("his", "bob", team="red")]
    true = outcome("true", run="his", fold="f")
    stolen = outcome("stolen", 900.0, run="hers", user="ann", fold="f", source="api")

    found = judged([true, stolen], runs)

    assert verdicts(found) == {"deployment true": "counted", "deployment stolen": "folded"}
    assert {credit.claimant for each in found.values() for credit in each.credits} == {("red", "bob")}
    assert found["deployment true"].contested


def test_ones_own_word_takes_nothing_back_and_joins_nothing_of_others() -> None:
    """Whoever names the folds of others could otherwise revoke what they did, or make one change of all of it."""
    runs = [run("hers", "ann"), run("more", "ann"), run("his", "bob", team="red")]
    work = [outcome("one", run="hers", fold="f1"), outcome("two", 1_100.0, run="more", fold="f2")]
    back = outcome("back", 1_200.0, run="his", fold="f1", source="api", revoked_s=1_300.0)
    bridge = [outcome(f"b{n}", 1_200.0 + n, run="his", fold=f"f{n}", source="api") for n in (1, 2)]

    for found in (judged([*work, back], runs), judged([*work, *bridge], runs)):
        assert [found[f"deployment {key}"].micros for key in ("one", "two")] == [1_000_000, 1_000_000]
    own = judged([*work, outcome("back", 1_200.0, run="hers", fold="f1", source="api", revoked_s=1_300.0)], runs)
    assert verdicts(own)["deployment one"] == "revoked", "her own word takes back what is hers"


def test_a_window_links_only_the_runs_of_who_is_named() -> None:
    runs = [run("a", "ann", at_s=0.0), run("b", "bob", at_s=0.0), run("old", "ann", at_s=-3.0 * DAY_S)]

    [one] = link([outcome(user="ann")], runs)
    team = link([outcome(team="blue")], runs)

    assert (one.run, one.share, one.how, one.confidence) == ("a", 1.0, "window", 0.8)
    assert {(each.run, each.share, each.confidence) for each in team} == {("a", 0.5, 0.4), ("b", 0.5, 0.4)}
    assert link([outcome(user="ann", team="red")], runs) == ()
    assert link([outcome()], runs) == ()


def test_an_agent_that_is_always_there_gets_little_of_a_window() -> None:
    runs = [run(f"noise{i}", agents=("noise",), at_s=-i * HOUR_S) for i in range(20)] + [run("work")]

    shares = {each.run: each.share for each in link([outcome(user="ann")], runs)}

    assert shares["work"] > 0.9


def test_a_trailer_is_kept_as_such() -> None:
    [found] = link([outcome(run="r", attributes=(("linked_by", "trailer"),))], [run("r")])

    assert (found.how, found.confidence) == ("trailer", 0.95)


def crowd(n: int = 7) -> tuple[list, list]:  # type: ignore[type-arg]
    """Others, whom different people accept."""
    runs = [run(f"c{i}-{j}", f"u{i}") for i in range(n) for j in range(6)]
    outcomes = [
        outcome(f"c{i}-{j}", run=f"c{i}-{j}", accepted_by=f"u{(i + j + 1) % n}") for i in range(n) for j in range(6)
    ]
    return runs, outcomes


def test_two_who_accept_each_other_are_one() -> None:
    runs, outcomes = crowd()
    for i in range(8):
        for one, other in (("ann", "bob"), ("bob", "ann")):
            runs.append(run(f"{one}{i}", one))
            outcomes.append(outcome(f"{one}{i}", run=f"{one}{i}", accepted_by=other))

    found = judged(outcomes, runs)

    assert {name.split()[1][:3] for name, each in found.items() if each.verdict == "self_accepted"} == {"ann", "bob"}
    assert sum(each.verdict == "counted" for each in found.values()) == 42


def test_an_account_that_accepts_for_nobody_else_is_the_spender() -> None:
    runs, outcomes = crowd()
    for i in range(6):
        runs.append(run(f"ann{i}", "ann"))
        outcomes.append(
            outcome(f"ann{i}", 1_000.0, run=f"ann{i}", kind="case", accepted_by="ann-qa-account", source="api")
        )

    found = judged(outcomes, runs)
    few = judged(outcomes[-6:], runs)
    known = judged(outcomes, runs, Rules(teams={"ann-qa-account": "blue", "ann": "blue"}))
    trusted = judged(outcomes, runs, kinds=declare(Kind("case", foldable=False, accepters=("ann-qa-account",))))

    assert sum(each.verdict == "self_accepted" for each in found.values()) == 6
    assert {each.verdict for each in few.values()} == {"counted"}  # among so few, everybody's are accepted by one
    assert sum(each.verdict == "self_accepted" for name, each in known.items() if " ann" in name) == 0
    assert {each.verdict for each in trusted.values()} == {"counted"}


def test_many_customers_are_no_circle() -> None:
    runs, outcomes = crowd()
    for i in range(20):
        runs.append(run(f"ann{i}", "ann"))
        outcomes.append(outcome(f"ann{i}", kind="case", run=f"ann{i}", accepted_by=f"customer-{i}"))

    assert {each.verdict for each in judged(outcomes, runs).values()} == {"counted"}


def test_small_teams_are_folded_and_unattributed_stands_first() -> None:
    hours = [hour(100 + i, f"u{i}", team="large") for i in range(5)]
    hours += [hour(7, "x", team="tiny"), hour(9, "y", team="small"), hour(50, None, team=None, agent=None)]
    hours += [hour(3, None, team="robots")]

    found = normalize(hours, [], [])

    assert [row.name for row in found.by_team] == [None, "robots", "(small groups)"]
    assert (found.by_team[-1].groups, found.by_team[-1].people) == (3, 7)
    assert (found.unattributed_nanos, found.nameless_nanos) == (50, 50)
    roomy = normalize(
        [*hours, *(hour(1, f"v{i}", team="zoo") for i in range(5))],
        [],
        [],
    )
    assert [row.name for row in roomy.by_team] == [None, "robots", "zoo", "(small groups)"]


def test_a_team_that_the_directory_does_not_know_is_folded_too() -> None:
    hours = [hour(100, f"u{i}", team="large") for i in range(12)]
    hours += [hour(7, "x", team="tiny"), hour(50, "z", team=None), hour(3, None, team="robots")]
    rules = Rules(teams={f"u{i}": "large" if i < 6 else "other" for i in range(12)})

    found = normalize(hours, [], [], rules=rules)

    # with the next smallest beside it, so that the folded row is that of several people
    assert [row.name for row in found.by_team] == [None, "other", "robots", "(small groups)"]


def test_a_bot_doesnt_make_a_group_larger_where_there_is_a_directory() -> None:
    hours = [hour(1, f"bot{i}", team="tiny") for i in range(9)] + [hour(1, "ann", team="tiny")]

    assert normalize(hours, [], []).by_team[0].name == "tiny"
    assert normalize(hours, [], [], rules=Rules(teams={"ann": "tiny"})).by_team[0].name == "(small groups)"


def test_ones_own_figures() -> None:
    runs = [run("r", "ann"), run("s", "bob")]
    found = judged([outcome("a", run="r"), outcome("b", run="s"), outcome("c", run="s", user="ann")], runs)

    own = own_figures("ann", [hour(10, "ann"), hour(90, "bob")], found.values())

    assert (own.nanos, own.micros, own.unit_nanos) == (10, 1_000_000, 10)
    assert [each.verdict for each in own.apart] == ["disputed"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: new_outcome("Deployment", "k", 1.0), "'Deployment' is no name"),
        (lambda: new_outcome("deployment", "", 1.0), "key is ''"),
        (lambda: new_outcome("deployment", "k" * 300, 1.0), "300 characters"),
        (lambda: new_outcome("deployment", "k", float("nan")), "at_s is nan"),
        (lambda: new_outcome("deployment", "k", 1.0, weight=-1), "weight is -1"),
        (lambda: new_outcome("deployment", "k", 1.0, confidence=2), "confidence is 2"),
        (lambda: new_outcome("deployment", "k", 1.0, weight=10**400), "weight is 1000.*…; give a number from 0 to"),
        (lambda: new_outcome("deployment", "k", 10**9_000), "at_s is a number of thousands of digits; give"),
        (lambda: new_outcome("deployment", 10**9_000, 1.0), "key is a number of thousands"),  # type: ignore[arg-type]
        (lambda: new_outcome("deployment", "k", 1.0, agents=3), "agents is 3; give a list"),  # type: ignore[arg-type]
        (lambda: Kind("deployment", 10**400), "weight of kind 'deployment' is 1000"),
        (lambda: Revocation("Deployment", "k", 1.0, "why"), "'Deployment' is no name"),
        (lambda: Revocation("deployment", "", 1.0, "why"), "key is ''"),
        (lambda: Revocation("deployment", "k", float("nan"), "why"), "at_s is nan"),
        (lambda: Revocation("deployment", "k", 1.0, None), "why is None"),  # type: ignore[arg-type]
        (lambda: new_outcome("deployment", "k", 1.0, agents="coder"), r"\['coder'\]"),
        (lambda: Kind("x", weight=float("inf")), "weight of kind 'x' is inf"),
        (lambda: Rules(min_group=1), "min_group is 1"),
        (lambda: Rules(window_s=0), "window_s is 0"),
        (lambda: Rules(own_word=2), "own_word is 2"),
        (lambda: Rules(adoption_target=0), "adoption_target is 0"),
    ],
)
def test_bad_input_names_the_value(make: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()  # type: ignore[operator]


def test_an_outcome_has_the_weight_of_its_kind() -> None:
    assert new_outcome("merge", "k", 1.0).weight == 0.5
    assert new_outcome("merge", "k", 1.0, weight=0.1).weight == 0.1
    assert new_outcome("other", "k", 1.0).weight == 1.0
