"""Claims, labels and answers as they go to Redis and come back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tokenmeter.budgets.budget import Budget
from tokenmeter.budgets.lasting import budget_of, label_of, nameless, raw, short, unraw
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Book, Drawn, Entry, Grant, Held, Pause, Settled, Short, State

_MAX_CLAIMS_KNOWN = 4096
_DAY_MS = 86_400_000


def bulk(word: bytes) -> bytes:
    """One argument as it is sent."""
    return b"$%d\r\n%b\r\n" % (len(word), word)


def number(amount: int) -> bytes:
    """An argument that is a number."""
    return bulk(b"%d" % amount)


# -- claims, as six fields: key, amount, limit, flags, end, label


_Parts = tuple[Budget, str, float | None, bytes, tuple[bytes, ...]]


class Claims:
    """Writes claims; what is the same each time is written once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, bool], _Parts] = {}

    def __call__(self, claims: Sequence[Claim]) -> list[bytes]:
        """The claims, ready to be sent."""
        known = self._known
        found: list[bytes] = []
        for claim in claims:
            budget, key, scope, amount, limit, resets_at, enforce = claim
            parts = known.get((key, id(budget), limit, enforce))
            if parts is None or parts[0] is not budget or parts[1] != scope or parts[2] != resets_at:
                parts = self._learn(claim)
            found += (parts[3], number(amount), *parts[4])
        return found

    def _learn(self, claim: Claim) -> _Parts:
        budget = claim.budget
        if len(self._known) >= _MAX_CLAIMS_KNOWN:
            self._known.clear()
        flags = (b"e" if claim.enforce else b"w") + (b"a" if budget.per == "call" else b"-")
        ends = b""
        if claim.resets_at is not None:
            ends = b"%d" % (int(claim.resets_at * 1000) + _DAY_MS)
        elif budget.per == "run" or "run" in budget.scope:
            ends = b"run"
        label = label_of(budget, {"for": claim.scope, "resets_at": claim.resets_at})
        tail = (number(claim.limit), bulk(flags), bulk(ends), bulk(label.encode()))
        parts = (budget, claim.scope, claim.resets_at, bulk(raw(claim.key)), tail)
        self._known[claim.key, id(budget), claim.limit, claim.enforce] = parts
        return parts


def claims_of(words: Sequence[bytes]) -> tuple[Claim, ...]:
    """The claims of a hold of another process, as it stands in Redis."""
    found = []
    for at in range(1, len(words), 6):
        key, amount, limit, flags, _, label = words[at : at + 6]
        budget, scope, resets_at = _label(label)
        found.append(Claim(budget, unraw(key), scope, int(amount), int(limit), resets_at, flags[:1] == b"e"))
    return tuple(found)


@lru_cache(maxsize=1024)
def _label(text: bytes) -> tuple[Budget, str, float | None]:
    found: dict[str, Any] = json.loads(text)
    return budget_of(text), found["for"], found["resets_at"]


def book(key: bytes, state: bytes, label: bytes) -> Book:
    """A book as it is shown."""
    posted, held, limit, leased = map(int, state.split())
    shown = State(posted, held, limit)
    if not label:
        return nameless(key, shown, leased)
    found = json.loads(label)
    return Book(unraw(key), found["name"], found["for"], found["unit"], found["resets_at"], shown, leased)


# -- answers


def _states(words: Sequence[bytes]) -> list[State]:
    numbers = iter(map(int, words))
    return list(map(State, numbers, numbers, numbers))


def held(claims: Sequence[Claim], answer: bytes) -> Held:
    """The answer of hold and adjust, which tells the books as they were, without the caller's hold."""
    states = []
    warned: tuple[Claim, ...] = ()
    for claim, (posted, under_way, limit) in zip(claims, _states(answer.split()[1:]), strict=True):
        after = under_way + claim.amount
        if posted + after > limit and not claim.enforce:
            warned += (claim,)
        states.append(State(posted, after, limit))
    return Held(tuple(states), warned)


def short_of(claims: Sequence[Claim], answer: bytes, behind: frozenset[str] = frozenset()) -> Short:
    """A hold's answer that is short."""
    return short(claims, _states(answer.split()[2:]), None, behind)


def short_of_more(claims: Sequence[Claim], answer: bytes) -> Short:
    """The same of an adjust, where each book is told without what the caller holds of it."""
    words = answer.split()[2:]
    before = [int(word) for word in words[::4]]
    numbers = map(int, words)
    states = [State(posted, under_way, limit) for _, posted, under_way, limit in zip(*[numbers] * 4, strict=True)]
    return short(claims, states, before)


def short_of_grown(claims: Sequence[Claim], answer: bytes, before: Sequence[int], behind: frozenset[str]) -> Short:
    """The same, from a hold's answer."""
    states = [
        state if claim.budget.per == "call" else state._replace(held=state.held - own)
        for claim, state, own in zip(claims, _states(answer.split()[2:]), before, strict=True)
    ]
    return short(claims, states, before, behind)


def settled(answer: bytes) -> Settled:
    """The answer of settle and post."""
    words = answer.split()[1:]
    count = len(words) // 4
    return Settled(tuple(_states(words[: 3 * count])), tuple(map(int, words[3 * count :])))


def drawn(answer: Sequence[bytes]) -> list[Drawn]:
    """The answer of draw."""
    found = []
    for key, text in zip(answer[1::2], answer[2::2], strict=True):
        posted, under_way, limit, added = map(int, text.split())
        found.append(Drawn(unraw(key), State(posted, under_way, limit), added))
    return found


def read(answer: bytes) -> tuple[State, ...]:
    """The answer of read."""
    return tuple(_states(answer.split()[1:]))


def entry(values: Sequence[bytes]) -> Entry:
    """A line of the ledger."""
    found = dict(zip(values[::2], values[1::2], strict=True))
    charges = tuple((key, int(amount)) for key, amount in json.loads(unraw(found[b"charges"])))
    return Entry(unraw(found[b"id"]), charges, found[b"row"])


def plain(value: Grant | Pause) -> bytes:
    """A grant or a pause."""
    return json.dumps(value._asdict()).encode()


def grant(text: bytes) -> Grant:
    """What `plain` was given."""
    return Grant(**json.loads(text))


def pause(text: bytes) -> Pause:
    """What `plain` was given."""
    return Pause(**json.loads(text))
