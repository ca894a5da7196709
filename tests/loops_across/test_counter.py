"""Whatever is done to carriers on their way, no run's count at the store goes down and no call is left uncounted."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokenmeter
from tests.clients.faces import ASK, FACES, URL, Origin
from tokenmeter import LoopPolicy, Meter, Refused
from tokenmeter.budgets import MemoryStore, Store
from tokenmeter.loops.carriers import KEY, MAX_BAGGAGE_CHARS
from tokenmeter.loops.lineage import MAX_CHARS, MAX_PATH, Keys, Lineage, encode

SECRET, FALSE = Keys({"ours": b"o" * 32}), Keys({"ours": b"f" * 32})
MOST = 5
BOOK = "calls loops max_calls_per_run|run="
POLICY = LoopPolicy(
    max_depth=None,
    max_visits=None,
    max_calls_per_run=MOST,
    max_usd_per_run=None,
    max_calls_per_minute=None,
    max_runs_per_minute=None,
    max_repeats=None,
    max_rounds_without_news=None,
    max_polls=None,
)
AGENTS = ["a", "b", "agent of a name with dots. and ~ ü", "n" * 256]
Carrier = dict[str, str]

which = st.integers(0, 50)
steps = st.one_of(
    st.tuples(st.just("begin"), st.sampled_from(AGENTS), st.sampled_from([None, "named", "named too"])),
    st.tuples(st.just("deliver"), which, st.lists(st.sampled_from(AGENTS), max_size=3), st.integers(0, 2)),
    st.tuples(st.just("lose"), which),
    st.tuples(st.just("double"), which, which),
    st.tuples(st.just("alter"), which, st.integers(0, 3_000), st.characters(codec="ascii")),
    st.tuples(st.just("forge"), which, st.integers(0, 40), st.sampled_from(["named", "another", "ö" * 300])),
    st.tuples(st.just("fill"), which, st.integers(0, 12_000)),
    st.tuples(st.just("relay"), which),
)


class World:
    """A fleet in one process: messages under way between agents, and the calls that they made."""

    def __init__(self, meter: Meter, store: Store, client: httpx.Client, keys: Keys | None) -> None:
        self.meter, self.store, self.client, self.keys = meter, store, client, keys
        self.under_way: list[Carrier] = []
        self.known: dict[str, int] = {}
        self.made = self.refused = 0

    def call(self) -> None:
        """One call of whoever is in force."""
        try:
            self.client.post(URL, json=ASK).raise_for_status()
        except Refused:
            self.refused += 1
        else:
            self.made += 1

    def hand_on(self) -> None:
        """A message to somebody."""
        carrier: Carrier = {"baggage": "a=b"}
        tokenmeter.inject(carrier, keys=self.keys)
        self.under_way.append(carrier)

    def message(self, at: int) -> Carrier:
        """One that is under way."""
        return self.under_way[at % len(self.under_way)] if self.under_way else {}

    def do(self, step: tuple[Any, ...]) -> None:
        """One step; after it, the counts are looked at."""
        getattr(self, step[0])(*step[1:])
        del self.under_way[:-50]
        self.check()

    def begin(self, agent: str, run: str | None) -> None:
        with self.meter.agent(agent, run=run):
            self.call()
            self.hand_on()

    def deliver(self, at: int, agents: list[str], calls: int) -> None:
        with tokenmeter.extract(self.message(at), keys=self.keys):
            self._as(agents, calls)

    def _as(self, agents: list[str], calls: int) -> None:
        if agents:
            with self.meter.agent(agents[0]):
                for _ in range(calls):
                    self.call()
                self._as(agents[1:], calls)
        else:
            self.hand_on()

    def relay(self, at: int) -> None:
        with tokenmeter.extract(self.message(at), keys=self.keys):
            self.hand_on()

    def lose(self, at: int) -> None:
        if self.under_way:
            del self.under_way[at % len(self.under_way)]

    def double(self, at: int, other: int) -> None:
        both = [self.message(each).get("baggage", "") for each in (at, other)]
        self.under_way.append({"Baggage": ",".join(both)})

    def alter(self, at: int, where: int, character: str) -> None:
        text = self.message(at).get("baggage", "")
        where %= len(text) + 1
        self.under_way.append({"baggage": text[:where] + character + text[where + 1 :]})

    def forge(self, at: int, depth: int, root: str) -> None:
        lineage = Lineage(root, root, depth, ("x",) * min(depth, 3), int(time.time()))
        forged = f"{KEY}={encode(lineage, None if self.keys is None else FALSE)}"
        self.under_way.append({"baggage": f"{forged},{self.message(at).get('baggage', '')}"})

    def fill(self, at: int, size: int) -> None:
        self.under_way.append({"baggage": f"x={'y' * size},{self.message(at).get('baggage', '')}"})

    def check(self) -> None:
        """Counts only grow, and together they are the calls that were made."""
        self.meter.spend()  # what ended is settled by now
        counts = {
            book.key: book.state.posted + book.state.held for book in self.store.books() if book.key.startswith(BOOK)
        }
        for key, count in self.known.items():
            assert counts[key] >= count
        assert sum(counts.values()) == self.made
        assert all(count <= MOST for count in counts.values())
        self.known = counts
        for carrier in self.under_way[-1:]:
            self.bounded(carrier)

    def bounded(self, carrier: Carrier) -> None:
        """What goes on does not grow with the way that it came."""
        again: Carrier = dict(carrier)
        with tokenmeter.extract(carrier, keys=self.keys) as scope:
            tokenmeter.inject(again, keys=self.keys)
            [text] = again.values()
            assert len(scope.path) <= MAX_PATH
        assert len(text) <= MAX_BAGGAGE_CHARS
        assert [member.partition("=")[0].strip() for member in text.split(",")].count(KEY) == 1
        assert text.startswith(KEY)
        assert len(text.split(",")[0]) <= MAX_CHARS + len(KEY) + 1


@contextmanager
def world(store: Store, keys: Keys | None) -> Iterator[World]:
    with (
        Meter(store=store, loops=POLICY) as meter,
        Origin(FACES[0]).client() as client,
    ):
        yield World(meter, store, meter.wrap(client), keys)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What is forged is reported a thousand times here."""
    caplog.set_level(logging.ERROR, "tokenmeter")


