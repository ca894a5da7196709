"""The limits that stop runaway agents: one field a guard, each with a default that meant work does not meet.

What a guard does when its limit is passed is its action: ``refuse`` the call, ``warn`` and let it go, or ``brake`` it
with a pause that grows. Agents that need other limits get them by name, names of agents or tools whose repeats are
meant stand in ``allow``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, Final, Literal, TypedDict, get_args

from tokenmeter.errors import ConfigError
from tokenmeter.texts import did_you_mean

Action = Literal["refuse", "warn", "brake"]
Guard = Literal[
    "max_depth",
    "max_visits",
    "max_calls_per_run",
    "max_usd_per_run",
    "max_calls_per_minute",
    "max_runs_per_minute",
    "max_repeats",
    "max_rounds_without_news",
    "max_polls",
]
GUARDS: Final[tuple[Guard, ...]] = get_args(Guard)
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)

_ACTIONS: Final[Mapping[str, Action]] = MappingProxyType(
    {
        "max_calls_per_minute": "brake",  # a busy service is slowed before anything of it is lost
        "max_runs_per_minute": "brake",
        "max_polls": "warn",  # a result that changes may be progress
    }
)
_NO_ACTIONS: Final[Mapping[str, Action]] = MappingProxyType({})


class Limits(TypedDict, total=False):
    """What one agent has otherwise, by the names of `LoopPolicy`; the rest is as for all agents."""

    max_depth: int | None
    max_visits: int | None
    max_calls_per_run: int | None
    max_usd_per_run: Decimal | str | float | None
    max_calls_per_minute: int | None
    max_runs_per_minute: int | None
    max_repeats: int | None
    max_rounds_without_news: int | None
    max_polls: int | None
    window_s: float
    actions: Mapping[str, Action]
    allow: Iterable[str]


_NO_AGENTS: Final[Mapping[str, Limits]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class LoopPolicy:
    """Limits that stop runaway agents; ``None`` lifts one.

    Args:
        max_depth: agents nested in each other.
        max_visits: how often one agent may stand on the path of agents, as in A → B → A.
        max_calls_per_run: model calls of one run, over all processes that share a store; in this one without a store.
        max_usd_per_run: US dollars spent by one run, counted likewise: ``"5"``, ``Decimal("0.50")``.
        max_calls_per_minute: model calls of one agent in any minute, in this process.
        max_runs_per_minute: runs that one agent begins in any minute, in this process.
        max_repeats: how often the same may be done with nothing new in between: the same request sent by one run,
            the same tool call with the same arguments and the same result in one conversation. What differs only in
            a time, an id that is drawn at random or a counter is the same. A question that has no answer in it yet is
            often meant to be asked again (samples, tests, batches): its repeats are warned of, and refused only where
            ``actions`` says so.
        max_rounds_without_news: rounds of two speakers, or of agents that take turns, in which nobody says anything
            new.
        max_polls: the same tool call in a row while its results change.
        window_s: for how long a request is remembered.
        actions: ``refuse``, ``warn`` or ``brake`` by the name of a limit; ``max_calls_per_minute`` and
            ``max_runs_per_minute`` brake, ``max_polls`` warns, and all others refuse unless it is said here.
        allow: agents and tools whose repeats are meant, such as a poll; a ``*`` at the end stands for any ending.
        agents: other limits by the name of an agent: ``{"poller": {"max_repeats": None}}``.
    """

    max_depth: int | None = 10
    max_visits: int | None = 3
    max_calls_per_run: int | None = 20_000
    max_usd_per_run: Decimal | str | float | None = Decimal(100)
    max_calls_per_minute: int | None = 60_000
    max_runs_per_minute: int | None = 6_000
    max_repeats: int | None = 3
    max_rounds_without_news: int | None = 3
    max_polls: int | None = 24
    window_s: float = 3_600.0
    actions: Mapping[str, Action] = field(default_factory=lambda: _NO_ACTIONS, hash=False)
    allow: Iterable[str] = ()
    agents: Mapping[str, Limits] = field(default_factory=lambda: _NO_AGENTS, hash=False)
    max_nanos_per_run: int | None = field(init=False, repr=False, compare=False, default=None)
    reads_requests: bool = field(init=False, repr=False, compare=False, default=True)  # to see what repeats
    _by_agent: Mapping[str, LoopPolicy] = field(init=False, repr=False, compare=False, default_factory=dict)
    _actions: Mapping[str, Action] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for name in GUARDS:
            if name == "max_usd_per_run":
                dollars = _dollars(self.max_usd_per_run)
                object.__setattr__(self, name, dollars)
                object.__setattr__(self, "max_nanos_per_run", None if dollars is None else math.ceil(dollars.scaleb(9)))
            else:
                _check_count(name, getattr(self, name), least=_LEAST.get(name, 1))
        window: object = self.window_s
        if isinstance(window, bool) or not isinstance(window, int | float) or not 1 <= window <= 86_400:
            raise ConfigError(f"window_s is {window!r}; give seconds from 1 to 86400, such as 3600")
        repeats = (self.max_repeats, self.max_rounds_without_news, self.max_polls)
        object.__setattr__(self, "reads_requests", repeats != (None, None, None))
        _check_actions(self.actions)
        object.__setattr__(self, "actions", MappingProxyType(dict(self.actions)))
        object.__setattr__(self, "allow", _names(self.allow))
        object.__setattr__(self, "_actions", dict.fromkeys(GUARDS, "refuse") | dict(_ACTIONS) | dict(self.actions))
        object.__setattr__(self, "_by_agent", self._overridden())
        object.__setattr__(self, "agents", MappingProxyType(dict(self.agents)))

    def __reduce__(self) -> tuple[Any, ...]:
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        plain = {name: dict(value) if isinstance(value, MappingProxyType) else value for name, value in given.items()}
        return _rebuild, (plain,)

    def of(self, agent: str | None) -> LoopPolicy:
        """The limits of one agent."""
        return self if agent is None else self._by_agent.get(agent, self)

    def action(self, guard: Guard) -> Action:
        """What happens when the limit of a guard is passed."""
        return self._actions[guard]

    def allows(self, name: str | None) -> bool:
        """Whether repeats of this agent or tool are meant."""
        if name is None or not self.allow:
            return False
        return any(name.startswith(each[:-1]) if each.endswith("*") else name == each for each in self.allow)

    def _overridden(self) -> dict[str, LoopPolicy]:
        agents: object = self.agents
        if not isinstance(agents, Mapping):
            raise ConfigError(f'agents is {agents!r}; write {{"poller": {{"max_repeats": 50}}}}')
        common = {each.name: getattr(self, each.name) for each in fields(self) if each.init and each.name != "agents"}
        found: dict[str, LoopPolicy] = {}
        for agent, own in self.agents.items():
            limits: object = own
            if not isinstance(limits, Mapping):
                raise ConfigError(f'agents[{agent!r}] is {limits!r}; write a mapping such as {{"max_repeats": 50}}')
            for name in limits:
                if name not in common:
                    hint = did_you_mean(name, common, otherwise=f"the limits are {', '.join(common)}")
                    raise ConfigError(f"agents[{agent!r}] has no limit {name!r}{hint}")
            given: dict[str, Any] = {name: None if value == "none" else value for name, value in limits.items()}
            if "actions" in given:
                _check_actions(given["actions"])
                given["actions"] = {**self.actions, **given["actions"]}
            if "allow" in given:
                given["allow"] = (*self.allow, *_names(given["allow"]))
            try:
                found[agent] = LoopPolicy(**{**common, **given})
            except ConfigError as error:
                raise ConfigError(f"agents[{agent!r}]: {error}") from None
        return found


_LEAST: Final[Mapping[str, int]] = MappingProxyType({"max_repeats": 2, "max_rounds_without_news": 2, "max_polls": 8})


def shown_path(path: tuple[str, ...]) -> str:
    """A path of agents in a line; a long one is shortened in its middle."""
    if len(path) <= 12:
        return " → ".join(path)
    return " → ".join((*path[:6], f"… {len(path) - 12} more …", *path[-6:]))


_NO_LIMIT: Final = 'None ("none" in tokenmeter.toml) for no limit'


def _check_count(name: str, value: object, least: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ConfigError(f"{name} is {value!r}; give a whole number of at least {least}, or {_NO_LIMIT}")


def _dollars(value: object) -> Decimal | None:
    if value is None:
        return None
    text = value.strip().removeprefix("$").replace(",", "") if isinstance(value, str) else str(value)
    try:
        dollars = Decimal("NaN") if isinstance(value, bool) else Decimal(text)
    except InvalidOperation:
        dollars = Decimal("NaN")
    if not dollars.is_finite() or dollars <= 0:
        raise ConfigError(f'max_usd_per_run is {value!r}; give US dollars above 0 such as "2.50", or {_NO_LIMIT}')
    return dollars


def _check_actions(actions: object) -> None:
    if not isinstance(actions, Mapping):
        raise ConfigError(f'actions is {actions!r}; write {{"max_repeats": "warn"}}')
    for guard, action in actions.items():
        if guard not in GUARDS:
            raise ConfigError(f"actions names {guard!r}, which is no limit; the limits are {', '.join(GUARDS)}")
        if action not in ACTIONS:
            raise ConfigError(f"actions[{guard!r}] is {action!r}; write one of {', '.join(ACTIONS)}")


def _names(allow: object) -> tuple[str, ...]:
    if isinstance(allow, str) or not isinstance(allow, Iterable):
        raise ConfigError(f'allow is {allow!r}; give a list of names of agents and tools, such as ["get_status"]')
    names = tuple(allow)
    for name in names:
        if not isinstance(name, str) or name in {"", "*"}:
            raise ConfigError(f"allow has {name!r}; give the name of an agent or a tool, or its beginning and a '*'")
    return names


def _rebuild(given: Mapping[str, Any]) -> LoopPolicy:
    return LoopPolicy(**given)
