"""Laws of the compiled price, and that it says what genai-prices says."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache

import pytest
from genai_prices import Usage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, Provider, TieredPrices
from genai_prices.units import UnitDef, _get_registry
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmeter.pricing import NANOS_PER_USD, Price, PricedUnit, Rate
from tokenmeter.pricing.book import _Dated

MOMENTS = (
    datetime(2024, 5, 1, 3, 15, tzinfo=UTC),
    datetime(2025, 9, 20, 17, 45, tzinfo=UTC),
    datetime(2026, 11, 24, 12, tzinfo=UTC),
    datetime(2027, 6, 1, 23, 59, 59, tzinfo=UTC),
)


@cache
def all_models() -> tuple[tuple[Provider, ModelInfo], ...]:
    return tuple((provider, model) for provider in get_snapshot().providers for model in provider.models)


def contexts_of(model: ModelInfo) -> Iterator[Mapping[str, str]]:
    yield {}
    yield from {tuple(variant.when.items()): variant.when for variant in model.price_variants or ()}.values()


some_model = st.deferred(lambda: st.integers(0, len(all_models()) - 1).map(lambda index: all_models()[index]))


@cache
def units() -> tuple[UnitDef, ...]:
    return tuple(unit for unit in _get_registry().units.values() if unit.usage_key != "requests")


def is_within(inner: UnitDef, outer: UnitDef) -> bool:
    return outer.dimensions.items() <= inner.dimensions.items()


def usage_of(amounts: Mapping[str, int]) -> dict[str, int]:
    """The counters that a provider would report for so many units of each innermost kind."""
    if not amounts:
        return {}
    counts = dict.fromkeys((unit.usage_key for unit in units()), 0)  # genai-prices wants the overlaps said
    for unit in units():
        amount = amounts.get(unit.usage_key)
        if amount:
            for outer in units():
                if is_within(unit, outer):
                    counts[outer.usage_key] += amount
    return counts


def nanos_of(
    model: ModelInfo, provider: Provider, counts: Mapping[str, int], at: datetime, context: Mapping[str, str]
) -> int:
    usage = Usage(**counts)
    price = model.calc_price(usage, provider, genai_request_timestamp=at, price_context=context)
    return int(price.total_price.quantize(Decimal("1e-9")).scaleb(9))


def rate_of(provider: Provider, model: ModelInfo, at: datetime, context: Mapping[str, str]) -> Rate:
    return _Dated(provider, model, context, "genai-prices").at(at)


def text_kinds(direction: str) -> list[str]:
    return [
        unit.usage_key
        for unit in units()
        if unit.dimensions.get("family") == "tokens"
        and unit.dimensions.get("direction") == direction
        and unit.dimensions.get("modality", "text") == "text"
    ]


def token_kinds(direction: str) -> list[str]:
    return [
        unit.usage_key
        for unit in units()
        if unit.dimensions.get("family") == "tokens" and unit.dimensions.get("direction") == direction
    ]


def test_every_price_of_the_snapshot_equals_genai_prices() -> None:
    dice = random.Random(20261124)
    keys = [unit.usage_key for unit in units()]
    compared = 0
    for provider, model in all_models():
        priced = {
            _get_registry().unit_for_price_key(key).usage_key
            for price in ([item.prices for item in model.prices] if isinstance(model.prices, list) else [model.prices])
            for key in price.__dict__
        } - {"requests"}
        for context in contexts_of(model):
            for at in MOMENTS if isinstance(model.prices, list) or context else MOMENTS[2:3]:
                rate = rate_of(provider, model, at, context)
                # the empty usage, one of what the model prices, one of anything at all
                for kinds in ([], sorted(priced), dice.sample(keys, 6)):
                    counts = usage_of({key: dice.choice((0, 1, 7, 1_234, 272_001, 9_999_999)) for key in kinds})
                    assert rate.cost_nanos(counts) == nanos_of(model, provider, counts, at, context), (
                        provider.id,
                        model.id,
                        counts,
                    )
                    compared += 1
    assert compared > 3 * 2_000


@settings(deadline=None)
@given(st.data())
def test_random_usage_of_random_models_equals_genai_prices(data: st.DataObject) -> None:
    provider, model = data.draw(some_model)
    context = data.draw(st.sampled_from(list(contexts_of(model))))
    at = data.draw(st.integers(1_672_531_200, 1_830_297_600).map(lambda second: datetime.fromtimestamp(second, UTC)))
    amounts = data.draw(
        st.dictionaries(st.sampled_from([unit.usage_key for unit in units()]), st.integers(0, 10**8), max_size=8)
    )
    counts = usage_of(amounts)
    rate = rate_of(provider, model, at, context)
    assert rate.cost_nanos(counts) == nanos_of(model, provider, counts, at, context)


@settings(deadline=None)
@given(st.data())
def test_cost_never_falls_when_tokens_rise(data: st.DataObject) -> None:
    provider, model = data.draw(some_model)
    rate = rate_of(provider, model, MOMENTS[2], {})
    kinds = st.sampled_from([unit.usage_key for unit in units()])
    amounts = data.draw(st.dictionaries(kinds, st.integers(0, 400_000), max_size=6))
    more = data.draw(st.dictionaries(kinds, st.integers(0, 400_000), min_size=1, max_size=3))
    risen = {key: amounts.get(key, 0) + more.get(key, 0) for key in amounts | more}
    assert rate.cost_nanos(usage_of(risen)) >= rate.cost_nanos(usage_of(amounts))


@settings(deadline=None)
@given(st.data())
def test_no_usage_within_the_bounds_costs_more_than_the_worst(data: st.DataObject) -> None:
    provider, model = data.draw(some_model)
    context = data.draw(st.sampled_from(list(contexts_of(model))))
    media = data.draw(st.booleans())
    kinds = token_kinds if media else text_kinds
    amounts = data.draw(st.dictionaries(st.sampled_from(kinds("input")), st.integers(0, 300_000), max_size=4))
    # Output may be pictures or speech even where the request is plain text.
    amounts |= data.draw(st.dictionaries(st.sampled_from(token_kinds("output")), st.integers(0, 100_000), max_size=4))
    counts = usage_of(amounts)
    spare_input = data.draw(st.integers(0, 300_000))
    spare_output = data.draw(st.integers(0, 1_000))
    rate = rate_of(provider, model, MOMENTS[2], context)
    worst = rate.worst_nanos(
        counts.get("input_tokens", 0) + spare_input,
        counts.get("output_tokens", 0) + spare_output,
        media=media,
    )
    assert rate.cost_nanos(counts) <= worst


@settings(deadline=None)
@given(st.data())
def test_the_worst_never_falls_when_an_argument_rises(data: st.DataObject) -> None:
    provider, model = data.draw(some_model)
    rate = rate_of(provider, model, MOMENTS[2], {})
    tokens = st.integers(0, 1_100_000)
    given_tokens, made, calls = data.draw(tokens), data.draw(tokens), data.draw(st.integers(0, 20))
    more_given, more_made, more_calls = data.draw(tokens), data.draw(tokens), data.draw(st.integers(0, 20))
    low = rate.worst_nanos(given_tokens, made, tool_calls=calls)
    high = rate.worst_nanos(given_tokens + more_given, made + more_made, tool_calls=calls + more_calls)
    assert (
        low
        <= high
        <= rate.worst_nanos(given_tokens + more_given, made + more_made, tool_calls=calls + more_calls, media=True)
    )


@settings(deadline=None)
@given(st.data())
def test_the_affordable_output_is_the_largest_that_fits(data: st.DataObject) -> None:
    provider, model = data.draw(some_model)
    rate = rate_of(provider, model, MOMENTS[2], {})
    nanos = data.draw(st.integers(0, 10**10))
    given_tokens = data.draw(st.integers(0, 400_000))
    tokens = rate.output_tokens_for(nanos, given_tokens)
    if tokens == -1:
        assert rate.worst_nanos(given_tokens, 0) > nanos
    else:
        assert rate.worst_nanos(given_tokens, tokens) <= nanos
        if rate.worst_nanos(0, 10**12) > rate.worst_nanos(0, 0):  # output is not free
            assert rate.worst_nanos(given_tokens, tokens + 1) > nanos


@settings(deadline=None)
@given(st.data())
def test_contradicting_counters_never_raise_and_cost_at_least_any_consistent_reading(
    data: st.DataObject,
) -> None:
    rate = Price("3", "15", cache_read="0.30", cache_write="3.75", cache_write_1h="6").rate("m", "p")
    number = st.integers(0, 10_000)
    whole, read, made = data.draw(number), data.draw(number), data.draw(number)
    charged = rate.cost_nanos({"input_tokens": whole, "cache_read_tokens": read, "output_tokens": made})
    raised = rate.cost_nanos({"input_tokens": max(whole, read), "cache_read_tokens": read, "output_tokens": made})
    clipped = rate.cost_nanos({"input_tokens": whole, "cache_read_tokens": min(whole, read), "output_tokens": made})
    assert charged >= raised
    assert charged >= clipped
    if read > whole:
        assert charged == rate.cost_nanos(
            {"input_tokens": whole + read, "cache_read_tokens": read, "output_tokens": made}
        )


@settings(deadline=None)
@given(st.data())
def test_any_counters_at_all_are_priced(data: st.DataObject) -> None:
    provider, model = data.draw(some_model)
    keys = st.sampled_from([*(unit.usage_key for unit in units()), "requests", "unheard_of"])
    counts = data.draw(st.dictionaries(keys, st.integers(0, 10**9), max_size=8))
    assert rate_of(provider, model, MOMENTS[2], {}).cost_nanos(counts) >= 0


def test_a_missing_outer_counter_is_read_as_beside_the_inner_one() -> None:
    rate = Price("3", "15", cache_read="0.30").rate("m", "p")
    assert rate.cost_nanos({"cache_read_tokens": 1_000_000}) == 300_000_000
    assert rate.cost_nanos({"input_tokens": 10, "cache_read_tokens": 1_000_000}) == 300_000_000 + 30_000


@pytest.mark.parametrize(
    ("price", "tokens", "nanos"),
    [("0.0005", 1, 0), ("0.0005", 3, 2), ("0.0015", 1, 2), ("0.0005", 2, 1), ("0.000500000001", 1, 1)],
)
def test_halves_are_rounded_to_even_once(price: str, tokens: int, nanos: int) -> None:
    assert Price(price, "0").rate("m", None).cost_nanos({"input_tokens": tokens}) == nanos


def test_the_tier_of_the_whole_input_holds_for_all_of_it() -> None:
    place = {"family": "tokens", "direction": "input"}
    tiers = ((200_000, Decimal(6)),)
    rate = Rate.compile(
        [PricedUnit("input_tokens", place, 1_000_000, Decimal(3), tiers)],
        model_id="m",
        provider_id=None,
        source="x",
    )
    assert rate.cost_nanos({"input_tokens": 200_000}) == 600_000_000
    assert rate.cost_nanos({"input_tokens": 200_001}) == 1_200_006_000
    assert rate.worst_nanos(200_000, 0) == 600_000_000
    assert rate.worst_nanos(200_001, 0) == 1_200_006_000


def test_a_price_per_request_counts_once_a_call() -> None:
    rate = Price("1", "2", per_request="0.005").rate("m", None)
    assert rate.cost_nanos({}) == 5_000_000
    assert rate.cost_nanos({"requests": 7, "input_tokens": 1}) == 5_001_000
    assert rate.worst_nanos(1, 1) == 5_003_000


def test_speech_and_characters_are_within_the_worst_of_their_bytes() -> None:
    models = {(provider.id, model.id): (provider, model) for provider, model in all_models()}
    speech = rate_of(*models["openai", "tts-1"], MOMENTS[2], {})
    assert speech.cost_nanos({"input_characters": 4_000}) <= speech.worst_nanos(4_000, 0)
    heard = rate_of(*models["groq", "whisper-large-v3"], MOMENTS[2], {})
    assert heard.cost_nanos({"audio_seconds": 1, "input_audio_seconds": 1}) == nanos_of(
        models["groq", "whisper-large-v3"][1],
        models["groq", "whisper-large-v3"][0],
        {"audio_seconds": 1, "input_audio_seconds": 1},
        MOMENTS[2],
        {},
    )
    assert heard.cost_nanos({"audio_seconds": 60}) <= heard.worst_nanos(60 * 750, 0, media=True)


def test_the_snapshot_has_tiers_and_variants_to_compare() -> None:
    prices = [model.prices for _, model in all_models()]
    flat = [item.prices for price in prices for item in (price if isinstance(price, list) else [])]
    assert any(isinstance(value, TieredPrices) for price in flat for value in price.__dict__.values())
    assert any(model.price_variants for _, model in all_models())
    assert NANOS_PER_USD == 10**9
