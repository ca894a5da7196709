"""What the guards get to know, and what they found, told in words and as an error."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from msgspec import Struct

from tokenmeter.errors import DepthExceeded, LoopDetected, Refused
from tokenmeter.loops.memory import Seen
from tokenmeter.loops.policy import Action, Guard, LoopPolicy
from tokenmeter.money import usd

_OF_A_RUN: Final = frozenset({"max_repeats", "max_rounds_without_news", "max_polls"})


class Facts(Struct, frozen=True, gc=False):
    """What is known of one request before it goes out. A counter that is None is not known."""

    at_s: float
    agent: str | None = None
    run: str | None = None
    path: tuple[str, ...] = ()
    depth: int = 0  # at least the length of the path; more where a path was shortened
    operation: str = "chat"
    protocol: str = ""
    body: bytes | None = None
    run_calls: int | None = None  # calls of the run so far, over all processes
    run_nanos: int | None = None  # nanodollars that the run spent so far, over all processes
    run_since_s: float | None = None

    @property
    def run_usd(self) -> str | None:
        """What the run spent so far, in US dollars."""
        return None if self.run_nanos is None else f"{usd(self.run_nanos).normalize():f}"


class Finding(Struct, frozen=True):
    """A limit that a request passes."""

    guard: Guard
    action: Action
    message: str
    agents: tuple[str, ...]
    count: int | Decimal
    limit: int | Decimal
    since_s: float | None
    remedy: str
    evidence: dict[str, Any]
    pause_s: float = 0.0  # how long to wait before the request goes out, where the action is to brake


class Passed(Struct, frozen=True):
    """A limit that was passed, before it is told."""

    guard: Guard
    count: int | Decimal
    limit: int | Decimal
    what: str
    who: tuple[str, ...] = ()
    since_s: float | None = None
    tools: tuple[str, ...] = ()
    softly: Action | None = None  # what is done about it, unless the policy itself says what the guard does


def told(own: LoopPolicy, seen: Seen, facts: Facts, passed: Passed) -> Finding:
    """A limit that was passed, in words: what was found, since when, what it cost, and what to set if it is meant."""
    guard, agent = passed.guard, facts.agent
    action = own.action(guard) if passed.softly is None or guard in own.actions else passed.softly
    agents = tuple(filter(None, passed.who)) or ((agent,) if agent else ())
    remedy = _remedy(passed, agent)
    since = "" if passed.since_s is None else f" in {_lasting(facts.at_s - passed.since_s)}"
    spent = "" if facts.run_usd is None else f"; its run has spent ${facts.run_usd}"
    name = f"agent {agent!r}" if agent else "a call of no agent"
    message = f"{name} goes round: {passed.what}{since}, and {guard} is {passed.limit}{spent}. {remedy}"
    evidence = {
        "what": passed.what,
        "agents": list(agents),
        "tools": list(passed.tools),
        "path": list(facts.path[-12:]),
        "count": str(passed.count) if isinstance(passed.count, Decimal) else passed.count,
        "limit": str(passed.limit) if isinstance(passed.limit, Decimal) else passed.limit,
        "since_s": passed.since_s,
        "run": facts.run,
        "run_calls": facts.run_calls,
        "run_usd": facts.run_usd,
    }
    whose = f"{guard} {agent or ''} {facts.run if guard in _OF_A_RUN else ''}"
    pause_s = seen.brake(whose, facts.at_s) if action == "brake" else 0.0
    return Finding(
        guard, action, message, agents, passed.count, passed.limit, passed.since_s, remedy, evidence, pause_s
    )


def refused(finding: Finding, facts: Facts) -> Refused:
    """The error of a finding that refuses."""
    if finding.guard == "max_depth":
        return DepthExceeded(
            finding.message,
            agent=facts.agent,
            depth=finding.count,
            max_depth=finding.limit,
            path=facts.path,
            run=facts.run,
        )
    return LoopDetected(
        finding.message,
        agent=facts.agent,
        run=facts.run,
        guard=finding.guard,
        agents=finding.agents,
        count=finding.count,
        limit=finding.limit,
        since_s=finding.since_s,
        remedy=finding.remedy,
        evidence=finding.evidence,
    )


def _remedy(passed: Passed, agent: str | None) -> str:
    more = f'"{passed.limit * 2}"' if isinstance(passed.limit, Decimal) else str(passed.limit * 2)
    if agent is None:
        raised = f"LoopPolicy({passed.guard}={more})"
    else:
        raised = f"LoopPolicy(agents={{{agent!r}: {{{passed.guard!r}: {more}}}}})"
    if passed.tools:
        return f"If it is meant, set LoopPolicy(allow={list(passed.tools)!r}), or {raised}."
    return f"If it is meant, set {raised}."


def listed(names: tuple[str, ...]) -> str:
    return " and ".join(name or "a call of no agent" for name in names[:4]) or "it"


def _lasting(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
