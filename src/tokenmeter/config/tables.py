"""One table of the file: it takes the keys that are known, and says of each fault where it stands."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tokenmeter.config.lines import Path as Place
from tokenmeter.errors import ConfigError
from tokenmeter.texts import did_you_mean

T = TypeVar("T")

_KINDS: Mapping[type, tuple[str, str]] = {
    bool: ("true or false", "write true or false, without quotes"),
    int: ("a whole number", "write a whole number, without quotes"),
    str: ("text", "write it in quotes"),
}
_LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Source:
    """The file, and the lines on which its keys stand."""

    path: Path
    lines: Mapping[Place, int]

    def refuse(self, place: Place, text: str) -> NoReturn:
        """Raise `ConfigError` with the file and the line; of a key that isn't there, that of its table."""
        while place and place not in self.lines:
            place = place[:-1]
        raise ConfigError(f"{self.path}:{self.lines.get(place, 1)}: {text}") from None


class Table:
    """One table. Each key is taken once; `done` refuses those that nobody took."""

    def __init__(self, source: Source, place: Place, found: object, title: str) -> None:
        self.source = source
        self.place = place
        self.title = title
        self._known: list[str] = []
        if not isinstance(found, dict):
            source.refuse(place, f"{title} is {kind_of(found)}; write it as a table")
        self._left: dict[str, Any] = dict(found)
        self.keys = tuple(found)

    def take(self, key: str, kind: type[T], default: T) -> T:
        """The value of a key of that type."""
        value = self.any(key, default)
        wanted, remedy = _KINDS[kind]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.refuse(key, f"{shown(value)} is {kind_of(value)}, not {wanted}; {remedy}")
        return value

    def texts(self, key: str, example: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self.any(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self.refuse(key, f"{shown(value)} is {kind_of(value)}; write a list of texts such as {example}")
        return tuple(value)

    def number(self, key: str) -> float | None:
        """The value of a key as a number; None where it isn't there."""
        value = plain(self.any(key))
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            self.refuse(key, f"{shown(value)} is {kind_of(value)}, not a number; write a number, without quotes")
        return value

    def any(self, key: str, default: Any = None) -> Any:
        """The value of a key, whatever it is."""
        self._known.append(key)
        return self._left.pop(key, default)

    def rest(self) -> dict[str, Any]:
        """All that was not taken."""
        rest, self._left = self._left, {}
        return rest

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def refuse(self, key: str, text: str) -> NoReturn:
        """Raise `ConfigError` about a key."""
        self.source.refuse((*self.place, key), f"{self.title} {key} = {text}")

    def done(self) -> None:
        """Refuse a key that nobody took."""
        for key in self._left:
            self.unknown(key)

    def unknown(self, key: str) -> NoReturn:
        """Raise `ConfigError` about a key that nobody knows."""
        known = sorted(set(self._known))
        hint = did_you_mean(key, known, otherwise=f"the keys are {', '.join(known)}")
        self.source.refuse((*self.place, key), f"{self.title} has no key {key!r}{hint}")

    def make(self, build: Callable[..., T], needed: str | None = None) -> T:
        """Build a value from all the rest; what it refuses is refused here, on the line of the key it speaks of."""
        known = [name for name in inspect.signature(build).parameters if name != "self"]
        self._known += known
        rest = self.rest()
        for key in rest:
            if key not in known:
                self.unknown(key)
        if needed is not None and needed not in rest:
            self.source.refuse(self.place, f'{self.title} has no {needed!r}; add {needed} = "…"')
        try:
            return build(**{key: plain(value) for key, value in rest.items()})
        except ConfigError as error:
            self.blame(rest, error)

    def blame(self, keys: Iterable[str], error: ConfigError) -> NoReturn:
        """Raise an error of a value that was built from these keys anew, with the line of the key it speaks of."""
        text = str(error)
        places = {key: found.start() for key in keys if (found := re.search(rf"(?<![\w'\"]){re.escape(key)}\b", text))}
        key = min(places, key=places.__getitem__, default=None)
        self.source.refuse(self.place if key is None else (*self.place, key), f"{self.title} {text}")


def plain(value: Any) -> Any:
    """The same with floats for decimals, which only prices want."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return value


def shown(value: object) -> str:
    """A value as the file has it, shortened."""
    if isinstance(value, bool):
        return str(value).lower()
    text = f'"{value}"' if isinstance(value, str) else str(plain(value))
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def kind_of(value: object) -> str:
    """What a value is, in the words of TOML."""
    for kind, word in (
        (bool, "a truth value"),
        (str, "text"),
        (int, "a whole number"),
        (Decimal, "a number"),
        (list, "a list"),
        (dict, "a table"),
    ):
        if isinstance(value, kind):
            return word
    return "a date"
