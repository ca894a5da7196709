"""What is so for books in memory alone: what they forget, and by which clock they go."""

from __future__ import annotations

from tokenmeter.budgets import Entry, Grant, Held, MemoryStore, Short, State
from tokenmeter.budgets.grants import Grants
from tokenmeter.budgets.memory_books import MAX_CHARGED

from .conftest import MakeClaim

KEY = "calls b||total"


def test_it_says_what_it_is() -> None:
    store = MemoryStore()
    assert (store.instant, store.keeps_rows, store.recover()) == (True, False, 0)
    store.write([Entry("w", (), b"row")])
    assert list(store.entries()) == []


def test_the_ids_of_charges_are_bounded(claim: MakeClaim) -> None:
    store = MemoryStore()
    one = (claim(1, 10**9),)
    for number in range(3 * MAX_CHARGED):
        store.hold(str(number), one, 0.0)
        store.settle(str(number), (1,))
        if number >= MAX_CHARGED and number % 5_000 == 0:
            assert store.post(str(number - MAX_CHARGED + 1), one, (1,)) is None
    assert len(store._books._charged) + len(store._books._charged_before) <= 2 * MAX_CHARGED
    assert store.read(["book"]) == (State(3 * MAX_CHARGED, 0, 10**9),)


class Counted(str):
    """Tells how often it was looked at."""

    __slots__ = ()
    looks = 0

    def __hash__(self) -> int:
        Counted.looks += 1
        return super().__hash__()


def test_a_grant_is_taken_in_without_going_through_the_others() -> None:
    grants = Grants()
    for number in range(1_000):
        grants.add(Grant(str(number), Counted(f"calls {number % 10}|"), 1, 0.0, 1.0, "", ""))
    assert Counted.looks <= 3_000
    assert grants.on("calls 7||total", 0.5) == 100


def test_grants_go_by_the_moment_of_the_call(claim: MakeClaim) -> None:
    store = MemoryStore()
    store.grant(Grant("g", "calls b|", 5, 100.0, 200.0, "", ""))
    for now_s, admitted in ((99.0, False), (100.0, True), (199.0, True), (200.0, False)):
        assert isinstance(store.hold("h", (claim(11, key=KEY),), now_s), Held) is admitted
        store.release("h")
    assert store.read([KEY]) == (State(0, 0, 10),)  # by the clock it is long over


def test_a_grant_that_ends_while_one_waits(claim: MakeClaim) -> None:
    store = MemoryStore()
    now_s = store.time_s()
    store.grant(Grant("g", "calls b|", 5, now_s - 10, now_s + 1000, "", ""))
    store.hold("h", (claim(10, key=KEY),), now_s)
    waiting = store.queue("i", (claim(12, key=KEY),), now_s)
    assert not isinstance(waiting, Held | Short)
    store.time_s = lambda: now_s + 2000  # type: ignore[method-assign]
    store.settle("h", (0,))
    answer = waiting.wait(0)
    assert isinstance(answer, Short)
    assert answer.spent_out
    assert answer.state == State(0, 0, 10)
