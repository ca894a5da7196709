from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from tokenmeter.budgets import Budget, Policy
from tokenmeter.errors import ConfigError


def test_the_defaults() -> None:
    budget = Budget("$5")
    assert (budget.unit, budget.limit_amount, budget.per) == ("usd", 5_000_000_000, "total")
    assert (budget.scope, budget.match, budget.on_exceed) == ((), (), "refuse")
    assert (budget.wait_s, budget.min_output_tokens, budget.tz) == (30.0, 256, "UTC")


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        (Budget("$5.00", per="day", scope="agent"), "$5 per day per agent"),
        (Budget("US$0.5"), "$0.50 in total"),
        (Budget("100 calls", per="run"), "100 calls per run"),
        (Budget("$2", per="call", scope="global"), "$2 per call"),
        (Budget("200k tokens", per="month", scope=("team", "tag:env")), "200k tokens per month per team and tag:env"),
        (
            Budget("$5", per="day", match={"model": ["gpt-*", "o3*"], "team": "x"}),
            "$5 per day for model=gpt-*|o3*, team=x",
        ),
        (Budget("$5", name="mine"), "mine"),
    ],
)
def test_a_budget_has_a_readable_name(budget: Budget, name: str) -> None:
    assert budget.name == name


def test_a_budget_is_a_value() -> None:
    made = [Budget("$5", per="day", scope=["team", "agent"], match={"model": "gpt-*"}) for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made)) == 1
    assert pickle.loads(pickle.dumps(made[0])) == made[0]
    assert copy.deepcopy(made[0]) == made[0]
    assert replace(made[0], limit="$6").limit_amount == 6_000_000_000
    with pytest.raises(FrozenInstanceError):
        made[0].limit = "$6"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"per": "daily"}, ["per='daily'", "call, run, hour, day, week, month, total", "did you mean 'day'"]),
        ({"per": None}, ["per=None", "choose from"]),
        ({"per": ["day"]}, ["per=['day']", "choose from"]),
        ({"scope": "agnet"}, ["'agnet'", "agent, user, team, run, model, provider, tag:NAME", "did you mean 'agent'"]),
        ({"scope": "environment"}, ["'environment'", "write 'tag:environment'"]),
        ({"scope": "tag:"}, ["'tag:'", "tag:NAME"]),
        ({"scope": ""}, ["''", "tag:NAME"]),
        ({"scope": 5}, ["5", "int", "tag:NAME"]),
        ({"scope": ("team", "agnet")}, ["'agnet'", "did you mean 'agent'"]),
        ({"scope": ("team", "global")}, ["'global'", "alone"]),
        ({"scope": ("team", "team")}, ["twice"]),
        ({"scope": ("team", None)}, ["None"]),
        ({"match": {"modle": "gpt-*"}}, ["match 'modle'", "did you mean 'model'"]),
        ({"match": {"model": 5}}, ["'model'", "5", "gpt-*"]),
        ({"match": {"model": []}}, ["'model'", "no pattern"]),
        ({"match": {"model": ["a", None]}}, ["'model'", "no pattern"]),
        ({"match": "gpt-*"}, ["'gpt-*'", "no mapping"]),
        ({"match": 5}, ["5", "no mapping"]),
        ({"on_exceed": "refuze"}, ["on_exceed='refuze'", "refuse, warn, clamp", "did you mean 'refuse'"]),
        ({"wait_s": -1}, ["wait_s=-1", "seconds"]),
        ({"wait_s": float("nan")}, ["wait_s=nan"]),
        ({"wait_s": float("inf")}, ["wait_s=inf"]),
        ({"wait_s": "30"}, ["wait_s='30'"]),
        ({"wait_s": True}, ["wait_s=True"]),
        ({"min_output_tokens": 0}, ["min_output_tokens=0", "1 or more"]),
        ({"min_output_tokens": 1.5}, ["min_output_tokens=1.5"]),
        ({"tz": "Europe/Berln"}, ["tz='Europe/Berln'", "did you mean 'Europe/Berlin'"]),
        ({"tz": "Europe"}, ["tz='Europe'"]),
        ({"tz": "../etc/passwd"}, ["tz='../etc/passwd'", "Europe/Berlin"]),
        ({"tz": ""}, ["tz=''"]),
        ({"tz": None}, ["tz=None"]),
        ({"tz": "CEST"}, ["tz='CEST'", "an IANA name such as"]),
        ({"name": ""}, ["name ''"]),
        ({"name": 5}, ["name 5"]),
    ],
)
def test_nonsense_is_named_with_the_remedy(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Budget("$5", **options)
    for word in words:
        assert word in str(caught.value)


def test_a_zero_wait_and_every_choice_are_fine() -> None:
    assert Budget("$5", wait_s=0).wait_s == 0.0
    for per in ("call", "run", "hour", "day", "week", "month", "total"):
        assert Budget("$5", per=per).per == per
    for scope in ("agent", "user", "team", "run", "model", "provider", "tag:x", ("team", "agent"), None, ()):
        Budget("$5", scope=scope)


# -- without the store, cheaper models, holds, thresholds --------------------------------------------------------

FULL = Budget(
    "$5",
    per="day",
    scope="agent",
    on_exceed="downgrade",
    downgrade={"gpt-5": "gpt-5-mini", "gpt-*": "gpt-5-nano"},
    hold="expected",
    extend_streams=True,
    on_store_error="local",
    local_limit=" $0.50 ",
    thresholds=[25, 99.9, 150],
)


def test_the_defaults_are_the_safe_ones() -> None:
    budget = Budget("$5")
    assert (budget.downgrade, budget.hold, budget.extend_streams) == ((), "worst", False)
    assert (budget.on_store_error, budget.local_limit, budget.local_limit_amount) == ("closed", None, None)
    assert budget.thresholds == (50, 80, 100)


def test_what_is_given_is_kept_as_plain_values() -> None:
    assert FULL.downgrade == (("gpt-5", "gpt-5-mini"), ("gpt-*", "gpt-5-nano"))
    assert (FULL.local_limit, FULL.local_limit_amount) == ("$0.50", 500_000_000)
    assert FULL.thresholds == (25, 99.9, 150)
    assert FULL.name == "$5 per day per agent"


def test_a_budget_with_all_of_it_is_a_value() -> None:
    again = replace(FULL)
    assert again.named
    assert again == FULL
    assert hash(again) == hash(FULL)
    assert pickle.loads(pickle.dumps(FULL)) == FULL
    assert copy.deepcopy(FULL) == FULL
    assert replace(FULL, local_limit="$1").local_limit_amount == 1_000_000_000
    assert replace(FULL, on_exceed="warn", downgrade=()) != FULL
    assert eval(repr(FULL).replace(", unit='usd', limit_amount=5000000000, local_limit_amount=500000000", "")) == FULL


def test_two_alike_are_told_apart_and_keep_all_of_it() -> None:
    first, second = Policy([FULL, FULL]).budgets
    assert second.name == "$5 per day per agent #2"
    assert replace(second, name=first.name) == first == FULL


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_store_error": "opn"}, ["on_store_error='opn'", "closed, open, local", "did you mean 'open'"]),
        ({"on_store_error": None}, ["on_store_error=None", "choose from"]),
        ({"on_store_error": "local"}, ["on_store_error='local'", "add a local_limit such as '$2'"]),
        ({"local_limit": "$2"}, ["local_limit='$2'", "on_store_error='closed'", "write on_store_error='local'"]),
        ({"on_store_error": "open", "local_limit": "$2"}, ["local_limit='$2'", "on_store_error='open'"]),
        ({"on_store_error": "local", "local_limit": "2"}, ["local_limit '2'", "says no unit", '"$5"']),
        ({"on_store_error": "local", "local_limit": 2}, ["local_limit 2", "int, not text"]),
        ({"on_store_error": "local", "local_limit": "$-1"}, ["local_limit '$-1'", "never negative"]),
        ({"on_store_error": "local", "local_limit": "2 calls"}, ["'2 calls'", "in calls", "'$5'", "like '$2'"]),
        ({"on_store_error": "local", "local_limit": "$5.01"}, ["'$5.01'", "more than the limit '$5'"]),
        ({"on_exceed": "downgrade"}, ["on_exceed='downgrade'", "add downgrade such as"]),
        ({"on_exceed": "downgrade", "downgrade": {}}, ["on_exceed='downgrade'", "add downgrade"]),
        ({"downgrade": {"a": "b"}}, ["downgrade={'a': 'b'}", "on_exceed='refuse'", "write on_exceed='downgrade'"]),
        ({"on_exceed": "downgrade", "downgrade": "b"}, ["downgrade='b'", "no mapping", '{"gpt-5": "gpt-5-mini"}']),
        ({"on_exceed": "downgrade", "downgrade": 5}, ["downgrade=5", "no mapping"]),
        ({"on_exceed": "downgrade", "downgrade": {"a": 5}}, ["'a'", "5", "no model"]),
        ({"on_exceed": "downgrade", "downgrade": {"a": ["b"]}}, ["'a'", "['b']", "no model"]),
        ({"on_exceed": "downgrade", "downgrade": {"": "b"}}, ["''", "no model"]),
        ({"on_exceed": "downgrade", "downgrade": {"a": " "}}, ["' '", "no model"]),
        ({"on_exceed": "downgrade", "downgrade": {"a": "b-*"}}, ["'b-*'", "is a pattern", "name the one model"]),
        ({"on_exceed": "downgrade", "downgrade": {"a": "a"}}, ["'a'", "same model", "cheaper one"]),
        ({"on_exceed": "downgrade", "downgrade": [("a", "b"), ("a", "c")]}, ["'a' twice"]),
        ({"on_exceed": "downgrade", "downgrade": {"a": "b", "b": "c", "c": "a"}}, ["circle: b → c → a → b"]),
        ({"on_exceed": "downgrade", "downgrade": {"g*": "claude", "c*": "gpt"}}, ["circle: claude → gpt → claude"]),
        ({"hold": "expect"}, ["hold='expect'", "worst, expected", "did you mean 'expected'"]),
        ({"extend_streams": 1}, ["extend_streams=1", "True nor False"]),
        ({"thresholds": 80}, ["thresholds=80", "int", "(50, 80, 100)"]),
        ({"thresholds": "80"}, ["thresholds='80'", "str"]),
        ({"thresholds": None}, ["thresholds=None", "() for none"]),
        ({"thresholds": {50: 80}}, ["thresholds={50: 80}", "dict"]),
        ({"thresholds": [0, 50]}, ["[0, 50]: 0 is", "above 0 and up to 1000"]),
        ({"thresholds": [50, 1000.5]}, ["1000.5 is", "up to 1000"]),
        ({"thresholds": [float("nan")]}, ["nan is"]),
        ({"thresholds": [True]}, ["True is"]),
        ({"thresholds": ["50"]}, ["'50' is"]),
        ({"thresholds": [80, 50]}, ["50 does not come after 80", "rising order"]),
        ({"thresholds": [50, 50.0]}, ["50.0 does not come after 50"]),
    ],
)
def test_nonsense_in_these_is_named_with_the_remedy(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Budget("$5", **options)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("options", [{"hold": "expected"}, {"extend_streams": True}])
def test_a_limit_in_calls_has_no_smaller_hold(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(options))}=.*in calls.*leave it out"):
        Budget("5 calls", **options)
    Budget("5k tokens", **options)


def test_thresholds_are_percents_and_no_parts_of_one() -> None:
    for parts in ((0.5, 0.8), (0.5, 0.8, 1), (0.9,)):
        with pytest.raises(ConfigError, match="are parts of one, not percents; write 50 for half the limit"):
            Budget("$5", thresholds=parts)


def test_an_empty_scope_gets_no_empty_hint() -> None:
    with pytest.raises(ConfigError, match=r"or global$"):
        Budget("$5", scope="")


def test_what_is_fine() -> None:
    assert Budget("$5", thresholds=()).thresholds == ()
    assert Budget("$5", thresholds=(1,)).thresholds == (1,)
    assert Budget("$5", thresholds=(0.5, 1000)).thresholds == (0.5, 1000)
    assert Budget("$5", on_store_error="open").local_limit_amount is None
    assert Budget("9 calls", on_store_error="local", local_limit="0 calls").local_limit_amount == 0
    assert Budget("9k tokens", on_store_error="local", local_limit="9,000 tokens").local_limit_amount == 9_000
    chain = {"a": "b", "b": "c", "c*": "c"}
    assert Budget("$5", on_exceed="downgrade", downgrade=chain).downgrade == tuple(chain.items())
