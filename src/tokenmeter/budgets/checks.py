"""What the arguments of a budget must be: each is read here, or refused with its value and the remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NoReturn

from tokenmeter.budgets.downgrade import Rules, circle
from tokenmeter.budgets.limit import Unit, parse_limit
from tokenmeter.budgets.window import zone
from tokenmeter.errors import ConfigError
from tokenmeter.texts import did_you_mean

ATTRIBUTES = ("agent", "user", "team", "run", "model", "provider")

_MAX_PERCENT = 1000
_WORDS: Mapping[Unit, str] = {"usd": "US dollars", "tokens": "tokens", "calls": "calls"}


def scope(given: object) -> tuple[str, ...]:
    """The attributes that tell the books of a budget apart."""
    if given is None or given == "global":
        return ()
    if isinstance(given, str):
        return (_attribute("scope", given),)
    if not isinstance(given, tuple | list):
        raise ConfigError(f"budget scope {given!r} is {type(given).__name__}; {_attribute_choices()}")
    names = tuple(_attribute("scope", name) for name in given)
    if len(set(names)) < len(names):
        raise ConfigError(f"budget scope {given!r} names an attribute twice; name each one once")
    return names


def match(given: object) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Pairs of an attribute and the patterns of which it must fit one."""
    if given is None:
        return ()
    try:
        pairs = list(given.items()) if isinstance(given, Mapping) else [(name, pats) for name, pats in given]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ConfigError(f'budget match {given!r} is no mapping; write {{"model": "gpt-*"}}') from None
    found = []
    for name, value in pairs:
        patterns = (value,) if isinstance(value, str) else value
        if not isinstance(patterns, tuple | list) or not patterns or not all(isinstance(p, str) for p in patterns):
            raise ConfigError(f'budget match {name!r}: {value!r} is no pattern; write "gpt-*" or a list of such')
        found.append((_attribute("match", name), tuple(patterns)))
    return tuple(found)


def _attribute(what: str, name: object) -> str:
    if isinstance(name, str) and (name in ATTRIBUTES or (name.startswith("tag:") and name[4:].strip())):
        return name
    if isinstance(name, str) and name == "global":
        raise ConfigError(f"budget {what} 'global' stands alone; {_attribute_choices()}")
    hint = ""
    if isinstance(name, str) and name.strip() and not name.startswith("tag:"):
        hint = did_you_mean(name, ATTRIBUTES, otherwise=f"for a tag write 'tag:{name}'")
    raise ConfigError(f"budget {what} {name!r} is no attribute of a call; {_attribute_choices()}{hint}")


def _attribute_choices() -> str:
    return f"choose from {', '.join(ATTRIBUTES)}, tag:NAME, or global"


