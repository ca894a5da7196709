"""What a process has to tell a store: one line each, and the verb that tells it.

Each verb is exactly once by the id of its line, so that telling one twice does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial

import msgspec

from tokenmeter.budgets.budget import Budget, Per
from tokenmeter.budgets.limit import Unit
from tokenmeter.budgets.policy import Claim
from tokenmeter.budgets.store import Entry, Store

_DRAWN_AT_ONCE = 256


class Account(msgspec.Struct, frozen=True, array_like=True):
    """A claim without its amount."""

    key: str
    limit: int
    budget: str
    scope: str
    unit: Unit
    per: Per
    resets_at: float | None
    enforce: bool


class Post(msgspec.Struct, frozen=True, array_like=True, tag="post"):
    """To be posted. Not ``final``: the call is under way, and this is what it is charged should its process die."""

    id: str
    accounts: tuple[Account, ...]
    amounts: tuple[int, ...]
    row: bytes = b""
    final: bool = True


class Draw(msgspec.Struct, frozen=True, array_like=True, tag="draw"):
    """To be drawn from leases; ``final`` as in `Post`."""

    id: str
    holds: tuple[str, ...]
    charges: tuple[tuple[str, int], ...]
    row: bytes = b""
    final: bool = True


class Undo(msgspec.Struct, frozen=True, array_like=True, tag="undo"):
    """A hold of so many claims to be given back, and the row of its call, if there is one."""

    id: str
    claims: int
    row: bytes = b""


class Write(msgspec.Struct, frozen=True, array_like=True, tag="write"):
    """A row that charges nothing."""

    id: str
    row: bytes


class Lease(msgspec.Struct, frozen=True, array_like=True, tag="lease"):
    """A lease that stands: ended when its process is gone and all that was drawn from it is told."""

    id: str


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """Told to the store, or never to be told."""

    ids: tuple[str, ...]


Record = Post | Draw | Undo | Write | Lease
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Record | Done).decode


def posting(
    entry_id: str, claims: Sequence[Claim], amounts: Sequence[int], row: bytes = b"", *, final: bool = True
) -> Post:
    """The line that posts amounts to these claims' books."""
    return Post(entry_id, tuple([_account(claim) for claim in claims]), tuple(amounts), row, final)


def _account(claim: Claim) -> Account:
    budget, key, scope, _, limit, resets_at, enforce = claim
    return Account(key, limit, budget.name, scope, budget.unit, budget.per, resets_at, enforce)


def _claim(account: Account, amount: int) -> Claim:
    budget = _budget(account.budget, account.unit, account.per)
    return Claim(budget, account.key, account.scope, amount, account.limit, account.resets_at, account.enforce)


@lru_cache(maxsize=1024)
def _budget(name: str, unit: Unit, per: Per) -> Budget:
    return Budget("$1" if unit == "usd" else f"1 {unit}", per=per, name=name)


def is_final(record: Record) -> bool:
    """Whether it may be told already."""
    return not isinstance(record, Post | Draw) or record.final


def steps(
    records: Iterable[Record], at_once: int = _DRAWN_AT_ONCE
) -> Iterator[tuple[Callable[[Store], object], list[Record]]]:
    """What to do, and the lines that are told by it; draws many at once."""
    draws: list[Draw] = []
    for record in records:
        if isinstance(record, Draw):
            draws.append(record)
            if len(draws) == at_once:
                yield partial(_draw, draws), [*draws]
                draws = []
            continue
        if draws:
            yield partial(_draw, draws), [*draws]
            draws = []
        yield partial(_do, record), [record]
    if draws:
        yield partial(_draw, draws), [*draws]


def _draw(draws: Sequence[Draw], store: Store) -> None:
    holds = dict.fromkeys(hold for draw in draws for hold in draw.holds)
    store.draw(list(holds), [Entry(draw.id, draw.charges, draw.row) for draw in draws])


def _do(record: Record, store: Store) -> None:
    if isinstance(record, Post):
        claims = [_claim(account, amount) for account, amount in zip(record.accounts, record.amounts, strict=True)]
        store.post(record.id, claims, record.amounts, record.row)
    elif isinstance(record, Undo):
        if not store.release(record.id):
            store.settle(record.id, (0,) * record.claims, record.row)  # it was charged by estimate meanwhile
        if record.row:
            store.write([Entry(record.id, (), record.row)])
    elif isinstance(record, Write):
        store.write([Entry(record.id, (), record.row)])
    elif isinstance(record, Lease):
        store.settle(record.id, (0,))
