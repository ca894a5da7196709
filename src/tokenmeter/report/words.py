"""Figures and moments as people read them, and text of strangers that can do no harm."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

from tokenmeter.money import usd
from tokenmeter.texts import clean

_LONGEST = 80


def short(text: str, most: int = _LONGEST) -> str:
    """Clean text, no longer than that."""
    plain = clean(text)
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def exact(nanos: int) -> str:
    """Dollars to the last nanodollar, as a plain decimal: ``12.000000001``."""
    sign, whole = "-" if nanos < 0 else "", abs(nanos)
    cents, rest = divmod(whole, 10**9)
    fraction = f"{rest:09d}".rstrip("0")
    return f"{sign}{cents}.{fraction}" if fraction else f"{sign}{cents}"


def money(nanos: int | None) -> str:
    """Dollars for people: two places, more where it is less than a dollar. None is not zero: a dash."""
    if nanos is None:
        return "\N{EN DASH}"
    if nanos == 0:
        return "$0.00"
    if 0 < nanos < 10**5:
        return "<$0.0001"
    places = Decimal("0.01") if abs(nanos) >= 10**9 else Decimal("0.0001")
    return f"${usd(nanos).quantize(places, ROUND_HALF_UP):,}"


def brief(nanos: float) -> str:
    """Dollars for an axis: ``$1.2k``."""
    dollars = nanos / 1e9
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if dollars >= size:
            return f"${dollars / size:.3g}{unit}"
    return f"${dollars:.3g}" if dollars >= 0.001 or not dollars else f"${dollars:.0e}"


def count(number: float) -> str:
    """A number with commas, a fraction where it has one."""
    return f"{number:,.0f}" if number == int(number) else f"{number:,.2f}"


def amount(unit: str, number: int) -> str:
    """An amount of a budget."""
    return money(number) if unit == "usd" else f"{number:,} {unit}"


def percent(part: int, whole: int) -> str:
    """A part in percent; a dash of nothing."""
    if not whole:
        return "\N{EN DASH}"
    return "<1 %" if 0 < 200 * part < whole else f"{100 * part / whole:.0f} %"


def iso(at_s: float) -> str:
    """``2026-12-01T09:00:00Z``."""
    return _at(at_s).strftime("%Y-%m-%dT%H:%M:%SZ")


def day(at_s: float) -> str:
    """``2026-12-01``."""
    return _at(at_s).strftime("%Y-%m-%d")


def moment(at_s: float) -> str:
    """``2026-12-01 09:00``, UTC."""
    return _at(at_s).strftime("%Y-%m-%d %H:%M")


def second(at_s: float) -> str:
    """``2026-12-01 09:00:05``, UTC."""
    return _at(at_s).strftime("%Y-%m-%d %H:%M:%S")


def tick(at_s: float, step_s: int) -> str:
    """A moment for an axis: an hour of a day, a day of a year, or a month."""
    if step_s < 86_400:
        return _at(at_s).strftime("%d %b %H:%M")
    return _at(at_s).strftime("%d %b" if step_s <= 7 * 86_400 else "%b %Y")


def _at(at_s: float) -> datetime:
    return datetime.fromtimestamp(min(max(math.floor(at_s), 0), 253_402_300_799), UTC)
