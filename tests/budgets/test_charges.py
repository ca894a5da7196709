"""Charges that no hold is turned into, and the ledger of those stores that keep one; for every store."""

from __future__ import annotations

from collections import Counter

import pytest

from tokenmeter.budgets import Drawn, Entry, Grant, Held, Settled, Short, State, Store

from .conftest import MakeClaim


def ledger(store: Store) -> dict[str, Entry]:
    """The entries by id, each of which is there once, and only where rows are kept."""
    found = [entry for _, entry in store.entries()]
    by_id = {entry.id: entry for entry in found}
    assert len(by_id) == len(found)
    charges = Counter[str]()
    for entry in found:
        charges.update(dict(entry.charges))
    if store.keeps_rows:
        assert {book.key: book.state.posted for book in store.books() if book.state.posted} == +charges
    else:
        assert not found
    return by_id


def test_post_needs_no_hold(store: Store, claim: MakeClaim) -> None:
    claims = (claim(0, 10, "a"), claim(0, 10, "b"))
    assert store.post("p", claims, (3, 12)) == Settled((State(3, 0, 10), State(12, 0, 10)), (3, 12))
    assert store.read(["a", "b", "c"]) == (State(3, 0, 10), State(12, 0, 10), State(0, 0, 0))


def test_post_comes_once_by_its_id(store: Store, claim: MakeClaim) -> None:
    assert store.post("p", (claim(),), (3,), b"one")
    assert store.post("p", (claim(),), (3,), b"two") is None
    assert store.post("p", (claim(0, 10, "other"),), (3,)) is None
    assert store.post("q", (claim(),), (4,)) == Settled((State(7, 0, 10),), (4,))
    assert store.read(["book", "other"]) == (State(7, 0, 10), State(0, 0, 0))
    if store.keeps_rows:
        assert ledger(store)["p"] == Entry("p", (("book", 3),), b"one")


def test_post_settles_the_hold_of_its_id(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(5),), 0.0)
    assert store.post("h", (claim(5),), (4,), b"row") == Settled((State(4, 0, 10),), (4,))
    assert store.settle("h", (4,)) is None
    assert not store.release("h")
    assert not store.sent("h")
    assert store.post("h", (claim(5),), (4,)) is None
    assert store.read(["book"]) == (State(4, 0, 10),)


def test_what_was_settled_is_not_posted_again(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(5),), 0.0)
    assert store.settle("h", (4,), b"row")
    assert store.post("h", (claim(5),), (4,), b"again") is None
    assert store.read(["book"]) == (State(4, 0, 10),)
    if store.keeps_rows:
        assert ledger(store) == {"h": Entry("h", (("book", 4),), b"row")}


def test_what_was_released_may_be_posted_late(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(5),), 0.0)
    assert store.release("h")
    assert store.settle("h", (4,)) is None
    assert store.post("h", (claim(5),), (4,)) == Settled((State(4, 0, 10),), (4,))
    assert store.post("h", (claim(5),), (4,)) is None
    assert store.read(["book"]) == (State(4, 0, 10),)


def test_post_without_claims(store: Store) -> None:
    assert store.post("p", (), (), b"row") == Settled((), ())
    assert store.post("p", (), ()) is None
    if store.keeps_rows:
        assert ledger(store) == {"p": Entry("p", (), b"row")}


def test_draw_charges_out_of_a_hold(store: Store, claim: MakeClaim) -> None:
    store.hold("lease:1", (claim(8),), 0.0)
    store.draw(("lease:1",), [Entry("a", (("book", 3),), b"row a"), Entry("b", (("book", 1),), b"row b")])
    assert store.read(["book"]) == (State(4, 4, 10),)
    store.draw(("lease:1",), [Entry("a", (("book", 3),), b""), Entry("c", (("book", 2),), b"row c")])
    assert store.read(["book"]) == (State(6, 2, 10),)
    assert store.post("c", (claim(),), (2,)) is None
    assert store.adjust("lease:1", (4,)) == Held((State(6, 4, 10),), ())
    assert isinstance(store.adjust("lease:1", (5,)), Short)
    assert [book.leased for book in store.books()] == [4]
    assert store.release("lease:1")
    assert store.read(["book"]) == (State(6, 0, 10),)
    if store.keeps_rows:
        assert [entry.row for entry in ledger(store).values()] == [b"row a", b"row b", b"row c"]


def test_a_draw_tells_what_it_did(store: Store, claim: MakeClaim) -> None:
    store.post("p", (claim(), claim(key="b")), (1, 2))
    store.hold("lease:1", (claim(8), claim(5, key="b")), 0.0)
    one, two = Entry("x", (("b", 2), ("book", 3)), b""), Entry("y", (("book", 1),), b"")
    assert store.draw(("lease:1",), [one]) == (Drawn("b", State(4, 3, 10), 2), Drawn("book", State(4, 5, 10), 3))
    assert store.draw(("lease:1",), [one, two]) == (Drawn("book", State(5, 4, 10), 1),)
    assert store.draw(("lease:1",), [one, two]) == ()
    store.grant(Grant("g", "", 7, 0.0, 1e11, "because", "alice"))  # the account of a key without a window
    [drawn] = store.draw((), [Entry("z", (("b", 0),), b"")])
    assert drawn == Drawn("b", State(4, 3, 17), 0)


