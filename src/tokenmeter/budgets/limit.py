"""The limit of a budget as people write it: ``"$5"``, ``"200k tokens"``, ``"100 calls"``."""

from __future__ import annotations

import re
from typing import Literal

from tokenmeter.errors import ConfigError

Unit = Literal["usd", "tokens", "calls"]

NANOS_PER_USD = 1_000_000_000
MAX_AMOUNT = 2**63 - 1  # what an integer column of a database can keep

_NUMBER = r"(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.(?P<fraction>[0-9]+))?"
_MONEY = re.compile(rf"(?:(?:US)?\$\s*|USD\s*){_NUMBER}|{_NUMBER.replace('P<', 'P<s_')}\s*USD", re.IGNORECASE)
_COUNT = re.compile(rf"{_NUMBER}\s*(?P<scale>[kmb]?)\s*(?P<unit>tokens?|calls?)", re.IGNORECASE)
_SCALE_DIGITS = {"": 0, "k": 3, "m": 6, "b": 9}
_REMEDY = 'write an amount like "$5", "$0.50", "5 USD", "200k tokens" or "100 calls"'


def parse_limit(text: object, what: str = "limit") -> tuple[Unit, int]:
    """Read a limit: its unit, and its amount in nanodollars, tokens or calls.

    Raises ``ConfigError`` for anything else, which names ``what`` it is, the value and the remedy.
    """
    named = f"budget {what} {text!r}"
    if not isinstance(text, str):
        raise ConfigError(f"{named} is {type(text).__name__}, not text; {_REMEDY}")
    if len(text) > 64:
        raise ConfigError(f"budget {what} {text[:24]!r}… is too long; {_REMEDY}")
    plain = text.strip()
    if money := _MONEY.fullmatch(plain):
        whole, fraction = money["whole"] or money["s_whole"], money["fraction"] or money["s_fraction"]
        return "usd", _scaled(named, whole, fraction, 9, "a nanodollar ($0.000000001) is the finest amount")
    if count := _COUNT.fullmatch(plain):
        digits = _SCALE_DIGITS[count["scale"].lower()]
        unit: Unit = "tokens" if count["unit"].lower().startswith("token") else "calls"
        return unit, _scaled(named, count["whole"], count["fraction"], digits, f"{unit} are counted whole")
    raise ConfigError(f"{named} {_reason(plain)}; {_REMEDY}")


def format_limit(unit: Unit, amount: int) -> str:
    """Write an amount so that ``parse_limit`` reads the same back: ``"$0.50"``, ``"200k tokens"``."""
    if unit == "usd":
        dollars, nanos = divmod(amount, NANOS_PER_USD)
        cents = f"{nanos:09d}".rstrip("0")
        return f"${dollars:,}.{cents:0<2}" if cents else f"${dollars:,}"
    noun = unit[:-1] if amount == 1 else unit
    for scale, letter in ((1_000_000, "M"), (1_000, "k")):
        if amount >= scale and amount % (scale // 10) == 0:
            tenths = amount * 10 // scale
            return f"{tenths // 10:,}{f'.{tenths % 10}' if tenths % 10 else ''}{letter} {noun}"
    return f"{amount:,} {noun}"


def _scaled(named: str, whole: str | None, fraction: str | None, digits: int, finest: str) -> int:
    """The number times ten to the power of ``digits``, exactly."""
    if whole is None and fraction is None:
        raise ConfigError(f"{named} has no number; {_REMEDY}")
    decimals = (fraction or "").rstrip("0")
    if len(decimals) > digits:
        raise ConfigError(f"{named} is too fine: {finest}; {_REMEDY}")
    amount = int((whole or "0").replace(",", "") + decimals.ljust(digits, "0"))
    if amount > MAX_AMOUNT:
        raise ConfigError(f"{named} is larger than can be kept; {_REMEDY}")
    return amount


def _reason(plain: str) -> str:
    if re.fullmatch(r"[0-9][0-9.,]*[kmb]?", plain, re.IGNORECASE):
        return "says no unit"
    if "-" in plain:
        return "makes no sense as a limit, which is never negative"
    return "is no limit that can be read"
