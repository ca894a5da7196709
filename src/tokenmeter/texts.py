"""Text for people: such of strangers that can do no harm where it is shown, and what a wrong word was meant to be."""

from __future__ import annotations

import re
from collections.abc import Iterable

_HARMFUL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    """Text without what would steer a terminal or break a page."""
    return _HARMFUL.sub("\N{REPLACEMENT CHARACTER}", text)


def did_you_mean(word: object, known: Iterable[str], otherwise: str = "") -> str:
    """The end of a sentence: ``; did you mean 'month'?``, or what is said where nothing is like it."""
    import difflib  # only a mistake needs it

    close = difflib.get_close_matches(word, list(known), n=1) if isinstance(word, str) else []
    hint = f"did you mean {close[0]!r}?" if close else otherwise
    return f"; {hint}" if hint else ""
