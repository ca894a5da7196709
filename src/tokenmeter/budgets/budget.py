"""What users write: a limit, the time and the scope it is kept for, and what happens at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from tokenmeter.budgets import checks
from tokenmeter.budgets.limit import Unit, format_limit, parse_limit
from tokenmeter.errors import ConfigError

Per = Literal["call", "run", "hour", "day", "week", "month", "total"]
OnExceed = Literal["refuse", "warn", "clamp", "downgrade"]
Hold = Literal["worst", "expected"]
OnStoreError = Literal["closed", "open", "local"]

THRESHOLDS = (50, 80, 100)


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
    output cap to what is left; ``"downgrade"`` asks a cheaper model.
    ``downgrade``: the cheaper models, ``{"gpt-5": "gpt-5-mini", "claude-opus-*": "claude-haiku-4-5"}``; a
    model's own name goes before patterns, and the cheaper one may have a cheaper one in turn.
    ``wait_s``: how long a call may wait for other calls to settle.
    ``min_output_tokens``: the smallest output cap that is worth a call.
    ``hold``: ``"worst"``, what a call can cost at the most, or ``"expected"``, what nearly all calls like it did
    cost: more calls fit side by side, and what is spent may pass the limit by what they cost beyond that.
    ``extend_streams``: a stream begins with a small hold, which grows as it flows.
    ``on_store_error``: while the store is gone, ``"closed"`` lets no call pass, ``"open"`` every one, and
    ``"local"`` as many as ``local_limit`` pays in this process.
    ``local_limit``: an amount like ``limit`` and no more than it, for ``on_store_error="local"``.
    ``thresholds``: the percents of the limit at which to say how much is spent; ``()`` for none.
    ``tz``: the time zone of the windows. ``name``: how refusals and reports call it.

    Anything else raises ``ConfigError``.
    """

    limit: str
    per: Per = field(kw_only=True)
    scope: tuple[str, ...] = field(kw_only=True)
    match: tuple[tuple[str, tuple[str, ...]], ...] = field(kw_only=True)
    on_exceed: OnExceed = field(kw_only=True)
    downgrade: tuple[tuple[str, str], ...] = field(kw_only=True)
    wait_s: float = field(kw_only=True)
    min_output_tokens: int = field(kw_only=True)
    hold: Hold = field(kw_only=True)
    extend_streams: bool = field(kw_only=True)
    on_store_error: OnStoreError = field(kw_only=True)
    local_limit: str | None = field(kw_only=True)
    thresholds: tuple[int | float, ...] = field(kw_only=True)
    tz: str = field(kw_only=True)
    name: str = field(kw_only=True)
    unit: Unit = field(init=False)
    limit_amount: int = field(init=False)
    local_limit_amount: int | None = field(init=False)
    named: bool = field(init=False, compare=False, repr=False)

    def __init__(
        self,
        limit: str,
        *,
        per: Per = "total",
        scope: str | Sequence[str] | None = None,
        match: Mapping[str, str | Sequence[str]] | Sequence[tuple[str, Sequence[str]]] | None = None,
        on_exceed: OnExceed = "refuse",
        downgrade: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        wait_s: float = 30.0,
        min_output_tokens: int = 256,
        hold: Hold = "worst",
        extend_streams: bool = False,
        on_store_error: OnStoreError = "closed",
        local_limit: str | None = None,
        thresholds: Sequence[int | float] = THRESHOLDS,
        tz: str = "UTC",
        name: str | None = None,
    ) -> None:
        put = object.__setattr__
        unit, amount = parse_limit(limit)
        put(self, "limit", limit.strip())
        put(self, "unit", unit)
        put(self, "limit_amount", amount)
        put(self, "per", checks.one_of("per", per, get_args(Per)))
        put(self, "scope", checks.scope(scope))
        put(self, "match", checks.match(match))
        put(self, "on_exceed", checks.one_of("on_exceed", on_exceed, get_args(OnExceed)))
        put(self, "downgrade", checks.downgrade(downgrade, on_exceed))
        put(self, "wait_s", checks.wait(wait_s))
        put(self, "min_output_tokens", checks.at_least_one(min_output_tokens))
        put(self, "hold", checks.one_of("hold", hold, get_args(Hold)))
        put(self, "extend_streams", checks.flag("extend_streams", extend_streams))
        checks.of_size("hold", hold, unit, wanted=hold == "expected")
        checks.of_size("extend_streams", extend_streams, unit, wanted=extend_streams)
        put(self, "on_store_error", checks.one_of("on_store_error", on_store_error, get_args(OnStoreError)))
        local_amount = checks.local_limit(local_limit, on_store_error, self.limit, unit, amount)
        put(self, "local_limit", None if local_limit is None else local_limit.strip())
        put(self, "local_limit_amount", local_amount)
        put(self, "thresholds", checks.thresholds(thresholds))
        put(self, "tz", checks.tz(tz))
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
