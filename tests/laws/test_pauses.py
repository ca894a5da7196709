"""A pause stops what it names, nested agents too, and is over when it is lifted."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx2
import pytest

import tokenmeter
from tokenmeter import Budget, LoopPolicy, Meter
from tokenmeter.budgets import MemoryStore, Pause
from tokenmeter.clients import ports
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


class Line(MemoryStore):
    """Says when somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    def queue(self, *args: Any, **kwargs: Any) -> Any:
        place = super().queue(*args, **kwargs)
        self.waits.set()
        return place


def test_a_pause_stops_who_waits_for_a_budget() -> None:
    store, calls = Line(), CapturedCalls()
    caught: list[Exception] = []
    with (
        ScriptedProvider() as provider,
        Meter([Budget("600 tokens", name="small")], store=store, recorders=[calls]) as meter,
        meter.wrap(httpx2.Client()) as client,
    ):
        body = {**BODY, "max_tokens": 300}

        def ask() -> None:
            try:
                with meter.agent("coder"):
                    client.post(provider.openai_url + "/chat/completions", json=body)
            except Exception as error:
                caught.append(error)

        provider.hold()
        askers = [threading.Thread(target=ask), threading.Thread(target=ask)]
        for asker in askers:
            asker.start()
        assert store.waits.wait(30)
        store.pause(Pause("agent=coder", time.time(), "it ran wild", "ops"))
        provider.release()
        for asker in askers:
            asker.join(30)
        assert provider.received == 1
        assert [type(error) for error in caught] == [tokenmeter.Paused]
        [left] = meter.remaining()
        assert (left.spent, left.held) == (provider.billed.input_tokens + provider.billed.output_tokens, 0)
    assert sorted((row.status, row.error_type) for row in calls) == [("ok", None), ("refused", "Paused")]


def test_a_pause_stops_who_is_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    monkeypatch.setattr(ports, "sleep", lambda _: store.pause(Pause("agent=coder", time.time(), "it ran wild", "ops")))
    slow = LoopPolicy(max_calls_per_minute=1, actions={"max_calls_per_minute": "brake"})
    with (
        ScriptedProvider() as provider,
        Meter([Budget("600 tokens")], store=store, loops=slow) as meter,
        meter.wrap(httpx2.Client()) as client,
        meter.agent("coder"),
    ):
        client.post(provider.openai_url + "/chat/completions", json=BODY)
        with pytest.raises(tokenmeter.Paused):
            client.post(provider.openai_url + "/chat/completions", json=BODY)
        assert provider.received == 1
        [left] = meter.remaining()
        assert left.held == 0
