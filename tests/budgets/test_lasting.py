"""Books that outlive a process: what becomes of the holds of one that died, and of what it says too late."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest

import tokenmeter
from tokenmeter.budgets import Entry, Grant, Held, Pause, Settled, Short, State, Store

from .conftest import MakeClaim
from .places import Place, die


def entry(store: Store, entry_id: str) -> Entry:
    [found] = [entry for _, entry in store.entries() if entry.id == entry_id]
    return found


def died(lasting: Place, claim: MakeClaim) -> Store:
    """A survivor, after a process died that held ``unsent`` and ``sent``."""
    victim = lasting.open()
    victim.hold("unsent", (claim(3),), 0.0, note=lambda: b"never left")
    victim.hold("sent", (claim(4), claim(7, 10, "other")), 0.0, note=lambda: b"estimated")
    assert victim.sent("sent")
    die(victim)
    survivor = lasting.open()
    survivor.recover()
    return survivor


def test_what_stands_in_the_books_stays(lasting: Place, claim: MakeClaim) -> None:
    first = lasting.open()
    now_s = first.time_s()
    grant, pause = Grant("g", "x|", 5, now_s, now_s + 1000, "why", "who"), Pause("all", now_s, "why", "who")
    first.hold("h", (claim(4, key="x||total"),), now_s)
    first.settle("h", (3,), b"row")
    first.hold("i", (claim(2, key="x||total"),), now_s)
    first.grant(grant)
    first.pause(pause)
    second = lasting.open()
    assert second.read(["x||total"]) == (State(3, 2, 15),)
    assert entry(second, "h") == Entry("h", (("x||total", 3),), b"row")
    assert (second.grants(), second.pauses()) == ([grant], [pause])
    assert second.settle("i", (1,)) == Settled((State(4, 0, 15),), (1,))  # whoever brings the id
    assert first.settle("i", (1,)) is None
    assert first.resume("all")
    assert second.pauses() == []
    first.close()
    assert lasting.open().read(["x||total"]) == (State(4, 0, 15),)


def test_one_budget_for_several(lasting: Place, claim: MakeClaim) -> None:
    stores = [lasting.open() for _ in range(3)]
    held = [isinstance(stores[n % 3].hold(str(n), (claim(),), 0.0), Held) for n in range(15)]
    assert held == [True] * 10 + [False] * 5
    with pytest.raises(ValueError, match="in use"):
        stores[1].hold("0", (claim(0, key="another"),), 0.0)
    assert stores[2].release("0")
    assert not stores[0].release("0")


def test_a_refusal_tells_the_limit_that_it_was_held_to(lasting: Place, claim: MakeClaim) -> None:
    """Else a limit that was lowered to less than is spent would be shown as it was until the window ends."""
    store = lasting.open()
    store.hold("h", (claim(4, 10), claim(1, 10, "other")), 0.0)
    store.settle("h", (4, 1))
    store.hold("i", (claim(2, 10),), 0.0)
    assert isinstance(store.hold("j", (claim(1, 3), claim(5, 20, "other"), claim(1, 9, "fresh")), 0.0), Short)
    assert {book.key: book.state for book in store.books()} == {"book": State(4, 2, 3), "other": State(1, 0, 20)}
    assert isinstance(store.hold("k", (claim(4, 10),), 0.0), Held)
    assert store.read(["book"]) == (State(4, 6, 10),)


def test_the_living_keep_their_holds(lasting: Place, claim: MakeClaim) -> None:
    first, second = lasting.open(), lasting.open()
    first.hold("h", (claim(4),), 0.0)
    first.sent("h")
    first.hold("i", (claim(4),), 0.0)
    assert second.recover() == 0
    assert second.read(["book"]) == (State(0, 8, 10),)


def test_unsent_is_given_back_and_sent_is_charged(lasting: Place, claim: MakeClaim) -> None:
    survivor = died(lasting, claim)
    assert survivor.read(["book", "other"]) == (State(4, 0, 10), State(7, 0, 10))
    assert entry(survivor, "sent") == Entry("sent", (("book", 4), ("other", 7)), b"estimated")
    assert [found.id for _, found in survivor.entries()] == ["sent"]
    assert survivor.recover() == 0
    assert lasting.open().recover() == 0
    assert survivor.read(["book"]) == (State(4, 0, 10),)


def test_recover_says_how_many(lasting: Place, claim: MakeClaim) -> None:
    victim, survivor = lasting.open(), lasting.open()
    for number in range(3):
        victim.hold(str(number), (claim(2),), 0.0)
    victim.sent("1")
    die(victim)
    assert survivor.recover() == 3
    assert survivor.read(["book"]) == (State(2, 0, 10),)


def test_a_hold_that_finds_no_room_recovers_by_itself(lasting: Place, claim: MakeClaim) -> None:
    survivor, victim = lasting.open(), lasting.open()
    victim.hold("unsent", (claim(6),), 0.0)
    victim.hold("sent", (claim(3),), 0.0)
    victim.sent("sent")
    die(victim)
    assert survivor.hold("h", (claim(7),), 0.0) == Held((State(3, 7, 10),), ())


@pytest.mark.parametrize("verb", ["settle", "post"])
def test_a_late_word_corrects_the_estimate_once(lasting: Place, claim: MakeClaim, verb: str) -> None:
    survivor = died(lasting, claim)
    claims = (claim(4), claim(7, 10, "other"))

    def say(amounts: tuple[int, int], row: bytes) -> Settled | None:
        if verb == "settle":
            return survivor.settle("sent", amounts, row)
        return survivor.post("sent", claims, amounts, row)

    assert say((1, 9), b"true") == Settled((State(1, 0, 10), State(9, 0, 10)), (-3, 2))
    assert say((1, 9), b"once more") is None
    assert survivor.settle("sent", (0, 0)) is None
    assert survivor.post("sent", claims, (0, 0)) is None
    assert not survivor.release("sent")
    assert survivor.read(["book", "other"]) == (State(1, 0, 10), State(9, 0, 10))
    assert entry(survivor, "sent") == Entry("sent", (("book", 1), ("other", 9)), b"true")


def test_a_late_word_on_what_never_left(lasting: Place, claim: MakeClaim) -> None:
    survivor = died(lasting, claim)
    assert not survivor.sent("unsent")
    assert survivor.settle("unsent", (2,)) is None
    assert not survivor.release("unsent")
    assert survivor.post("unsent", (claim(3),), (2,), b"it left after all") == Settled((State(6, 0, 10),), (2,))
    assert survivor.post("unsent", (claim(3),), (2,)) is None
    assert entry(survivor, "unsent") == Entry("unsent", (("book", 2),), b"it left after all")


def test_the_dead_may_speak_themselves(lasting: Place, claim: MakeClaim) -> None:
    """A process that was taken for dead, because it had been stopped."""
    sleeper, other = lasting.open(), lasting.open()
    sleeper.hold("unsent", (claim(3),), 0.0)
    sleeper.hold("sent", (claim(4),), 0.0, note=lambda: b"estimated")
    sleeper.sent("sent")
    die(sleeper)
    other.recover()
    again = lasting.open()
    assert not again.sent("unsent")
    assert not again.sent("sent")
    with pytest.raises(LookupError):
        again.adjust("sent", (5,))
    assert again.settle("sent", (3,), b"true") == Settled((State(3, 0, 10),), (-1,))


def test_a_lease_of_the_dead(lasting: Place, claim: MakeClaim) -> None:
    victim, survivor = lasting.open(), lasting.open()
    victim.hold("lease:1", (claim(8),), 0.0, note=lambda: b"estimated")
    victim.sent("lease:1")
    victim.draw(("lease:1",), [Entry("a", (("book", 3),), b"row a")])
    victim.adjust("lease:1", (4,))
    die(victim)
    assert survivor.recover() == 1
    # What it had not drawn may have been spent: it is charged until somebody knows better.
    assert survivor.read(["book"]) == (State(7, 0, 10),)
    assert entry(survivor, "lease:1") == Entry("lease:1", (("book", 4),), b"estimated")
    assert survivor.settle("lease:1", (0,)) == Settled((State(3, 0, 10),), (-4,))
    assert [book.leased for book in survivor.books()] == [0]


def test_a_note_that_fails_or_is_missing(lasting: Place, claim: MakeClaim) -> None:
    victim, survivor = lasting.open(), lasting.open()
    victim.hold("bare", (claim(3),), 0.0)
    assert victim.sent("bare")
    die(victim)
    survivor.recover()
    assert entry(survivor, "bare") == Entry("bare", (("book", 3),), b"")


def test_a_row_that_was_written_while_the_hold_stood(lasting: Place, claim: MakeClaim) -> None:
    """The call was not billed: its hold could not be given back, and then its process died."""
    victim, survivor = lasting.open(), lasting.open()
    victim.hold("h", (claim(4),), 0.0, note=lambda: b"estimated")
    victim.sent("h")
    victim.write([Entry("h", (), b"not billed")])
    die(victim)
    assert survivor.recover() == 1
    assert survivor.read(["book"]) == (State(0, 0, 10),)
    assert entry(survivor, "h") == Entry("h", (), b"not billed")


def test_short_tells_the_same_of_the_holds_of_others(lasting: Place, claim: MakeClaim) -> None:
    first, second = lasting.open(), lasting.open()
    first.post("p", (claim(0, 10, "a"), claim(0, 100, "b")), (3, 60))
    first.hold("h", (claim(5, 10, "a"), claim(20, 100, "b")), 0.0)
    short = second.hold("i", (claim(6, 10, "a"), claim(10, 100, "b")), 0.0)
    assert isinstance(short, Short)
    assert (short.claim, short.state, short.spent_out) == (claim(6, 10, "a"), State(3, 5, 10), False)
    assert (short.available, short.if_settled) == ((2, 20), (7, 40))


def test_old_entries_before_a_mark_are_trimmed(lasting: Place) -> None:
    store = lasting.open()
    store.write([Entry(str(number), (), b"row") for number in range(300)])
    marks = [mark for mark, _ in store.entries()]
    trim = cast(Any, store).trim
    assert trim(marks[-1], store.time_s() - 1_000) == 0
    dropped = trim(marks[200], store.time_s() + 1_000)
    assert 100 <= dropped <= 200  # Redis drops whole blocks of a hundred
    assert [mark for mark, _ in store.entries()] == marks[dropped:]


@pytest.mark.parametrize(("kind", "other"), [("sqlite", "redis"), ("redis", "sqlite")])
def test_one_kind_of_store_knows_nothing_of_the_other(kind: str, other: str) -> None:
    folder = Path(tokenmeter.__file__).parent / "budgets"
    for path in folder.glob(f"{kind}*.py"):
        assert not re.search(rf"import .*\b{other}_|budgets\.{other}", path.read_text()), path.name
