"""Random histories of every store against one plain model: the books are always those of the model.

``TOKENMETER_HYPOTHESIS=long`` makes it look for an hour instead of half a minute.
"""

from __future__ import annotations

import datetime as dt
import gc
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.redis_server import RedisServer
from tokenmeter.budgets import Budget, Claim, Entry, Grant, Held, Need, Policy, Settled, Short, Store, account_of
from tokenmeter.budgets.ticket import MemoryTicket

from .model import Claims, Model, shared
from .places import Memory, Place, Redis, Sqlite, die

LONG = os.environ.get("TOKENMETER_HYPOTHESIS") == "long"


def policy(part: int, soft: str, hard: str) -> Policy:
    """The same books each time, and other limits."""
    return Policy(
        [
            Budget(f"{6 * part} calls", per="hour", tz="Australia/Lord_Howe"),
            Budget(f"{100 * part} tokens", per="day", scope="agent", tz="America/New_York"),
            Budget(f"$0.000000{150 * part}", per="month", scope="team", on_exceed="clamp", tz="Europe/Berlin"),
            Budget(f"{60 * part} tokens", per="week", scope="agent", on_exceed=soft, tz="Europe/Berlin"),  # type: ignore[arg-type]
            Budget(f"{90 // part} tokens", per="run", on_exceed=hard),  # type: ignore[arg-type]
            Budget(f"{45 * part} tokens", per="call"),
        ]
    )


POLICIES = [policy(2, "warn", "refuse"), policy(1, "warn", "refuse"), policy(5, "refuse", "warn")]
FACTS = st.fixed_dictionaries(
    {
        "agent": st.sampled_from(["a", "a", None]),
        "team": st.just("b|ue"),
        "run": st.sampled_from(["r1", "r1", "r2"]),
    }
)
NEEDS = st.tuples(st.none() | st.integers(0, 80) | st.integers(0, 150), st.integers(0, 25) | st.integers(0, 50)).map(
    lambda need: Need(*need)
)
SMALL = st.tuples(st.integers(0, 20), st.integers(0, 8)).map(lambda need: Need(*need))
Pick = st.integers(0, 1_000)
Rows = st.sampled_from([b"", b"row", b"\x00\xff\r\n"])
Facts = dict[str, str | None]
Call = tuple[Facts, Need, bytes, bool]  # ... the note, and whether it is sent
CALLS = st.lists(st.tuples(FACTS, NEEDS, Rows, st.booleans()), min_size=1, max_size=3)

# Around each of these moments a clock changes, and with it where a window ends. All lie ahead: books of windows
# that ended long ago may be dropped.
CHANGES = [
    int(dt.datetime.fromisoformat(moment).timestamp())
    for moment in (
        "2040-03-25T01:00Z",  # Europe/Berlin forward, and back
        "2040-10-28T01:00Z",
        "2040-03-11T07:00Z",  # America/New_York
        "2040-11-04T06:00Z",
        "2040-09-30T15:30Z",  # Australia/Lord_Howe, by half an hour
        "2040-10-06T15:30Z",
        "2040-03-31T15:00Z",
        "2040-12-31T23:00Z",
    )
]
# Mostly an hour more or less, so that books are met again.
SHIFTS = st.one_of(st.integers(-9_000, 9_000), st.sampled_from([-1, 0, 1]), st.integers(-(10**6), 10**6))


def window_in_words(claim: Claim, now_s: float) -> str:
    """The window of a claim by what the clocks on the wall show, without a look at how windows are reckoned."""
    wall = dt.datetime.fromtimestamp(now_s, ZoneInfo(claim.budget.tz))
    return {
        "hour": f"{wall:%Y-%m-%d %H %z}",
        "day": f"{wall:%Y-%m-%d}",
        "week": "{}-{}".format(*wall.isocalendar()[:2]),
        "month": f"{wall:%Y-%m}",
    }.get(claim.budget.per, "")


