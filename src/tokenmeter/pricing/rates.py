"""The compiled price of one model: usage to nanodollars, and the most that a call can cost.

A price is a set of units (input tokens, cached tokens, web searches …), each with dollars per so many.
Units nest: a cached token is also an input token and is charged once, at the price of the innermost unit
that counts it. ``Rate`` keeps the prices as integers over one common denominator, so that a cost is exact
and is rounded once, half to even, to the nanodollar.

Counters that contradict each other must not stop a charge. Where the inner counters exceed the outer one, or
the outer one is missing, the outer counter is read as not containing them (as Anthropic reports input beside
cached input): both are charged in full. No reading of the same figures that is consistent costs more.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from operator import mul
from types import MappingProxyType
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from fractions import Fraction

NANOS_PER_USD = 1_000_000_000

# How little of the request's bytes can make one unit of what is not priced by the token. One byte bounds one
# input token, so the input bound of a request bounds these too. Speech codecs need 6 kbit/s and more.
_INPUT_BYTES_PER_UNIT: Mapping[str, int] = MappingProxyType(
    {"characters": 1, "messages": 1, "durations": 500, "document_pages": 64}
)
_LEAST_SECONDS = 10  # what some providers bill for the shortest audio


class PricedUnit(Struct, frozen=True):
    """One unit of a price: ``price`` US dollars for ``per`` of what ``key`` counts.

    ``dimensions`` place the unit among the others, as in genai-prices: a unit lies within another one whose
    dimensions are a subset of its own. ``tiers`` are ``(start, price)`` in rising order: once the call's
    whole input is more than ``start`` tokens, the tier's price holds for all of it.
    """

    key: str
    dimensions: Mapping[str, str]
    per: int
    price: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()

    def price_above(self, start: int) -> Decimal:
        """The price where the whole input is just above ``start`` tokens."""
        price = self.price
        for tier_start, tier_price in self.tiers:
            if tier_start <= start:
                price = tier_price
        return price


class _Tier(Struct, frozen=True):
    """All figures of one stretch of input sizes, as numerators over ``Rate._scale``."""

    prices: tuple[int, ...]  # in the order of Rate._leaves
    per_request: int
    worst_text: int  # per input token, the highest price of text up to this tier
    worst_media: int  # the same with audio, images and video
    worst_output: int  # per output token
    worst_fixed: int  # per request
    worst_tool_call: int


class Rate(Struct, frozen=True, eq=False):
    """The price of one model at one moment, in one price context. Made by ``Rate.compile``."""

    model_id: str
    provider_id: str | None
    source: str  # "genai-prices 0.2.3", "override" or "fallback"
    context_window: int | None = None
    max_output_tokens: int | None = None
    _leaves: tuple[tuple[str, tuple[int, ...]], ...] = ()  # key, indices inside it
    _input_leaves: tuple[int, ...] = ()
    _starts: tuple[int, ...] = ()
    _tiers: tuple[_Tier, ...] = ()
    _scale: int = 1
    _least_audio_seconds: int = 0

    def __repr__(self) -> str:
        return f"<Rate of {self.model_id!r}, {self.provider_id}, by {self.source}>"

    @classmethod
    def compile(
        cls,
        units: Iterable[PricedUnit],
        *,
        model_id: str,
        provider_id: str | None,
        source: str,
        context_window: int | None = None,
        max_output_tokens: int | None = None,
        least_audio_seconds: int = 0,
    ) -> Rate:
        """Compile ``units``; a price without units is free of charge."""
        known = list(units)
        requests = [unit for unit in known if unit.key == "requests"]
        leaves = sorted(
            (unit for unit in known if unit.key != "requests"),
            key=lambda unit: (-len(unit.dimensions), unit.key),
        )
        starts = tuple(sorted({start for unit in known for start, _ in unit.tiers}))
        scale = math.lcm(
            1,
            *(
                _nanos_each(unit, price).denominator
                for unit in known
                for price in (unit.price, *(price for _, price in unit.tiers))
            ),
        )
        tiers: list[_Tier] = []
        for start in (-1, *starts):
            prices = tuple(int(_nanos_each(unit, unit.price_above(start)) * scale) for unit in leaves)
            per_request = sum(int(_nanos_each(unit, unit.price_above(start)) * scale) for unit in requests)
            tiers.append(_worst_of(leaves, prices, per_request, tiers[-1] if tiers else None))
        return cls(
            model_id=model_id,
            provider_id=provider_id,
            source=source,
            context_window=context_window,
            max_output_tokens=max_output_tokens,
            _leaves=tuple((unit.key, _indices_within(unit, leaves)) for unit in leaves),
            _input_leaves=tuple(
                index for index, unit in enumerate(leaves) if _is_tokens(unit, "input", text_only=False)
            ),
            _starts=starts,
            _tiers=tuple(tiers),
            _scale=scale,
            _least_audio_seconds=least_audio_seconds,
        )

    def cost_nanos(self, counts: Mapping[str, int]) -> int:
        """What the counted usage of one call costs, in nanodollars.

        ``counts`` has the usage keys of genai-prices; a missing counter counts as none. Never raises for
        counters that contradict each other: see the top of this module for how they are read.
        """
        if self._least_audio_seconds:
            counts = _with_least_seconds(counts, self._least_audio_seconds)
        get = counts.get
        amounts: list[int] = []
        append = amounts.append
        for key, inside in self._leaves:
            count = get(key, 0)
            if count and inside:
                within = 0
                for index in inside:
                    within += amounts[index]
                if count >= within:
                    count -= within
            append(count)
        tier = self._tiers[0]
        if self._starts:
            whole_input = max(get("input_tokens", 0), sum([amounts[index] for index in self._input_leaves]))
            tier = self._tiers[bisect_left(self._starts, whole_input)]
        total: int = sum(map(mul, amounts, tier.prices), tier.per_request)
        nanos, rest = divmod(total, self._scale)
        if rest:
            twice = 2 * rest
            if twice > self._scale or (twice == self._scale and nanos & 1):
                nanos += 1
        return nanos

    def worst_nanos(self, input_tokens: int, output_tokens: int, *, media: bool = False, tool_calls: int = 0) -> int:
        """The most that a call of at most that many tokens can cost, in nanodollars, rounded up.

        Every input token is charged at the dearest rate it can meet (plain, cache read, cache write of any
        duration, tool), in any tier that ``input_tokens`` can reach; ``media`` adds the rates of audio,
        image and video input. Every output token is charged at the dearest output rate, those of reasoning,
        images and audio included, because a model may answer text with pictures. ``tool_calls`` is how many
        paid calls of server-side tools (web searches …) to allow for. Rises with each argument.
        """
        tier = self._tiers[bisect_left(self._starts, input_tokens)] if self._starts else self._tiers[0]
        total = (
            tier.worst_fixed
            + (tier.worst_media if media else tier.worst_text) * input_tokens
            + tier.worst_output * output_tokens
        )
        if tool_calls:
            total += tier.worst_tool_call * tool_calls
        return -(-total // self._scale)

    def output_tokens_for(self, nanos: int, input_tokens: int, *, media: bool = False, tool_calls: int = 0) -> int:
        """The most output tokens for which ``worst_nanos`` stays within ``nanos``.

        -1 when the input alone costs more; ``sys.maxsize`` when output is free.
        """
        tier = self._tiers[bisect_left(self._starts, input_tokens)] if self._starts else self._tiers[0]
        left = (
            nanos * self._scale
            - tier.worst_fixed
            - (tier.worst_media if media else tier.worst_text) * input_tokens
            - tier.worst_tool_call * tool_calls
        )
        if left < 0:
            return -1
        return left // tier.worst_output if tier.worst_output else sys.maxsize


def _nanos_each(unit: PricedUnit, price: Decimal) -> Fraction:
    from fractions import Fraction

    return Fraction(price) * NANOS_PER_USD / unit.per


def _indices_within(outer: PricedUnit, leaves: Sequence[PricedUnit]) -> tuple[int, ...]:
    return tuple(
        index
        for index, unit in enumerate(leaves)
        if unit is not outer and outer.dimensions.items() <= unit.dimensions.items()
    )


def _is_tokens(unit: PricedUnit, direction: str, *, text_only: bool) -> bool:
    place = unit.dimensions
    return (
        place.get("family") == "tokens"
        and place.get("direction") == direction
        and (not text_only or place.get("modality", "text") == "text")
    )


def _worst_of(leaves: Sequence[PricedUnit], prices: tuple[int, ...], per_request: int, below: _Tier | None) -> _Tier:
    """The tier and its highest prices, those of the tiers ``below`` it included: they are reachable too."""

    def highest(wanted: Callable[[PricedUnit], bool]) -> int:
        return max((price for unit, price in zip(leaves, prices, strict=True) if wanted(unit)), default=0)

    def family(name: str) -> int:
        return highest(
            lambda unit: unit.dimensions.get("family") == name and unit.dimensions.get("direction", "input") == "input"
        )

    beside = sum(-(-family(name) // size) for name, size in _INPUT_BYTES_PER_UNIT.items())
    tier = _Tier(
        prices=prices,
        per_request=per_request,
        worst_text=highest(lambda unit: _is_tokens(unit, "input", text_only=True)) + beside,
        worst_media=highest(lambda unit: _is_tokens(unit, "input", text_only=False)) + beside,
        worst_output=highest(lambda unit: _is_tokens(unit, "output", text_only=False)),
        worst_fixed=per_request + family("durations") * _LEAST_SECONDS,
        worst_tool_call=highest(lambda unit: unit.dimensions.get("family") == "tool_calls"),
    )
    if below is None:
        return tier
    return _Tier(
        prices=prices,
        per_request=per_request,
        worst_text=max(tier.worst_text, below.worst_text),
        worst_media=max(tier.worst_media, below.worst_media),
        worst_output=max(tier.worst_output, below.worst_output),
        worst_fixed=max(tier.worst_fixed, below.worst_fixed),
        worst_tool_call=max(tier.worst_tool_call, below.worst_tool_call),
    )


def _with_least_seconds(counts: Mapping[str, int], least: int) -> Mapping[str, int]:
    reported = counts.get("audio_seconds") or counts.get("input_audio_seconds")
    if not reported:
        return counts
    billed = max(reported, least)
    return {**counts, "audio_seconds": billed, "input_audio_seconds": billed}
