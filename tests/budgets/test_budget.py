from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from tokenmeter.budgets import Budget
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