class Books(RuleBasedStateMachine):
    """What all stores have to do; there are ``PROCESSES`` of them on the same books."""

    PROCESSES = 1

    @initialize(change=st.sampled_from(CHANGES))
    def start(self, change: int) -> None:
        self.place = self.make_place()
        self.stores: list[Store] = [self.place.open() for _ in range(self.PROCESSES)]
        self.owners = list(range(self.PROCESSES))  # a number for each process there ever was
        self.model = Model()
        self.policy = POLICIES[0]
        self.change = change
        self.now_s = float(change)
        self.number = 0
        self.claims_of: dict[str, Claims] = {}
        self.ended: list[str] = []
        self.windows: dict[tuple[str, str, str], str] = {}

    def make_place(self) -> Place:
        raise NotImplementedError

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.place.close()

    # -- what the rules share

    def _new(self, facts: Facts, need: Need, prefix: str = "h") -> tuple[str, Claims]:
        self.number += 1
        hold_id = f"{prefix}{self.number}"
        claims = self.policy.claims(facts, need, self.now_s)
        for claim in claims:
            window = (claim.budget.kept_for + claim.budget.tz, claim.scope, window_in_words(claim, self.now_s))
            assert self.windows.setdefault(window, claim.key) == claim.key
            assert claim.resets_at is None or claim.resets_at > self.now_s
        assert len(set(self.windows.values())) == len(self.windows)
        self.claims_of[hold_id] = claims
        return hold_id, claims

    def _store(self, pick: int) -> Store:
        return self.stores[pick % len(self.stores)]

    def _pick(self, pick: int) -> str:
        """A hold that stands, the ones handed to waiters too."""
        return sorted(self.model.holds)[pick % len(self.model.holds)]

    def _before_use(self, hold_id: str) -> None:
        """Whose hold was made while it waited learns of it before it goes on."""

    def _same(self, found: Settled | None, expected: Settled | None) -> None:
        """The same but for the limit, where several were spoken of."""
        assert (found is None) is (expected is None)
        if found is not None and expected is not None:
            assert found.added == expected.added
            assert [state[:2] for state in found.states] == [state[:2] for state in expected.states]

    def _answered(self, found: Held | Short, expected: Held | Short) -> None:
        if isinstance(found, Short):
            found = Short(
                tuple(found.claims), found.claim, found.state, found.spent_out, found.available, found.if_settled
            )
        assert found == expected
        if isinstance(found, Held):
            for claim, state in zip(self.last, found.states, strict=True):
                if claim.enforce and not self.shrinks:
                    assert state.posted + state.held <= state.limit

    # -- the rules

    @rule(calls=CALLS, pick=Pick)
    def hold(self, calls: list[Call], pick: int) -> None:
        for facts, need, note, is_sent in calls:
            hold_id, claims = self._new(facts, need)
            self._hold(hold_id, claims, pick, note)
            if is_sent and hold_id in self.model.holds:
                self._sent(hold_id)

    @rule(facts=FACTS, need=NEEDS, pick=Pick, which=Pick, note=Rows)
    def lease(self, facts: Facts, need: Need, pick: int, which: int, note: bytes) -> None:
        hold_id, claims = self._new(facts, need, "lease:")
        places = [claim for claim in claims if shared(claim)]
        self._hold(hold_id, (places[which % len(places)],), pick, note)

    def _hold(self, hold_id: str, claims: Claims, pick: int, note: bytes) -> None:
        self.claims_of[hold_id] = self.last = claims
        self.shrinks = False
        owner = self.owners[pick % len(self.stores)]
        answer = self._store(pick).hold(hold_id, claims, self.now_s, lambda: note)
        self._answered(answer, self.model.hold(hold_id, claims, owner, note))

    @precondition(lambda self: self.model.holds)
    @rule(pick=Pick)
    def sent(self, pick: int) -> None:
        self._sent(self._pick(pick))

    def _sent(self, hold_id: str) -> None:
        self._before_use(hold_id)
        standing = self.model.holds[hold_id]
        assert self.stores[self.owners.index(standing.owner)].sent(hold_id)
        standing.sent = True

    @precondition(lambda self: self.model.holds)
    @rule(pick=Pick, data=st.data(), row=Rows)
    def settle(self, pick: int, data: Any, row: bytes) -> None:
        hold_id = self._pick(pick)
        claims = self.model.holds[hold_id].claims
        self._settle(hold_id, [data.draw(st.integers(0, claim.amount)) for claim in claims], pick, row)

    @precondition(lambda self: self.model.holds)
    @rule(pick=Pick, more=st.integers(1, 40), row=Rows)
    def settle_more_than_held(self, pick: int, more: int, row: bytes) -> None:
        hold_id = self._pick(pick)
        claims = self.model.holds[hold_id].claims
        self._settle(hold_id, [claim.amount + more for claim in claims], pick, row)

    def _settle(self, hold_id: str, spent: list[int], pick: int, row: bytes) -> None:
        self._before_use(hold_id)
        self._same(self._store(pick).settle(hold_id, spent, row), self.model.settle(hold_id, spent, row))
        self.ended.append(hold_id)
        self.model.serve()

    @precondition(lambda self: self.model.holds)
    @rule(pick=Pick)
    def release(self, pick: int) -> None:
        hold_id = self._pick(pick)
        self._before_use(hold_id)
        assert self._store(pick).release(hold_id) is self.model.release(hold_id) is True
        self.ended.append(hold_id)
        self.model.serve()

    @precondition(lambda self: self.model.holds)
    @rule(pick=Pick, need=NEEDS)
    def adjust(self, pick: int, need: Need) -> None:
        hold_id = self._pick(pick)
        self._before_use(hold_id)
        old = self.last = self.model.holds[hold_id].claims
        amounts = Policy.amounts(old, need)
        self.shrinks = any(amount <= claim.amount for claim, amount in zip(old, amounts, strict=True))
        self._answered(self._store(pick).adjust(hold_id, amounts), self.model.adjust(hold_id, amounts))
        self.model.serve()

    @rule(facts=FACTS, need=SMALL, pick=Pick, row=Rows)
    def post(self, facts: Facts, need: Need, pick: int, row: bytes) -> None:
        entry_id, claims = self._new(facts, need, "p")
        self._post(entry_id, claims, Policy.amounts(claims, need), pick, row)

    @precondition(lambda self: self.model.holds)
    @rule(need=NEEDS, pick=Pick, row=Rows)
    def post_for_a_hold(self, need: Need, pick: int, row: bytes) -> None:
        hold_id = self._pick(pick)
        self._before_use(hold_id)
        claims = self.model.holds[hold_id].claims
        self._post(hold_id, claims, Policy.amounts(claims, need), pick, row)

    def _post(self, entry_id: str, claims: Claims, spent: tuple[int, ...], pick: int, row: bytes) -> None:
        found = self._store(pick).post(entry_id, claims, spent, row)
        self._same(found, self.model.post(entry_id, claims, spent, row))
        self.ended.append(entry_id)
        self.model.serve()

    @precondition(lambda self: self.ended)
    @rule(pick=Pick, need=NEEDS, row=Rows)
    def say_it_once_more(self, pick: int, need: Need, row: bytes) -> None:
        hold_id = self.ended[pick % len(self.ended)]
        claims = self.claims_of[hold_id]
        assert not self._store(pick).sent(hold_id)
        assert not self._store(pick).release(hold_id)
        assert self._store(pick).settle(hold_id, [1] * len(claims), row) is None
        if hold_id in self.model.entries:
            assert self._store(pick).post(hold_id, claims, [1] * len(claims), row) is None

    @precondition(lambda self: self.model.dropped)
    @rule(pick=Pick, need=NEEDS, row=Rows)
    def spend_what_was_given_back(self, pick: int, need: Need, row: bytes) -> None:
        hold_id = sorted(self.model.dropped)[pick % len(self.model.dropped)]
        claims = self.claims_of[hold_id]
        self._post(hold_id, claims, Policy.amounts(claims, need), pick, row)

    @precondition(lambda self: self.model.holds)
    @rule(picks=st.lists(Pick, min_size=1, max_size=3), amounts=st.lists(st.integers(0, 30), min_size=1, max_size=3))
    def draw(self, picks: list[int], amounts: list[int]) -> None:
        hold_ids = list(dict.fromkeys(self._pick(pick) for pick in picks))
        for hold_id in hold_ids:
            self._before_use(hold_id)
        keys = sorted({c.key for hold_id in hold_ids for c in self.model.holds[hold_id].claims if shared(c)})
        entries = [self._drawn(keys, amount, picks[0]) for amount in amounts]
        found, expected = self._store(picks[0]).draw(hold_ids, entries), self.model.draw(hold_ids, entries)
        for drawn, told in zip(found, expected, strict=True):
            assert (drawn.key, drawn.state[:2], drawn.added) == (told.key, told.state[:2], told.added)
            if len(self.model.limits[drawn.key]) == 1:
                assert drawn.state.limit == told.state.limit
        assert self._store(picks[0]).draw(hold_ids, entries) == ()  # once more, which changes nothing
        self.ended += [entry.id for entry in entries]
        self.model.serve()

    def _drawn(self, keys: list[str], amount: int, pick: int) -> Entry:
        self.number += 1
        self.claims_of[f"d{self.number}"] = ()
        some = keys[pick % (len(keys) + 1) :]
        return Entry(f"d{self.number}", tuple((key, amount) for key in some), b"drawn")

    @rule(row=Rows, pick=Pick)
    def write(self, row: bytes, pick: int) -> None:
        self.number += 1
        entry = Entry(f"w{self.number}", (), row)
        self._store(pick).write([entry, entry._replace(row=b"another")])
        self.model.entries[entry.id] = entry
        self.claims_of[entry.id] = ()
        self.ended.append(entry.id)

    @precondition(lambda self: self.claims_of)
    @rule(pick=Pick, amount=st.integers(0, 100), when=st.sampled_from(["in force", "in force", "over", "far off"]))
    def grant(self, pick: int, amount: int, when: str) -> None:
        known = sorted(
            {account_of(claim.key) for claims in self.claims_of.values() for claim in claims if shared(claim)}
        )
        if known:
            self.number += 1
            from_s, to_s = {"in force": (0.0, 1e11), "over": (0.0, 1.0), "far off": (9e10, 1e11)}[when]
            grant = Grant(f"g{self.number}", known[pick % len(known)], amount, from_s, to_s, "because", "alice")
            self._store(pick).grant(grant)
            self._store(pick + 1).grant(grant)
            self.model.grants[grant.id] = grant
            self.model.serve()

    @rule(which=st.none() | st.sampled_from(POLICIES), shift_s=SHIFTS)
    def the_world_changes(self, which: Policy | None, shift_s: int) -> None:
        """The policy is read again, or time passes; on some clocks it also goes back."""
        if which is not None:
            self.policy = which
        else:
            self.now_s = float(self.change + shift_s)

    # -- what is always so

    @invariant()
    def the_books_are_those_of_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        books = {book.key: book for book in self._store(self.number).books()}
        for key, book in books.items():
            state = book.state
            assert (key, state.posted) == (key, self.model.posted[key])
            assert (key, state.held) == (key, self.model.held(key))
            assert (key, book.leased) == (key, self.model.held(key, "lease:"))
            assert state.limit - self.model.raised(key) in self.model.limits[key]
            if key not in self.model.overspent:
                assert state.posted + state.held <= state.limit
        missing = {key for key in self.model.limits if key not in books and "|call" not in key}
        assert not any(self.model.posted[key] or self.model.held(key) for key in missing)
        assert self._store(self.number).read(books) == tuple(book.state for book in books.values())

    @invariant()
    def the_ledger_is_that_of_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        store = self._store(self.number)
        found = [entry for _, entry in store.entries()]
        if not store.keeps_rows:
            assert not found
            return
        assert sorted(entry.id for entry in found) == sorted(self.model.entries)
        charged = Counter[str]()
        for entry in found:
            expected = self.model.entries[entry.id]
            charges = {key: amount for key, amount in entry.charges if amount and "|call" not in key}
            assert charges == {key: amount for key, amount in expected.charges if amount}
            assert entry.row == expected.row
            charged.update(charges)
        assert +charged == +self.model.posted


