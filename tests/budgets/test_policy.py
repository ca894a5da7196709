from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmeter.budgets import Budget, Claim, Need, Policy
from tokenmeter.errors import ConfigError

NOON_S = 1_795_521_600.0  # 2026-11-24T12:00Z
DAY_S = 86_400.0
FACTS: dict[str, str | None] = {
    "agent": "triage",
    "user": "alice",
    "team": "support",
    "run": "r1",
    "model": "gpt-5-mini",
    "provider": "openai",
    "tag:env": "prod",
}
NEED = Need(1_500, 200)


def one(budget: Budget, facts: dict[str, str | None] | None = None, now_s: float = NOON_S) -> Claim:
    (claim,) = Policy([budget]).claims(FACTS if facts is None else facts, NEED, now_s)
    return claim


def test_a_claim_says_what_is_asked_of_whom() -> None:
    budget = Budget("$5", per="day", scope="agent")
    claim = one(budget)
    assert claim.budget is budget
    assert (claim.scope, claim.amount, claim.limit) == ("agent=triage", 1_500, 5_000_000_000)
    assert claim.resets_at == 1_795_564_800.0
    assert claim.enforce
    assert claim.key == "usd per day per agent|agent=triage|day:2026-11-24T00:00:00+00:00"


def test_amounts_are_in_the_unit_of_the_budget() -> None:
    policy = Policy([Budget("$5"), Budget("1k tokens"), Budget("10 calls")])
    claims = policy.claims(FACTS, NEED, NOON_S)
    assert [claim.amount for claim in claims] == [1_500, 200, 1]
    assert policy.amounts(claims, Need(7, 8, 9)) == (7, 8, 9)
    assert policy.amounts(claims, Need(None, 8)) == (0, 8, 1)
    assert [claim.amount for claim in policy.claims(FACTS, Need(None, 200), NOON_S)] == [0, 200, 1]


def test_a_budget_may_want_less_held_than_the_worst_case() -> None:
    policy = Policy(
        [
            Budget("$5"),
            Budget("$5", hold="expected"),
            Budget("1k tokens", extend_streams=True),
            Budget("$5", hold="expected", extend_streams=True),
            Budget("10 calls"),
        ]
    )
    claims = policy.claims(FACTS, NEED, NOON_S)

    def amounts(expected: Need | None, first: Need | None = None) -> list[int]:
        return [claim.amount for claim in policy.sized(claims, expected, first)]

    assert amounts(None) == [1_500, 1_500, 200, 1_500, 1]
    assert amounts(Need(400, 90)) == [1_500, 400, 200, 400, 1]
    assert amounts(Need(400, 90), Need(70, 20)) == [1_500, 400, 20, 70, 1]
    assert amounts(None, Need(70, 20)) == [1_500, 1_500, 20, 70, 1]
    assert amounts(Need(9_000, 900), Need(None, 900)) == [1_500, 1_500, 200, 1_500, 1]
    assert policy.sized(claims, None)[0] is claims[0]
    assert (policy.expects, policy.extends) == (True, True)
    assert (Policy([Budget("$5")]).expects, Policy([Budget("$5")]).extends) == (False, False)


def test_warn_is_not_enforced_and_clamp_is() -> None:
    assert not one(Budget("$5", on_exceed="warn")).enforce
    assert one(Budget("$5", on_exceed="clamp")).enforce


def test_each_scope_has_a_book_of_its_own() -> None:
    budget = Budget("$5", scope=("team", "tag:env"))
    policy = Policy([budget])
    keys = {
        policy.claims(facts, NEED, NOON_S)[0].key
        for facts in (FACTS, FACTS | {"team": "sales"}, FACTS | {"tag:env": "dev"}, FACTS | {"agent": "other"})
    }
    assert len(keys) == 3
    assert one(budget).scope == "team=support,tag:env=prod"


@pytest.mark.parametrize("missing", [{}, {"agent": None}, {"agent": ""}])
def test_who_drops_the_attribute_shares_a_bucket(missing: dict[str, str | None]) -> None:
    budget = Budget("$5", per="day", scope="agent")
    claim = one(budget, missing)
    assert claim.scope == "agent=(none)"
    assert claim.key == one(budget, {}).key
    assert claim.key != one(budget, {"agent": "(none)"}).key


def test_the_window_is_in_the_key() -> None:
    for per in ("hour", "day", "week", "month"):
        budget = Budget("$5", per=per)
        assert one(budget).key != one(budget, now_s=NOON_S + 32 * DAY_S).key
    for per in ("total", "call"):
        budget = Budget("$5", per=per)  # type: ignore[arg-type]
        assert one(budget).key == one(budget, now_s=NOON_S + 32 * DAY_S).key
        assert one(budget).resets_at is None


def test_per_run_keeps_a_book_for_each_run() -> None:
    budget = Budget("10 calls", per="run", scope="agent")
    claim = one(budget)
    assert claim.scope == "agent=triage,run=r1"
    assert claim.resets_at is None
    assert claim.key != one(budget, FACTS | {"run": "r2"}).key
    assert one(budget, FACTS | {"run": None}).scope == "agent=triage,run=(none)"


