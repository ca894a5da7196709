"""The one boundary at which tokenmeter's own faults end: logged once each, never raised into the host program."""

from __future__ import annotations

import logging
import traceback

logger = logging.getLogger("tokenmeter")

MAX_KNOWN = 1_024
_known: set[tuple[str, str, int]] = set()


def swallow(error: BaseException, doing: str) -> None:
    """Log a fault of our own the first time it happens at its place."""
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
