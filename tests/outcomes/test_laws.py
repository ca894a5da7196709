"""The laws of outcomes, as properties."""

from __future__ import annotations

import random
from dataclasses import replace
from math import fsum

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.outcomes.parts import DAY_S, KINDS, hour, outcome, run
from tokenmeter.ledger.views import HourSum, Outcome, RunSum
from tokenmeter.outcomes import MemorySink, Rules, judge, link, normalize
from tokenmeter.outcomes.shares import WHOLE, split

USERS = st.sampled_from(["ann", "bob", "cid", "dan", None])
TEAMS = st.sampled_from(["blue", "red", None])
TIMES = st.integers(0, 5 * DAY_S).map(float)

RUNS = st.lists(
    st.builds(
        RunSum,
        run=st.integers(0, 30).map(lambda n: f"r{n}"),
        team=TEAMS,
        user=USERS,
        agents=st.sampled_from([("coder",), ("coder", "helper"), ("desk",), ()]),
        first_s=TIMES,
        last_s=st.just(0.0),
        calls=st.integers(0, 9),
        nanos=st.integers(0, 10**12),
        models=st.sampled_from([("m",), ("m", "n"), ()]),
    ).map(lambda each: replace(each, last_s=each.first_s + 600)),
    max_size=14,
    unique_by=lambda each: each.run,
)
OUTCOMES = st.lists(
    st.builds(
        Outcome,
        kind=st.sampled_from(["deployment", "merge", "case", "solved", "unheard-of"]),
        key=st.integers(0, 12).map(lambda n: f"k{n}"),
        at_s=TIMES,
        team=TEAMS,
        user=USERS,
        run=st.none() | st.integers(0, 30).map(lambda n: f"r{n}"),
        weight=st.sampled_from([0.0, 0.3, 1.0, 50.0]),
        confidence=st.sampled_from([0.1, 0.7, 1.0]),
        fold=st.none() | st.integers(0, 4).map(lambda n: f"f{n}"),
        accepted_by=st.sampled_from([None, "ann", "bob", "rev", "ci"]),
        source=st.sampled_from(["api", "git"]),
        revoked_s=st.none() | TIMES,
        attributes=st.sampled_from([(), (("run", "r3"), ("run", "r4"))]),
    ),
    max_size=14,
    unique_by=lambda each: (each.kind, each.key),
)
HOURS = st.lists(
    st.builds(
        HourSum,
        hour_s=st.integers(0, 120).map(lambda n: n * 3600),
        agent=st.sampled_from(["coder", None]),
        team=TEAMS,
        user=USERS,
        provider=st.just("openai"),
        model=st.sampled_from(["m", "n", None]),
        calls=st.integers(0, 9),
        nanos=st.integers(0, 10**12),
        estimated_nanos=st.integers(0, 1000),
    ),
    max_size=20,
)
RULES = st.sampled_from([Rules(), Rules(teams={"ann": "blue", "bob": "red", "cid": "blue"}), Rules(min_group=2)])


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**9), min_size=1, max_size=40))
def test_parts_add_up(total: int, weights: list[int]) -> None:
    parts = split(total, weights)

    assert sum(parts) == total
    whole = sum(weights)
    assert (
        all(
            abs(part - total * weight / (whole or 1)) <= 1 + total * 1e-12
            for part, weight in zip(parts, weights, strict=True)
        )
        or not whole
    )


@given(OUTCOMES, RUNS, RULES, st.randoms())
def test_the_shares_of_an_outcome_add_up_to_exactly_one(
    outcomes: list[Outcome], runs: list[RunSum], rules: Rules, shuffled: random.Random
) -> None:
    links = list(link(outcomes, runs, rules))
    shuffled.shuffle(links)

    for name in {(each.kind, each.key) for each in links}:
        shares = [each.share for each in links if (each.kind, each.key) == name]
        assert sum(shares) == fsum(shares) == 1.0
        assert all(share * WHOLE == int(share * WHOLE) >= 0 for share in shares)
    assert all(0 < each.confidence <= 1 for each in links)


@given(HOURS, RUNS, OUTCOMES, RULES)
def test_spend_is_conserved_to_the_nanodollar(
    hours: list[HourSum], runs: list[RunSum], outcomes: list[Outcome], rules: Rules
) -> None:
    found = normalize(hours, runs, outcomes, kinds=KINDS, rules=rules)

    total = sum(each.nanos for each in hours)
    assert found.total_nanos == total
    assert found.unattributed_nanos + found.linked_nanos + found.fruitless_nanos == total
    assert min(found.unattributed_nanos, found.linked_nanos, found.fruitless_nanos) >= 0
    for rows in (found.by_team, found.by_agent, found.by_model, found.by_kind):
        assert sum(row.nanos for row in rows) == total
    assert all((row.linked_nanos or 0) + (row.fruitless_nanos or 0) == row.nanos for row in found.by_team if row.name)
    assert found.estimated_nanos == sum(each.estimated_nanos for each in hours)


@given(HOURS, RUNS, OUTCOMES)
def test_units_are_conserved(hours: list[HourSum], runs: list[RunSum], outcomes: list[Outcome]) -> None:
    found = normalize(hours, runs, outcomes, kinds=KINDS)

    for rows in (found.by_agent, found.by_model, found.by_kind):
        assert sum(row.micros for row in rows) == found.micros
    assert sum(each.micros for each in found.counted) == found.micros
    assert len(found.counted) + len(found.apart) == len(outcomes)


