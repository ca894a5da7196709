"""Money is an integer of nanodollars inside and a `Decimal` of dollars outside."""

from __future__ import annotations

from decimal import Context, Decimal

_EXACT = Context(prec=60)


def usd(nanos: int) -> Decimal:
    """Nanodollars as exact dollars, whatever the precision of the caller's decimal context."""
    return Decimal(nanos).scaleb(-9, _EXACT) if nanos else Decimal(0)
