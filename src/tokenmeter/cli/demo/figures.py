"""Who spent what, and whether the books balance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tokenmeter import CallRecord, Meter, Refused, Remaining, Spend
from tokenmeter.cli.demo.pipeline import SpanReport
from tokenmeter.testing import Billed


@dataclass(frozen=True, slots=True)
class Line:
    """What the calls of one agent for one user and team came to."""

    agent: str
    user: str
    team: str
    spend: Spend


@dataclass(frozen=True, slots=True)
class Check:
    """Two figures that must agree."""

    what: str
    ours: str
    theirs: str

    @property
    def holds(self) -> bool:
        """Whether they do."""
        return self.ours == self.theirs


@dataclass(frozen=True, slots=True)
class Figures:
    """All that is shown at the end."""

    lines: Sequence[Line]
    unattributed: Spend
    total: Spend
    budgets: Sequence[Remaining]
    refusals: Sequence[tuple[str, Refused]]
    abandoned: Sequence[CallRecord]
    abandoned_billed: Billed
    checks: Sequence[Check]
    spans: SpanReport

    @property
    def balanced(self) -> bool:
        """Whether all figures agree."""
        return all(check.holds for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """The same, for machines. Amounts of money are strings, exact to the nanodollar."""
        return {
            "agents": [
                {"agent": line.agent, "user": line.user, "team": line.team, **_spend(line.spend)} for line in self.lines
            ],
            "unattributed": _spend(self.unattributed),
            "total": _spend(self.total),
            "budgets": [
                {
                    "budget": left.budget,
                    "scope": left.scope,
                    "unit": left.unit,
                    "limit": _plain(left.limit),
                    "spent": _plain(left.spent),
                    "left": _plain(left.left),
                }
                for left in self.budgets
            ],
            "refusals": [
                {"agent": agent, "error": type(refusal).__name__, "message": str(refusal)}
                for agent, refusal in self.refusals
            ],
            "checks": [
                {"what": check.what, "meter": check.ours, "other": check.theirs, "holds": check.holds}
                for check in self.checks
            ],
            "balanced": self.balanced,
            "spans": {
                "count": self.spans.spans,
                "refusals": self.spans.refusals,
                "endpoint": self.spans.endpoint,
                "exported": self.spans.exported,
            },
        }


def work_out(
    meter: Meter,
    rows: Sequence[CallRecord],
    refusals: Sequence[tuple[str, Refused]],
    *,
    billed: Billed,
    abandoned_billed: Billed,
    spans: SpanReport,
) -> Figures:
    """Read the meter, and hold it against the provider's bill and against itself."""
    whose = sorted({(row.agent, row.user, row.team) for row in rows if row.agent and row.user and row.team})
    lines = [
        Line(agent or "", user or "", team or "", meter.spend(agent=agent, user=user, team=team))
        for agent, user, team in whose
    ]
    total, unattributed = meter.spend(), meter.unattributed()
    scopes = {(row.agent, row.team, row.run) for row in rows}
    states = {left for agent, team, run in scopes for left in meter.remaining(agent=agent, team=team, run=run)}
    budgets = sorted((left for left in states if left.spent or left.held), key=lambda left: (left.budget, left.scope))
    exact = [row for row in rows if row.usage is not None and not row.estimated]
    spends = [*(line.spend for line in lines), unattributed]
    checks = [
        Check("calls, exact ones, and the provider's bill", str(len(exact)), str(billed.calls)),
        Check("input tokens, and the provider's bill", _sum(exact, "input_tokens"), str(billed.input_tokens)),
        Check("output tokens, and the provider's bill", _sum(exact, "output_tokens"), str(billed.output_tokens)),
        Check(
            "cached input tokens, and the provider's bill",
            _sum(exact, "cache_read_tokens"),
            str(billed.cache_read_tokens),
        ),
        Check("the meter's sum of money, and its calls'", _plain(total.usd), _plain(_money(rows))),
        Check("the agents and the unattributed, and the total", _plain(sum(s.usd for s in spends)), _plain(total.usd)),
        Check("calls of the same", str(sum(s.calls for s in spends)), str(total.calls)),
        Check(
            "what the books of the agents' budgets say was spent, and the total",
            _plain(sum(left.spent for left in budgets if left.scope.startswith("agent="))),
            _plain(total.usd),
        ),
        Check("money still held", _plain(sum(left.held for left in budgets)), "0"),
        Check("spans, and calls with those that were refused or failed", str(spans.spans), str(len(rows))),
    ]
    return Figures(
        lines=lines,
        unattributed=unattributed,
        total=total,
        budgets=budgets,
        refusals=refusals,
        abandoned=[row for row in rows if row.estimated],
        abandoned_billed=abandoned_billed,
        checks=checks,
        spans=spans,
    )


def _sum(rows: Sequence[CallRecord], counter: str) -> str:
    return str(sum(getattr(row.usage, counter) or 0 for row in rows))


def _money(rows: Sequence[CallRecord]) -> Decimal:
    return Decimal(sum(row.cost_nanos or 0 for row in rows)).scaleb(-9)


def _spend(spend: Spend) -> dict[str, Any]:
    return {
        "calls": spend.calls,
        "input_tokens": spend.input_tokens,
        "output_tokens": spend.output_tokens,
        "usd": _plain(spend.usd),
        "estimated_calls": spend.estimated_calls,
        "estimated_usd": _plain(spend.estimated_usd),
        "refused": spend.refused,
    }


def _plain(amount: Decimal | int) -> str:
    """The same figure in the same letters, however it was computed."""
    return f"{Decimal(amount).normalize():f}"
