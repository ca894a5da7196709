"""To look for dropped streams costs a program little, however many objects it has."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from tokenmeter.clients import dropped
from tokenmeter.clients.dropped import Dropped


class Machine:
    """A clock, and a garbage collector that takes its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, takes_s: float) -> None:
        self.at_s = 1_000.0
        self.began_s: list[float] = []
        self._takes_s = takes_s
        monkeypatch.setattr(dropped, "_not_before", [-math.inf])
        monkeypatch.setattr(dropped, "time", SimpleNamespace(monotonic=lambda: self.at_s))
        monkeypatch.setattr(dropped, "gc", SimpleNamespace(collect=self._collect))

    def _collect(self) -> None:
        self.began_s.append(self.at_s)
        self.at_s += self._takes_s


@pytest.mark.parametrize(("takes_s", "every_s"), [(0.01, 1.0), (0.5, 3.0)])
def test_it_takes_a_sixth_of_the_time_at_the_most(
    monkeypatch: pytest.MonkeyPatch, takes_s: float, every_s: float
) -> None:
    machine, streams = Machine(monkeypatch, takes_s=takes_s), [object()]
    several = Dropped(), Dropped()  # they are all of one process
    while machine.at_s < 1_020:
        for each in several:
            each.collect(streams)
        machine.at_s += 0.125
    spacings = [later - before for before, later in zip(machine.began_s, machine.began_s[1:], strict=False)]
    assert len(spacings) >= 20 / every_s - 2
    assert all(every_s <= spacing < every_s + 0.2 for spacing in spacings)


def test_where_no_stream_is_open_there_is_nothing_to_look_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, takes_s=0.01)
    Dropped().collect(())
    assert machine.began_s == []
