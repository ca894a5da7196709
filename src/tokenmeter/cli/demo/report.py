"""The figures at the end, as tables and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from tokenmeter import Remaining, Spend
from tokenmeter.cli.demo.figures import Figures
from tokenmeter.cli.tables import Table

HEAD = ("agent", "user", "team", "calls", "tokens in", "tokens out", "$", "refused")


def report(found: Figures) -> Iterator[Table | str]:
    """All that is shown at the end, in order."""
    yield _who_spent_what(found)
    yield "Lines stand in the order of their names. ~ marks charges that were estimated, because a stream was left."
    yield _budgets(found.budgets)
    yield from _abandoned(found)
    yield _refusals(found)
    yield _spans(found)
    yield _balance(found)


def figures(spend: Spend) -> tuple[str, ...]:
    """Calls, tokens in, tokens out, dollars and refusals, as they are shown."""
    mark = "~" if spend.estimated_calls else ""
    return (
        f"{spend.calls:,}",
        f"{mark}{spend.input_tokens:,}",
        f"{mark}{spend.output_tokens:,}",
        f"{mark}{dollars(spend.usd)}",
        f"{spend.refused:,}",
    )


def dollars(amount: Decimal) -> str:
    """An amount, to the millionth of a dollar."""
    return f"{amount:.6f}"


def _who_spent_what(found: Figures) -> Table:
    rows = [(line.agent, line.user, line.team, *figures(line.spend)) for line in found.lines]
    rows.append(("(unattributed)", "", "", *figures(found.unattributed)))
    rows.append(("all", "", "", *figures(found.total)))
    return Table(HEAD, rows, right=HEAD[3:], title="Who spent what")


def _budgets(budgets: Sequence[Remaining]) -> Table:
    rows = [
        (left.budget, left.scope, _amount(left, left.limit), _amount(left, left.spent), _amount(left, left.left))
        for left in budgets
    ]
    head = ("budget", "kept for", "limit", "spent", "left")
    return Table(head, rows, right=head[2:], title="Budgets")


def _amount(left: Remaining, amount: Decimal | int) -> str:
    return f"${dollars(Decimal(amount))}" if left.unit == "usd" else f"{amount:,} {left.unit}"


def _abandoned(found: Figures) -> Iterator[str]:
    for row in found.abandoned:
        usage, billed = row.usage, found.abandoned_billed
        if usage is None:
            continue
        yield (
            f"Estimated: {row.agent} left a stream. Charged: {usage.input_tokens:,} tokens in, "
            f"{usage.output_tokens:,} out; the provider billed {billed.input_tokens:,} and "
            f"{billed.output_tokens:,} and never said so. An estimate is meant to be no less than the bill."
        )


def _refusals(found: Figures) -> str:
    who = ", ".join(f"{agent} ({type(refusal).__name__})" for agent, refusal in found.refusals)
    return f"Refused before the request went out: {len(found.refusals)} calls: {who}."


def _spans(found: Figures) -> str:
    spans = found.spans
    if spans.endpoint is None:
        where = "kept in memory; set OTEL_EXPORTER_OTLP_ENDPOINT to export them"
    elif spans.exported:
        where = f"exported with the metrics to {spans.endpoint}"
    else:
        where = (
            f"NOT exported: {spans.endpoint} did not take them. OTLP goes over HTTP here, to a port that is "
            "usually 4318"
        )
    lines = [f"Spans: {spans.spans}, {spans.refusals} of them refusals; {where}.", f"One of them: {spans.example_name}"]
    lines += [f"  {name} = {value}" for name, value in sorted(spans.example.items())]
    return "\n".join(lines)


def _balance(found: Figures) -> str:
    lines = [
        f"The books balance: all {len(found.checks)} sums agree." if found.balanced else "THE BOOKS DON'T BALANCE."
    ]
    for check in found.checks:
        sign = "=" if check.holds else "≠"
        lines.append(f"  {check.what}: {check.ours} {sign} {check.theirs}")
    return "\n".join(lines)
