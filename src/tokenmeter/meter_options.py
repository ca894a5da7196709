"""What may be given to a meter, checked before anything is made of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from tokenmeter.budgets import Store
from tokenmeter.errors import ConfigError
from tokenmeter.loops import LoopPolicy
from tokenmeter.pricing import Price

_FLAGS = tuple(Store.__annotations__)
_VERBS = tuple(name for name, verb in vars(Store).items() if callable(verb) and not name.startswith("_"))


def check(
    *, loops: object, unpriced: object, user_key: object, recorders: Iterable[object], on_threshold: object
) -> None:
    """Refuse, with `ConfigError`, what makes no sense."""
    if loops is not None and not isinstance(loops, LoopPolicy):
        raise ConfigError(f"loops is {loops!r}; write LoopPolicy(max_depth=10)")
    if user_key is not None and not (isinstance(user_key, bytes) and user_key):
        raise ConfigError("user_key is no key; give bytes that are not empty")
    for recorder in recorders:
        if not callable(getattr(recorder, "record", None)):
            raise ConfigError(f"recorder {recorder!r} has no method record(row)")
    if not isinstance(unpriced, Price) and unpriced not in ("refuse", "allow"):
        raise ConfigError(f"unpriced is {unpriced!r}; choose 'refuse', 'allow' or a Price")
    if on_threshold is not None and not callable(on_threshold):
        raise ConfigError(f"on_threshold is {on_threshold!r}; give a function of one Crossing")


def checked_store(store: object) -> Store:
    """A store of the caller's own, if it has all that a store has."""
    missing = [f"{verb}()" for verb in _VERBS if not callable(getattr(store, verb, None))]
    missing += [flag for flag in _FLAGS if not hasattr(store, flag)]
    if missing:
        raise ConfigError(f"store {store!r} is no store: it has no {', '.join(missing)}; give an address or a Store")
    return cast("Store", store)
