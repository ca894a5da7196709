"""A quick look at whether a conversation ends with something new: nearly always it does, and then there is no loop.

A closer look takes ten times as long, so this one goes by a few words: the longest that a text begins with. Who says
again what was said, in other words, uses most of them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from tokenmeter.loops.vocabulary import APART, EMPTY_WORDS

_OF_TOOLS: Final = (b'"tool', b'"function', b"_tool", b"_call", b'Code"')
_MOST_BYTES: Final = 16_384
_HEAD_BYTES: Final = 160
_SHORT_BYTES: Final = 200  # in such a text two new words are news
_LEAST_LETTERS: Final = 6
_LOOKED_AT: Final = 4


def ends_with_news(turns: Sequence[msgspec.Raw], looked_at: int) -> bool:
    """Whether the last turn is a user's who says something new, beside as many turns as are looked at."""
    last = turns[-1]
    if len(last) > _MOST_BYTES:
        return False
    text = bytes(last)
    if b'"user"' not in text or b'"tool' in text or b'"function' in text or text.count(b'"text"') > 1:
        return False
    before = b"".join(turns[-looked_at:-1])
    return len(before) <= _MOST_BYTES and _says_new(text, before)


def told_news_before(turns: Sequence[msgspec.Raw]) -> bool:
    """Whether something new was said in the turn before the last, in a mere talk."""
    earlier = b"".join(turns[:-2])
    if len(earlier) > _MOST_BYTES or uses_tools(earlier):  # steps may be in a loop, whatever a model says between them
        return False
    return _says_new(bytes(turns[-2]), earlier)


def uses_tools(turns: bytes) -> bool:
    """Whether something in these turns is of a tool, whatever the protocol; a text that speaks of one is taken so."""
    return any(mark in turns for mark in _OF_TOOLS)


def _says_new(turn: bytes, earlier: bytes) -> bool:
    """Whether most of its longest words stand nowhere before, in large letters or small."""
    words = turn[:_HEAD_BYTES].replace(b"\\n", b" ").translate(APART).split()
    if len(turn) > _HEAD_BYTES:
        del words[-1:]  # half a word
    words.sort(key=len)
    left = 1 if len(turn) < _SHORT_BYTES else 2
    find = earlier.rfind  # takes half as long as from the start
    looked_at: list[bytes] = []
    for word in reversed(words):
        if len(word) < _LEAST_LETTERS or len(looked_at) == _LOOKED_AT:
            return False
        if not word.isalpha() or word in EMPTY_WORDS or word in looked_at:
            continue
        looked_at.append(word)
        if find(word[1:_LEAST_LETTERS]) < 0:
            if not left:
                return True
            left -= 1
    return False
