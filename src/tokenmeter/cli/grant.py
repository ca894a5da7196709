"""``tokenmeter grant``: raise the limit of one budget for a while, saying why."""

from __future__ import annotations

import argparse
import json
import math
import uuid
from collections.abc import Sequence
from typing import Any

from tokenmeter.budgets import Book, Grant, Store, account_of
from tokenmeter.budgets.limit import MAX_AMOUNT, parse_limit
from tokenmeter.cli import tables, where
from tokenmeter.cli.accounts import Account, name_of, parse_scope, resolve
from tokenmeter.cli.amounts import figure, for_json, words
from tokenmeter.cli.people import reason_of, who
from tokenmeter.cli.times import MAX_DURATION_S, moment, parse_duration, parse_moment, until
from tokenmeter.cli.trouble import FAILURE, Trouble, suggestion
from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.texts import clean

NAME = "grant"
_NOUNS = {"usd": "US dollars"}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        NAME,
        help="raise the limit of a budget for a while",
        description="Raises the limit of one budget for one scope until a time. A grant is never changed and ends by "
        "itself. With --list: the grants, those that ended too.",
    )
    parser.add_argument(
        "amount", nargs="*", metavar="AMOUNT", help="in the budget's own unit: '$5', '200k tokens', '100 calls'"
    )
    parser.add_argument("--budget", metavar="NAME", help="the budget's name")
    parser.add_argument(
        "--scope",
        action="append",
        metavar="NAME=VALUE",
        help="for whom: agent=triage; once for each attribute of the budget's scope, or global",
    )
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--for", dest="duration", metavar="DURATION", help="how long: 24h, 90m, 1d12h")
    end.add_argument("--until", metavar="TIME", help="until when, in ISO 8601; without an offset in UTC")
    parser.add_argument("--reason", metavar="TEXT", help="why; kept with the grant")
    parser.add_argument("--by", metavar="NAME", help="who grants it; default: the user of this system")
    parser.add_argument("--list", action="store_true", help="show the grants and change nothing")
    where.add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Grant, or list."""
    if arguments.list:
        if arguments.amount:
            raise Trouble(f"AMOUNT {' '.join(arguments.amount)!r} stands beside --list; leave one of the two out")
        place = where.find(arguments, with_policy=False)
        with where.opened(place) as store:
            _list(store, place.address, as_json=arguments.json)
        return 0
    unit, amount = _amount(" ".join(arguments.amount))
    missing = [f"--{name}" for name in ("budget", "reason") if getattr(arguments, name) is None]
    if arguments.duration is None and arguments.until is None:
        missing.append("--for or --until")
    if missing:
        raise Trouble(f"a grant needs {', '.join(missing)}; see tokenmeter grant --help")
    reason, by = reason_of(arguments.reason), who(arguments.by)
    place = where.find(arguments, with_policy=True)
    with where.opened(place) as store:
        now_s = float(math.floor(store.time_s()))  # whole seconds, so that it is in force when this command ends
        expires_at_s = _expiry(arguments, now_s)
        books = store.books()
        account = _account(arguments, place, books, now_s)
        _check(account, unit, amount, store.grants())

        grant = Grant(uuid.uuid4().hex, account.key, amount, now_s, expires_at_s, reason, by)
        _give(store, grant)
        _tell(store, account, grant, books, as_json=arguments.json)
    return 0


def _amount(text: str) -> tuple[str, int]:

    if not text:
        raise Trouble("a grant needs an AMOUNT such as '$5', '200k tokens' or '100 calls'; --list shows the grants")
    try:
        unit, amount = parse_limit(text)
    except ConfigError as error:
        raise Trouble(str(error).replace("budget limit", "amount", 1).replace("as a limit", "as a grant")) from None
    if amount <= 0:
        raise Trouble(f"amount {text!r} grants nothing; give more than zero")
    return unit, amount


def _expiry(arguments: argparse.Namespace, now_s: float) -> float:

    if arguments.duration is not None:
        return now_s + parse_duration(arguments.duration)
    expires_at_s = parse_moment(arguments.until)
    if expires_at_s <= now_s:
        raise Trouble(f"--until {arguments.until!r} is past: the store's clock shows {moment(now_s)}; give a later one")
    if expires_at_s > now_s + MAX_DURATION_S:
        raise Trouble(f"--until {arguments.until!r} is more than ten years off; raise the budget's limit instead")
    return expires_at_s


def _account(arguments: argparse.Namespace, place: where.Where, books: Sequence[Book], now_s: float) -> Account:

    pairs: dict[str, str] = {}
    for text in arguments.scope or ():
        for name, value in parse_scope(text).items():
            if name in pairs:
                raise Trouble(f"--scope names {name!r} twice; name it once")
            pairs[name] = value
    budgets = place.config.budgets if place.config is not None else ()
    return resolve(arguments.budget, pairs, budgets, books, now_s)


def _check(account: Account, unit: str, amount: int, grants: Sequence[Grant]) -> None:

    if unit != account.unit:
        like = {"usd": "$5", "tokens": "200k tokens", "calls": "100 calls"}.get(account.unit, "…")
        raise Trouble(
            f"amount {words(unit, amount)!r} is in {_NOUNS.get(unit, unit)}, and budget {account.budget!r} is in "
            f"{_NOUNS.get(account.unit, account.unit)}; write it like {like!r}"
        )
    limit = account.limit or (account.book.state.limit if account.book is not None else 0)
    before = sum(grant.amount for grant in grants if grant.account == account.key)
    if limit + before + amount > MAX_AMOUNT:
        raise Trouble(f"amount {words(unit, amount)!r} makes the limit larger than can be kept; give less")


def _give(store: Store, grant: Grant) -> None:
    """A second try does no harm: the grant has an id."""
    try:
        store.grant(grant)
    except StoreUnavailable:
        try:
            store.grant(grant)
        except StoreUnavailable as error:
            raise Trouble(f"whether it was granted isn't known, look with --list: {error}", FAILURE) from None


# -- shown


def _tell(store: Store, account: Account, grant: Grant, before: Sequence[Book], *, as_json: bool) -> None:

    if as_json:
        print(json.dumps(_for_json(grant, account.budget, account.scope, account.unit, grant.at_s)))
        return
    end = f"until {moment(grant.expires_at_s)} ({until(grant.expires_at_s, grant.at_s)})"
    for_whom = f"{account.budget!r} {account.scope}"
    print(clean(f"Granted {words(account.unit, grant.amount)} to {for_whom} {end}, by {grant.by}: {grant.reason}"))
    if account.book is not None:
        [state] = store.read([account.book.key])
        spent, left = figure(account.unit, state.posted), figure(account.unit, state.left)
        print(f"Its limit is {words(account.unit, state.limit)} now; {spent} is spent, {left} is left.")
        return
    # A typo in the scope would raise the limit of nobody.
    others = [book.scope for book in before if book.budget == account.budget and account_of(book.key) != account.key]
    hint = f": {suggestion(account.scope, others)}" if others else "."
    print(clean(f"No call was charged to {account.scope} in the present window{hint}"))


def _list(store: Store, address: str, *, as_json: bool) -> None:

    now_s = store.time_s()
    grants = sorted(store.grants(), key=lambda grant: -grant.at_s)
    books = store.books() if grants else []
    named = [(grant, *name_of(grant.account, books)) for grant in grants]
    if as_json:
        found = [_for_json(grant, budget, scope, unit, now_s) for grant, budget, scope, unit in named]
        print(json.dumps({"store": address, "at": now_s, "grants": found}))
        return
    rows = [
        (
            words(unit, grant.amount),
            budget,
            scope,
            _state(grant, now_s),
            moment(grant.at_s),
            f"{moment(grant.expires_at_s)}, {until(grant.expires_at_s, now_s)}",
            grant.by,
            grant.reason,
        )
        for grant, budget, scope, unit in named
    ]
    if rows:
        head = ("amount", "budget", "kept for", "state", "from", "until", "by", "reason")
        tables.show(tables.Table(head, rows, right=("amount",)))
    print(f"{len(rows):,} grants in {address}.")


def _state(grant: Grant, now_s: float) -> str:
    if now_s < grant.at_s:
        return "to come"
    return "in force" if now_s < grant.expires_at_s else "ended"


def _for_json(grant: Grant, budget: str, scope: str, unit: str, now_s: float) -> dict[str, Any]:

    return {
        "id": grant.id,
        "budget": budget,
        "scope": scope,
        "account": grant.account,
        "unit": unit,
        "amount": for_json(unit, grant.amount),
        "state": _state(grant, now_s),
        "at": grant.at_s,
        "expires_at": grant.expires_at_s,
        "reason": grant.reason,
        "by": grant.by,
    }
