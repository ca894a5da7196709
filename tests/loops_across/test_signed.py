"""Between processes that sign: what is forged or altered counts for nothing and is reported; keys are replaced."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import tokenmeter
from tests.loops_across.ring import KINDS, Ring
from tokenmeter import Meter
from tokenmeter.loops.lineage import Keys, Lineage, encode

OLD, NEW, OTHER = {"old": "11" * 32}, {"new": "22" * 32}, {"old": "33" * 32}
AT = pytest.mark.parametrize("at", range(3), ids=KINDS)


def keys_of(named: dict[str, str]) -> dict[str, bytes]:
    return {key_id: bytes.fromhex(key) for key_id, key in named.items()}


def header(keys: dict[str, str] | None, *, issued_s: int | None = None) -> str:
    """What an agent at depth 1 of a known run would send."""
    lineage = Lineage("the-root", "the-run", 1, ("outer",), int(time.time()) if issued_s is None else issued_s)
    return f"tokenmeter.lineage={encode(lineage, None if keys is None else Keys(keys_of(keys)))}"


@pytest.fixture
def signed(ring: Ring, tmp_path: Path) -> Ring:
    ring.become(f"sqlite:///{tmp_path / 'books.db'}", None, keys=OLD)
    return ring


@AT
def test_what_is_signed_arrives(signed: Ring, at: int) -> None:
    found = signed.where(at, {"baggage": "a=b," + header(OLD)})

    assert found == {"root": "the-root", "run": "the-run", "depth": 1, "path": ["outer"]}
    assert signed.logged(at) == []


def altered(text: str) -> str:
    return text.replace("the-2Droot", "new-2Droot")


BAD = {
    "altered": (altered(header(OLD)), "forged"),
    "forged": (header(OTHER), "forged"),
    "another key": (header(NEW), "unknown key"),
    "not signed": (header(None), "unsigned"),
    "garbled": ("tokenmeter.lineage=%%%", "garbled"),
    "of long ago": (header(OLD, issued_s=1_000), "expired"),
}


@AT
@pytest.mark.parametrize("kind", BAD)
def test_what_is_bad_is_a_run_of_its_own_and_reported(signed: Ring, at: int, kind: str) -> None:
    text, verdict = BAD[kind]

    found = signed.where(at, {"baggage": text})

    assert found == {"root": None, "run": None, "depth": 0, "path": []}
    [said] = signed.logged(at)
    assert f"a lineage that is {verdict}" in said
    assert "the-root" not in said


@AT
def test_a_forged_one_beside_a_good_one_is_reported_and_changes_nothing(signed: Ring, at: int) -> None:
    found = signed.where(at, {"baggage": f"{altered(header(OLD))},{header(OLD)}"})

    assert found["root"] == "the-root"
    assert "forged" in signed.logged(at)[0]


def test_a_loop_that_begins_with_a_forgery_is_counted_from_there(ring: Ring, tmp_path: Path) -> None:
    policy = {"max_depth": None, "max_visits": None, "max_calls_per_run": 6}
    ring.become(f"sqlite:///{tmp_path / 'books.db'}", policy, keys=OLD)

    calls, end = ring.run(headers={"baggage": altered(header(OLD))})

    assert (calls, end["guard"], end["depth"]) == (6, "max_calls_per_run", 7)
    assert end["root"] not in {"the-root", "new-root"}
    assert "forged" in ring.logged(0)[0]


ROTATION = [
    ("before", OLD, OLD),
    ("the new one is known", {**OLD, **NEW}, OLD),
    ("the new one is known everywhere", {**OLD, **NEW}, {**OLD, **NEW}),
    ("one signs with the new one", {**NEW, **OLD}, {**OLD, **NEW}),
    ("all sign with the new one", {**NEW, **OLD}, {**NEW, **OLD}),
    ("the old one goes", NEW, {**NEW, **OLD}),
    ("after", NEW, NEW),
]


@pytest.mark.parametrize(("step", "one", "others"), ROTATION, ids=[step for step, _, _ in ROTATION])
def test_keys_are_replaced_without_a_gap(
    ring: Ring, tmp_path: Path, step: str, one: dict[str, str], others: dict[str, str]
) -> None:
    policy = {"max_depth": None, "max_visits": None, "max_calls_per_run": 7}
    ring.become(f"sqlite:///{tmp_path / 'books.db'}", policy, keys=[one, others, others])

    calls, end = ring.run()

    assert (calls, end["depth"]) == (7, 8)
    assert [ring.logged(at) for at in range(3)] == [[], [], []]


def test_different_keys_are_found_out(ring: Ring, tmp_path: Path) -> None:
    """Each hop is a run of its own then, and says so in its log."""
    ring.become(
        f"sqlite:///{tmp_path / 'books.db'}",
        {"max_runs_per_minute": 2, "actions": {"max_runs_per_minute": "refuse"}},
        keys=[OLD, NEW, OTHER],
    )

    calls, end = ring.run()

    assert (end["guard"], end["depth"]) == ("max_runs_per_minute", 1)
    assert 6 <= calls <= 12  # a sliding minute may forget some at its turn, never more than it had
    assert [bool(ring.logged(at)) for at in range(3)] == [True, True, True]


def test_a_signed_run_continues_here(signed: Ring) -> None:
    carrier: dict[str, str] = {}
    with Meter() as meter, meter.agent("here", run="mine"):
        tokenmeter.inject(carrier, keys=Keys(keys_of(OLD)))

    assert signed.where(0, carrier) == {"root": "mine", "run": "mine", "depth": 1, "path": ["here"]}
