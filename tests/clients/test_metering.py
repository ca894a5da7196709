"""What a meter remembers of what it told is bounded."""

from __future__ import annotations

import logging

import pytest

from tests.clients.faces import ASK, FACES, URL, Origin
from tokenmeter import LoopPolicy, Meter
from tokenmeter.clients import metering


def test_what_guards_let_pass_is_told_once_and_not_remembered_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "tokenmeter")
    monkeypatch.setattr(metering, "MAX_TOLD", 3)
    with Meter(loops=LoopPolicy(max_depth=1, actions={"max_depth": "warn"})) as meter:
        client = meter.wrap(Origin(FACES[0]).client())
        for n in range(10):
            with meter.agent("outer", run=f"run {n}"), meter.agent("inner"):
                for _ in range(2):
                    client.post(URL, json=ASK)
        meter.flush()
        assert len(meter._metering.told) <= 3
    assert len(caplog.records) == 10
