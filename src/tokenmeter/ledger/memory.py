"""Sums over the calls of this process, by who caused them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TypeVar

from msgspec import Struct

from tokenmeter.forks import renew_in_child
from tokenmeter.money import usd
from tokenmeter.record import CallRecord, was_warned_of
from tokenmeter.turn import Turn

_T = TypeVar("_T")

ANY: Any = object()  # "whatever it is", because None asks for calls without one

MAX_GROUPS = 50_000
MAX_PENDING = 1_024
OTHER = "(other)"


class Spend(Struct, frozen=True):
    """What a set of calls cost. ``usd`` is exact; ``estimated_usd`` is the part of it that was estimated.

    ``calls`` counts the requests that were charged; ``failed`` those that the provider or the connection
    failed, unbilled; ``refused`` those that never left. ``unpriced_calls`` have tokens, but no known price.
    ``warned`` are calls that a budget or a guard would have refused and only warned of, ``warned_usd`` what they cost.
    """

    usd: Decimal = Decimal(0)
    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated_usd: Decimal = Decimal(0)
    estimated_calls: int = 0
    unpriced_calls: int = 0
    failed: int = 0
    refused: int = 0
    warned: int = 0
    warned_usd: Decimal = Decimal(0)


class Group(Struct, frozen=True):
    """Whose calls a sum is of."""

    agent: str | None
    user: str | None
    team: str | None
    run: str | None
    model: str | None
    provider: str
    tags: frozenset[tuple[str, str]]


class _Sum(Struct):
    nanos: int = 0
    estimated_nanos: int = 0
    estimated: int = 0
    input: int = 0
    output: int = 0
    calls: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    unpriced: int = 0
    failed: int = 0
    refused: int = 0
    warned: int = 0
    warned_nanos: int = 0

    def add(self, row: CallRecord) -> None:
        if row.status == "refused":
            self.refused += 1
            return
        if row.usage is None:
            self.failed += 1
            return
        usage = row.usage
        self.calls += 1
        self.input += usage.input_tokens or 0
        self.output += usage.output_tokens or 0
        self.cache_read += usage.cache_read_tokens or 0
        self.cache_write += usage.cache_write_tokens or 0
        self.reasoning += usage.reasoning_tokens or 0
        if row.cost_nanos is None:
            self.unpriced += 1
        else:
            self.nanos += row.cost_nanos
        if row.estimated:
            self.estimated += 1
            self.estimated_nanos += row.cost_nanos or 0
        if was_warned_of(row.warned, row.guards):
            self.warned += 1
            self.warned_nanos += row.cost_nanos or 0

    def merge(self, other: _Sum) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def spend(self) -> Spend:
        return Spend(
            usd=usd(self.nanos),
            input_tokens=self.input,
            output_tokens=self.output,
            calls=self.calls,
            cache_read_tokens=self.cache_read,
            cache_write_tokens=self.cache_write,
            reasoning_tokens=self.reasoning,
            estimated_usd=usd(self.estimated_nanos),
            estimated_calls=self.estimated,
            unpriced_calls=self.unpriced,
            failed=self.failed,
            refused=self.refused,
            warned=self.warned,
            warned_usd=usd(self.warned_nanos),
        )


class MemoryLedger:
    """Keeps sums, not rows, so that its size does not grow with the calls.

    Rows are queued on the caller's path and added up when somebody reads, or when 1,024 are queued. Above
    50,000 groups the older half lose their run and their tags, and if that doesn't make room all but their
    provider, to ``(other)``: the total and that of each provider stay exact.
    """

    def __init__(self, max_groups: int = MAX_GROUPS) -> None:
        self._pending: deque[CallRecord] = deque()
        self._sums: dict[Group, _Sum] = {}
        self._max_groups = max_groups
        self._turn = Turn()
        renew_in_child(self, "_turn", Turn)

    def record(self, row: CallRecord) -> None:
        """Queue one row."""
        self._pending.append(row)
        if len(self._pending) >= MAX_PENDING:
            self._turn.take(self._add_up, None)

    def spend(
        self,
        *,
        agent: str | None = ANY,
        user: str | None = ANY,
        team: str | None = ANY,
        run: str | None = ANY,
        model: str | None = ANY,
        provider: str = ANY,
        tags: Mapping[str, str] | None = None,
    ) -> Spend:
        """The sum over the calls that fit; ``None`` fits those that have none, a field left out fits all."""
        wanted = {"agent": agent, "user": user, "team": team, "run": run, "model": model, "provider": provider}
        asked = {name: value for name, value in wanted.items() if value is not ANY}
        wanted_tags = frozenset((tags or {}).items())

        def fit() -> _Sum:
            total = _Sum()
            for group, part in self._sums.items():
                if all(getattr(group, name) == value for name, value in asked.items()) and wanted_tags <= group.tags:
                    total.merge(part)
            return total

        return self._added_up(fit).spend()

    def groups(self) -> dict[Group, Spend]:
        """Every sum that is kept, by whose calls it is of."""
        return self._added_up(lambda: {group: part.spend() for group, part in self._sums.items()})

    def _added_up(self, read: Callable[[], _T]) -> _T:
        """What is read once all that is queued is in the sums, but where a signal handler interrupted that."""
        self._turn.take(self._add_up, None, -1.0)
        return self._turn.run(read)

    def _add_up(self) -> None:
        pending = self._pending
        while pending:
            row = pending.popleft()
            group = Group(row.agent, row.user, row.team, row.run, row.model, row.provider, frozenset(row.tags.items()))
            part = self._sums.get(group)
            if part is None:
                if len(self._sums) >= self._max_groups:
                    self._fold()
                part = self._sums[group] = _Sum()
            part.add(row)

    def _fold(self) -> None:
        """Make room: the older half loses its runs and tags, and if that is not enough, all but its providers."""
        self._fold_oldest(lambda g: Group(g.agent, g.user, g.team, None, g.model, g.provider, frozenset()))
        if len(self._sums) > self._max_groups * 3 // 4:
            self._fold_oldest(lambda g: Group(OTHER, OTHER, OTHER, None, None, g.provider, frozenset()))

    def _fold_oldest(self, folded: Callable[[Group], Group]) -> None:
        for group in list(self._sums)[: self._max_groups // 2]:
            part = self._sums.pop(group)
            self._sums.setdefault(folded(group), _Sum()).merge(part)
