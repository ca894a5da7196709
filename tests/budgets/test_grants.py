"""Grants, pauses, and what the books tell of themselves; for every store."""

from __future__ import annotations

import time

import pytest

from tokenmeter.budgets import (
    Book,
    Budget,
    Grant,
    Held,
    Need,
    Pause,
    Policy,
    Settled,
    Short,
    State,
    Store,
    account_of,
    grants,
    redis_views,
)

from .conftest import MakeClaim

KEY = "calls b|agent=a|total"


def grant(name: str, amount: int, from_s: float, to_s: float, account: str = account_of(KEY)) -> Grant:
    return Grant(name, account, amount, from_s, to_s, f"for {name}", "alice")


def test_a_grant_raises_the_limit(store: Store, claim: MakeClaim) -> None:
    now_s = store.time_s()
    one = claim(12, 10, KEY)
    assert isinstance(store.hold("h", (one,), now_s), Short)
    store.grant(grant("g", 5, now_s - 10, now_s + 1000))
    store.grant(grant("elsewhere", 50, now_s - 10, now_s + 1000, "calls b|agent=b"))
    assert store.hold("h", (one,), now_s) == Held((State(0, 12, 15),), ())
    short = store.hold("i", (claim(4, 10, KEY), claim(1, 10, "other")), now_s)
    assert isinstance(short, Short)
    assert (short.state, short.available, short.if_settled) == (State(0, 12, 15), (3, 10), (15, 10))
    assert not short.spent_out
    assert store.adjust("h", (15,)) == Held((State(0, 15, 15),), ())
    assert isinstance(store.adjust("h", (16,)), Short)
    assert store.read([KEY]) == (State(0, 15, 15),)
    assert [book.state for book in store.books()] == [State(0, 15, 15)]
    assert store.settle("h", (13,)) == Settled((State(13, 0, 15),), (13,))
    assert store.post("p", (one,), (1,)) == Settled((State(14, 0, 15),), (1,))
    spent_out = store.hold("j", (claim(2, 10, KEY),), now_s)
    assert isinstance(spent_out, Short)
    assert spent_out.spent_out


def test_grants_add_up_and_each_counts_once(store: Store, claim: MakeClaim) -> None:
    now_s = store.time_s()
    for _ in range(2):
        store.grant(grant("one", 5, now_s - 10, now_s + 1000))
        store.grant(grant("two", 2**55, now_s - 10, now_s + 1000))
    store.grant(grant("one", 500, now_s - 10, now_s + 1000))  # a grant never changes
    assert store.hold("h", (claim(15 + 2**55, 10, KEY),), now_s) == Held((State(0, 15 + 2**55, 15 + 2**55),), ())
    assert sorted(store.grants()) == [
        grant("one", 5, now_s - 10, now_s + 1000),
        grant("two", 2**55, now_s - 10, now_s + 1000),
    ]


def test_a_grant_begins_and_ends(store: Store, claim: MakeClaim) -> None:
    now_s = store.time_s()
    ended, to_come = grant("ended", 5, now_s - 10, now_s - 5), grant("to come", 5, now_s + 500, now_s + 1000)
    store.grant(ended)
    store.grant(to_come)
    assert isinstance(store.hold("h", (claim(11, 10, KEY),), now_s), Short)
    assert store.hold("h", (claim(1, 10, KEY),), now_s) == Held((State(0, 1, 10),), ())
    assert store.read([KEY]) == (State(0, 1, 10),)
    assert sorted(store.grants()) == [ended, to_come]


