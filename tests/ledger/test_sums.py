"""The law of the ledger: the rows and the sums say the same, whatever was done in which order."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tests.ledger.rows import NOON_S, add, call, estimate, kept, printed, refusal, spent
from tokenmeter.ledger import open_ledger
from tokenmeter.record import CallRecord

pytest.importorskip("sqlalchemy")

if TYPE_CHECKING:
    from tokenmeter.ledger.ledger import Ledger

USERS = st.sampled_from(["alice", "bob", None])
NAMES = st.sampled_from(["a", "b", None])
NANOS = st.integers(0, 10**12)


@contextmanager
def fresh() -> Iterator[Ledger]:
    with tempfile.TemporaryDirectory() as folder, open_ledger(f"sqlite:///{Path(folder) / 'ledger.db'}") as ledger:
        yield ledger


class Law(RuleBasedStateMachine):
    """Calls, late words, pruning, forgetting and pseudonyms; what was paid is known beside the ledger."""

    ids: Bundle[str] = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self._opened = fresh()
        self.ledger = self._opened.__enter__()
        self.paid: dict[str, int] = {}
        self.in_runs: set[str] = set()
        self.gone: set[str] = set()
        self.printed: set[str] = set()
        self.open: dict[str, CallRecord] = {}
        self.numbers = itertools.count()
        self.pruned = False

    def teardown(self) -> None:
        self._opened.__exit__(None, None, None)

    @rule(target=ids, user=USERS, agent=NAMES, run=NAMES, nanos=NANOS, hour=st.integers(0, 60), kind=st.integers(0, 3))
    def call(self, user: str | None, agent: str | None, run: str | None, nanos: int, hour: int, kind: int) -> str:
        name = str(next(self.numbers))
        facts: dict[str, Any] = {"user": user, "agent": agent, "run": run, "at_s": NOON_S + hour * 3_600}
        record = (
            refusal(name, **facts)
            if kind == 0
            else estimate(name, nanos=nanos, **facts)
            if kind == 1
            else call(name, nanos=nanos, **facts)
        )
        if kind < 3:
            record = printed(name, "same", record)
        assert add(self.ledger, record) == 1
        self.paid[name] = record.cost_nanos or 0
        if run is not None:
            self.in_runs.add(name)
        if kind == 1:
            self.open[name] = record
        if kind in (1, 2):
            self.printed.add(name)
        return name

    @rule(name=ids, nanos=NANOS, run=NAMES)
    def late_word(self, name: str, nanos: int, run: str | None) -> None:
        if (record := self.open.pop(name, None)) is None:
            return
        told = call(name, nanos=nanos, user=record.user, agent=record.agent, at_s=record.at_s, run=run)
        assert add(self.ledger, printed(name, "same", told)) == 1
        self.paid[name] = nanos
        (self.in_runs.discard if run is None else self.in_runs.add)(name)

    @rule(name=ids)
    def once_more(self, name: str) -> None:
        if name in {record.id for record in kept(self.ledger)} and name not in self.open:
            assert add(self.ledger, call(name, nanos=77)) == 0

    @rule(hour=st.integers(0, 60))
    def prune(self, hour: int) -> None:
        self.ledger.prune(NOON_S + hour * 3_600)
        self.pruned = True

    @rule(user=st.sampled_from(["alice", "bob"]), pseudonym=st.booleans())
    def take_out(self, user: str, pseudonym: bool) -> None:
        if pseudonym:
            self.ledger.pseudonymise_user(user, b"key")
        else:
            self.ledger.forget_user(user)
            self.pruned = True
        assert all(record.user != user for record in kept(self.ledger))
        assert all(hour.user != user for hour in self.ledger.hours())
        assert all(day.user != user for day in self.ledger.hours(step_s=86_400))
        assert all(run.user != user for run in self.ledger.runs())

    @invariant()
    def the_sums_are_what_was_paid(self) -> None:
        total = sum(self.paid.values())
        assert self.ledger.totals().nanos == sum(hour.nanos for hour in self.ledger.hours()) == total
        by_hours = {
            (each.user, each.agent): each.nanos
            for each in self.ledger.hours(by=("user", "agent"), since_s=3_600, step_s=7_200 * 10**6)
        }
        by_days = {
            (each.user, each.agent): each.nanos
            for each in self.ledger.hours(by=("user", "agent"), step_s=7_200 * 10**6)
        }
        assert by_hours == by_days
        assert sum(run.nanos for run in self.ledger.runs()) == sum(self.paid[name] for name in self.in_runs)

    @invariant()
    def the_rows_that_are_kept_are_what_was_paid_for_them(self) -> None:
        rows = {record.id: record.cost_nanos or 0 for record in kept(self.ledger)}
        assert rows.items() <= self.paid.items()
        assert self.pruned or spent(kept(self.ledger)) == sum(self.paid.values())

    @invariant()
    def the_repeats_are_what_was_paid_for_them(self) -> None:
        found = list(self.ledger.repeats())
        if not self.pruned and len(self.printed) == sum(each.calls for each in found):
            assert sum(each.nanos for each in found) == sum(self.paid[name] for name in self.printed)


TestLaw = Law.TestCase
TestLaw.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
