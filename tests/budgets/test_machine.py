"""Random calls against a simple model: never more than the limit, and books that balance."""

from __future__ import annotations

import gc
from collections import defaultdict
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tokenmeter.budgets import Budget, Claim, Held, MemoryStore, Need, Policy, Short, State
from tokenmeter.budgets.ticket import MemoryTicket

POLICY = Policy(
    [
        Budget("6 calls", per="hour"),
        Budget("100 tokens", per="day", scope="agent"),
        Budget("$0.000000300", scope="team", on_exceed="clamp"),
        Budget("60 tokens", per="hour", scope="agent", on_exceed="warn"),
        Budget("45 tokens", per="call"),
    ]
)
FACTS = st.fixed_dictionaries({"agent": st.sampled_from(["a", "b", None]), "team": st.sampled_from(["red", "blue"])})
NEEDS = st.tuples(st.one_of(st.none(), st.integers(0, 150)), st.integers(0, 50)).map(lambda need: Need(*need))
Pick = st.integers(0, 1_000)


def in_line(claim: Claim) -> bool:
    return claim.enforce and claim.budget.per != "call"


class Model:
    """The same books, done slowly."""

    def __init__(self) -> None:
        self.posted: dict[str, int] = defaultdict(int)
        self.holds: dict[str, tuple[Claim, ...]] = {}
        self.waiting: dict[str, tuple[Claim, ...]] = {}
        self.refused: set[str] = set()

    def held(self, key: str) -> int:
        return sum(claim.amount for claims in self.holds.values() for claim in claims if claim.key == key)

    def spent_out(self, claims: tuple[Claim, ...]) -> bool:
        return any(
            (claim.amount if claim.budget.per == "call" else self.posted[claim.key] + claim.amount) > claim.limit
            for claim in claims
            if claim.enforce
        )

    def fits(self, claims: tuple[Claim, ...]) -> bool:
        return not self.spent_out(claims) and all(
            self.posted[claim.key] + self.held(claim.key) + claim.amount <= claim.limit
            for claim in claims
            if in_line(claim)
        )

    def blocked(self, claims: tuple[Claim, ...]) -> bool:
        waited_for = {claim.key for others in self.waiting.values() for claim in others if in_line(claim)}
        return any(claim.key in waited_for for claim in claims if in_line(claim))

    def serve(self) -> None:
        """Go through all who wait, in order, until nothing changes."""
        for hold_id, claims in list(self.waiting.items()):
            if self.spent_out(claims):
                del self.waiting[hold_id]
                self.refused.add(hold_id)
        before: set[str] = set()
        for hold_id, claims in list(self.waiting.items()):
            keys = {claim.key for claim in claims if in_line(claim)}
            if not keys & before and self.fits(claims):
                self.holds[hold_id] = self.waiting.pop(hold_id)
            else:
                before |= keys


