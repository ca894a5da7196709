"""Depth is guarded, and the refusal says where the call stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmeter import ConfigError, DepthExceeded, LoopPolicy
from tokenmeter.attribution import Scope


def scope(depth: int) -> Scope:
    path = tuple(f"a{n}" for n in range(depth))
    return Scope(agent=path[-1] if path else None, path=path, run="r")


@given(depth=st.integers(0, 60), limit=st.integers(1, 50))
def test_refuses_exactly_above_the_limit(depth: int, limit: int) -> None:
    policy = LoopPolicy(max_depth=limit)
    if depth <= limit:
        policy.guard(scope(depth))
    else:
        with pytest.raises(DepthExceeded) as caught:
            policy.guard(scope(depth))
        assert (caught.value.depth, caught.value.max_depth) == (depth, limit)
        assert len(caught.value.path) == depth
        assert len(str(caught.value)) < 700


def test_the_path_is_in_the_message() -> None:
    with pytest.raises(DepthExceeded, match="a0 → a1 → a2"):
        LoopPolicy(max_depth=2).guard(scope(3))


def test_no_limit() -> None:
    LoopPolicy(max_depth=None).guard(scope(1000))


@pytest.mark.parametrize("bad", [0, -1, True, 2.5, "3"])
def test_bad_limits_are_named(bad: object) -> None:
    with pytest.raises(ConfigError, match="max_depth"):
        LoopPolicy(max_depth=bad)  # type: ignore[arg-type]
