"""How small the output of a call must be kept so that its budgets can pay for it. Pure."""

from __future__ import annotations

from collections.abc import Callable

from tokenmeter.budgets.store import Short


def lower_cap(
    short: Short, *, output_for: Callable[[int], int], input_tokens: int, choices: int, callers_cap: int | None
) -> int | None:
    """The largest cap for each output that every budget of the call can pay for; None if none is worth giving.

    A cap that the caller gave is lowered only where every budget that stands in the way says ``clamp``. ``output_for``
    says how many output tokens, over all ``choices``, a number of nanodollars pays for; below 0 if not even the input.
    """
    cap, least = callers_cap, 0
    for claim, left in short.in_the_way:
        budget = claim.budget
        if budget.unit == "calls" or (callers_cap is not None and budget.on_exceed != "clamp"):
            return None
        least = max(least, budget.min_output_tokens)
        output = left - input_tokens if budget.unit == "tokens" else output_for(left)
        cap = output // choices if cap is None else min(cap, output // choices)
    return cap if cap is not None and cap >= least else None
