"""What a call will probably cost, learned from calls like it. Pure.

The worst case of a call is a hundred times its cost, where no output cap is given: a budget that holds it has room
for few calls at a time. What nearly all calls of an agent and a model come to is known after a few of them, and
holds that are so small may be made instead, for the price that a call in twenty costs more than was held.

Two things are learned for each agent, model and provider, because each is steady where the cost itself is not: the
*output tokens*, which are a matter of the work and not of the cap, and the *share of the input bound* that the input
came to, which is a matter of the language and not of the length. Of both the same high quantile is taken; the cost
of so many tokens, at the dearest rates as for the worst case, is the expectation. It is never above the worst case.

Quantiles of the past promise nothing about the future: tails are heavy, and agents are given other work. So the level
of the quantile is steered by what came of it. Each call that cost more than was held raises the level, 19 times as
far as a call that didn't lowers it; a few in a row raise it above one, where the worst case is held until calls of
the new kind have been learned. That gives a bound for any sequence of calls whatever: of the n calls of one key, at
most ``n / 20 + 4`` cost more than was expected of them if each is settled before the next is held, and with c calls
side by side, which can't learn from each other, at most ``n / 20 + 4 + c``.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from tokenmeter.forks import renew_in_child
from tokenmeter.turn import Turn, in_turn

COLD_CALLS = 20
"""Calls of a key that are held at their worst case before anything is expected of the next."""

MAX_KEYS = 1_024

_ONE = 1_000_000  # levels are in millionths
_LEAST = 950_000  # of the calls shall cost no more than was held
_UP = 19_000  # how far a miss moves the level
_DOWN = 1_000  # and how far a call that is none

_STEPS_BITS = 3  # eight buckets to each doubling: none is wider than an eighth
_MAX_BITS = 24
_BUCKETS = ((_MAX_BITS - _STEPS_BITS) << _STEPS_BITS) + (1 << _STEPS_BITS)
_WEIGHT = 256
_MAX_TOTAL = 512 * _WEIGHT  # then all is halved: the last few hundred calls count

_SHARE_BITS = 16  # shares of the input bound are in 1/65536

Key = tuple["str | None", "str | None", str]


class Expected(NamedTuple):
    """What a call is expected to use, at most; ``learned`` False: nothing is known, and this is its worst case."""

    input_tokens: int
    output_tokens: int
    learned: bool


class Overshoot(NamedTuple):
    """How far expectations were off, over all keys.

    ``calls`` were held at what was expected of them and are settled; ``over`` of them came to more than was held.
    ``expected`` and ``actual`` are their sums, ``excess`` is by how much those that came to more did so; all three
    in the unit in which they were given, nanodollars as a rule.
    """

    calls: int = 0
    over: int = 0
    expected: int = 0
    actual: int = 0
    excess: int = 0

    @property
    def share(self) -> float:
        """The part of the calls that came to more than was held."""
        return self.over / self.calls if self.calls else 0.0


class ExpectedCost:
    """Learns what calls use and says what to hold for the next. Thread-safe; memory is bounded.

    A key is an agent, a model and a provider; those that were not used for longest are forgotten.
    """

    def __init__(self, *, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._known: dict[Key, _Experience] = {}
        self._overshoot = Overshoot()
        self._turn = Turn()
        renew_in_child(self, "_turn", Turn)

    @in_turn
    def expect(self, key: Key, input_bound: int, output_bound: int) -> Expected:
        """What the next call is expected to use: as many tokens as bounded, or fewer."""
        known = self._known.get(key)
        if known is None or known.calls < COLD_CALLS:
            return Expected(input_bound, output_bound, learned=False)
        output = known.output.quantile(known.level)
        share = known.share.quantile(known.level)
        if output is None or share is None:
            return Expected(input_bound, output_bound, learned=False)
        given = -(-input_bound * share >> _SHARE_BITS)
        return Expected(min(given, input_bound), min(output, output_bound), learned=True)

    @in_turn
    def learn(self, key: Key, input_bound: int, input_tokens: int, output_tokens: int) -> None:
        """Take in what a call used, however it was held; for usage that was measured, not estimated."""
        known = self._known.pop(key, None)
        if known is None:
            known = _Experience()
            while len(self._known) >= self._max_keys:
                del self._known[next(iter(self._known))]
        self._known[key] = known
        known.calls += 1
        known.output.add(output_tokens)
        known.share.add(-(-(input_tokens << _SHARE_BITS) // input_bound) if input_bound > 0 else 0)

    @in_turn
    def settled(self, key: Key, expected: Expected, held: int, actual: int) -> None:
        """Take in what came of an expectation; for every call that `expect` was asked about and that was charged.

        ``held`` is what the expected tokens cost at the most, ``actual`` what the call did cost, in the same unit.
        """
        missed = expected.learned and actual > held
        known = self._known.get(key)
        if known is not None:
            known.level = known.level + _UP if missed else max(_LEAST, known.level - _DOWN)
        if expected.learned:
            so_far = self._overshoot
            self._overshoot = Overshoot(
                so_far.calls + 1,
                so_far.over + missed,
                so_far.expected + held,
                so_far.actual + actual,
                so_far.excess + (actual - held if missed else 0),
            )

    @property
    def overshoot(self) -> Overshoot:
        """How far expectations were off since the beginning."""
        return self._overshoot


class _Experience:
    """What calls with one key have shown."""

    __slots__ = ("calls", "level", "output", "share")

    def __init__(self) -> None:
        self.calls = 0
        self.level = _LEAST
        self.output = _Histogram()
        self.share = _Histogram()


class _Histogram:
    """How often which size came, the younger counting more: buckets of equal width within each doubling."""

    __slots__ = ("counts", "top", "total")

    def __init__(self) -> None:
        self.counts = array("I", [0]) * _BUCKETS
        self.top = 0  # no bucket above it has anything
        self.total = 0

    def add(self, value: int) -> None:
        bucket = _bucket(value)
        self.counts[bucket] += _WEIGHT
        self.top = max(self.top, bucket)
        self.total += _WEIGHT
        if self.total >= _MAX_TOTAL:
            self.counts = array("I", [count >> 1 for count in self.counts])
            self.total = sum(self.counts)
            while not self.counts[self.top]:
                self.top -= 1

    def quantile(self, level: int) -> int | None:
        """A size that so many millionths don't exceed, the one to come among them; None if none was large enough."""
        above = self.total + (-level * (self.total + _WEIGHT)) // _ONE
        if above < 0:
            return None
        counts = self.counts
        for bucket in range(self.top, -1, -1):
            above -= counts[bucket]
            if above < 0:
                return _largest(bucket)
        return 0


def _bucket(value: int) -> int:
    value = min(max(value, 0), (1 << _MAX_BITS) - 1)
    shift = max(0, value.bit_length() - _STEPS_BITS - 1)
    return (shift << _STEPS_BITS) + (value >> shift)


def _largest(bucket: int) -> int:
    shift = max(0, (bucket >> _STEPS_BITS) - 1)
    return ((bucket - (shift << _STEPS_BITS) + 1) << shift) - 1
