"""The verbs, one by one; for every store."""

from __future__ import annotations

import pytest

from tokenmeter.budgets import Held, Settled, Short, State, Store

from .conftest import MakeClaim


def test_hold_and_settle_keep_the_books(store: Store, claim: MakeClaim) -> None:
    claims = (claim(4, 10, "a"), claim(50, 100, "b"))
    held = store.hold("h", claims, 0.0)
    assert held == Held((State(0, 4, 10), State(0, 50, 100)), ())
    assert store.settle("h", (3, 20)) == Settled((State(3, 0, 10), State(20, 0, 100)), (3, 20))
    assert store.read(["a", "b"]) == (State(3, 0, 10), State(20, 0, 100))
    assert sorted((book.key, book.state) for book in store.books()) == [
        ("a", State(3, 0, 10)),
        ("b", State(20, 0, 100)),
    ]


def test_an_end_comes_once(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(4),), 0.0)
    store.hold("other", (claim(4),), 0.0)
    assert store.settle("h", (3,))
    assert not store.settle("h", (3,))
    assert not store.release("h")
    assert store.release("other")
    assert not store.release("other")
    assert not store.settle("other", (3,))
    assert not store.settle("never", (3,))
    assert store.read(["book"]) == (State(3, 0, 10),)


def test_all_or_none(store: Store, claim: MakeClaim) -> None:
    answer = store.hold("h", (claim(4, 10, "a"), claim(11, 10, "b")), 0.0)
    assert isinstance(answer, Short)
    assert store.read(["a", "b"]) == (State(0, 0, 0), State(0, 0, 0))
    assert not store.settle("h", (1, 1))


def test_the_limit_itself_is_admitted_and_no_more(store: Store, claim: MakeClaim) -> None:
    assert isinstance(store.hold("h", (claim(10),), 0.0), Held)
    assert isinstance(store.hold("i", (claim(1),), 0.0), Short)
    assert isinstance(store.hold("j", (claim(0),), 0.0), Held)


def test_short_tells_holds_from_spend(store: Store, claim: MakeClaim) -> None:
    store.post("p", (claim(0, 10, "a"), claim(0, 100, "b")), (3, 60))
    store.hold("h", (claim(5, 10, "a"), claim(20, 100, "b")), 0.0)

    only_held = store.hold("i", (claim(6, 10, "a"), claim(10, 100, "b")), 0.0)
    assert isinstance(only_held, Short)
    assert only_held.claims == (claim(6, 10, "a"), claim(10, 100, "b"))
    assert only_held.claim == claim(6, 10, "a")
    assert only_held.state == State(3, 5, 10)
    assert not only_held.spent_out
    assert only_held.available == (2, 20)
    assert only_held.if_settled == (7, 40)

    # The claim that is spent out speaks, although another one stands before it.
    spent_out = store.hold("i", (claim(6, 10, "a"), claim(41, 100, "b")), 0.0)
    assert isinstance(spent_out, Short)
    assert spent_out.claim.key == "b"
    assert spent_out.spent_out


def test_more_than_was_held_is_recorded_as_it_is(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(5),), 0.0)
    assert store.settle("h", (14,))
    assert store.read(["book"]) == (State(14, 0, 10),)
    short = store.hold("i", (claim(0),), 0.0)
    assert isinstance(short, Short)
    assert short.spent_out
    assert short.available == (0,)
    assert short.if_settled == (-4,)


def test_warn_lets_pass_and_says_so(store: Store, claim: MakeClaim) -> None:
    soft = claim(8, 10, "soft", warns=True)
    hard = claim(1, 10, "hard")
    assert store.hold("h", (soft, hard), 0.0) == Held((State(0, 8, 10), State(0, 1, 10)), ())
    assert store.hold("i", (soft, hard), 0.0) == Held((State(0, 16, 10), State(0, 2, 10)), (soft,))


def test_per_call_looks_at_the_call_alone(store: Store, claim: MakeClaim) -> None:
    alone = claim(8, 10, "each", alone=True)
    for number in range(3):
        assert store.hold(str(number), (alone,), 0.0) == Held((State(0, 8, 10),), ())
        assert store.settle(str(number), (7,)) == Settled((State(0, 7, 10),), (7,))
    assert store.read(["each"]) == (State(0, 0, 0),)
    assert store.books() == []
    short = store.hold("big", (claim(11, 10, "each", alone=True),), 0.0)
    assert isinstance(short, Short)
    assert short.spent_out
    assert (short.state, short.available, short.if_settled) == (State(0, 0, 10), (10,), (10,))


def test_adjust_down_and_up(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(8),), 0.0)
    store.hold("i", (claim(1),), 0.0)
    assert store.adjust("h", (5,)) == Held((State(0, 6, 10),), ())
    assert store.adjust("h", (9,)) == Held((State(0, 10, 10),), ())
    short = store.adjust("h", (10,))
    assert isinstance(short, Short)
    assert (short.state, short.spent_out, short.available, short.if_settled) == (State(0, 1, 10), False, (9,), (10,))
    assert store.read(["book"]) == (State(0, 10, 10),)
    assert store.settle("h", (9,))
    assert store.read(["book"]) == (State(9, 1, 10),)
    with pytest.raises(LookupError, match="'h'"):
        store.adjust("h", (1,))


def test_adjust_down_is_always_possible(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(5),), 0.0)
    store.post("p", (claim(),), (20,))
    assert store.adjust("h", (4,)) == Held((State(20, 4, 10),), ())
    assert isinstance(store.adjust("h", (5,)), Short)


