"""A loop of three agents over three processes is stopped, wherever its run is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.loops_across.ring import NAMES, Ring
from tokenmeter.testing import Reply, Request

KEYS = {"2026-11": "5a" * 32}
SIGNING = [None, KEYS]
IDS = ["unsigned", "signed"]
UNLIMITED = {"max_depth": None, "max_visits": None}
PRICE = 0.25 * 4_000 / 1e6 + 2.00 * 500 / 1e6  # of gpt-5-mini: in and out

Store = Callable[[], str]


@pytest.mark.parametrize("keys", SIGNING, ids=IDS)
@pytest.mark.parametrize("most", [7, 20])
def test_calls_of_a_run(ring: Ring, store: Store, keys: dict[str, str] | None, most: int) -> None:
    ring.become(store(), {**UNLIMITED, "max_calls_per_run": most}, keys=keys)

    calls, end = ring.run()

    print(f"max_calls_per_run={most}: stopped after {calls} calls")
    assert end["guard"] == "max_calls_per_run"
    assert calls == most
    assert end["by"] == NAMES[most % 3]
    assert (end["depth"], end["path"][0]) == (most + 1, NAMES[0])


@pytest.mark.parametrize("keys", SIGNING, ids=IDS)
def test_dollars_of_a_run(ring: Ring, store: Store, keys: dict[str, str] | None) -> None:
    most, address = 10 * PRICE, store()
    leased = "leases=on" in address
    # What was spent is told to the store a moment later: a hundredth of a second, with leases a twentieth. Models take
    # longer to answer.
    delay_s = 0.2 if leased else 0.05
    ring.provider.reply = Reply("There is none.", input_tokens=4_000, output_tokens=500, delay_s=delay_s)
    ring.become(address, {**UNLIMITED, "max_usd_per_run": f"{most:.9f}"}, keys=keys)

    calls, end = ring.run()

    print(f"max_usd_per_run of 10 calls{', leases' if leased else ''}: stopped after {calls} calls")
    assert end["guard"] == "max_usd_per_run"
    assert 10 <= calls <= 12


@pytest.mark.parametrize("keys", SIGNING, ids=IDS)
@pytest.mark.parametrize("most", [4, 20])  # 20: deeper than a lineage has room for names
def test_depth(ring: Ring, store: Store, keys: dict[str, str] | None, most: int) -> None:
    ring.become(store(), {"max_depth": most, "max_visits": None}, keys=keys)

    calls, end = ring.run()

    assert end["guard"] == "depth_exceeded"
    assert (calls, end["depth"]) == (most, most + 1)


@pytest.mark.parametrize("keys", SIGNING, ids=IDS)
@pytest.mark.parametrize("most", [1, 3])
def test_visits(ring: Ring, store: Store, keys: dict[str, str] | None, most: int) -> None:
    ring.become(store(), {"max_depth": None, "max_visits": most}, keys=keys)

    calls, end = ring.run()

    assert end["guard"] == "max_visits"
    assert (calls, end["by"]) == (3 * most, NAMES[0])


def test_runs_are_counted_apart(ring: Ring, store: Store) -> None:
    ring.become(store(), {**UNLIMITED, "max_calls_per_run": 5})

    found = [ring.run(at) for at in (0, 1, 2)]

    assert [calls for calls, _ in found] == [5, 5, 5]
    assert len({end["root"] for _, end in found}) == 3


@pytest.mark.parametrize("mode", ["new", "same"])
def test_what_the_defaults_do(ring: Ring, store: Store, mode: str) -> None:
    ring.become(store(), None, mode=mode)

    calls, end = ring.run()

    print(f"defaults: stopped by {end['guard']} after {calls} calls")
    assert (end["guard"], calls) == ("max_visits", 9)


class TestAHopThatDropsAllHeaders:
    """Each round looks like a run of its own."""

    @pytest.mark.parametrize("drops", [0, 1, 2])
    @pytest.mark.parametrize(
        "policy",
        [
            {"max_runs_per_minute": 10, "actions": {"max_runs_per_minute": "refuse"}},
            {"max_calls_per_minute": 10, "actions": {"max_calls_per_minute": "refuse"}},
        ],
        ids=["runs a minute", "calls a minute"],
    )
    def test_rates(self, ring: Ring, tmp_path: Any, policy: dict[str, Any], drops: int) -> None:
        ring.become(f"sqlite:///{tmp_path / 'books.db'}", {**UNLIMITED, **policy}, drops=drops)

        calls, end = ring.run()

        print(f"{end['guard']}=10, no headers from {NAMES[drops]}: stopped after {calls} calls")
        assert end["guard"] in policy
        assert 30 <= calls <= 60  # a sliding minute may forget some at its turn, never more than it had

    def test_repeats_in_a_conversation_that_is_handed_on(self, ring: Ring, tmp_path: Any) -> None:
        ring.become(f"sqlite:///{tmp_path / 'books.db'}", UNLIMITED, mode="conversation", drops=2)

        calls, end = ring.run()

        print(f"a conversation that is handed on, no headers: stopped by {end['guard']} after {calls} calls")
        assert end["guard"] in {"max_repeats", "max_rounds_without_news"}
        assert calls <= 9

    @pytest.mark.parametrize("mode", ["new", "same"])
    def test_the_defaults_do_not_stop_it(self, ring: Ring, tmp_path: Any, mode: str) -> None:
        """Only a brake is left, at 6,000 runs a minute of one agent; here the provider ends it."""
        most = 150
        ring.become(f"sqlite:///{tmp_path / 'books.db'}", None, mode=mode, drops=2)
        before = ring.provider.received

        def enough(request: Request) -> Reply:
            return Reply("There is none.", status=503 if ring.provider.received - before > most else 200)

        ring.provider.reply = enough

        calls, end = ring.run()

        print(f"defaults, no headers, {mode}: {calls - 1} calls and no guard refused")
        assert (calls, end["guard"]) == (most + 1, None)