@given(RUNS, OUTCOMES, RULES, st.randoms())
def test_the_order_doesnt_matter(
    runs: list[RunSum], outcomes: list[Outcome], rules: Rules, shuffled: random.Random
) -> None:
    first = judge(outcomes, runs, link(outcomes, runs, rules), kinds=KINDS, rules=rules)
    again = [*outcomes, *outcomes]
    shuffled.shuffle(again)
    mixed = runs[:]
    shuffled.shuffle(mixed)
    links = list(link(again, mixed, rules))
    shuffled.shuffle(links)

    assert judge(again, mixed, set(links), kinds=KINDS, rules=rules) == first


@given(RUNS, OUTCOMES, RULES)
def test_a_revoked_outcome_never_counts(runs: list[RunSum], outcomes: list[Outcome], rules: Rules) -> None:
    links = link(outcomes, runs, rules)
    before = {(j.outcome.kind, j.outcome.key): j for j in judge(outcomes, runs, links, kinds=KINDS, rules=rules)}

    for each in before.values():
        assert not (each.outcome.revoked_s is not None and each.micros)
        assert not (each.outcome.revoked_s is not None and each.verdict in ("counted", "folded"))
    every = [replace(each, revoked_s=each.at_s) for each in outcomes]
    assert not any(each.micros for each in judge(every, runs, links, kinds=KINDS, rules=rules))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("revoke"), st.integers(0, 3), st.integers(1, 5)),
    ),
    max_size=12,
)


@given(STEPS, st.randoms())
def test_order_and_repetition_of_put_and_revoke_dont_matter(
    steps: list[tuple[str, int, int]], shuffled: random.Random
) -> None:
    def played(those: list[tuple[str, int, int]]) -> tuple[Outcome, ...]:
        sink = MemorySink()
        for verb, number, at_s in those:
            if verb == "put":
                sink.put_outcome(outcome(f"k{number}", at_s=float(number)))
            else:
                sink.revoke("deployment", f"k{number}", float(at_s), "because")
        return sink.outcomes()

    more = steps + steps[: len(steps) // 2]
    shuffled.shuffle(more)

    assert played(more) == played(steps)


def test_what_is_kept_in_memory_is_bounded() -> None:
    sink = MemorySink(most=4)
    for number in range(9):
        sink.put_outcome(outcome(f"k{number}"))
        sink.revoke("deployment", f"k{number}", 5.0, "because")
        sink.revoke("deployment", f"never-heard-of-{number}", 5.0, "because")
    assert [(each.key, each.revoked_s) for each in sink.outcomes()] == [("k7", 5.0), ("k8", 5.0)]
    assert len(sink._kept) == 4


@settings(max_examples=60)
@given(
    pieces=st.integers(1, 12),
    how=st.sampled_from(["fold", "run", "own word"]),
    weight=st.sampled_from([0.2, 1.0, 9.0]),
    gaps=st.lists(st.integers(0, 3_000), min_size=12, max_size=12),
)
def test_a_change_counts_once_however_finely_it_is_cut(pieces: int, how: str, weight: float, gaps: list[int]) -> None:
    """In pieces of one fold, of one run, or of one person, day and target."""
    runs = [run("r0"), *(run(f"r{i}", at_s=i * 60.0) for i in range(1, pieces))]
    whole = outcome("api#0", 10_000.0, run="r0", weight=weight, fold="f" if how == "fold" else None,
                    source="api" if how == "own word" else "git")  # fmt: skip
    cut = [
        replace(
            whole, key=f"api#{i}", at_s=whole.at_s + sum(gaps[:i]), run="r0" if how == "run" else f"r{i}",
            kind="deployment" if i % 2 == 0 else "commit",
        )
        for i in range(pieces)
    ]  # fmt: skip

    def micros(outcomes: list[Outcome]) -> int:
        return sum(each.micros for each in judge(outcomes, runs, link(outcomes, runs), kinds=KINDS))

    assert micros(cut) == micros([whole]) == round(min(weight, 1.0) * 1e6)


@given(st.integers(2, 6), st.integers(1, 9))
def test_people_share_a_change_and_cutting_wins_nobody_a_larger_part(people: int, pieces: int) -> None:
    runs = [run("r0-0", "u0", at_s=0.0), *(run(f"r{n}-{i}", f"u{n}") for n in range(people) for i in range(pieces))][1:]
    outcomes = [
        outcome(f"{n}-{i}", run=f"r{n}-{i}", fold="one", accepted_by="rev")
        for n in range(people)
        for i in range(pieces if n == 0 else 1)
    ]

    found = judge(outcomes, runs, link(outcomes, runs), kinds=KINDS)

    by_user: dict[str | None, int] = {}
    for each in found:
        for credit in each.credits:
            by_user[credit.claimant[1]] = by_user.get(credit.claimant[1], 0) + credit.micros
    assert sum(by_user.values()) == 1_000_000
    assert max(by_user.values()) - min(by_user.values()) <= 1


def test_a_window_shows_a_revocation_of_later() -> None:
    """What was taken back is taken back in the window in which it was accepted."""
    hours = [hour(5_000), hour(7_000, hour_s=DAY_S)]
    runs = [run("r0")]
    stands = outcome("api#1", 1_000.0, run="r0")

    before = normalize(hours, runs, [stands], until_s=DAY_S)
    after = normalize(hours, runs, [replace(stands, revoked_s=9.0 * DAY_S)], until_s=DAY_S)

    assert (before.micros, after.micros) == (1_000_000, 0)
    assert (before.total_nanos, before.unit_nanos, after.unit_nanos) == (5_000, 5_000, None)
