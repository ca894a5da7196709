"""Kinds of outcomes: what one is worth, whether those of one change fold into one, and who may accept them.

The kinds are the owner's to declare. An outcome of a kind that nobody declared is kept and shown, and doesn't count:
else a new name would be worth as much as whoever invents it likes. For the same reason the weight that an outcome
brings along may lower what it counts for and never raises it above its kind's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tokenmeter.errors import ConfigError
from tokenmeter.ledger.views import Outcome

MAX_CHARS: Final = 256
MAX_ATTRIBUTES: Final = 64
_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_NAMES = "write lower-case letters, digits, '_', '-' and '.'"
_SHOWN_CHARS = 60


def _number(what: str, value: object, *, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{what} is {_shown(value)}; give a number")
    if not 0 <= value <= most:  # nor is NaN
        raise ConfigError(f"{what} is {_shown(value)}; give a number from 0 to {most:g}")
    return float(value)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of outcome.

    Args:
        name: ``"deployment"``; lower-case letters, digits, ``_``, ``-`` and ``.``.
        weight: what one counts for, beside the other kinds. Also the most: an outcome may say less, not more.
        foldable: it is a part of a change, so that what one run or one fold made of it counts once. Not so a case of
            a customer, of which one run may settle many.
        accepters: who may accept it, as names or beginnings with a ``*``: ``("ci", "customer:*")``. Empty: anybody
            but those who spent.
    """

    name: str
    weight: float = 1.0
    foldable: bool = True
    accepters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigError(f"kind {_shown(self.name)} is no name; {_NAMES}")
        object.__setattr__(self, "weight", _number(f"weight of kind {self.name!r}", self.weight, most=1e6))

    def admits(self, accepter: str) -> bool:
        """Whether this one may accept it."""
        if not self.accepters:
            return True
        exact = accepter in self.accepters
        return exact or any(each.endswith("*") and accepter.startswith(each[:-1]) for each in self.accepters)


Kinds = Mapping[str, Kind]

BUILT_IN: Final[Kinds] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("deployment", 1.0),
            Kind("release", 1.0),
            Kind("merge", 0.5),
            Kind("commit", 0.1),
            Kind("checks", 0.05),  # a suite that passed: little by itself, and a part of the change that it checked
            Kind("task", 0.5, foldable=False),
            Kind("case", 0.25, foldable=False),
            Kind("review", 0.25, foldable=False),
            Kind("document", 0.25, foldable=False),
        )
    }
)
"""The kinds that importers give, and some that are common. A declaration of one's own goes before them."""


def declare(*kinds: Kind) -> Kinds:
    """The built-in kinds and these."""
    return MappingProxyType({**BUILT_IN, **{kind.name: kind for kind in kinds}})


def new_outcome(
    kind: str,
    key: str,
    at_s: float,
    *,
    team: str | None = None,
    user: str | None = None,
    run: str | None = None,
    agents: Iterable[str] = (),
    weight: float | None = None,
    confidence: float = 1.0,
    fold: str | None = None,
    accepted_by: str | None = None,
    source: str = "api",
    attributes: Iterable[tuple[str, str]] = (),
    kinds: Kinds = BUILT_IN,
) -> Outcome:
    """An outcome, checked. Without a ``weight`` it has that of its kind, 1 if the kind isn't declared.

    Raises:
        ConfigError: a name that is empty or too long, a weight, a confidence or a time that makes no sense.
    """
    declared = kinds.get(_kind(kind))
    if weight is None:
        weight = declared.weight if declared is not None else 1.0
    if isinstance(agents, str) or not isinstance(agents, Iterable):
        named = _shown(agents) if isinstance(agents, str) else "'coder'"
        raise ConfigError(f"outcome agents is {_shown(agents)}; give a list of names such as [{named}]")
    pairs = tuple((_text("attribute name", name), _text(f"attribute {name!r}", value)) for name, value in attributes)
    if len(pairs) > MAX_ATTRIBUTES:
        raise ConfigError(f"outcome has {len(pairs)} attributes; at most {MAX_ATTRIBUTES} are kept, leave some out")
    return Outcome(
        kind=kind,
        key=_text("key", key),
        at_s=_number("at_s", at_s, most=1e11),
        team=_maybe("team", team),
        user=_maybe("user", user),
        run=_maybe("run", run),
        agents=tuple(_text("agent", agent) for agent in agents),
        weight=_number("weight", weight, most=1e6),
        confidence=_number("confidence", confidence, most=1.0),
        fold=_maybe("fold", fold),
        accepted_by=_maybe("accepted_by", accepted_by),
        source=_text("source", source),
        attributes=pairs,
    )


def check_revocation(kind: object, key: object, at_s: object, why: object) -> float:
    """Check what takes an outcome back; its time.

    Raises:
        ConfigError: a name that no outcome can have, or a time or a reason that makes no sense.
    """
    _kind(kind)
    _text("key", key)
    if not isinstance(why, str):
        raise ConfigError(f"why is {_shown(why)}; give a text")
    return _number("at_s", at_s, most=1e11)


def _kind(kind: object) -> str:
    if not isinstance(kind, str) or not _NAME.fullmatch(kind):
        raise ConfigError(f"outcome kind {_shown(kind)} is no name; {_NAMES}")
    return kind


def _maybe(what: str, value: str | None) -> str | None:
    return None if value is None else _text(what, value)


def _text(what: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"outcome {what} is {_shown(value)}; give a string that is not empty")
    if len(value) > MAX_CHARS:
        raise ConfigError(f"outcome {what} {value[:40]!r}… has {len(value)} characters; at most {MAX_CHARS} are kept")
    return value


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
