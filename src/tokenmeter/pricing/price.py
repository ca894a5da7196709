"""Prices that the user gives: negotiated ones, and those of models that genai-prices doesn't know."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from tokenmeter.errors import ConfigError
from tokenmeter.pricing.rates import PricedUnit, Rate

Amount = str | int | Decimal

_AMOUNT = re.compile(r"\$?\s*(\d{1,9}(?:\.\d{1,12})?)")
_REMEDY = 'write US dollars per million tokens as a string, such as "1.25" or "$1.25"'
_MAX_FILE_BYTES = 16_000_000

_INPUT = {"family": "tokens", "direction": "input"}
_UNITS: Mapping[str, tuple[str, int, Mapping[str, str]]] = {
    "input": ("input_tokens", 1_000_000, _INPUT),
    "output": ("output_tokens", 1_000_000, {"family": "tokens", "direction": "output"}),
    "cache_read": ("cache_read_tokens", 1_000_000, {**_INPUT, "token_type": "cache_read"}),
    "cache_write": ("cache_write_tokens", 1_000_000, {**_INPUT, "token_type": "cache_write"}),
    "cache_write_1h": (
        "cache_write_1h_tokens",
        1_000_000,
        {**_INPUT, "token_type": "cache_write", "cache_ttl": "1h"},
    ),
    "per_request": ("requests", 1, {"family": "requests"}),
}


@dataclass(frozen=True, slots=True, init=False)
class Price:
    """A price of your own, in US dollars per million tokens; ``per_request`` in US dollars per call.

    Amounts are ``"1.25"``, ``"$1.25"``, an ``int`` or a ``Decimal``; a ``float`` is refused, because it isn't
    exact. A cache price that is left out is the input price (``cache_write_1h``: the ``cache_write`` price).
    ``context_window`` and ``max_output_tokens`` bound what a call can cost; what is left out is taken from
    genai-prices where it knows the model. Raises ``ConfigError`` for anything else.
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal | None
    cache_write: Decimal | None
    cache_write_1h: Decimal | None
    per_request: Decimal | None
    context_window: int | None
    max_output_tokens: int | None

    def __init__(
        self,
        input: Amount,  # noqa: A002 - the word of the field
        output: Amount,
        *,
        cache_read: Amount | None = None,
        cache_write: Amount | None = None,
        cache_write_1h: Amount | None = None,
        per_request: Amount | None = None,
        context_window: int | None = None,
        max_output_tokens: int | None = None,
    ) -> None:
        amounts = {
            "cache_read": cache_read,
            "cache_write": cache_write,
            "cache_write_1h": cache_write_1h,
            "per_request": per_request,
        }
        object.__setattr__(self, "input", _amount("input", input))
        object.__setattr__(self, "output", _amount("output", output))
        for name, value in amounts.items():
            object.__setattr__(self, name, None if value is None else _amount(name, value))
        object.__setattr__(self, "context_window", _count("context_window", context_window))
        object.__setattr__(self, "max_output_tokens", _count("max_output_tokens", max_output_tokens))

    def rate(
        self,
        model_id: str,
        provider_id: str | None,
        *,
        source: str = "fallback",
        context_window: int | None = None,
    ) -> Rate:
        """This price, compiled. ``context_window`` is what to assume where the price has none."""
        return Rate.compile(
            self._units(),
            model_id=model_id,
            provider_id=provider_id,
            source=source,
            context_window=self.context_window or context_window,
            max_output_tokens=self.max_output_tokens,
        )

    def _units(self) -> list[PricedUnit]:
        amounts: dict[str, Decimal | None] = {name: getattr(self, name) for name in _UNITS}
        if amounts["cache_write_1h"] is not None and amounts["cache_write"] is None:
            amounts["cache_write"] = self.input
        return [
            PricedUnit(key, dimensions, per, amount)
            for name, (key, per, dimensions) in _UNITS.items()
            if (amount := amounts[name]) is not None
        ]


_FIELDS = tuple(item.name for item in fields(Price))

PriceSource = Mapping[str, "Price | Mapping[str, object]"] | str | os.PathLike[str]