def explore(found: World, examples: int) -> None:
    """Counts stay from one example to the next: it is one long story."""

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(st.lists(steps, min_size=5, max_size=20))
    def run(story: list[tuple[Any, ...]]) -> None:
        found.under_way.clear()
        for step in story:
            found.do(step)

    run()
    for _ in range(MOST + 1):
        found.do(("begin", "a", "named"))
    print(f"{found.made} calls made, {found.refused} refused, {len(found.known)} roots")
    assert found.made
    assert found.refused


class LastingMemory(MemoryStore):
    """Books in memory that are counted in as if other processes had them too."""

    keeps_rows = True


@pytest.mark.parametrize("keys", [None, SECRET], ids=["unsigned", "signed"])
def test_in_memory(keys: Keys | None) -> None:
    with world(LastingMemory(), keys) as found:
        explore(found, 150)


SIGNING = pytest.mark.parametrize("keys", [None, SECRET], ids=["unsigned", "signed"])


@SIGNING
def test_in_a_file(keys: Keys | None, tmp_path: Path) -> None:
    from tokenmeter.budgets.sqlite import SqliteStore
    from tokenmeter.budgets.sqlite_url import parse_url

    store = SqliteStore(parse_url(f"sqlite:///{tmp_path / 'books.db'}?timeout_s=20&lease_s=100"))
    try:
        with world(store, keys) as found:
            explore(found, 25)
    finally:
        store.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=3, max_size=12))
def test_a_signed_run_is_never_charged_with_what_a_forger_did(story: list[tuple[Any, ...]]) -> None:
    with world(LastingMemory(), SECRET) as found:
        for step in story:
            found.do(step)
        assert f"{BOOK}another|run" not in found.known


def test_what_a_process_remembers_is_bounded() -> None:
    with world(MemoryStore(), None) as found:
        seen = found.meter._metering.house.memory.seen
        for number in range(300):
            found.under_way.clear()
            found.begin("a", f"run {number}")
        before = len(seen)
        seen._max_runs = seen._max_prints = 64
        for number in range(300):
            found.under_way.clear()
            found.begin("a", f"more {number}")
        assert len(seen) <= before + 3
