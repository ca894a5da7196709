"""The cheaper model: names before patterns, the first rule that fits, and an end to every chain."""

from __future__ import annotations

import fnmatch
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmeter.budgets import Budget, Claim, Short, State
from tokenmeter.budgets.downgrade import cheaper_model, circle, next_model
from tokenmeter.errors import ConfigError


def claim(
    rules: dict[str, str] | None = None, amount: int = 5, limit: int = 10, name: str = "b", enforce: bool = True
) -> Claim:
    budget = Budget("$5", name=name, on_exceed="downgrade" if rules else "refuse", downgrade=rules)
    return Claim(budget, name, "global", amount, limit, None, enforce)


def spent_out(*claims: Claim) -> Short:
    nothing = (0,) * len(claims)
    return Short(claims, claims[0], State(10, 0, 10), spent_out=True, available=nothing, if_settled=nothing)


@pytest.mark.parametrize(
    ("model", "cheaper"),
    [
        ("gpt-5", "gpt-5-mini"),
        ("gpt-5-mini", "gpt-5-nano"),
        ("gpt-5-nano", None),
        ("gpt-4o", "gpt-5-nano"),
        ("claude-opus-4", "claude-haiku-4"),
        ("claude-haiku-4", None),
        ("GPT-5", None),
        ("o3", None),
        ("", None),
    ],
)
def test_names_go_before_patterns_and_the_first_pattern_that_fits_decides(model: str, cheaper: str | None) -> None:
    rules = {
        "gpt-*": "gpt-5-nano",
        "gpt-5": "gpt-5-mini",
        "gpt-5-mini": "gpt-5-nano",
        "gpt-5*": "never",
        "claude-[a-z]*-4": "claude-haiku-4",
    }
    assert cheaper_model(tuple(rules.items()), model) == cheaper
    assert next_model(spent_out(claim(rules)), model) == cheaper


def test_without_a_rule_or_a_model_there_is_none() -> None:
    assert next_model(spent_out(claim()), "a") is None
    assert next_model(spent_out(claim({"*": "b"})), None) is None


def test_the_first_budget_that_names_a_model_decides() -> None:
    short = spent_out(claim(), claim({"x": "y"}), claim({"a": "b"}), claim({"a": "c"}))
    assert next_model(short, "a") == "b"
    assert next_model(short, "a", tried={"b"}) == "c"
    assert next_model(short, "a", tried={"b", "c"}) is None


def test_the_rules_of_two_budgets_lead_in_no_circle() -> None:
    short = spent_out(claim({"a": "b"}), claim({"b": "a"}))
    tried = ["a"]
    while (model := next_model(short, tried[-1], tried)) is not None:
        tried.append(model)
    assert tried == ["a", "b"]


def test_only_the_budgets_that_stand_in_the_way_are_asked() -> None:
    fits, full, warns = claim(amount=1, name="fits"), claim(name="full"), claim(name="warns", enforce=False)
    claims = (fits, full, warns)
    spent = Short(claims, full, State(9, 0, 10), spent_out=True, available=(0, 0, 0), if_settled=(1, 1, 1))
    assert spent.in_the_way == [(full, 1)]
    held = Short(claims, full, State(0, 9, 10), spent_out=False, available=(0, 1, 1), if_settled=(9, 9, 9))
    assert held.in_the_way == [(fits, 0), (full, 1)]


NAMES = st.sampled_from(["a", "b", "c", "ab", "bc", "abc"])
RULES = st.dictionaries(NAMES | st.sampled_from(["*", "a*", "*b", "?", "[ab]*"]), NAMES, min_size=1, max_size=6)


@given(rules=RULES, start=NAMES)
def test_a_budget_is_made_exactly_if_every_chain_ends(rules: dict[str, str], start: str) -> None:
    if any(model == target for model, target in rules.items()):
        return

    def follow(model: str) -> str:
        if model in rules:
            return rules[model]
        return next((target for name, target in rules.items() if fnmatch.fnmatchcase(model, name)), model)

    def ends(model: str) -> bool:
        for _ in range(20):
            if follow(model) == model:
                return True
            model = follow(model)
        return False

    pairs = tuple(rules.items())
    if not all(ends(target) for target in rules.values()):
        found = circle(pairs)
        assert len(found) > 2
        assert found[0] == found[-1]
        assert all(cheaper_model(pairs, model) == after for model, after in pairwise(found))
        with pytest.raises(ConfigError, match="circle"):
            claim(rules)
        return
    assert circle(pairs) == ()
    model: str | None = start
    for _ in range(len(rules) + 2):
        assert model is not None
        if (after := next_model(spent_out(claim(rules)), model)) is None:
            assert follow(model) == model
            return
        assert after == follow(model) != model
        model = after
    pytest.fail("a chain without an end")
