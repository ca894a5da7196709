"""How old the prices are, and whether each model that the configuration names has one."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tokenmeter.cli.doctor.check import Check, fail, ok, warn
from tokenmeter.cli.times import moment
from tokenmeter.config import Config

if TYPE_CHECKING:
    from tokenmeter.pricing import PriceBook

OLD_DAYS = 60
_DISTRIBUTION = "genai-prices"
_PLAUSIBLE_S = datetime(2024, 1, 1, tzinfo=UTC).timestamp()  # images that build the same bytes twice set files to 1980


def checks(config: Config | None) -> Iterator[Check]:
    """All about prices."""
    try:
        from tokenmeter.pricing import PriceBook

        book = PriceBook(config.prices if config is not None else None)
        book.preload()
        version = importlib.metadata.version(_DISTRIBUTION)
    except Exception as error:  # noqa: BLE001 - whatever a broken package raises
        yield fail("prices", f"{_DISTRIBUTION} can't be loaded: {error}", f"pip install --upgrade {_DISTRIBUTION}")
        return
    yield age(version, _as_of_s(), time.time())
    if config is not None:
        yield from _models(book, config)


def age(version: str, as_of_s: float | None, now_s: float) -> Check:
    """How old they are at least: the package says no date, and can't be younger than its installation."""
    if as_of_s is None:
        return ok("prices", f"{_DISTRIBUTION} {version}; how old it is can't be seen")
    days = int(max(0.0, now_s - as_of_s) // 86_400)
    found = f"{_DISTRIBUTION} {version}, here since {moment(as_of_s)[:10]}: {days} days old or more"
    if days > OLD_DAYS:
        return warn("prices", found, f"pip install --upgrade {_DISTRIBUTION}; models and prices change every week")
    return ok("prices", found)


def _as_of_s() -> float | None:
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    if snapshot.from_auto_update:
        return snapshot.timestamp.timestamp()
    files = importlib.metadata.files(_DISTRIBUTION) or []
    data = next((file for file in files if file.name == "data.py"), None)
    try:
        since_s = Path(str(data.locate())).stat().st_mtime if data is not None else 0.0
    except OSError:
        return None
    return since_s if since_s > _PLAUSIBLE_S else None


def _models(book: PriceBook, config: Config) -> Iterator[Check]:
    """Prices of one's own, and the models that budgets are for; patterns aside, which name none."""
    named = {key for key in config.prices if "*" not in key}
    for budget in config.budgets:
        for name, patterns in budget.match:
            if name == "model" and budget.unit == "usd":
                named |= {pattern for pattern in patterns if not set(pattern) & set("*?[")}
    unpriced = sorted(name for name in named if not _priced(book, name))
    if unpriced and config.unpriced == "refuse":
        remedy = "add them under [prices]: calls to them are refused under a money budget"
        yield warn("models", f"without a price: {', '.join(unpriced)}", remedy)
    elif unpriced:
        yield ok("models", f"without a price, which the configuration allows for: {', '.join(unpriced)}")
    elif named:
        yield ok("models", f"all {len(named)} that the configuration names have a price")


def _priced(book: PriceBook, name: str) -> bool:
    provider, sign, model = name.partition("/")
    now_s = time.time()
    return book.rate(None, name, at=now_s) is not None or (
        bool(sign) and book.rate(provider, model, at=now_s) is not None
    )
