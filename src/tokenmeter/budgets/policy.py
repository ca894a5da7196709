"""Which budgets a call is held against, and with how much of each."""

from __future__ import annotations

import fnmatch
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from tokenmeter.budgets.budget import Budget
from tokenmeter.budgets.window import CALENDAR, Window, window_at, zone
from tokenmeter.errors import ConfigError

NONE = "(none)"  # the bucket of calls that lack the attribute: who drops it doesn't escape

Facts = Mapping[str, "str | None"]


class Need(NamedTuple):
    """What a call may cost at the worst, or what it did cost. ``usd_nanos`` is None when it has no price."""

    usd_nanos: int | None
    tokens: int
    calls: int = 1


# Need, Claim and State are named tuples because a frozen dataclass costs four times as much to make, and each
# call makes several of them in its caller's way.
class Claim(NamedTuple):
    """What one call asks of one budget.

    ``key`` names the book that is charged: the budget, the scope's values and the window, no two alike.
    ``scope`` says for whom in words: ``agent=triage``. ``amount`` and ``limit`` are in the unit of the
    budget: nanodollars, tokens or calls. ``resets_at``: when the window ends, in seconds since the epoch,
    None if never. ``enforce``: False where the budget only warns.
    """

    budget: Budget
    key: str
    scope: str
    amount: int
    limit: int
    resets_at: float | None
    enforce: bool


class Policy:
    """The budgets of a meter, ready to be asked for every call."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        self.budgets: tuple[Budget, ...] = _told_apart(budgets)
        self.expects = any(budget.hold == "expected" for budget in self.budgets)
        self.extends = any(budget.extend_streams for budget in self.budgets)
        books: set[str] = set()
        self._lines = tuple(_Line(budget, _unique(_book(budget), books)) for budget in self.budgets)
        self._money = tuple(
            line for line in self._lines if line.budget.unit == "usd" and line.budget.on_exceed != "warn"
        )
        asked = (name for line in self._lines for name in (*line.attributes, *dict(line.patterns)))
        self._asked = tuple(dict.fromkeys(asked))
        self._pages: dict[tuple[str | None, ...], _Page] = {}

    def claims(self, facts: Facts, need: Need, now_s: float) -> tuple[Claim, ...]:
        """The claims of a call on all budgets that apply. Facts: agent, user, …, provider, ``tag:NAME``."""
        values = tuple(map(facts.get, self._asked))
        page = self._pages.get(values)
        if page is None or not page.start_s <= now_s < page.end_s:
            page = self._open(values, facts, now_s)
        return tuple([_new(Claim, (*before, need[unit] or 0, *after)) for unit, before, after in page.accounts])

    def _open(self, values: tuple[str | None, ...], facts: Facts, now_s: float) -> _Page:
        """The accounts of calls that are alike in all that a budget asks for, as long as no window ends."""
        start_s, end_s = -math.inf, math.inf
        accounts = []
        for line in self._lines:
            window = line.window
            if not window.start_s <= now_s < window.end_s:
                window = line.roll(now_s)
            start_s, end_s = max(start_s, window.start_s), min(end_s, window.end_s)
            if line.matches(facts):
                accounts.append(line.open(window, facts))
        page = _Page(start_s, end_s, tuple(accounts))
        if len(self._pages) >= _MAX_PAGES:
            self._pages.clear()
        self._pages[values] = page
        return page

    def applies_money(self, facts: Facts) -> bool:
        """Whether a money budget that is enforced applies, so that the call's price must be known."""
        for line in self._money:  # noqa: SIM110 - a generator would double the cost
            if not line.patterns or line.matches(facts):
                return True
        return False

    @staticmethod
    def amounts(claims: Sequence[Claim], need: Need) -> tuple[int, ...]:
        """What a call takes of each claim, in that budget's unit; without a price, nothing of money."""
        return tuple([need[_UNIT[claim.budget.unit]] or 0 for claim in claims])

    @staticmethod
    def sized(claims: Sequence[Claim], expected: Need | None, first: Need | None = None) -> tuple[Claim, ...]:
        """Claims of the worst case with the smaller amounts that their budgets want held, if any.

        ``expected`` is for budgets that hold what is expected; ``first``, given for a stream, is for those that
        extend streams. No amount grows by it.
        """
        found = []
        for claim in claims:
            budget = claim.budget
            need = expected if budget.hold == "expected" else None
            if first is not None and budget.extend_streams:
                need = first
            amount = need[_UNIT[budget.unit]] if need is not None else None
            found.append(claim if amount is None or amount >= claim.amount else claim._replace(amount=amount))
        return tuple(found)