def one_of(what: str, value: object, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    if isinstance(value, str) and value in choices:
        return value
    hint = did_you_mean(value, choices)
    raise ConfigError(f"budget {what}={value!r} is unknown; choose from {', '.join(choices)}{hint}")


def wait(value: object) -> float:
    """Seconds to wait."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigError(f"budget wait_s={value!r} is no time to wait; give seconds, 0 for not at all")
    return float(value)


def at_least_one(value: object) -> int:
    """A number of tokens."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"budget min_output_tokens={value!r} is no number of tokens; give 1 or more")
    return value


def tz(name: object) -> str:
    """A time zone that this machine knows."""
    if not isinstance(name, str):
        _no_zone(name)
    try:
        zone(name)
    except (LookupError, ValueError, OSError):
        _no_zone(name)
    return name


def _no_zone(name: object) -> NoReturn:
    import zoneinfo

    # An abbreviation that looks alike is another zone: EST for CEST.
    known = {zone for zone in zoneinfo.available_timezones() if "/" in zone or zone == "UTC"}
    hint = did_you_mean(name, known, otherwise="give an IANA name such as 'UTC' or 'Europe/Berlin'")
    if not known:
        hint = "; this machine has no time zone database: install the package tzdata"
    raise ConfigError(f"budget tz={name!r} is no time zone{hint}") from None


def local_limit(text: object, mode: str, limit: str, unit: Unit, amount: int) -> int | None:
    """The amount of the limit without the store, which goes with ``on_store_error="local"`` and nothing else."""
    if text is None:
        if mode == "local":
            raise ConfigError(
                "budget on_store_error='local' says no limit to keep to without the store; add a local_limit such as "
                f"{_part_of(unit)!r}, which each process keeps to by itself"
            )
        return None
    if mode != "local":
        raise ConfigError(
            f"budget local_limit={text!r} means nothing with on_store_error={mode!r}; "
            "write on_store_error='local' too, or leave it out"
        )
    local_unit, local_amount = parse_limit(text, "local_limit")
    if local_unit != unit:
        raise ConfigError(
            f"budget local_limit={text!r} is in {_WORDS[local_unit]}, and the limit {limit!r} is in {_WORDS[unit]}; "
            f"write an amount like {_part_of(unit)!r}"
        )
    if local_amount > amount:
        raise ConfigError(
            f"budget local_limit={text!r} is more than the limit {limit!r}, which one process alone would exceed; "
            "write what each process may spend of it"
        )
    return local_amount


def _part_of(unit: Unit) -> str:
    return {"usd": "$2", "tokens": "20k tokens", "calls": "20 calls"}[unit]


def downgrade(rules: object, on_exceed: str) -> Rules:
    """The rules as pairs, which go with ``on_exceed="downgrade"`` and nothing else, and never lead in a circle."""
    found = () if rules is None else _pairs(rules)
    if on_exceed != "downgrade":
        if found:
            raise ConfigError(
                f"budget downgrade={dict(found)!r} means nothing with on_exceed={on_exceed!r}; "
                "write on_exceed='downgrade' too, or leave it out"
            )
        return ()
    if not found:
        raise ConfigError(
            "budget on_exceed='downgrade' names no cheaper model; "
            'add downgrade such as {"gpt-5": "gpt-5-mini", "claude-opus-*": "claude-haiku-4-5"}'
        )
    if chain := circle(found):
        raise ConfigError(
            f"budget downgrade goes round in a circle: {' → '.join(chain)}; "
            "name the cheapest model last, with nothing to try after it"
        )
    return found


def _pairs(rules: object) -> Rules:
    example = 'write {"gpt-5": "gpt-5-mini"}'
    try:
        pairs = list(rules.items()) if isinstance(rules, Mapping) else [(model, target) for model, target in rules]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ConfigError(f"budget downgrade={rules!r} is no mapping; {example}") from None
    seen = set()
    for model, target in pairs:
        for name in (model, target):
            if not isinstance(name, str) or not name.strip():
                raise ConfigError(f"budget downgrade {model!r}: {target!r} names no model with {name!r}; {example}")
        if any(sign in target for sign in "*?["):
            raise ConfigError(f"budget downgrade {model!r}: {target!r} is a pattern; name the one model to try")
        if model == target:
            raise ConfigError(f"budget downgrade {model!r}: {target!r} is the same model; name a cheaper one")
        if model in seen:
            raise ConfigError(f"budget downgrade names {model!r} twice; name each model once")
        seen.add(model)
    return tuple(pairs)


def of_size(what: str, value: object, unit: Unit, *, wanted: bool) -> None:
    """Refuse what makes the hold of a call smaller where a call is always one."""
    if wanted and unit == "calls":
        raise ConfigError(
            f"budget {what}={value!r} means nothing for a limit in calls, where every call holds one; leave it out"
        )


def flag(what: str, value: object) -> bool:
    """True or False, and nothing that is only taken for one of them."""
    if not isinstance(value, bool):
        raise ConfigError(f"budget {what}={value!r} is neither True nor False; give one of the two")
    return value


def thresholds(percents: object) -> tuple[int | float, ...]:
    """Percents of the limit in rising order."""
    example = "give percents of the limit in rising order such as (50, 80, 100), or () for none"
    if isinstance(percents, str | bytes) or not isinstance(percents, Sequence):
        raise ConfigError(f"budget thresholds={percents!r} is {type(percents).__name__}; {example}")
    found: list[int | float] = []
    for percent in percents:
        if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 < percent <= _MAX_PERCENT:
            raise ConfigError(
                f"budget thresholds={percents!r}: {percent!r} is no percent above 0 and up to {_MAX_PERCENT}; {example}"
            )
        if found and percent <= found[-1]:
            raise ConfigError(
                f"budget thresholds={percents!r}: {percent!r} does not come after {found[-1]!r}; {example}"
            )
        found.append(percent)
    if found and found[0] < 1 and found[-1] <= 1:
        raise ConfigError(f"budget thresholds={percents!r} are parts of one, not percents; write 50 for half the limit")
    return tuple(found)
