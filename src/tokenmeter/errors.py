"""The errors a caller can meet.

TokenmeterError
├── ConfigError(ValueError)      a limit, a scope, a price or a file that makes no sense; raised when it is given
├── StoreUnavailable             the budgets can't be read, and the policy says that no call may pass then
└── Refused                      a policy kept a request from going out
    ├── BudgetExceeded           a budget can't pay for the call
    ├── DepthExceeded            agents are nested deeper than allowed
    ├── LoopDetected             the same work goes round and round
    ├── Paused                   somebody stopped the agent, the user, the team or everything
    └── UnpricedModel            a money budget applies and the model has no known price
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, ClassVar


class TokenmeterError(Exception):
    """Base of everything this library raises on purpose."""


class ConfigError(TokenmeterError, ValueError):
    """Bad input; the text names the value and the remedy."""


class StoreUnavailable(TokenmeterError):
    """The store of the budgets can't be reached."""


class Refused(TokenmeterError):
    """A policy kept a request from going out; nothing was sent and nothing is charged.

    Every field is plain data, so that the error can be pickled and sent to another process.
    """

    reason: ClassVar[str] = "refused"
    # Frameworks look for it to tell what a further try could mend: without one, LiteLLM's router retries for long.
    status_code: ClassVar[int] = 402

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details: dict[str, Any] = details

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self.details)

    @property
    def agent(self) -> str | None:
        """The agent whose call was refused, if it had one."""
        return self.details.get("agent")


class BudgetExceeded(Refused):
    """A budget can't pay for the call.

    ``limit``, ``spent``, ``held`` and ``needed`` are in the unit of the budget: ``Decimal`` US dollars for a
    money budget, otherwise ``int`` tokens or calls. ``resets_at`` is in seconds since the epoch, ``None`` if never.
    """

    reason: ClassVar[str] = "budget_exceeded"

    @property
    def budget(self) -> str:
        """The name of the budget."""
        return str(self.details["budget"])

    @property
    def scope(self) -> str:
        """What the budget is kept for, for example ``agent=triage``."""
        return str(self.details["scope"])

    @property
    def limit(self) -> Decimal | int:
        """What the budget allows in its window."""
        return self.details["limit"]  # type: ignore[no-any-return]

    @property
    def spent(self) -> Decimal | int:
        """What is settled in the window."""
        return self.details["spent"]  # type: ignore[no-any-return]

    @property
    def held(self) -> Decimal | int:
        """What calls that are under way may still spend."""
        return self.details["held"]  # type: ignore[no-any-return]

    @property
    def needed(self) -> Decimal | int:
        """What this call may cost at worst."""
        return self.details["needed"]  # type: ignore[no-any-return]

    @property
    def resets_at(self) -> float | None:
        """When the window ends, in seconds since the epoch."""
        return self.details.get("resets_at")


class DepthExceeded(Refused):
    """Agents are nested deeper than the loop policy allows; ``path`` names them from the outermost in."""

    reason: ClassVar[str] = "depth_exceeded"

    @property
    def depth(self) -> int:
        """How deep the call is; the outermost agent is at 1."""
        return int(self.details["depth"])

    @property
    def max_depth(self) -> int:
        """How deep a call may be."""
        return int(self.details["max_depth"])

    @property
    def path(self) -> tuple[str, ...]:
        """The agents from the outermost in."""
        return tuple(self.details["path"])


class LoopDetected(Refused):
    """The same work goes round and round.

    ``evidence`` is plain data: what was found, the agents and tools, the path, the counts, since when, and the calls
    and the spend of the run as far as they are known. ``remedy`` says what to set where the work is intended.
    """

    reason: ClassVar[str] = "loop_detected"

    @property
    def guard(self) -> str:
        """The limit that was passed, by its name in `LoopPolicy`."""
        return str(self.details["guard"])

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents that take part."""
        return tuple(self.details.get("agents", ()))

    @property
    def count(self) -> Decimal | int:
        """How far it has gone: times, rounds, calls, or US dollars."""
        return self.details["count"]  # type: ignore[no-any-return]

    @property
    def limit(self) -> Decimal | int:
        """What the guard allows."""
        return self.details["limit"]  # type: ignore[no-any-return]

    @property
    def since_s(self) -> float | None:
        """When it began, in seconds since the epoch; ``None`` where only the conversation itself shows it."""
        return self.details.get("since_s")

    @property
    def run(self) -> str | None:
        """The run that the call belongs to."""
        return self.details.get("run")

    @property
    def remedy(self) -> str:
        """What to set where the work is intended."""
        return str(self.details.get("remedy", ""))

    @property
    def evidence(self) -> dict[str, Any]:
        """What was found, as plain data."""
        return dict(self.details.get("evidence", {}))


class Paused(Refused):
    """Somebody stopped the agent, the user, the team or everything; nothing goes out until it is resumed.

    ``details["reason"]`` is what they wrote, which is also ``why``: the attribute ``reason`` is the kind of refusal.
    """

    reason: ClassVar[str] = "paused"

    @property
    def target(self) -> str:
        """What is paused: ``all``, ``agent=NAME``, ``user=NAME`` or ``team=NAME``."""
        return str(self.details["target"])

    @property
    def why(self) -> str:
        """The reason that was given."""
        return str(self.details["reason"])

    @property
    def by(self) -> str:
        """Who paused it."""
        return str(self.details["by"])

    @property
    def since(self) -> float:
        """When it was paused, in seconds since the epoch."""
        return float(self.details["since"])


class UnpricedModel(Refused):
    """A money budget applies and the model has no known price; its cost can't be held."""

    reason: ClassVar[str] = "unpriced_model"

    @property
    def model(self) -> str | None:
        """The model as the request named it."""
        return self.details.get("model")

    @property
    def provider(self) -> str | None:
        """The provider as tokenmeter recognised it."""
        return self.details.get("provider")


def _rebuild(kind: type[Refused], message: str, details: dict[str, Any]) -> Refused:
    return kind(message, **details)