def test_a_call_without_budgets(store: Store) -> None:
    assert store.hold("h", (), 0.0) == Held((), ())
    assert store.sent("h")
    assert store.settle("h", ()) == Settled((), ())
    assert store.settle("h", ()) is None


def test_sent_tells_whether_the_hold_stands(store: Store, claim: MakeClaim) -> None:
    assert not store.sent("h")
    store.hold("h", (claim(4),), 0.0, note=lambda: b"the row of a call that is never heard of again")
    assert store.sent("h")
    assert store.sent("h")
    store.settle("h", (4,))
    assert not store.sent("h")
    store.hold("i", (claim(4),), 0.0)
    assert store.release("i")
    assert not store.sent("i")
    store.hold("j", (claim(4),), 0.0)
    assert store.sent("j")
    assert store.release("j")  # the provider refused it, unbilled
    assert store.read(["book"]) == (State(4, 0, 10),)


def test_no_sum_is_too_large(store: Store, claim: MakeClaim) -> None:
    large = 2**60
    claims = (claim(large - 1, large, "a"), claim(1, large, "b"))
    assert store.hold("h", claims, 0.0) == Held((State(0, large - 1, large), State(0, 1, large)), ())
    assert isinstance(store.hold("i", (claim(2, large, "a"),), 0.0), Short)
    assert store.hold("i", (claim(1, large, "a"),), 0.0) == Held((State(0, large, large),), ())
    settled = store.settle("h", (large - 3, large - 1))
    assert settled == Settled((State(large - 3, 1, large), State(large - 1, 0, large)), (large - 3, large - 1))
    assert store.adjust("i", (3,)) == Held((State(large - 3, 3, large),), ())
    short = store.adjust("i", (4,))
    assert isinstance(short, Short)
    assert (short.available, short.if_settled) == ((3,), (3,))
    assert store.settle("i", (2**53 + 1,)) == Settled((State(large + 2**53 - 2, 0, large),), (2**53 + 1,))
    assert store.read(["a", "b"]) == (State(large + 2**53 - 2, 0, large), State(large - 1, 0, large))


def test_a_limit_may_change_between_calls(store: Store, claim: MakeClaim) -> None:
    assert store.hold("h", (claim(8, 10),), 0.0) == Held((State(0, 8, 10),), ())
    short = store.hold("i", (claim(1, 8),), 0.0)
    assert isinstance(short, Short)
    assert (short.state, short.available, short.if_settled) == (State(0, 8, 8), (0,), (8,))
    assert store.hold("i", (claim(10, 18),), 0.0) == Held((State(0, 18, 18),), ())
    assert store.read(["book"]) == (State(0, 18, 18),)
    # A hold that stands is worth what it was made for; it may shrink under the new limit.
    assert isinstance(store.adjust("h", (7,)), Held)
    assert store.settle("h", (8,))
    assert store.settle("i", (10,))
    [state] = store.read(["book"])
    assert (state.posted, state.held) == (18, 0)


def test_many_claims(store: Store, claim: MakeClaim) -> None:
    claims = [claim(1, 10, f"book {number}") for number in range(40)]
    assert isinstance(store.hold("h", claims, 0.0), Held)
    assert store.settle("h", [2] * 40) == Settled((State(2, 0, 10),) * 40, (2,) * 40)
    assert len(store.books()) == 40
    short = store.hold("i", [*claims[:39], claim(9, 10, "book 39")], 0.0)
    assert isinstance(short, Short)
    assert short.claim.key == "book 39"
    assert store.read([claim.key for claim in claims]) == (State(2, 0, 10),) * 40


ODD = [
    "",
    " ",
    "a b",
    "ключ",
    "日本",
    "a'b\"c",
    "a%sb",
    "{tag}",
    "a:b:c",
    "x\ny",
    "%007C|agent=(none)|total",
    "k" * 700,
]


def test_keys_and_ids_of_any_kind(store: Store, claim: MakeClaim) -> None:
    for number, odd in enumerate(ODD):
        assert isinstance(store.hold(f"{odd[:190]} {number}", (claim(2, 10, odd),), 0.0), Held)
        assert isinstance(store.hold(f"{odd[:190]} other {number}", (claim(3, 10, odd),), 0.0), Held)
        assert store.settle(f"{odd[:190]} {number}", (2,)) == Settled((State(2, 3, 10),), (2,))
    assert store.read(ODD) == (State(2, 3, 10),) * len(ODD)
    assert {book.key: book.state for book in store.books()} == dict.fromkeys(ODD, State(2, 3, 10))


def test_wrong_use_is_told(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(1),), 0.0)
    with pytest.raises(ValueError, match="in use"):
        store.hold("h", (claim(1),), 0.0)
    with pytest.raises(ValueError, match="same key"):
        store.hold("i", (claim(1), claim(2)), 0.0)
    for amounts in ((), (1, 2), (-1,)):
        with pytest.raises(ValueError, match="amounts"):
            store.settle("h", amounts)
        with pytest.raises(ValueError, match="amounts"):
            store.adjust("h", amounts)
        with pytest.raises(ValueError, match="amounts"):
            store.post("p", (claim(),), amounts)
    with pytest.raises(ValueError, match="zero or more"):
        store.hold("i", (claim(-1),), 0.0)
    with pytest.raises(LookupError, match="never"):
        store.adjust("never", (1,))
    assert store.read(["book"]) == (State(0, 1, 10),)
    assert store.settle("h", (1,))


def test_left_is_never_below_zero() -> None:
    assert State(3, 4, 10).left == 3
    assert State(13, 4, 10).left == 0
