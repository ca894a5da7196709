"""By how much the limits are raised, kept in memory; and how many grants a store keeps."""

from __future__ import annotations

from tokenmeter.budgets.store import Grant, account_of

MAX_GRANTS = 10_000


def to_forget(count: int) -> int:
    """How many of so many grants a store forgets, if that many have ended: a tenth at once, those that ended first.

    One that is in force is never forgotten. All must be looked at to find those that ended, so that is done rarely.
    """
    if count < MAX_GRANTS or count % (MAX_GRANTS // 10):
        return 0
    return count - MAX_GRANTS * 9 // 10


class Grants:
    """The grants by account. All that is done to them can be done twice."""

    def __init__(self) -> None:
        self._by_id: dict[str, Grant] = {}
        self.by_account: dict[str, dict[str, Grant]] = {}

    def add(self, grant: Grant) -> None:
        """Take a grant in; harmless when done twice with the same id."""
        if grant.id not in self._by_id:
            self.by_account.setdefault(grant.account, {})[grant.id] = grant
            self._by_id[grant.id] = grant

    def forget_ended(self, now_s: float) -> None:
        """Keep to ten thousand, if so many have ended."""
        count = to_forget(len(self._by_id))
        if not count:
            return
        ended = sorted(self._by_id.values(), key=lambda each: each.expires_at_s)[:count]
        gone = {each.id for each in ended if each.expires_at_s <= now_s}
        left = Grants()
        for each in self._by_id.values():
            if each.id not in gone:
                left.add(each)
        self._by_id, self.by_account = left._by_id, left.by_account

    def all(self) -> list[Grant]:
        """The grants, those that ended too."""
        return list(self._by_id.values())

    def on(self, key: str, now_s: float) -> int:
        """What they add to the limit of a book."""
        found = self.by_account.get(account_of(key))
        if found is None:
            return 0
        return sum([each.amount for each in list(found.values()) if each.at_s <= now_s < each.expires_at_s])