def parse_prices(source: PriceSource) -> Mapping[str, Price]:
    """Prices by model, from a mapping or from a TOML or JSON file. Reads the file, if it is one.

    A key is ``"model"`` or ``"provider/model"`` (the provider's id in genai-prices) and may have ``*`` in it.
    A value is a ``Price`` or a table of its fields. In a TOML file quote the names::

        ["gpt-5*"]
        input = "1.10"
        output = "8.80"

    Numbers in a file are read as decimals, exactly. Raises ``ConfigError`` naming file, key, value and
    remedy.
    """
    if isinstance(source, Mapping):
        return _parse_table(source, "prices")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return _parse_table(_read_file(path), str(path))
    raise ConfigError(
        f"prices: {source!r} is {_kind(source)}; give a mapping of model to price, or the path of a .toml or .json file"
    )


def _parse_table(table: Mapping[Any, Any], where: str) -> Mapping[str, Price]:
    prices: dict[str, Price] = {}
    for key, value in table.items():
        if not isinstance(key, str) or not key.strip():
            raise ConfigError(f'{where}: {key!r} is no model name; write "model" or "provider/model"')
        place = f"{where}: {key!r}"
        if isinstance(value, Price):
            prices[key] = value
        elif isinstance(value, Mapping):
            prices[key] = _parse_price(value, place)
        else:
            raise ConfigError(
                f'{place} is {value!r}, {_kind(value)}; write a table such as {{input = "1.25", output = "10"}}'
            )
    return MappingProxyType(prices)


def _parse_price(table: Mapping[Any, Any], place: str) -> Price:
    for name in table:
        if name not in _FIELDS:
            hint = " (quote a model name that has a dot in it)" if isinstance(table[name], Mapping) else ""
            raise ConfigError(f"{place} has the unknown field {name!r}; the fields are {', '.join(_FIELDS)}{hint}")
    for name in ("input", "output"):
        if table.get(name) is None:
            raise ConfigError(f'{place} has no {name!r} price; add {name} = "…", "0" if it is free of charge')
    try:
        return Price(**table)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def _read_file(path: Path) -> Mapping[Any, Any]:
    suffix = path.suffix.lower()
    if suffix not in {".toml", ".json"}:
        raise ConfigError(f"prices: {str(path)!r} is neither a .toml nor a .json file; name it so")
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_FILE_BYTES} bytes; a price file has only prices in it")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: can't be read ({error.strerror or error}); check the path of the price file"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error}); save it as UTF-8") from None
    import tomllib

    try:
        table: object = (
            tomllib.loads(text, parse_float=Decimal)
            if suffix == ".toml"
            else json.loads(text, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_pairs)
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is no valid {suffix[1:].upper()} ({error}); correct the file") from None
    if not isinstance(table, Mapping):
        raise ConfigError(f"{path}: holds {_kind(table)}; write an object with one entry a model")
    return table


def _no_constant(text: str) -> NoReturn:
    raise ConfigError(f"{text} is no price; {_REMEDY}")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ConfigError(f"{key!r} is given twice; keep one of them")
        table[key] = value
    return table


def _amount(name: str, value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        inexact = ", which isn't exact" if isinstance(value, float) else ""
        raise ConfigError(f"{name} = {value!r} is {_kind(value)}{inexact}; {_REMEDY}")
    if isinstance(value, str):
        match = _AMOUNT.fullmatch(value.strip())
        if match is None:
            raise ConfigError(f"{name} = {value!r} is no price; {_REMEDY}")
        return Decimal(match[1])
    amount = Decimal(value)
    if not amount.is_finite() or amount < 0:
        raise ConfigError(f"{name} = {str(value)!r} is no price: it must be 0 or more; {_REMEDY}")
    if amount >= 10**9 or (amount and amount.as_tuple().exponent < -12):  # type: ignore[operator]
        raise ConfigError(f"{name} = {str(value)!r} is out of range, below 1e9 with at most 12 decimals; {_REMEDY}")
    return amount


def _count(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**40:
        raise ConfigError(f"{name} = {value!r} is no number of tokens; write a whole number above 0, such as 128000")
    return value


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"
