"""Text of strangers (names of agents, reasons) that can do no harm where it is shown."""

from __future__ import annotations

import re

_HARMFUL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    """Text without what would steer a terminal or break a page."""
    return _HARMFUL.sub("\N{REPLACEMENT CHARACTER}", text)