def test_grants_that_ended_make_room(store: Store, claim: MakeClaim, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (grants, redis_views):
        monkeypatch.setattr(module, "MAX_GRANTS", 20)
    now_s = store.time_s()
    for number in range(30):
        store.grant(grant(f"ended {number}", 1, 0.0, now_s - 1000 + number, f'"expires_at_s": {number}, |'))
        if number < 7:
            store.grant(grant(f"stands {number}", 1, now_s - 10, now_s + 1000))
    kept = {each.id for each in store.grants()}
    assert 18 <= len(kept) <= 20
    assert kept >= {f"stands {number}" for number in range(7)} | {f"ended {number}" for number in range(20, 30)}
    for number in range(7, 30):
        store.grant(grant(f"stands {number}", 1, now_s - 10, now_s + 1000))
    assert {each.id for each in store.grants()} >= {f"stands {number}" for number in range(30)}, "those in force stay"
    assert len(store.grants()) <= 31
    assert store.hold("h", (claim(40, 10, KEY),), now_s) == Held((State(0, 40, 40),), ())


def test_a_grant_holds_for_each_window_of_its_account(store: Store) -> None:
    now_s = store.time_s()
    policy = Policy([Budget("10 calls", per="hour", scope="agent")])
    for hour in range(3):
        [one] = policy.claims({"agent": "a"}, Need(None, 0, 14), now_s + hour * 3600)
        if hour == 0:
            store.grant(grant("g", 5, now_s - 10, now_s + 1e6, account_of(one.key)))
        assert store.hold(str(hour), (one,), now_s) == Held((State(0, 14, 15),), ())
        [other] = policy.claims({"agent": "b"}, Need(None, 0, 14), now_s + hour * 3600)
        assert isinstance(store.hold("other", (other,), now_s), Short)


def test_a_grant_lets_a_warning_rest(store: Store, claim: MakeClaim) -> None:
    now_s = store.time_s()
    soft = claim(12, 10, KEY, warns=True)
    assert store.hold("h", (soft,), now_s) == Held((State(0, 12, 10),), (soft,))
    store.release("h")
    store.grant(grant("g", 5, now_s - 10, now_s + 1000))
    assert store.hold("i", (soft,), now_s) == Held((State(0, 12, 15),), ())


def test_pauses(store: Store) -> None:
    assert store.pauses() == []
    everybody, alice = Pause("all", 1.5, "a leak", "bob"), Pause("user=alice", 2.25, "", "")
    store.pause(everybody)
    store.pause(alice)
    store.pause(everybody)
    assert sorted(store.pauses()) == [everybody, alice]
    assert store.resume("all")
    assert not store.resume("all")
    assert not store.resume("agent=alice")
    assert store.pauses() == [alice]
    store.pause(alice._replace(reason="again"))
    assert [pause.target for pause in store.pauses()] == ["user=alice"]


def test_books_tell_whose_they_are(store: Store) -> None:
    now_s = store.time_s()
    policy = Policy(
        [
            Budget("$5", per="day", scope="agent", name="daily", tz="Europe/Berlin"),
            Budget("100 tokens", per="run"),
            Budget("9 calls"),
            Budget("7 calls", per="call"),
        ]
    )
    claims = policy.claims({"agent": "a|b", "run": "r1"}, Need(10**9, 40, 2), now_s)
    assert isinstance(store.hold("h", claims, now_s), Held)
    assert isinstance(store.hold("lease:h", (claims[2],), now_s), Held)
    daily, run, total, _ = claims
    assert {book.key: book for book in store.books()} == {
        daily.key: Book(daily.key, "daily", "agent=a|b", "usd", daily.resets_at, State(0, 10**9, 5 * 10**9), 0),
        run.key: Book(run.key, "100 tokens per run", "run=r1", "tokens", None, State(0, 40, 100), 0),
        total.key: Book(total.key, "9 calls in total", "global", "calls", None, State(0, 4, 9), 2),
    }


def test_time(store: Store) -> None:
    assert store.time_s() == pytest.approx(time.time(), abs=60)


def test_nobody_here_is_gone(store: Store, claim: MakeClaim) -> None:
    store.hold("h", (claim(4),), 0.0)
    store.hold("i", (claim(4),), 0.0)
    store.sent("i")
    assert store.recover() == 0
    assert store.read(["book"]) == (State(0, 8, 10),)
