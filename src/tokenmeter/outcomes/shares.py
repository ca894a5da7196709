"""Parts that add up to the whole: sums are split in integers, and shares are such parts of 2**32.

A float holds any multiple of 2**-32 up to one exactly, so shares add up to exactly one, in whatever order.
"""

from __future__ import annotations

from collections.abc import Sequence

WHOLE = 2**32


def split(total: int, weights: Sequence[int]) -> list[int]:
    """``total`` in parts as large as ``weights`` say; what doesn't divide goes to the largest remainders.

    Weights that are all zero count as equal. Raises ValueError without weights, or for negative ones.
    """
    if not weights:
        raise ValueError(f"{total} can't be split among nobody; give at least one weight")
    if min(weights) < 0:
        raise ValueError(f"weight {min(weights)} is negative; give counts of zero or more")
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    parts = [total * weight // whole for weight in weights]
    left = total - sum(parts)
    order = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for i in order[:left]:
        parts[i] += 1
    return parts


def as_share(part: int) -> float:
    """A part of `WHOLE` as a fraction of one."""
    return part / WHOLE


def as_part(share: float) -> int:
    """A share as a part of `WHOLE`."""
    return round(min(max(share, 0.0), 1.0) * WHOLE)
