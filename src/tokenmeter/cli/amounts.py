"""Amounts of a budget's unit: for people, and for JSON."""

from __future__ import annotations

from typing import cast, get_args

from tokenmeter.budgets.limit import Unit, format_limit
from tokenmeter.money import usd


def words(unit: str, amount: int) -> str:
    """An amount exactly, with its unit: ``$0.50``, ``200k tokens``."""
    return format_limit(cast(Unit, unit), amount) if unit in get_args(Unit) else f"{amount:,} {unit}"


def figure(unit: str, amount: int) -> str:
    """An amount for a column of figures: dollars to the hundredth of a cent."""
    if unit != "usd":
        return f"{amount:,}"
    if 0 < amount < 100_000:
        return "<$0.0001"
    return f"${usd(amount):,.4f}"


def for_json(unit: str, amount: int) -> str | int:
    """Dollars as an exact decimal in a string, else the number."""
    return f"{usd(amount).normalize():f}" if unit == "usd" else amount
