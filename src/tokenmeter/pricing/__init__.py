"""Usage times dated price, in nanodollars; and what a request can cost at worst."""

from tokenmeter.pricing.book import DEFAULT_MAX_OUTPUT, PriceBook, max_output_tokens
from tokenmeter.pricing.bounds import InputBound
from tokenmeter.pricing.expected import ExpectedCost, Overshoot
from tokenmeter.pricing.price import Price, parse_prices
from tokenmeter.pricing.rates import NANOS_PER_USD, PricedUnit, Rate

__all__ = [
    "DEFAULT_MAX_OUTPUT",
    "NANOS_PER_USD",
    "ExpectedCost",
    "InputBound",
    "Overshoot",
    "Price",
    "PriceBook",
    "PricedUnit",
    "Rate",
    "max_output_tokens",
    "parse_prices",
]
