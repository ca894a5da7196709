"""What users write: a limit, the time and the scope it is kept for, and what happens at its end."""

from __future__ import annotations

import difflib
import math
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn, get_args

from tokenmeter.budgets.limit import Unit, format_limit, parse_limit
from tokenmeter.budgets.window import zone
from tokenmeter.errors import ConfigError

Per = Literal["call", "run", "hour", "day", "week", "month", "total"]
OnExceed = Literal["refuse", "warn", "clamp"]

ATTRIBUTES = ("agent", "user", "team", "run", "model", "provider")


@dataclass(frozen=True, slots=True, init=False)
class Budget:
    """A limit on what calls may spend.

    ``limit``: ``"$5"``, ``"200k tokens"``, ``"100 calls"``.
    ``per``: the window, one of call, run, hour, day, week, month (in the time zone ``tz``; weeks start on
    Monday) and total.
    ``scope``: who has a budget of their own: nothing for one budget over all, an attribute (``"agent"``),
    ``"tag:NAME"``, or several of them.
    ``match``: only calls whose attributes match these patterns count, ``{"model": "gpt-*"}``.
    ``on_exceed``: ``"refuse"``; ``"warn"`` lets the call pass and says so; ``"clamp"`` lowers the caller's
    output cap to what is left.
    ``wait_s``: how long a call may wait for other calls to settle.
    ``min_output_tokens``: the smallest output cap that is worth a call.

    Anything else raises ``ConfigError``.
    """

    limit: str
    per: Per = field(kw_only=True)
    scope: tuple[str, ...] = field(kw_only=True)
    match: tuple[tuple[str, tuple[str, ...]], ...] = field(kw_only=True)
    on_exceed: OnExceed = field(kw_only=True)
    wait_s: float = field(kw_only=True)
    min_output_tokens: int = field(kw_only=True)
    tz: str = field(kw_only=True)
    name: str = field(kw_only=True)
    unit: Unit = field(init=False)
    limit_amount: int = field(init=False)
    named: bool = field(init=False, compare=False, repr=False)

    def __init__(
        self,
        limit: str,
        *,
        per: Per = "total",
        scope: str | Sequence[str] | None = None,
        match: Mapping[str, str | Sequence[str]] | Sequence[tuple[str, Sequence[str]]] | None = None,
        on_exceed: OnExceed = "refuse",
        wait_s: float = 30.0,
        min_output_tokens: int = 256,
        tz: str = "UTC",
        name: str | None = None,
    ) -> None:
        put = object.__setattr__
        unit, amount = parse_limit(limit)
        put(self, "limit", limit.strip())
        put(self, "unit", unit)
        put(self, "limit_amount", amount)
        put(self, "per", _one_of("per", per, get_args(Per)))
        put(self, "scope", _scope(scope))
        put(self, "match", _match(match))
        put(self, "on_exceed", _one_of("on_exceed", on_exceed, get_args(OnExceed)))
        put(self, "wait_s", _wait(wait_s))
        put(self, "min_output_tokens", _at_least_one(min_output_tokens))
        put(self, "tz", _tz(tz))
        if name is not None and not (isinstance(name, str) and name.strip()):
            raise ConfigError(f"budget name {name!r} is no text; give one that people recognise, or leave it out")
        put(self, "named", name is not None)
        put(self, "name", name if name is not None else f"{format_limit(unit, amount)} {self.kept_for}")

    @property
    def kept_for(self) -> str:
        """The window, the scope and the match in words: ``per day per agent for model=gpt-*``."""
        words = ["in total" if self.per == "total" else f"per {self.per}"]
        if self.scope:
            words.append("per " + " and ".join(self.scope))
        if self.match:
            words.append("for " + ", ".join(f"{name}={'|'.join(patterns)}" for name, patterns in self.match))
        return " ".join(words)


def _scope(scope: object) -> tuple[str, ...]:
    if scope is None or scope == "global":
        return ()
    if isinstance(scope, str):
        return (_attribute("scope", scope),)
    if not isinstance(scope, tuple | list):
        raise ConfigError(f"budget scope {scope!r} is {type(scope).__name__}; {_attribute_choices()}")
    names = tuple(_attribute("scope", name) for name in scope)
    if len(set(names)) < len(names):
        raise ConfigError(f"budget scope {scope!r} names an attribute twice; name each one once")
    return names


def _match(match: object) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if match is None:
        return ()
    try:
        pairs = list(match.items()) if isinstance(match, Mapping) else [(name, pats) for name, pats in match]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ConfigError(f'budget match {match!r} is no mapping; write {{"model": "gpt-*"}}') from None
    found = []
    for name, given in pairs:
        patterns = (given,) if isinstance(given, str) else given
        if not isinstance(patterns, tuple | list) or not patterns or not all(isinstance(p, str) for p in patterns):
            raise ConfigError(f'budget match {name!r}: {given!r} is no pattern; write "gpt-*" or a list of such')
        found.append((_attribute("match", name), tuple(patterns)))
    return tuple(found)


def _attribute(what: str, name: object) -> str:
    if isinstance(name, str) and (name in ATTRIBUTES or (name.startswith("tag:") and name[4:].strip())):
        return name
    if isinstance(name, str) and name == "global":
        raise ConfigError(f"budget {what} 'global' stands alone; {_attribute_choices()}")
    hint = ""
    if isinstance(name, str) and not name.startswith("tag:"):
        close = difflib.get_close_matches(name, ATTRIBUTES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; for a tag write 'tag:{name}'"
    raise ConfigError(f"budget {what} {name!r} is no attribute of a call; {_attribute_choices()}{hint}")


def _attribute_choices() -> str:
    return f"choose from {', '.join(ATTRIBUTES)}, tag:NAME, or global"


def _one_of(what: str, value: object, choices: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    close = difflib.get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"budget {what}={value!r} is unknown; choose from {', '.join(choices)}{hint}")


def _wait(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigError(f"budget wait_s={value!r} is no time to wait; give seconds, 0 for not at all")
    return float(value)


def _at_least_one(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"budget min_output_tokens={value!r} is no number of tokens; give 1 or more")
    return value


def _tz(name: object) -> str:
    if not isinstance(name, str):
        _no_zone(name)
    try:
        zone(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        _no_zone(name)
    return name


def _no_zone(name: object) -> NoReturn:
    known = zoneinfo.available_timezones()
    close = difflib.get_close_matches(name, known, n=1) if isinstance(name, str) else []
    remedy = f"did you mean {close[0]!r}?" if close else "give an IANA name such as 'UTC' or 'Europe/Berlin'"
    if not known:
        remedy = "this machine has no time zone database: install the package tzdata"
    raise ConfigError(f"budget tz={name!r} is no time zone; {remedy}") from None
