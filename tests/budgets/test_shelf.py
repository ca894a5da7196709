"""Books that are over are dropped, and no others."""

from __future__ import annotations

from tokenmeter.budgets import Budget, Claim, MemoryStore, Need, Policy, State

NOW_S = 1_795_521_600.0
HOUR_S = 3600.0


def one(budget: Budget, now_s: float = NOW_S, **facts: str) -> Claim:
    return Policy([budget]).claims(facts, Need(None, 0), now_s)[0]


def use(store: MemoryStore, claim: Claim, now_s: float = NOW_S) -> None:
    store.hold(claim.key, (claim,), now_s)
    store.settle(claim.key, (1,))


def test_ended_windows_are_dropped() -> None:
    store = MemoryStore()
    policy = Policy([Budget("10 calls", per="hour"), Budget("1M calls", scope="team")])
    for hour in range(20_000):
        now_s = NOW_S + hour * HOUR_S
        claims = policy.claims({"team": str(hour % 7)}, Need(None, 0), now_s)
        store.hold(str(hour), claims, now_s)
        store.settle(str(hour), (1, 1))
        assert hour % 64 or len(store.books()) <= 1024
    totals = [book.state.posted for book in store.books() if "|total" in book.key]
    assert sum(totals) == 20_000
    assert len(store._books._shelf._claims) <= 1024


def test_a_book_with_a_hold_outlives_its_window() -> None:
    store = MemoryStore()
    budget = Budget("10 calls", per="hour", scope="user")
    held = one(budget, user="slow")
    store.hold("slow", (held,), NOW_S)
    waits = one(Budget("1 call", per="hour", scope="user"), user="waits")
    store.hold("w", (waits,), NOW_S)
    ticket = store.queue("waits", (waits,), NOW_S)
    later_s = NOW_S + 100 * HOUR_S
    for number in range(3000):
        use(store, one(budget, later_s, user=str(number)), later_s)
    assert store.read([held.key, waits.key]) == (State(0, 1, 10), State(0, 1, 1))
    assert store.settle("slow", (1,))
    assert store.read([held.key]) == (State(1, 0, 10),)
    del ticket


def test_a_hold_of_nothing_settles_after_its_book_was_dropped() -> None:
    store = MemoryStore()
    budget = Budget("10 calls", per="hour", scope="user")
    nothing = one(budget, user="slow")._replace(amount=0)
    store.hold("slow", (nothing,), NOW_S)
    later_s = NOW_S + 100 * HOUR_S
    for number in range(3000):
        use(store, one(budget, later_s, user=str(number)), later_s)
    assert store.read([nothing.key]) == (State(0, 0, 0),)
    assert store.adjust("slow", (0,))
    assert store.settle("slow", (2,))
    assert store.read([nothing.key]) == (State(2, 0, 10),)


def test_idle_runs_are_dropped_when_there_are_too_many() -> None:
    store = MemoryStore(max_idle_runs=100)
    budget = Budget("100k calls", per="run")
    busy = one(budget, run="busy")
    for number in range(10_000):
        use(store, one(budget, run=str(number)))
        use(store, busy)
        assert number % 64 or len(store.books()) <= 2100
    assert store.read([busy.key]) == (State(10_000, 0, 100_000),)


def test_totals_are_never_dropped() -> None:
    store = MemoryStore(max_idle_runs=10)
    budget = Budget("10 calls", scope="user")
    for number in range(5000):
        use(store, one(budget, user=str(number)), NOW_S + number * HOUR_S)
    assert len(store.books()) == 5000
