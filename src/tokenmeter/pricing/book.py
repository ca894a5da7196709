"""Looks up the price of a model at a moment: the user's own prices first, then genai-prices.

genai-prices takes a third of a second to load, so it is loaded on first use or by ``preload`` from a
background thread. What was looked up once is compiled and kept; a price that depends on the date or the
time of day is kept together with the stretch of time in which it holds. When genai-prices is given newer
data, all is looked up anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING

from tokenmeter.forks import renew_in_child
from tokenmeter.pricing.price import Price
from tokenmeter.pricing.rates import PricedUnit, Rate
from tokenmeter.turn import Turn, in_turn

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice, Provider

DEFAULT_MAX_OUTPUT = 128_000
"""Output tokens to allow for where neither a price nor genai-prices says what the model can produce."""

_CACHE_SIZE = 4096
_WINDOWS = 8  # stretches of time kept for one model
_LONGEST_NAME = 512
_NOTHING: Mapping[str, str] = MappingProxyType({})
_ANY_MOMENT = datetime(1970, 1, 1, tzinfo=UTC)  # for prices that never change
_REGION = re.compile(r"^(?:us-gov|us|eu|apac|ap|global|jp|au|ca|sa|me|af|in|uk)\.")
_OPAQUE_ARN = re.compile(
    r":(?:application-inference-profile|provisioned-model|custom-model|custom-model-deployment"
    r"|imported-model|prompt-router|default-prompt-router|prompt|marketplace/model-endpoint)\b"
)
_PASS_THROUGH = frozenset({"openrouter"})  # sell other providers' models under "provider/model", at their prices

_Window = tuple[datetime, datetime, Rate]
_Known = frozenset[tuple[str, str]]


class PriceBook:
    """Finds the ``Rate`` of a model. Thread-safe; a repeated look-up takes about a microsecond.

    ``overrides`` are prices of your own, by ``"model"`` or ``"provider/model"``, ``*`` allowed (see
    ``parse_prices``). They win over genai-prices: an exact name first, then the patterns in the order
    given, then the name under which genai-prices lists the model, so that a price for ``"gpt-5"`` also
    holds for its dated names.
    """

    def __init__(self, overrides: Mapping[str, Price] | None = None) -> None:
        lowered = {key.strip().lower(): price for key, price in (overrides or {}).items()}
        self._exact = {key: price for key, price in lowered.items() if "*" not in key}
        self._patterns = [(key, price) for key, price in lowered.items() if "*" in key]
        self._turn = Turn()
        renew_in_child(self, "_turn", Turn)
        self._get_snapshot: Callable[[], DataSnapshot] | None = None
        self._source = ""
        self._state: tuple[DataSnapshot | None, _Known, dict[object, Rate | _Dated | None]] = (
            None,
            frozenset(),
            {},
        )

    def preload(self) -> None:
        """Load genai-prices and its data now; for a background thread. Does nothing the second time."""
        if self._get_snapshot is None:
            self._load()

    @in_turn
    def _load(self) -> None:
        if self._get_snapshot is None:
            import genai_prices
            from genai_prices.data_snapshot import get_snapshot

            get_snapshot()
            self._source = f"genai-prices {genai_prices.__version__}"
            self._get_snapshot = get_snapshot

    def rate(
        self, provider: str | None, model: str | None, *, at: datetime | float, context: Mapping[str, str] = _NOTHING
    ) -> Rate | None:
        """The price of ``model`` at the moment ``at``, or ``None`` if it has none that is known.

        ``provider`` is an id of genai-prices, ``None`` for a host that it doesn't know: then only a name
        that says whose model it is will do. ``context`` is what else the price depends on (``{"processing":
        "batch"}``, ``{"service_tier": "flex"}``); keys and values that no price names are ignored. ``at`` is in
        seconds since the epoch, or a ``datetime``; a naive one is UTC.
        """
        if not model:
            return None
        if self._get_snapshot is None:
            self.preload()
        snapshot, known, cache = self._state
        if snapshot is None or snapshot is not self._get_snapshot():  # type: ignore[misc]
            snapshot, known, cache = self._renew()
        key: object = (provider, model)
        if context:
            chosen = tuple(known.intersection(context.items()))
            if chosen:
                key = (provider, model, chosen)
                context = dict(chosen)
            else:
                context = _NOTHING
        try:
            entry = cache[key]
        except KeyError:
            entry = self._look_up(snapshot, provider, model, context)
            if len(cache) >= _CACHE_SIZE:
                cache.clear()
            if len(model) <= _LONGEST_NAME:
                cache[key] = entry
        if type(entry) is not _Dated:
            return entry  # type: ignore[return-value]  # mypy doesn't narrow by `type`, which is twice as fast
        return entry.at(at if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC))

    def _renew(self) -> tuple[DataSnapshot, _Known, dict[object, Rate | _Dated | None]]:
        assert self._get_snapshot is not None  # noqa: S101 - preload went before
        snapshot = self._get_snapshot()
        known = frozenset(
            item
            for provider in snapshot.providers
            for model in provider.models
            for variant in model.price_variants or ()
            for item in variant.when.items()
        )
        state = (snapshot, known, dict[object, "Rate | _Dated | None"]())
        self._state = state
        return state

    def _look_up(
        self, snapshot: DataSnapshot, provider: str | None, model: str, context: Mapping[str, str]
    ) -> Rate | _Dated | None:
        override = self._override(provider, model)
        found = _find(snapshot, provider, model) if len(model) <= _LONGEST_NAME else None
        if override is None and found is not None:
            override = self._exact.get(f"{found[0].id}/{found[1].id}".lower()) or self._exact.get(found[1].id.lower())
        if override is not None:
            window = found[1].context_window if found else None
            return override.rate(model, provider, source="override", context_window=window)
        if found is None:
            return None
        dated = _Dated(found[0], found[1], context, self._source)
        return dated if dated.changes else dated.at(_ANY_MOMENT)

    def _override(self, provider: str | None, model: str) -> Price | None:
        names = (f"{provider}/{model}".lower(), model.lower()) if provider else (model.lower(),)
        for name in names:
            if price := self._exact.get(name):
                return price
        for pattern, price in self._patterns:
            if any(fnmatchcase(name, pattern) for name in names):
                return price
        return None


def max_output_tokens(rate: Rate | None) -> int:
    """What one answer of the model of this price can be at the most, for a request without a cap.

    The figure of an override; else the context window, because an answer can't be longer; else ``DEFAULT_MAX_OUTPUT``.
    genai-prices lists no output limits, and there is no table of models here.
    """
    if rate is None:
        return DEFAULT_MAX_OUTPUT
    return rate.max_output_tokens or rate.context_window or DEFAULT_MAX_OUTPUT


class _Dated:
    """The rates of one model in one context, each with the stretch of time in which it holds."""

    __slots__ = ("_context", "_model", "_provider", "_source", "_windows", "changes")

    def __init__(self, provider: Provider, model: ModelInfo, context: Mapping[str, str], source: str) -> None:
        self._provider = provider
        self._model = model
        # A price that is borrowed from another provider has none of that provider's tiers (as in
        # genai-prices).
        own = any(model is candidate for candidate in provider.models)
        self._context = dict(context) if own and context else None
        self._source = source
        self._windows: tuple[_Window, ...] = ()
        self.changes = tuple(_constraints(model, bool(self._context)))

    def at(self, moment: datetime) -> Rate:
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        for start, end, rate in self._windows:
            if start <= moment < end:
                return rate
        rate = _compile(self._model, self._provider, self._model.get_prices(moment, self._context), self._source)
        start, end = _stretch(self.changes, moment)
        self._windows = ((start, end, rate), *self._windows[: _WINDOWS - 1])
        return rate


_Change = datetime | tuple[time, time]


def _constraints(model: ModelInfo, variants: bool) -> Iterator[_Change]:
    from genai_prices.types import StartDateConstraint, TimeOfDateConstraint

    items = list(model.prices) if isinstance(model.prices, list) else []
    holders = [item.constraint for item in items]
    if variants:
        holders += [variant.constraint for variant in model.price_variants or ()]
    for constraint in holders:
        if isinstance(constraint, StartDateConstraint):
            yield datetime.combine(constraint.start_date, time(0), tzinfo=UTC)
        elif isinstance(constraint, TimeOfDateConstraint):
            yield constraint.start_time, constraint.end_time


def _stretch(changes: tuple[_Change, ...], moment: datetime) -> tuple[datetime, datetime]:
    """The longest known stretch round ``moment`` in which no constraint changes."""
    start, end = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    moment = moment.astimezone(UTC)
    for change in changes:
        if isinstance(change, datetime):
            edges = [change]
        else:
            edges = [
                datetime.combine(moment.date() + timedelta(days=day), edge, tzinfo=edge.tzinfo or UTC)
                for edge in change
                for day in (-2, -1, 0, 1, 2)
            ]
        for edge in edges:
            if edge <= moment:
                start = max(start, edge)
            else:
                end = min(end, edge)
    return start, end


def _compile(model: ModelInfo, provider: Provider, price: ModelPrice, source: str) -> Rate:
    from genai_prices.types import TieredPrices
    from genai_prices.units import UnitRegistry, _get_registry  # pyright: ignore[reportPrivateUsage]

    registry: UnitRegistry = _get_registry()
    units: list[PricedUnit] = []
    for unit in registry.units.values():
        value = price.__dict__.get(unit.price_key)
        if isinstance(value, Decimal):
            units.append(PricedUnit(unit.usage_key, unit.dimensions, unit.per, value))
        elif isinstance(value, TieredPrices):
            tiers = tuple((tier.start, tier.price) for tier in value.tiers)
            units.append(PricedUnit(unit.usage_key, unit.dimensions, unit.per, value.base, tiers))
    whisper = provider.id == "groq" and model.id in {"whisper-large-v3", "whisper-large-v3-turbo"}
    return Rate.compile(
        units,
        model_id=model.id,
        provider_id=provider.id,
        source=source,
        context_window=model.context_window,
        least_audio_seconds=10 if whisper else 0,  # as genai-prices bills them
    )


def _find(snapshot: DataSnapshot, provider_id: str | None, model: str) -> tuple[Provider, ModelInfo] | None:
    """The provider and model that genai-prices means, or ``None``."""
    from genai_prices.data_snapshot import find_provider_by_id

    model = model.strip()
    if model.startswith("arn:"):
        if _OPAQUE_ARN.search(model):
            return None  # the ARN of someone's own resource says nothing of the model behind it
        model = model.rpartition("/")[2]
    if provider_id is None:
        return _find_by_name(snapshot, model)
    if provider_id == "huggingface":  # the router; the name's suffix says who serves it: "org/model:together"
        model, _, served_by = model.partition(":")
        provider_id = f"huggingface_{served_by}"
        if find_provider_by_id(snapshot.providers, provider_id) is None:  # left open, or ":cheapest"
            return _find_by_name(snapshot, model)
    provider = find_provider_by_id(snapshot.providers, provider_id)
    if provider is None:
        return None
    for name in _spellings(model, provider.id):
        if found := provider.find_model(name, all_providers=snapshot.providers):
            return provider, found
    if provider.id in _PASS_THROUGH:
        return _find_prefixed(snapshot, model)
    return None


def _spellings(model: str, provider_id: str) -> Iterator[str]:
    """``model`` as it stands, without the region of a Bedrock id, without what stands before a slash.

    And with the version that Bedrock's OpenAI-compatible endpoint leaves out of its names.
    """
    yield model
    if match := _REGION.match(model):
        yield model[match.end() :]
    if "/" in model:
        yield model.rpartition("/")[2]
    if provider_id == "aws" and ":" not in model:
        yield f"{model}-1:0"


def _find_prefixed(snapshot: DataSnapshot, model: str) -> tuple[Provider, ModelInfo] | None:
    """Reads "openai/gpt-5": a provider's very id before the slash, a model of its own behind it."""
    prefix, slash, name = model.partition("/")
    if slash:
        for provider in snapshot.providers:
            if provider.id == prefix.lower() and (found := provider.find_model(name)):
                return provider, found
    return None


def _find_by_name(snapshot: DataSnapshot, model: str) -> tuple[Provider, ModelInfo] | None:
    """For an unknown host: only a name that tells whose model it is, and only if it isn't free there."""
    found = _find_prefixed(snapshot, model)
    if found is None:
        lowered = model.lower()
        owners = [
            provider
            for provider in snapshot.providers
            if provider.model_match is not None and provider.model_match.is_match(lowered)
        ]
        if not owners:  # a name that just one provider lists, those aside that borrow others' models
            owners = [
                provider
                for provider in snapshot.providers
                if not provider.fallback_model_providers and any(info.id == lowered for info in provider.models)
            ]
        if len(owners) != 1:
            return None
        info = owners[0].find_model(lowered)
        if info is None:
            return None
        found = owners[0], info
    return found if _is_charged(found[1]) else None


def _is_charged(model: ModelInfo) -> bool:
    prices = [item.prices for item in model.prices] if isinstance(model.prices, list) else [model.prices]
    return any(value is not None for price in prices for value in price.__dict__.values())