class BooksThatLast(Books):
    """What stores add that outlive a process."""

    PROCESSES = 2

    @rule(
        pick=Pick,
        how=st.sampled_from(["recover", "open", "hold"]),
        killed=st.booleans(),
        begun=CALLS,
        facts=FACTS,
        need=NEEDS,
    )
    def a_process_ends(self, pick: int, how: str, killed: bool, begun: list[Call], facts: Facts, need: Need) -> None:
        self.hold(begun, pick)
        place = pick % len(self.stores)
        gone, survivor = self.stores[place], self.stores[1 - place]
        if killed:
            die(gone)
        else:
            gone.close()
        owner = self.owners[place]
        self.owners[place] = max(self.owners) + 1
        fitted_before = False
        if how == "hold":
            hold_id, claims = self._new(facts, need)
            self.claims_of[hold_id] = self.last = claims
            self.shrinks = False
            # Fits it beside the dead? Then nobody looks after them.
            fitted_before = isinstance(self.model._ask(claims, None), Held)
            if fitted_before:
                assert isinstance(survivor.hold(hold_id, claims, self.now_s, lambda: b"x"), Held)
                self.model.hold(hold_id, claims, self.owners[1 - place], b"x")
            else:
                answer = survivor.hold(hold_id, claims, self.now_s, lambda: b"x")
                self.model.die(owner)
                self._answered(answer, self.model.hold(hold_id, claims, self.owners[1 - place], b"x"))
        ended = self.model.die(owner)
        if how == "recover" or fitted_before:
            found = survivor.recover()
            assert found == ended if killed else found <= ended  # who closes may tidy up
        self.stores[place] = self.place.open()
        assert survivor.recover() == 0
        self.ended += [hold_id for hold_id in self.model.dropped if hold_id not in self.ended]

    @precondition(lambda self: self.model.estimated)
    @rule(pick=Pick, need=NEEDS, row=Rows, posts=st.booleans())
    def a_late_word(self, pick: int, need: Need, row: bytes, posts: bool) -> None:
        hold_id = sorted(self.model.estimated)[pick % len(self.model.estimated)]
        claims = self.model.estimated[hold_id]
        spent = Policy.amounts(claims, need)
        if posts:
            self._post(hold_id, claims, spent, pick, row)
        else:
            self._same(self._store(pick).settle(hold_id, spent, row), self.model.settle(hold_id, spent, row))
            self.ended.append(hold_id)


