"""What a command ends with when it can't do what it was asked: one line for people, and an exit status."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

USAGE = 2
FAILURE = 1
_MOST_NAMED = 5


class Trouble(Exception):
    """The command ends; the text names the value and the remedy."""

    def __init__(self, message: str, status: int = USAGE) -> None:
        super().__init__(message)
        self.status = status


def suggestion(given: str, known: Iterable[str]) -> str:
    """``did you mean 'triage'?``, else what there is to choose from."""
    names = list(dict.fromkeys(known))
    close = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    if not names:
        return "there is none yet"
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"there is {', '.join(repr(name) for name in sorted(names)[:_MOST_NAMED])}{more}"
