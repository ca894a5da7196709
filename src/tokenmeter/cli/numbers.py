"""Numbers as arguments: each is read and checked while the command line is, and refused with what it must be."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def whole(least: int, most: float, what: str) -> Callable[[str], int]:
    """Reads a whole number; ``what`` it is and must be: ``port; give 0 to 65535``."""

    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}")
        return int(text)

    return read


def number(least: float, most: float, what: str) -> Callable[[str], float]:
    """The same with fractions."""

    def read(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not least <= found <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}")
        return found

    return read


interval_s = number(0.1, 86_400, "interval; give 0.1 to 86400 seconds")
