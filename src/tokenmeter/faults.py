"""The one boundary at which tokenmeter's own faults end: logged once each, never raised into the host program."""

from __future__ import annotations

import logging
import traceback
from functools import partial
from types import CodeType
from typing import Any

logger = logging.getLogger("tokenmeter")

MAX_KNOWN = 1_024
_known: set[tuple[str, str, int]] = set()


def is_the_hosts(error: BaseException) -> bool:
    """Whether a handler of a signal raised it, as timeouts do: it only happened to come while we were at work."""
    inside: set[CodeType] = set()
    trace = error.__traceback__
    while trace is not None:
        inside.add(trace.tb_frame.f_code)
        trace = trace.tb_next
    return not inside.isdisjoint(_handlers())


def _handlers() -> set[CodeType]:
    """The code of what handles signals in Python."""
    import signal

    found: set[CodeType] = set()
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        while isinstance(handler, partial):
            handler = handler.func
        if callable(handler):
            of_an_object: Any = type(handler).__call__
            code = getattr(handler, "__code__", None) or getattr(of_an_object, "__code__", None)
            if isinstance(code, CodeType):
                found.add(code)
    return found


def swallow(error: BaseException, doing: str) -> None:
    """Log a fault of our own the first time it happens at its place; what a signal raised is raised again."""
    if is_the_hosts(error):
        raise error
    frames = traceback.extract_tb(error.__traceback__)
    key = (type(error).__name__, frames[-1].filename if frames else "", (frames[-1].lineno or 0) if frames else 0)
    if key in _known:
        return
    if len(_known) >= MAX_KNOWN:
        _known.clear()
    _known.add(key)
    logger.error(
        "tokenmeter failed while %s, and the call went on without it. Please report this.",
        doing,
        exc_info=error,
    )
