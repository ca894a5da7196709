"""A pause stops what it names, nested agents too, and is over when it is lifted."""

from __future__ import annotations

import time

import httpx2
import pytest

import tokenmeter
from tokenmeter import Meter
from tokenmeter.budgets import MemoryStore, Pause
from tokenmeter.testing import CapturedCalls, ScriptedProvider

BODY = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}


@pytest.mark.parametrize("target", ["all", "agent=coder", "agent=helper", "user=alice", "team=core"])
def test_a_pause_stops_what_it_names(target: str) -> None:
    store, calls = MemoryStore(), CapturedCalls()
    with (
        ScriptedProvider() as provider,
        Meter(store=store, recorders=[calls]) as meter,
        meter.wrap(httpx2.Client()) as client,
    ):

        def ask() -> None:
            assert client.post(provider.openai_url + "/chat/completions", json=BODY).status_code == 200

        with meter.agent("coder", user="alice", team="core"), meter.agent("helper"):
            ask()
            store.pause(Pause(target, time.time(), "it ran wild", "ops"))
            with pytest.raises(tokenmeter.Paused, match=f"{target} is paused .* by ops: it ran wild.*resume") as caught:
                ask()
            assert (caught.value.target, caught.value.by, caught.value.agent) == (target, "ops", "helper")
        with meter.agent("another", user="bob", team="other"):
            if target != "all":
                ask()
        assert store.resume(target)
        with meter.agent("coder", user="alice", team="core"), meter.agent("helper"):
            ask()
        assert provider.received == (2 if target == "all" else 3)
    assert [row.error_type for row in calls if row.status == "refused"] == ["Paused"]
