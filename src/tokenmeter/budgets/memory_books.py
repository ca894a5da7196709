"""The sums of the books in memory: each function computes aside, and its last statements are the commit.

No call stands between the statements of a commit, for the reasons that `deferral` gives.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from tokenmeter.budgets.grants import Grants
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.shelf import Shelf
from tokenmeter.budgets.store import Book, Entry, Held, Settled, State
from tokenmeter.budgets.waiting import Lines, Waiter

MAX_CHARGED = 16_384
LEASE = "lease:"
UNSEEN = State(0, 0, 0)
_NOBODY_WARNED: tuple[Claim, ...] = ()
_new = tuple.__new__  # of a named tuple: its own constructor costs twice as much


class MemoryBooks:
    """What is posted and held. A budget per call has no book.

    The ids of the last ``MAX_CHARGED`` charges, at least, are kept, so that none is charged twice. The limit
    of a state in ``books`` is that of its last claim, without grants.
    """

    def __init__(self, recheck: dict[str, None], max_idle_runs: int) -> None:
        self.books: dict[str, State] = {}
        self.holds: dict[str, Sequence[Claim]] = {}
        self.lines = Lines()
        self.grants = Grants()
        self._recheck = recheck
        self._shelf = Shelf(max_idle_runs)
        self._charged: dict[str, None] = {}
        self._charged_before: dict[str, None] = {}

    def admit(self, hold_id: str, claims: Sequence[Claim], now_s: float, waiter: Waiter | None = None) -> Held | None:
        """Hold all claims, or none and None. A waiter learns it in the same step."""
        books = self.books
        grants = self.grants
        raised = grants.by_account
        changed: dict[str, State] = {}
        states: list[State] = []
        warned = _NOBODY_WARNED
        news = False
        alone = 0
        for claim in claims:
            budget, key, _, amount, limit, _, enforce = claim
            if budget.per == "call":
                alone += 1
                posted, held = 0, amount
                after = _new(State, (0, amount, limit))
            else:
                book = books.get(key)
                if book is None:
                    posted, held = 0, amount
                    news = True
                else:
                    posted, held, before = book
                    held += amount
                    if before != limit:
                        news = True
                changed[key] = after = _new(State, (posted, held, limit))
                if raised:
                    limit += grants.on(key, now_s)
                    after = State(posted, held, limit)
            if posted + held > limit or amount < 0:
                if amount < 0:
                    raise ValueError(f"a claim asks for zero or more, not {amount}")
                if enforce:
                    return None
                warned += (claim,)
            states.append(after)
        if len(changed) + alone != len(claims):
            raise ValueError("two claims of one call have the same key")
        answer = _new(Held, (tuple(states), warned))
        if news:
            self._shelf.put([claim for claim in claims if claim.budget.per != "call"])
        holds = self.holds
        if waiter is not None:
            waiter.answer = answer
        holds[hold_id] = claims
        books |= changed
        if news and len(books) >= self._shelf.sweep_at:
            self._shelf.sweep(books, self.lines, now_s)
        return answer

    def settle(self, hold_id: str, amounts: Sequence[int]) -> Settled | None:
        """Charge a hold and end it."""
        claims = self.holds.get(hold_id)
        if claims is None:
            return None
        if len(amounts) != len(claims):
            check(claims, amounts)
        books = self.books
        changed: dict[str, State] = {}
        states: list[State] = []
        for claim, spent in zip(claims, amounts, strict=False):
            if spent < 0:
                check(claims, amounts)
            budget, key, _, amount, limit, _, _ = claim
            if budget.per == "call":
                states.append(_new(State, (0, spent, limit)))
                continue
            book = books.get(key)
            if book is None:  # it was dropped while a hold of nothing stood
                self._shelf.put((claim,))
                book = State(0, amount, limit)
            posted, held, limit = book
            changed[key] = after = _new(State, (posted + spent, held - amount, limit))
            states.append(after)
        answer = _new(Settled, (self._told(claims, states), tuple(amounts)))
        if self.lines.by_book:
            self._recheck.update(dict.fromkeys(changed))
        charged = self._room()
        holds = self.holds
        del holds[hold_id]
        charged[hold_id] = None
        books |= changed
        return answer

    def post(self, entry_id: str, claims: Sequence[Claim], amounts: Sequence[int]) -> Settled | None:
        """Charge what no hold stands for, or the hold of this id. None if it was charged before."""
        check(claims, amounts)
        held = self.holds.get(entry_id)
        if held is None and self.was_charged(entry_id):
            return None
        books = self.books
        changed = self._without(held or ())
        states: list[State] = []
        for claim, spent in zip(claims, amounts, strict=True):
            if claim.budget.per == "call":
                states.append(State(0, spent, claim.limit))
                continue
            book = changed.get(claim.key) or books.get(claim.key)
            if book is None or book.limit != claim.limit:
                self._shelf.put((claim,))
            posted, under_way, _ = book or UNSEEN
            changed[claim.key] = after = State(posted + spent, under_way, claim.limit)
            states.append(after)
        answer = Settled(self._told(claims, states), tuple(amounts))
        if self.lines.by_book:
            self._recheck.update(dict.fromkeys(changed))
        charged = self._room()
        holds = self.holds
        if held is not None:
            del holds[entry_id]
        charged[entry_id] = None
        books |= changed
        return answer

    def release(self, hold_id: str) -> bool:
        """End a hold with nothing spent."""
        claims = self.holds.get(hold_id)
        if claims is None:
            return False
        changed = self._without(claims)
        if self.lines.by_book:
            self._recheck.update(dict.fromkeys(changed))
        books, holds = self.books, self.holds
        del holds[hold_id]
        books |= changed
        return True

    def adjust(self, hold_id: str, new: Sequence[Claim], now_s: float) -> Held | None:
        """Hold the new claims in the place of the old ones, or None; less is always possible."""
        changed: dict[str, State] = {}
        states: list[State] = []
        warned: list[Claim] = []
        for before, claim in zip(self.holds[hold_id], new, strict=True):
            limit = claim.limit
            if claim.budget.per == "call":
                after = State(0, claim.amount, limit)
            else:
                book = self.books.get(claim.key) or State(0, before.amount, limit)
                after = State(book.posted, book.held - before.amount + claim.amount, limit)
                changed[claim.key] = after
                if self.grants.by_account:
                    after = after._replace(limit=limit + self.grants.on(claim.key, now_s))
            if after.posted + after.held > after.limit:
                if claim.amount > before.amount and claim.enforce:
                    return None
                if not claim.enforce:
                    warned.append(claim)
            states.append(after)
        answer = Held(tuple(states), tuple(warned))
        self._shelf.put([claim for claim in new if claim.budget.per != "call"])
        if self.lines.by_book:
            self._recheck.update(dict.fromkeys(changed))
        books, holds = self.books, self.holds
        holds[hold_id] = new
        books |= changed
        return answer

    def draw(self, hold_ids: Sequence[str], entry: Entry) -> bool:
        """Charge one entry out of holds that go on, the first of them first, and what they lack beside them.

        False: it was charged before.
        """
        if self.was_charged(entry.id):
            return False
        lessened: dict[str, Sequence[Claim]] = {}
        changed: dict[str, State] = {}
        for key, spent in entry.charges:
            posted, held, limit = changed.get(key) or self.books.get(key, UNSEEN)
            left = spent
            for hold_id in hold_ids:
                claims = lessened.get(hold_id) or self.holds.get(hold_id, ())
                covered = min(left, sum([claim.amount for claim in claims if claim.key == key]))
                if covered:
                    left -= covered
                    held -= covered
                    lessened[hold_id] = [
                        claim._replace(amount=claim.amount - covered) if claim.key == key else claim for claim in claims
                    ]
            changed[key] = State(posted + spent, held, limit)
        if self.lines.by_book:
            self._recheck.update(dict.fromkeys(changed))
        charged, holds, books = self._room(), self.holds, self.books
        charged[entry.id] = None
        holds |= lessened
        books |= changed
        return True

    def was_charged(self, entry_id: str) -> bool:
        """Whether the id is among the last charges."""
        return entry_id in self._charged or entry_id in self._charged_before

    def mark(self, entry_id: str) -> None:
        """Let no charge of that id come after."""
        self._room()[entry_id] = None

    def shown(self, key: str, now_s: float) -> State:
        """A book, with the grants in its limit."""
        state = self.books.get(key)
        if state is None:
            return UNSEEN
        return state._replace(limit=state.limit + self.grants.on(key, now_s)) if self.grants.by_account else state

    def all(self, now_s: float) -> list[Book]:
        """Every book, with its name."""
        leased: dict[str, int] = {}
        for hold_id, claims in self.holds.items():
            if hold_id.startswith(LEASE):
                for claim in claims:
                    leased[claim.key] = leased.get(claim.key, 0) + claim.amount
        return [self._shelf.label(key, self.shown(key, now_s), leased.get(key, 0)) for key in self.books]

    def forget_holds(self) -> None:
        """In a forked child: they are the parent's."""
        self.holds.clear()
        self.lines.clear()
        for key, book in list(self.books.items()):
            self.books[key] = book._replace(held=0)

    def _without(self, claims: Iterable[Claim]) -> dict[str, State]:
        changed: dict[str, State] = {}
        for claim in claims:
            if claim.budget.per != "call":
                book = self.books.get(claim.key)
                if book is not None:  # else it was dropped while a hold of nothing stood
                    posted, held, limit = book
                    changed[claim.key] = _new(State, (posted, held - claim.amount, limit))
        return changed

    def _told(self, claims: Sequence[Claim], states: Sequence[State]) -> tuple[State, ...]:
        """The states with the grants in their limits."""
        if self.grants.by_account:
            now_s = time.time()
            states = [
                state
                if claim.budget.per == "call"
                else state._replace(limit=state.limit + self.grants.on(claim.key, now_s))
                for claim, state in zip(claims, states, strict=True)
            ]
        return tuple(states)

    def _room(self) -> dict[str, None]:
        """Where the id of one more charge goes."""
        charged = self._charged
        if len(charged) >= MAX_CHARGED:
            self._charged_before = charged
            self._charged = charged = {}
        return charged


def check(claims: Sequence[Claim], amounts: Sequence[int]) -> None:
    """One amount a claim, none below zero."""
    if len(amounts) != len(claims):
        raise ValueError(f"{len(claims)} claims need as many amounts, not {len(amounts)}")
    if any(amount < 0 for amount in amounts):
        raise ValueError(f"amounts are zero or more: {tuple(amounts)}")
