"""Which cheaper model to try when a budget can't pay the one that was asked for. Pure.

The rules of a budget are pairs of a model, or a pattern as in file names, and the model to try in its place. A
model's own name goes before every pattern, and patterns go in the order in which they were written. The first rule
that fits decides: where it names the model itself, there is nothing cheaper. So ``{"gpt-*": "gpt-5-nano"}`` sends
every GPT model to the smallest and stops there, and ``{"a": "b", "b": "c"}`` is a chain.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Container, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a budget checks its rules with what stands here
    from tokenmeter.budgets.store import Short

Rules = tuple[tuple[str, str], ...]


def next_model(short: Short, model: str | None, tried: Container[str] = ()) -> str | None:
    """The model to try next for a call that can't be held, or None if no budget names one.

    Of the budgets that stand in the way, the first that names a model decides. ``tried`` are the models that were
    refused before: none of them comes again, so that the rules of several budgets can't send a call round in a circle.
    """
    if model is None:
        return None
    for claim, _ in short.in_the_way:
        cheaper = cheaper_model(claim.budget.downgrade, model)
        if cheaper is not None and cheaper not in tried:
            return cheaper
    return None


def cheaper_model(rules: Rules, model: str) -> str | None:
    """What the rules name in place of a model; None if that is nothing, or the model itself."""
    if not rules:
        return None
    names, patterns = _compiled(rules)
    found = names.get(model)
    if found is None:
        found = next((target for pattern, target in patterns if pattern.match(model)), None)
    return None if found == model else found


def circle(rules: Rules) -> tuple[str, ...]:
    """The models of a chain that never ends, the first of them once more at its end; empty if every chain ends."""
    for _, start in rules:
        seen = [start]
        while (model := cheaper_model(rules, seen[-1])) is not None:
            seen.append(model)
            if model in seen[:-1]:
                return tuple(seen[seen.index(model) :])
    return ()


@lru_cache(maxsize=256)
def _compiled(rules: Rules) -> tuple[Mapping[str, str], tuple[tuple[re.Pattern[str], str], ...]]:
    patterns = tuple((re.compile(fnmatch.translate(name)), target) for name, target in rules)
    return dict(rules), patterns