_UNIT = {"usd": 0, "tokens": 1, "calls": 2}  # the places in Need
_new = tuple.__new__  # of a named tuple: its own constructor costs twice as much
# The place in Need of what it counts, and a Claim before its amount and after it.
_Account = tuple[int, tuple[Budget, str, str], tuple[int, float | None, bool]]
_MAX_PAGES = 4096


class _Page(NamedTuple):
    """The accounts that a call of one kind is held against from one moment to another."""

    start_s: float
    end_s: float
    accounts: tuple[_Account, ...]


class _Line:
    """One budget, compiled."""

    __slots__ = ("attributes", "book", "budget", "enforce", "limit", "patterns", "tz", "unit", "window")

    def __init__(self, budget: Budget, book: str) -> None:
        self.budget = budget
        self.book = book
        self.unit = _UNIT[budget.unit]
        self.limit = budget.limit_amount
        self.enforce = budget.on_exceed != "warn"
        self.attributes = (*budget.scope, "run") if budget.per == "run" else budget.scope
        self.patterns = tuple((name, _compiled(patterns)) for name, patterns in budget.match)
        self.tz = zone(budget.tz)
        if budget.per in CALENDAR:
            self.window = Window(math.inf, math.inf, "")  # holds no moment: the first call rolls it
        else:
            self.window = Window(-math.inf, math.inf, budget.per)

    def matches(self, facts: Facts) -> bool:
        return all(pattern.match(facts.get(name) or NONE) for name, pattern in self.patterns)

    def roll(self, now_s: float) -> Window:
        # Threads may roll at once and past each other; each goes on with the window of its own moment.
        self.window = window = window_at(self.budget.per, self.tz, now_s)
        return window

    def open(self, window: Window, facts: Facts) -> _Account:
        pairs = [(name, facts.get(name)) for name in self.attributes]
        scope = ",".join(f"{name}={value or NONE}" for name, value in pairs) or "global"
        scope_key = ",".join(f"{escaped(name)}={escaped(value) if value else NONE}" for name, value in pairs)
        key = f"{escaped(self.book)}|{scope_key}|{window.id}"
        resets_at = None if window.end_s == math.inf else window.end_s
        return self.unit, (self.budget, key, scope), (self.limit, resets_at, self.enforce)


def _told_apart(budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    given: object = budgets
    if isinstance(given, Budget | str) or not isinstance(given, Iterable):
        what = "a single Budget" if isinstance(given, Budget) else repr(given)
        raise ConfigError(f'budgets is {what}; give a list of them, such as [Budget("$5", per="day")]')
    found = tuple(budgets)
    names: set[str] = set()
    for budget in found:
        if not isinstance(budget, Budget):
            raise ConfigError(f'{budget!r} is no budget; write Budget("$5", per="day")')
        if budget.named:
            if budget.name in names:
                raise ConfigError(f"two budgets are named {budget.name!r}; give each a name of its own")
            names.add(budget.name)
    apart = []
    for budget in found:
        name = budget.name if budget.named else _unique(budget.name, names)
        apart.append(budget if name == budget.name else replace(budget, name=name))
    return tuple(apart)


def _book(budget: Budget) -> str:
    # Without a name, a budget is known by what it is kept for: who raises a limit keeps the books.
    if budget.named:
        return f"{budget.unit} {budget.name}"
    zone_name = f" {budget.tz}" if budget.per in CALENDAR and budget.tz != "UTC" else ""
    return f"{budget.unit} {budget.kept_for}{zone_name}"


def _unique(name: str, taken: set[str]) -> str:
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name} #{number}"
    taken.add(found)
    return found


def _compiled(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))


_SPECIAL = re.compile("[%|=,(~\x00-\x1f\x7f\ud800-\udfff]")
_MAX_VALUE = 128


def escaped(value: str) -> str:
    """The value, so that no two are alike and none runs into its neighbour; long ones end in a digest."""
    if len(value) > _MAX_VALUE:
        digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return f"{escaped(value[: _MAX_VALUE // 2])}~{digest}"
    return _SPECIAL.sub(lambda found: f"%{ord(found[0]):04X}", value)
