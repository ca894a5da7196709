"""Depth is guarded, and the refusal says where the call stands."""

from __future__ import annotations

import copy
import pickle
import tomllib
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmeter import ConfigError, DepthExceeded, LoopPolicy
from tokenmeter.loops.findings import Facts, refused
from tokenmeter.loops.guard import Memory, judge


def refusal_of(policy: LoopPolicy, depth: int) -> DepthExceeded | None:
    path = tuple(f"a{n}" for n in range(depth))
    facts = Facts(1.0, agent=path[-1] if path else None, run="r", path=path, depth=depth)
    judged = judge(policy, Memory(b"key"), facts)
    error = None if judged.refusal is None else refused(judged.refusal, facts)
    assert error is None or isinstance(error, DepthExceeded)
    return error


@given(depth=st.integers(0, 60), limit=st.integers(1, 50))
def test_refuses_exactly_above_the_limit(depth: int, limit: int) -> None:
    error = refusal_of(LoopPolicy(max_depth=limit), depth)
    assert (error is None) == (depth <= limit)
    if error is not None:
        assert (error.depth, error.max_depth) == (depth, limit)
        assert len(error.path) == depth
        assert len(str(error)) < 700


def test_the_path_is_in_the_message() -> None:
    assert "a0 → a1 → a2" in str(refusal_of(LoopPolicy(max_depth=2), 3))


def test_no_limit() -> None:
    assert refusal_of(LoopPolicy(max_depth=None), 1000) is None


@pytest.mark.parametrize("bad", [0, -1, True, 2.5, "3"])
def test_bad_limits_are_named(bad: object) -> None:
    with pytest.raises(ConfigError, match="max_depth"):
        LoopPolicy(max_depth=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_visits": 0}, "max_visits is 0; give a whole number of at least 1"),
        ({"max_repeats": 1}, "max_repeats is 1; give a whole number of at least 2"),
        ({"max_calls_per_run": True}, "max_calls_per_run is True"),
        ({"max_usd_per_run": "five"}, "max_usd_per_run is 'five'; give US dollars"),
        ({"max_usd_per_run": 0}, 'max_usd_per_run is 0; .*, or None \\("none" in tokenmeter.toml\\) for no limit'),
        ({"max_usd_per_run": float("nan")}, "max_usd_per_run is nan"),
        ({"max_usd_per_run": True}, "max_usd_per_run is True"),
        ({"window_s": 0}, "window_s is 0"),
        ({"actions": {"max_loops": "warn"}}, "actions names 'max_loops'"),
        ({"actions": {"max_repeats": "stop"}}, "is 'stop'; write one of refuse, warn, brake"),
        ({"actions": ["warn"]}, "actions is"),
        ({"allow": "poll"}, "allow is 'poll'; give a list"),
        ({"allow": ["*"]}, "allow has '\\*'"),
        ({"agents": {"a": {"max_repeat": 5}}}, "agents\\['a'\\] has no limit 'max_repeat'; did you mean 'max_repeats'"),
        ({"agents": {"a": {"max_repeats": 1}}}, "agents\\['a'\\]: max_repeats is 1"),
        ({"agents": {"a": 5}}, "agents\\['a'\\] is 5"),
        ({"agents": {"a": {"agents": {}}}}, "agents\\['a'\\] has no limit 'agents'"),
        ({"agents": 5}, "agents is 5"),
    ],
)
def test_faults_name_the_value_and_the_remedy(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LoopPolicy(**values)


def test_an_agent_has_what_is_said_of_it_and_the_rest_of_all() -> None:
    policy = LoopPolicy(
        max_visits=5,
        actions={"max_visits": "warn"},
        allow=["status"],
        agents={"poller": {"max_repeats": None, "actions": {"max_depth": "brake"}, "allow": ["poll_*"]}},
    )
    own = policy.of("poller")
    assert (own.max_repeats, own.max_visits, policy.max_repeats) == (None, 5, 3)
    assert (own.action("max_depth"), own.action("max_visits"), own.action("max_repeats")) == ("brake", "warn", "refuse")
    assert (policy.action("max_depth"), policy.action("max_calls_per_minute")) == ("refuse", "brake")
    assert [own.allows(name) for name in ("status", "poll_mail", "pol", None)] == [True, True, False, False]
    assert [policy.allows(name) for name in ("status", "poll_mail")] == [True, False]
    assert policy.of("anyone") is policy.of(None) is policy


def test_a_file_says_it_in_the_same_words() -> None:
    text = """
        max_visits = 4
        max_usd_per_run = "2.50"
        allow = ["get_status"]
        [actions]
        max_repeats = "brake"
        [agents.poller]
        max_repeats = "none"
    """
    policy = LoopPolicy(**tomllib.loads(text))
    assert policy.max_usd_per_run == Decimal("2.50")
    assert policy.of("poller").max_repeats is None
    assert policy.action("max_repeats") == "brake"


def test_it_is_a_value() -> None:
    policy = LoopPolicy(max_usd_per_run="$5", agents={"a": {"max_depth": 2}})
    assert policy == LoopPolicy(max_usd_per_run=5, agents={"a": {"max_depth": 2}})
    assert hash(policy) == hash(LoopPolicy(max_usd_per_run=5, agents={"a": {"max_depth": 2}}))
    for twin in (pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy), replace(policy)):
        assert twin == policy
        assert twin.of("a").max_depth == 2
    with pytest.raises(TypeError):
        policy.actions["max_depth"] = "warn"  # type: ignore[index]


def test_where_depth_only_warns_nothing_is_raised() -> None:
    assert refusal_of(LoopPolicy(max_depth=1, actions={"max_depth": "warn"}), 5) is None
    assert refusal_of(LoopPolicy(max_depth=1, agents={"a4": {"max_depth": None}}), 5) is None