class Books(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.store = MemoryStore()
        self.model = Model()
        self.tickets: dict[str, MemoryTicket] = {}
        self.claims_of: dict[str, tuple[Claim, ...]] = {}
        self.overspent: set[str] = set()
        self.ended: list[str] = []
        self.now_s = 1_795_521_600.0
        self.number = 0

    def _new(self, facts: dict[str, str | None], need: Need) -> tuple[str, tuple[Claim, ...]]:
        self.number += 1
        hold_id = f"h{self.number}"
        claims = self.claims_of[hold_id] = POLICY.claims(facts, need, self.now_s)
        return hold_id, claims

    def _pick(self, pick: int) -> str | None:
        """A hold that stands, the ones handed to waiters too."""
        return sorted(self.model.holds)[pick % len(self.model.holds)] if self.model.holds else None

    def _ended(self, hold_id: str) -> None:
        self.ended.append(hold_id)
        self.tickets.pop(hold_id, None)

    @rule(facts=FACTS, need=NEEDS)
    def hold(self, facts: dict[str, str | None], need: Need) -> None:
        hold_id, claims = self._new(facts, need)
        answer = self.store.hold(hold_id, claims, self.now_s)
        fits = self.model.fits(claims) and not self.model.blocked(claims)
        assert isinstance(answer, Held) is fits
        if isinstance(answer, Short):
            self._check_short(answer, claims)
            return
        self._check_warned(answer, claims)
        self.model.holds[hold_id] = claims

    def _check_short(self, short: Short, claims: tuple[Claim, ...]) -> None:
        assert short.spent_out is self.model.spent_out(claims)
        assert short.claim in claims
        assert short.claim.enforce
        for claim, available, if_settled in zip(claims, short.available, short.if_settled, strict=True):
            if claim.budget.per == "call":
                assert available == if_settled == claim.limit
                continue
            left = claim.limit - self.model.posted[claim.key]
            assert if_settled == left
            blocked = self.model.blocked((claim,))
            assert available == (0 if blocked else max(0, left - self.model.held(claim.key)))

    def _check_warned(self, held: Held, claims: tuple[Claim, ...]) -> None:
        for claim, state in zip(claims, held.states, strict=True):
            if claim.budget.per == "call":
                assert state == State(0, claim.amount, claim.limit)
                continue
            posted, before = self.model.posted[claim.key], self.model.held(claim.key)
            assert state == State(posted, before + claim.amount, claim.limit)
            over = not claim.enforce and posted + before + claim.amount > claim.limit
            assert (claim in held.warned) is over

    @rule(facts=FACTS, need=NEEDS)
    def queue(self, facts: dict[str, str | None], need: Need) -> None:
        hold_id, claims = self._new(facts, need)
        answer = self.store.queue(hold_id, claims, self.now_s)
        if self.model.spent_out(claims):
            assert isinstance(answer, Short)
            assert answer.spent_out
        elif self.model.fits(claims) and not self.model.blocked(claims):
            assert isinstance(answer, Held)
            self.model.holds[hold_id] = claims
        else:
            assert isinstance(answer, MemoryTicket)
            self.tickets[hold_id] = answer
            self.model.waiting[hold_id] = claims

    @rule(pick=Pick, data=st.data())
    def settle(self, pick: int, data: Any) -> None:
        if (hold_id := self._pick(pick)) is None:
            return
        claims = self.model.holds.pop(hold_id)
        spent = [data.draw(st.integers(0, claim.amount)) for claim in claims]
        self._settle(hold_id, claims, spent)

    @rule(pick=Pick, more=st.integers(1, 80))
    def settle_more_than_held(self, pick: int, more: int) -> None:
        if (hold_id := self._pick(pick)) is None:
            return
        claims = self.model.holds.pop(hold_id)
        self.overspent |= {claim.key for claim in claims}
        self._settle(hold_id, claims, [claim.amount + more for claim in claims])

    def _settle(self, hold_id: str, claims: tuple[Claim, ...], spent: list[int]) -> None:
        self._take(hold_id)
        assert self.store.settle(hold_id, spent)
        for claim, amount in zip(claims, spent, strict=True):
            self.model.posted[claim.key] += amount
        self._ended(hold_id)
        self.model.serve()

    def _take(self, hold_id: str) -> None:
        """Whose hold was made while it waited learns of it before it goes on."""
        if (ticket := self.tickets.pop(hold_id, None)) is not None:
            assert isinstance(ticket.wait(0), Held)

    @rule(pick=Pick)
    def release(self, pick: int) -> None:
        if (hold_id := self._pick(pick)) is None:
            return
        self._take(hold_id)
        assert self.store.release(hold_id)
        del self.model.holds[hold_id]
        self._ended(hold_id)
        self.model.serve()

    @rule(pick=Pick, need=NEEDS)
    def adjust(self, pick: int, need: Need) -> None:
        if (hold_id := self._pick(pick)) is None:
            return
        self._take(hold_id)
        old = self.model.holds.pop(hold_id)
        new = tuple(claim._replace(amount=amount) for claim, amount in zip(old, POLICY.amounts(old, need), strict=True))
        refused = any(
            claim.enforce
            and claim.amount > before.amount
            and (not self.model.fits((claim,)) or self.model.blocked((claim,)))
            for before, claim in zip(old, new, strict=True)
        )
        answer = self.store.adjust(hold_id, [claim.amount for claim in new])
        assert isinstance(answer, Short) is refused
        self.model.holds[hold_id] = old if refused else new
        self.model.serve()

    @rule(facts=FACTS, need=NEEDS)
    def post(self, facts: dict[str, str | None], need: Need) -> None:
        claims = POLICY.claims(facts, need, self.now_s)
        spent = POLICY.amounts(claims, need)
        self.overspent |= {claim.key for claim in claims}
        self.store.post(claims, spent)
        for claim, amount in zip(claims, spent, strict=True):
            self.model.posted[claim.key] += amount
        self.model.serve()

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
            assert self.store.release(hold_id) is (was_held or hold_id not in self.model.refused)
            self.model.holds.pop(hold_id, None)
        else:
            del ticket
            gc.collect(0)
            self.model.holds.pop(hold_id, None)
        self.model.serve()

    @precondition(lambda self: self.ended)
    @rule(pick=Pick)
    def end_once_more(self, pick: int) -> None:
        hold_id = self.ended[pick % len(self.ended)]
        assert not self.store.settle(hold_id, [1] * len(self.claims_of[hold_id]))
        assert not self.store.release(hold_id)

    @rule(hours=st.integers(1, 30))
    def time_passes(self, hours: int) -> None:
        self.now_s += hours * 3600.0

    @invariant()
    def books_balance(self) -> None:
        if not hasattr(self, "store"):
            return
        for key, state in self.store.states():
            assert (key, state.posted) == (key, self.model.posted[key])
            assert (key, state.held) == (key, self.model.held(key))

    @invariant()
    def never_more_than_the_limit(self) -> None:
        if not hasattr(self, "store"):
            return
        enforced = {claim.key for claims in self.claims_of.values() for claim in claims if in_line(claim)}
        for key, state in self.store.states():
            if key in enforced - self.overspent:
                assert state.posted + state.held <= state.limit

    @invariant()
    def everybody_has_the_answer_that_is_due(self) -> None:
        if not hasattr(self, "store"):
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


Books.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestBooks = Books.TestCase
