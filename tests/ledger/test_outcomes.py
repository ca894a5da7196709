"""Outcomes and the runs that led to them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from tests.ledger.rows import NOON_S
from tokenmeter.ledger.views import Link, Outcome
from tokenmeter.outcomes import MemorySink

pytest.importorskip("sqlalchemy")

if TYPE_CHECKING:
    from tokenmeter.ledger.ledger import Ledger

WHOLE = Outcome(
    "deployment", "web@1", NOON_S, "web", "alice", "r1", ("boss", "coder"), 2.5, 0.75, "change-7", "bob", "git",
    attributes=(("sha", "abc"), ("env", "prod")),
)  # fmt: skip


def test_an_outcome_comes_back_as_it_was_once(ledger: Ledger) -> None:
    assert ledger.put_outcome(WHOLE)
    assert not ledger.put_outcome(Outcome("deployment", "web@1", NOON_S + 5))
    assert ledger.put_outcome(Outcome("case", "web@1", NOON_S + 5))
    assert list(ledger.outcomes()) == [WHOLE, Outcome("case", "web@1", NOON_S + 5)]
    assert list(ledger.outcomes(NOON_S + 1)) == [Outcome("case", "web@1", NOON_S + 5)]
    assert list(ledger.outcomes(until_s=NOON_S + 1)) == [WHOLE]


@pytest.mark.parametrize("first", [True, False])
def test_an_outcome_is_taken_back_once_also_before_it_is_known(ledger: Ledger, first: bool) -> None:
    if first:
        assert ledger.revoke("deployment", "web@1", NOON_S + 9, "reverted")
    ledger.put_outcome(WHOLE)
    if not first:
        assert ledger.revoke("deployment", "web@1", NOON_S + 9, "reverted")
    assert not ledger.revoke("deployment", "web@1", NOON_S + 99, "again")
    [found] = ledger.outcomes()
    assert (found.revoked_s, found.revoked_why) == (NOON_S + 9, "reverted")


STEPS: list[tuple[str, float, Any]] = [
    ("put", 0.0, None),
    ("revoke", 9.0, "late"),
    ("revoke", 5.0, "reverted"),
    ("revoke", 5.0, "rolled back"),
    ("put", 0.0, 7.0),
]


def test_the_earliest_revocation_counts_in_whatever_order_they_come(sink: Ledger | MemorySink) -> None:
    orders = list(itertools.permutations(STEPS))
    for number, steps in enumerate(orders):
        for verb, at_s, what in steps:
            if verb == "put":
                sink.put_outcome(Outcome("case", f"{number}", at_s, revoked_s=what, revoked_why=what and "born so"))
            else:
                sink.revoke("case", f"{number}", at_s, what)
    told = [(found.revoked_s, found.revoked_why) for found in sink.outcomes()]
    assert told == [(5.0, "reverted")] * len(orders)


def test_who_takes_back_first_is_told_so(sink: Ledger | MemorySink) -> None:
    assert sink.put_outcome(WHOLE)
    assert not sink.put_outcome(WHOLE)
    for name in ("web@1", "never-heard-of"):
        assert sink.revoke("deployment", name, 9.0, "reverted")
        assert not sink.revoke("deployment", name, 5.0, "reverted")
        assert not sink.revoke("deployment", name, 9.0)


def test_an_outcome_that_comes_taken_back(ledger: Ledger) -> None:
    told = Outcome("case", "1", NOON_S, revoked_s=NOON_S + 1, revoked_why="came back")
    ledger.put_outcome(told)
    assert list(ledger.outcomes()) == [told]


def test_links_are_kept_in_place_of_those_before(ledger: Ledger) -> None:
    ledger.put_outcome(WHOLE)
    first = [Link("deployment", "web@1", run, 0.5, 0.9, "window") for run in ("r1", "r2")]
    other = Link("case", "1", "r1", 1.0, 1.0, "run")
    ledger.put_links([*first, other])
    assert list(ledger.links()) == [other, *first]
    assert list(ledger.links(run="r1")) == [other, first[0]]
    assert list(ledger.links(kind="case", key="1")) == [other]
    assert list(ledger.links(NOON_S)) == first
    assert list(ledger.links(NOON_S + 1)) == []
    better = Link("deployment", "web@1", "r3", 1.0, 1.0, "trailer")
    ledger.put_links([better])
    ledger.put_links([])
    assert list(ledger.links()) == [other, better]


def test_a_long_key_keeps_its_identity(ledger: Ledger) -> None:
    assert ledger.put_outcome(Outcome("pr", "https://x/" + "a" * 5_000, NOON_S))
    assert not ledger.put_outcome(Outcome("pr", "https://x/" + "a" * 5_000, NOON_S))
    assert ledger.put_outcome(Outcome("pr", "https://x/" + "a" * 5_001, NOON_S))
