"""What a store's books and ledger say, checked against each other; for any process that looks at them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenmeter.budgets import Book, Store


@dataclass(frozen=True)
class Row:
    """One entry of the ledger."""

    id: str
    charges: Mapping[str, int]
    told: Mapping[str, Any]  # the row as it was given; empty where none was

    @property
    def estimated(self) -> bool:
        """Whether it says that it is an estimate."""
        return bool(self.told.get("estimated"))


@dataclass(frozen=True)
class Ledger:
    """All books and all rows."""

    books: Mapping[str, Book]
    rows: tuple[Row, ...]

    @property
    def charged(self) -> list[Row]:
        """The rows that charge something."""
        return [row for row in self.rows if row.charges]

    def spent_on(self, budget: str) -> int:
        """What is posted to all books of the budget of this name."""
        return sum(book.state.posted for book in self.books.values() if book.budget == budget)

    def must_balance(self) -> None:
        """Each book is the sum of its charges, to the last; and each id stands once."""
        sums = Counter[str]()
        for row in self.rows:
            sums.update(row.charges)
        posted = {key: book.state.posted for key, book in self.books.items() if book.state.posted}
        assert posted == +sums
        assert len({row.id for row in self.rows}) == len(self.rows)

    def must_hold_nothing(self) -> None:
        """No money is held, and none is leased."""
        held = {key: book.state.held for key, book in self.books.items() if book.state.held or book.leased}
        assert not held


def look(store: Store) -> Ledger:
    """The books and the ledger as they stand; nobody may write meanwhile."""
    rows = tuple(
        Row(entry.id, dict(entry.charges), json.loads(entry.row) if entry.row else {}) for _, entry in store.entries()
    )
    ids = [row.id for row in rows]
    assert len(set(ids)) == len(ids)
    return Ledger({book.key: book for book in store.books()}, rows)