def test_a_window_turns_over_and_back() -> None:
    policy = Policy([Budget("$5", per="hour")])
    moments = [NOON_S, NOON_S + 3599.9, NOON_S + 3600, NOON_S]
    keys = [policy.claims(FACTS, NEED, moment)[0].key for moment in moments]
    assert keys[0] == keys[1] == keys[3]
    assert keys[2] != keys[0]


@pytest.mark.parametrize(
    ("match", "applies"),
    [
        ({"model": "gpt-*"}, True),
        ({"model": ["claude-*", "gpt-5*"]}, True),
        ({"model": "claude-*"}, False),
        ({"model": "gpt-*", "team": "sales"}, False),
        ({"model": "GPT-*"}, False),
        ({"tag:env": "prod"}, True),
        ({"tag:other": "prod"}, False),
        ({"tag:other": "(none)"}, True),
        ({"tag:other": "*"}, True),
    ],
)
def test_only_calls_that_match_count(match: dict[str, str | list[str]], applies: bool) -> None:
    policy = Policy([Budget("$5", match=match)])
    assert bool(policy.claims(FACTS, NEED, NOON_S)) is applies
    assert policy.applies_money(FACTS) is applies


def test_applies_money_looks_for_an_enforced_money_budget() -> None:
    assert not Policy([]).applies_money(FACTS)
    assert not Policy([Budget("10 calls"), Budget("1k tokens")]).applies_money(FACTS)
    assert not Policy([Budget("$5", on_exceed="warn")]).applies_money(FACTS)
    assert Policy([Budget("10 calls"), Budget("$5", on_exceed="clamp")]).applies_money(FACTS)


def test_equal_names_are_told_apart() -> None:
    policy = Policy([Budget("$5"), Budget("$5", on_exceed="warn"), Budget("$5", name="$5 in total")])
    assert [budget.name for budget in policy.budgets] == ["$5 in total #2", "$5 in total #3", "$5 in total"]
    claims = policy.claims(FACTS, NEED, NOON_S)
    assert len({claim.key for claim in claims}) == 3
    assert [claim.budget for claim in claims] == list(policy.budgets)


def test_equal_given_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="'mine'"):
        Policy([Budget("$5", name="mine"), Budget("$6", name="mine")])


def test_what_is_no_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'\$5'"):
        Policy(["$5"])  # type: ignore[list-item]


def test_a_raised_limit_keeps_the_books() -> None:
    assert one(Budget("$5", per="day")).key == one(Budget("$10", per="day")).key
    assert one(Budget("$5", per="day")).key != one(Budget("10 calls", per="day")).key
    assert one(Budget("$5", per="day")).key != one(Budget("$5", per="day", tz="Europe/Berlin")).key
    assert one(Budget("$5", name="a")).key == one(Budget("$6", name="a")).key


VALUES = st.one_of(
    st.none(), st.text(max_size=8), st.text(alphabet="%|=,()~none0123D8", max_size=8), st.text(min_size=120)
)
SCOPE = ("team", "agent", "tag:a")


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=2, max_size=2))
def test_no_two_scopes_collide(values: list[tuple[str | None, str | None, str | None]]) -> None:
    policy = Policy([Budget("$5", scope=SCOPE)])
    first, second = (policy.claims(dict(zip(SCOPE, each, strict=True)), NEED, NOON_S)[0].key for each in values)
    same = [value or None for value in values[0]] == [value or None for value in values[1]]
    assert (first == second) is same


@given(st.text(), st.text())
def test_keys_are_short_and_can_be_encoded(agent: str, surrogate: str) -> None:
    key = one(Budget("$5", scope="agent"), {"agent": agent + "\ud800" + surrogate * 50}).key
    key.encode()
    assert len(key) < 1200


def test_calls_are_told_apart_by_what_a_pattern_asks_for() -> None:
    policy = Policy([Budget("$5", match={"agent": "a*"}), Budget("$7", scope="user", match={"model": "gpt-*"})])
    asked = [(agent, model) for agent in ("ann", "bob", None) for model in ("gpt-5", "claude")]
    found = {
        (agent, model): [
            claim.limit // 10**9 for claim in policy.claims({"agent": agent, "model": model}, NEED, NOON_S)
        ]
        for agent, model in asked * 2
    }
    assert found == {
        ("ann", "gpt-5"): [5, 7],
        ("ann", "claude"): [5],
        ("bob", "gpt-5"): [7],
        ("bob", "claude"): [],
        (None, "gpt-5"): [7],
        (None, "claude"): [],
    }


def test_accounts_are_bounded_and_threads_agree() -> None:
    policy = Policy([Budget("$5", per="hour", scope="user")])
    found: list[set[str]] = []
    start = threading.Barrier(4)

    def ask() -> None:
        start.wait()
        moments = [NOON_S, NOON_S + 3600] * 5000
        found.append({policy.claims({"user": str(n // 2)}, NEED, now)[0].key for n, now in enumerate(moments)})

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(keys == found[0] and len(keys) == 10_000 for keys in found)
    assert len(policy._pages) <= 4096
