"""By how much the limits are raised, kept in memory."""

from __future__ import annotations

from tokenmeter.budgets.store import Grant, account_of

_MAX_GRANTS = 10_000


class Grants:
    """The grants by account. Beyond ten thousand, the one that ends first is forgotten."""

    def __init__(self) -> None:
        self._by_id: dict[str, Grant] = {}
        self.by_account: dict[str, list[Grant]] = {}

    def add(self, grant: Grant) -> None:
        """Take a grant in; harmless when done twice with the same id."""
        by_id = self._by_id
        if grant.id in by_id:
            return
        by_id = {**by_id, grant.id: grant}
        if len(by_id) > _MAX_GRANTS:
            del by_id[min(by_id.values(), key=lambda each: each.expires_at_s).id]
        by_account: dict[str, list[Grant]] = {}
        for each in by_id.values():
            by_account.setdefault(each.account, []).append(each)
        self._by_id, self.by_account = by_id, by_account

    def all(self) -> list[Grant]:
        """The grants, those that ended too."""
        return list(self._by_id.values())

    def on(self, key: str, now_s: float) -> int:
        """What they add to the limit of a book."""
        found = self.by_account.get(account_of(key), ())
        return sum([each.amount for each in found if each.at_s <= now_s < each.expires_at_s])