class InMemory(Books):
    """The line of a store in memory can be looked at: who waits, and who is next."""

    def make_place(self) -> Place:
        self.tickets: dict[str, MemoryTicket] = {}
        return Memory()

    def _before_use(self, hold_id: str) -> None:
        if (ticket := self.tickets.pop(hold_id, None)) is not None:
            assert isinstance(ticket.wait(0), Held)

    @rule(facts=FACTS, need=NEEDS)
    def queue(self, facts: Facts, need: Need) -> None:
        hold_id, claims = self._new(facts, need)
        answer = self.stores[0].queue(hold_id, claims, self.now_s)
        expected = self.model._ask(claims, None)
        if isinstance(expected, Held):
            assert answer == self.model.hold(hold_id, claims, 0, b"")
        elif expected.spent_out:
            assert answer == expected
        else:
            assert isinstance(answer, MemoryTicket)
            self.tickets[hold_id] = answer
            self.model.waiting[hold_id] = claims

    @precondition(lambda self: self.tickets)
    @rule(pick=Pick, how=st.sampled_from(["time over", "caller crashes", "release"]))
    def leave(self, pick: int, how: str) -> None:
        hold_id = sorted(self.tickets)[pick % len(self.tickets)]
        ticket = self.tickets.pop(hold_id)
        was_held = hold_id in self.model.holds
        self.model.waiting.pop(hold_id, None)
        if how == "time over":
            assert isinstance(ticket.wait(0), Held) is was_held
        elif how == "release":
            assert self.stores[0].release(hold_id) is (was_held or hold_id not in self.model.refused)
            self.model.release(hold_id)
        else:
            del ticket
            gc.collect(0)
            self.model.release(hold_id)
        self.model.serve()

    @invariant()
    def everybody_has_the_answer_that_is_due(self) -> None:
        if not hasattr(self, "tickets"):
            return
        for hold_id, ticket in self.tickets.items():
            answer = ticket._waiter.answer
            if hold_id in self.model.holds:
                assert isinstance(answer, Held)
            elif hold_id in self.model.refused:
                assert isinstance(answer, Short)
                assert answer.spent_out
            else:
                assert answer is None


class InSqlite(BooksThatLast):
    def make_place(self) -> Place:
        self.folder = Path(tempfile.mkdtemp(prefix="tokenmeter-machine-"))
        return Sqlite(self.folder)

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)


def run(machine: type[Books], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples * 60 if LONG else examples,
            stateful_step_count=80 if LONG else 40,
            deadline=None,
            phases=[phase for phase in settings().phases if phase is not Phase.explain],  # it takes minutes
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def test_books_in_memory() -> None:
    run(InMemory, 250)


def test_books_in_sqlite() -> None:
    pytest.importorskip("tokenmeter.budgets.sqlite")
    run(InSqlite, 100)


def test_books_in_redis(redis_server: RedisServer, tmp_path: Path) -> None:
    pytest.importorskip("tokenmeter.budgets.redis")

    class InRedis(BooksThatLast):
        def make_place(self) -> Place:
            return Redis(redis_server, tmp_path)

    run(InRedis, 100)
