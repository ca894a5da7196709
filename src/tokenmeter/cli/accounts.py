"""Which account a grant raises: the key that the policy's calls use, whether or not one was charged before.

The configuration's budgets come first, by the very policy that calls are held to. For a budget that isn't in it, the
books of the store say which accounts there are.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tokenmeter.budgets import Book, Need, Policy, account_of
from tokenmeter.budgets.budget import Budget
from tokenmeter.budgets.checks import ATTRIBUTES
from tokenmeter.budgets.policy import NONE
from tokenmeter.cli.trouble import Trouble, suggestion

Pairs = Mapping[str, str]

_NAME = rf"(?:{'|'.join(ATTRIBUTES)}|tag:[^=,]+)"
_COMMA = re.compile(rf",(?={_NAME}=)")  # not one that stands in a value
_WILD = re.compile(r"\[!?\]?[^\]]*\]|\*|\?")
_SPECIAL = re.compile(r"%([0-9A-F]{4})")


@dataclass(frozen=True, slots=True)
class Account:
    """What a grant is for. ``limit``: without grants, None if nobody knows it. ``book``: the present one, if any."""

    key: str
    budget: str
    scope: str
    unit: str
    limit: int | None
    book: Book | None


def parse_scope(text: str) -> dict[str, str]:
    """The pairs of a scope: ``agent=triage,model=gpt-5``; ``global`` has none."""
    if text.strip() in ("", "global"):
        return {}
    pairs: dict[str, str] = {}
    for part in _COMMA.split(text):
        name, sign, value = part.partition("=")
        name = name.strip()
        if not sign or not value:
            raise Trouble(f"scope {text!r} is no scope; write agent=NAME, or global for a budget over all")
        if not re.fullmatch(_NAME, name):
            raise Trouble(f"scope {text!r} names {name!r}, which is no attribute; {suggestion(name, ATTRIBUTES)}")
        if name in pairs:
            raise Trouble(f"scope {text!r} names {name!r} twice; name it once")
        pairs[name] = value
    return pairs


def resolve(name: str, pairs: Pairs, budgets: Sequence[Budget], books: Sequence[Book], now_s: float) -> Account:
    """The account of a budget for a scope. Raises `Trouble` with what there is when there is no such."""
    policy = Policy(budgets)
    for budget in policy.budgets:
        if budget.name == name:
            return _in_policy(policy, budget, pairs, books, now_s)
    kept = [book for book in books if book.budget == name]
    if kept:
        return _in_books(name, pairs, kept, now_s)
    known = [budget.name for budget in policy.budgets] + [book.budget for book in books]
    raise Trouble(f"budget {name!r} is neither in the configuration nor in the store; {suggestion(name, known)}")


def name_of(account: str, books: Sequence[Book]) -> tuple[str, str, str]:
    """Budget, scope and unit of an account; read from its key where no book tells."""
    for book in books:
        if account_of(book.key) == account:
            return book.budget, book.scope, book.unit
    named, _, scope = account.partition("|")
    unit, _, budget = named.partition(" ")
    return _unescaped(budget), _unescaped(scope) or "global", unit


def scope_text(pairs: Pairs) -> str:
    """A scope in words."""
    return ",".join(f"{name}={value}" for name, value in pairs.items()) or "global"


# -- by the policy


def _in_policy(policy: Policy, budget: Budget, pairs: Pairs, books: Sequence[Book], now_s: float) -> Account:
    if budget.per == "call":
        raise Trouble(
            f"budget {budget.name!r} is per call and keeps no books: a grant can't raise it; change its limit"
        )
    _check_pairs(budget, pairs)
    facts: dict[str, str | None] = {name: _example(patterns) for name, patterns in budget.match}
    facts |= {name: None if value == NONE else value for name, value in pairs.items()}
    for claim in policy.claims(facts, Need(0, 0, 0), now_s):
        if claim.budget.name == budget.name:
            # Of its present window: one whose period was changed may have books of several that go on.
            book = next((book for book in books if book.key == claim.key), None)
            return Account(account_of(claim.key), budget.name, claim.scope, budget.unit, claim.limit, book)
    only = ", ".join(f"{name}={'|'.join(patterns)}" for name, patterns in budget.match)
    raise Trouble(f"budget {budget.name!r} counts only calls with {only}; {scope_text(pairs)!r} has none of them")


def _check_pairs(budget: Budget, pairs: Pairs) -> None:
    needed = dict.fromkeys((*budget.scope, "run") if budget.per == "run" else budget.scope)
    if set(pairs) != set(needed):
        shape = ",".join(f"{name}=NAME" for name in needed) or "global"
        kept = f"per {' and '.join(needed)}" if needed else "over all"
        raise Trouble(f"budget {budget.name!r} is kept {kept}, and scope {scope_text(pairs)!r} isn't; give {shape!r}")


def _example(patterns: Sequence[str]) -> str | None:
    """A value that one of the patterns fits: the account doesn't depend on which, only on that it fits."""
    for pattern in patterns:
        value = _WILD.sub(lambda wild: _character(wild[0]), pattern)
        if fnmatchcase(value, pattern):
            return value
    return None


def _character(wild: str) -> str:
    if wild == "*":
        return ""
    return next((each for each in string.printable if fnmatchcase(each, wild)), "")


# -- by the books


def _in_books(name: str, pairs: Pairs, kept: Sequence[Book], now_s: float) -> Account:
    fitting = {account_of(book.key): book for book in kept if pairs_of(book) == pairs}
    if not fitting:
        scopes = [book.scope for book in kept]
        raise Trouble(
            f"budget {name!r} has no book for {scope_text(pairs)!r} and isn't in the configuration; "
            f"{suggestion(scope_text(pairs), scopes)}"
        )
    if len(fitting) > 1:
        raise Trouble(
            f"{len(fitting)} budgets of the store are named {name!r}; give --config with the one that is meant"
        )
    [(account, some)] = fitting.items()
    return Account(account, name, some.scope, some.unit, None, _current(account, kept, now_s))


def pairs_of(book: Book) -> dict[str, str] | None:
    """The pairs of a book's scope; None where they can't be read."""
    try:
        return parse_scope(book.scope)
    except Trouble:
        return None


def _current(account: str, books: Sequence[Book], now_s: float) -> Book | None:
    """The book of the window that has not ended."""
    return next((book for book in books if account_of(book.key) == account and is_live(book, now_s)), None)


def is_live(book: Book, now_s: float) -> bool:
    """Whether its window goes on."""
    return book.resets_at is None or book.resets_at > now_s


def _unescaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: chr(int(found[1], 16)), text)
