"""Retention, and what one person may ask for: the rows change, no sum does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.ledger.rows import NOON_S, add, call, estimate, in_hours, in_runs, kept, printed, spent
from tokenmeter.errors import ConfigError
from tokenmeter.ledger import open_ledger
from tokenmeter.ledger.views import Outcome

pytest.importorskip("sqlalchemy")

if TYPE_CHECKING:
    from tokenmeter.ledger.ledger import Ledger

DAY_S = 86_400


def test_pruning_drops_rows_and_keeps_sums(ledger: Ledger) -> None:
    add(ledger, *[call(str(n), at_s=NOON_S + n * DAY_S, run=f"r{n}") for n in range(5)])
    before = list(ledger.hours()), list(ledger.runs()), ledger.totals()
    assert ledger.prune(NOON_S + 3 * DAY_S) == 3
    assert [record.id for record in kept(ledger)] == ["3", "4"]
    assert (list(ledger.hours()), list(ledger.runs()), ledger.totals()) == before
    assert ledger.prune(NOON_S + 3 * DAY_S) == 0


def test_an_estimate_waits_a_month_longer_for_its_late_word(ledger: Ledger) -> None:
    add(ledger, estimate("a"), call("b"))
    assert ledger.prune(NOON_S + DAY_S) == 1
    add(ledger, call("a", nanos=7))
    assert in_hours(ledger) == 1_007
    add(ledger, estimate("c"))
    assert ledger.prune(NOON_S + 31 * DAY_S) == 2


def test_pruning_forgets_fingerprints_that_never_came_again(ledger: Ledger) -> None:
    add(ledger, printed("a", "aa"), printed("b", "bb"), printed("c", "bb", nanos=5))
    ledger.prune(NOON_S + DAY_S)
    late_s = NOON_S + 2 * DAY_S
    add(ledger, printed("d", "aa", at_s=late_s), printed("e", "bb", at_s=late_s, nanos=3))
    assert [(each.fingerprint, each.calls, each.nanos) for each in ledger.repeats()] == [("bb", 3, 1_008)]


def test_pruning_gives_the_room_back(tmp_path: Path) -> None:
    with open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        add(ledger, *[call(str(n), host="h" * 200) for n in range(5_000)])
        ledger.prune(NOON_S + 1)
    with open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}"):
        pass
    assert (tmp_path / "ledger.db").stat().st_size < 500_000


def people(ledger: Ledger) -> None:
    add(
        ledger,
        call("a", tags={"mail": "alice@x"}),
        call("b", run=None, at_s=NOON_S + 3_600),
        estimate("c", run="r2"),
        call("d", user="bob"),
        call("e", user=None, nanos=5),
        call("f", user=None, nanos=5, at_s=NOON_S + 3_600),
    )
    ledger.put_outcome(Outcome("pr", "1", NOON_S, user="alice", accepted_by="bob", attributes=(("author", "alice"),)))
    ledger.put_outcome(Outcome("pr", "2", NOON_S, user="bob", accepted_by="alice", attributes=(("by", "malice"),)))
    ledger.put_outcome(Outcome("pr", "3", NOON_S, attributes=(("reviewer", "alice"), ("size", "s"))))


def everything(ledger: Ledger) -> str:
    return repr([list(ledger.calls()), list(ledger.hours()), list(ledger.runs()), list(ledger.outcomes())])


def test_a_user_is_forgotten(ledger: Ledger) -> None:
    people(ledger)
    totals, runs = ledger.totals(), in_runs(ledger)

    changed = ledger.forget_user("alice")

    assert (changed.calls, changed.outcomes) == (3, 3)
    assert "'alice" not in everything(ledger)
    assert "alice@x" not in everything(ledger)
    assert "malice" in everything(ledger)
    assert (ledger.totals(), in_hours(ledger), in_runs(ledger)) == (totals, totals.nanos, runs)
    assert [record.id for record in kept(ledger)] == ["c", "d", "e", "f"]
    assert {hour.user: hour.nanos for hour in ledger.hours() if hour.hour_s == NOON_S} == {None: 6_005, "bob": 1_000}
    first, second, third = ledger.outcomes()
    assert (first.user, first.accepted_by, first.attributes) == (None, "bob", ())
    assert (second.user, second.accepted_by) == ("bob", None)
    assert third.attributes == (("size", "s"),)
    assert ledger.forget_user("alice").calls == 0


def test_a_late_word_does_not_bring_a_user_back(ledger: Ledger) -> None:
    people(ledger)
    ledger.forget_user("alice")
    add(ledger, call("c", run="r2", nanos=7, tags={"mail": "alice@x"}))
    assert "'alice" not in everything(ledger)
    assert "alice@x" not in everything(ledger)
    assert (in_hours(ledger), spent(kept(ledger))) == (3_017, 1_017)


def test_a_user_gets_a_pseudonym(ledger: Ledger) -> None:
    import hashlib
    import hmac

    people(ledger)
    totals, runs = ledger.totals(), in_runs(ledger)
    name = hmac.new(b"key", b"alice", hashlib.sha256).hexdigest()[:32]

    changed = ledger.pseudonymise_user("alice", b"key")

    assert (changed.calls, changed.outcomes) == (3, 3)
    assert "'alice" not in everything(ledger)
    assert (ledger.totals(), in_hours(ledger), in_runs(ledger)) == (totals, totals.nanos, runs)
    assert [record.user for record in kept(ledger)] == [name, name, name, "bob", None, None]
    assert spent(record for _, record in ledger.calls(user=name)) == 7_000
    first, second, third = ledger.outcomes()
    assert (first.user, first.attributes, second.accepted_by) == (name, (("author", name),), name)
    assert third.attributes == (("reviewer", name), ("size", "s"))

    # Who calls again is renamed again, and what he has becomes one.
    add(ledger, call("g"), call("h", run=None, at_s=NOON_S + 3_600))
    ledger.pseudonymise_user("alice", b"key")
    assert sum(hour.nanos for hour in ledger.hours(user=name)) == 9_000
    assert len(list(ledger.hours(user=name))) == 2
    assert spent(record for _, record in ledger.calls(user=name)) == 9_000
    assert ledger.forget_user(name).calls == 5


def test_an_empty_key_is_refused(ledger: Ledger) -> None:
    with pytest.raises(ConfigError, match="key is empty"):
        ledger.pseudonymise_user("alice", b"")
