"""Texts without what a number, a time or an id is made of: the first and quick look at whether two say the same."""

from __future__ import annotations

from typing import Final

LOWER: Final = bytes(range(256)).lower()
_DIGITS_AND_HEX: Final = b"0123456789abcdefABCDEF \t\r\n-:.+"


def loose(text: bytes) -> bytes:
    """The text without what a number, a time or an id is made of: equal for texts that may be alike."""
    return text.translate(LOWER, _DIGITS_AND_HEX)