def test_a_long_draw_tells_each_step(store: Store, claim: MakeClaim) -> None:
    store.hold("lease:1", (claim(300, 1_000),), 0.0)
    told = store.draw(("lease:1",), [Entry(str(number), (("book", 1),), b"") for number in range(250)])
    assert sum(drawn.added for drawn in told) == 250
    posted = 0
    for drawn in told:
        posted += drawn.added
        assert drawn == Drawn("book", State(posted, 300 - posted, 1_000), drawn.added)


def test_what_a_hold_lacks_is_drawn_beside_it(store: Store, claim: MakeClaim) -> None:
    store.hold("lease:1", (claim(3),), 0.0)
    store.hold("lease:2", (claim(3),), 0.0)
    store.hold("other", (claim(3),), 0.0)
    store.draw(("lease:1", "gone", "lease:2"), [Entry("a", (("book", 4),), b"")])
    assert store.read(["book"]) == (State(4, 5, 10),)
    assert store.adjust("lease:1", (0,)) == Held((State(4, 5, 10),), ())
    store.draw(("lease:1", "lease:2"), [Entry("b", (("book", 7),), b"")])
    assert store.read(["book"]) == (State(11, 3, 10),)
    store.draw((), [Entry("c", (("book", 1),), b"")])
    assert store.read(["book"]) == (State(12, 3, 10),)
    assert store.settle("lease:2", (0,)) == Settled((State(12, 3, 10),), (0,))
    ledger(store)


def test_draw_over_two_books(store: Store, claim: MakeClaim) -> None:
    store.hold("lease:1", (claim(9, 10, "a"), claim(50, 100, "b")), 0.0)
    store.hold("lease:2", (claim(5, 10, "c"),), 0.0)
    store.draw(
        ("lease:1", "lease:2"),
        [Entry("x", (("a", 1), ("b", 20)), b""), Entry("y", (("b", 5), ("c", 5)), b""), Entry("z", (), b"")],
    )
    assert store.read(["a", "b", "c"]) == (State(1, 8, 10), State(25, 25, 100), State(5, 0, 10))
    assert store.settle("lease:1", (0, 0))
    assert store.release("lease:2")
    assert store.read(["a", "b", "c"]) == (State(1, 0, 10), State(25, 0, 100), State(5, 0, 10))
    assert set(ledger(store)) >= ({"x", "y", "z"} if store.keeps_rows else set())


def test_rows_that_charge_nothing(store: Store, claim: MakeClaim) -> None:
    store.write([Entry("w", (), b"one"), Entry("v", (), b"two")])
    store.write([Entry("w", (), b"changed"), Entry("u", (), b"three")])
    store.write([])
    assert store.post("w", (claim(),), (3,)) is None
    assert store.books() == [] or store.read(["book"]) == (State(0, 0, 0),)
    if store.keeps_rows:
        assert list(ledger(store).values()) == [
            Entry("w", (), b"one"),
            Entry("v", (), b"two"),
            Entry("u", (), b"three"),
        ]


def test_the_ledger_goes_on_after_a_mark(store: Store, claim: MakeClaim) -> None:
    if not store.keeps_rows:
        assert list(store.entries()) == []
        pytest.skip("rows are not kept")
    marks: list[str] = []
    for number in range(1_200):
        store.write([Entry(f"e{number}", (), bytes([number % 256]))])
    for place, (mark, entry) in enumerate(store.entries()):
        assert entry == Entry(f"e{place}", (), bytes([place % 256]))
        marks.append(mark)
    assert len(set(marks)) == 1_200
    assert [entry.id for _, entry in store.entries(marks[1_196])] == ["e1197", "e1198", "e1199"]
    assert list(store.entries(marks[-1])) == []
    store.post("late", (claim(),), (1,), b"\x00\xff\n")
    assert [entry for _, entry in store.entries(marks[-1])] == [Entry("late", (("book", 1),), b"\x00\xff\n")]


def test_rows_of_any_bytes(store: Store, claim: MakeClaim) -> None:
    rows = [b"", b"\x00" * 10, bytes(range(256)), b"x" * 100_000]
    for number, row in enumerate(rows):
        store.hold(str(number), (claim(0),), 0.0)
        store.settle(str(number), (0,), row)
    if store.keeps_rows:
        assert [entry.row for entry in ledger(store).values()] == rows


def test_the_sum_of_the_entries_is_what_is_posted(store: Store, claim: MakeClaim) -> None:
    two = (claim(2, 100, "a"), claim(3, 100, "b"))
    for number in range(5):
        store.hold(f"h{number}", two, 0.0)
    store.settle("h0", (1, 7))
    store.settle("h1", (0, 0))
    store.release("h2")
    store.post("h3", two, (2**55, 1))
    store.post("p", (claim(0, 100, "c"),), (9,))
    store.draw(("h4",), [Entry("d", (("b", 4), ("a", 1)), b"")])
    ledger(store)
    assert store.read(["a", "b", "c"]) == (State(2**55 + 2, 1, 100), State(12, 0, 100), State(9, 0, 100))
