"""tokenmeter meters LLM calls: it says who spent what, and holds each call to budgets before the request goes out."""

from tokenmeter.budgets import Budget, Store
from tokenmeter.budgets.remaining import Remaining
from tokenmeter.budgets.thresholds import Crossing
from tokenmeter.errors import (
    BudgetExceeded,
    ConfigError,
    DepthExceeded,
    LoopDetected,
    Paused,
    Refused,
    StoreUnavailable,
    TokenmeterError,
    UnpricedModel,
)
from tokenmeter.ledger import Spend
from tokenmeter.loops import Limits, LoopPolicy
from tokenmeter.meter import Meter
from tokenmeter.pricing import Overshoot, Price
from tokenmeter.propagation import AsgiMiddleware, WsgiMiddleware, extract, inject, injecting
from tokenmeter.record import CallRecord, Recorder
from tokenmeter.usage import Usage
from tokenmeter.version import VERSION as __version__

__all__ = [
    "AsgiMiddleware",
    "Budget",
    "BudgetExceeded",
    "CallRecord",
    "ConfigError",
    "Crossing",
    "DepthExceeded",
    "Limits",
    "LoopDetected",
    "LoopPolicy",
    "Meter",
    "Overshoot",
    "Paused",
    "Price",
    "Recorder",
    "Refused",
    "Remaining",
    "Spend",
    "Store",
    "StoreUnavailable",
    "TokenmeterError",
    "UnpricedModel",
    "Usage",
    "WsgiMiddleware",
    "__version__",
    "extract",
    "inject",
    "injecting",
]
