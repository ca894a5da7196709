"""How the hold of a stream grows as the stream flows. Pure.

A stream may begin with the hold of its input and a little output, and be cut short long before its worst case is
reached. As output flows, the hold must stay ahead of it: it is doubled whenever three quarters of it are used, so
that the provider, who generates ahead of what has arrived here, is covered too, and so that a stream of any length
takes a handful of round trips to the store. The last step is the worst case, and there is none after it.

Amounts stand for budgets of any unit. What a hold must be for some output lies on the straight line between what is
held first and the worst case, because a price has no steps in the output; rounded up, it is never too little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Extension(NamedTuple):
    """A stage of a hold: ``amounts`` per claim, which pay for ``output_tokens`` of output over all choices.

    ``first`` is the hold that the stream began with, for ``first_tokens``; ``worst`` the one that pays for all of
    ``most_tokens``.
    """

    amounts: tuple[int, ...]
    output_tokens: int
    first: tuple[int, ...]
    first_tokens: int
    worst: tuple[int, ...]
    most_tokens: int

    @property
    def is_last(self) -> bool:
        """Whether no larger hold will ever be needed."""
        return self.output_tokens >= self.most_tokens

    def beside(self, amounts: Sequence[int]) -> Extension:
        """The same with further claims, whose amounts don't grow."""
        more = tuple(amounts)
        return self._replace(amounts=self.amounts + more, first=self.first + more, worst=self.worst + more)

    def after(self, flowed_tokens: int) -> Extension | None:
        """The stage to go on to before more than ``flowed_tokens`` have been let through; None to stay at this one.

        ``flowed_tokens`` is the most that the output up to now can be, this chunk included; what the provider has
        thought unseen counts too. The hold is to be adjusted to the ``amounts`` of the stage that is returned, and
        that stage kept only if the store said yes: else the same one is returned again.
        """
        if self.is_last or 4 * flowed_tokens <= 3 * self.output_tokens:
            return None
        tokens = max(1, self.output_tokens)
        while tokens < self.most_tokens and 4 * flowed_tokens > 3 * tokens:
            tokens *= 2
        tokens = min(tokens, self.most_tokens)
        return self._replace(amounts=self._pays(tokens), output_tokens=tokens)

    def _pays(self, tokens: int) -> tuple[int, ...]:
        beyond, span = tokens - self.first_tokens, self.most_tokens - self.first_tokens
        return tuple(
            first - (first - worst) * beyond // span for first, worst in zip(self.first, self.worst, strict=True)
        )


def begin(first: Sequence[int], first_tokens: int, worst: Sequence[int], most_tokens: int) -> Extension:
    """The first stage: per claim what is held for the input and ``first_tokens`` of output, and the worst case.

    A claim whose hold shall not grow has the same amount in both. A first hold that is no smaller than the worst case
    is the worst case.
    """
    if len(first) != len(worst):
        raise ValueError(f"{len(first)} first amounts for {len(worst)} worst ones; give one of each per claim")
    if first_tokens >= most_tokens:
        whole = tuple(worst)
        return Extension(whole, most_tokens, whole, most_tokens, whole, most_tokens)
    small = tuple(min(pair) for pair in zip(first, worst, strict=True))
    return Extension(small, first_tokens, small, first_tokens, tuple(worst), most_tokens)
