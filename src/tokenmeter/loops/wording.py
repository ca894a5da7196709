"""What a text says, by its words: whether they are new, and whether two texts mean the same."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from tokenmeter.loops.ticking import LABELLED, TICKING_IN_TALK
from tokenmeter.loops.vocabulary import APART, EMPTY_WORDS, STEM_BYTES, WORDS_BYTES

_FEW_WORDS: Final = 3
_NUMBER: Final = re.compile(rb"\d")


def words(text: bytes) -> frozenset[bytes]:
    """The words of a text that mean something, without their endings; of a long one, those of its beginning.

    Courtesies, talk of waiting and small words mean nothing; a word with a digit does.
    """
    timeless = _timeless(text)
    if _WIDE.search(timeless):
        timeless = _PAIRS.sub(rb" \g<0>\g<1> ", _SYMBOLS.sub(b" ", timeless))
    found = set(timeless.translate(APART).split()) - EMPTY_WORDS
    return frozenset([word if word.isdigit() else word[: _stem_bytes(word)] for word in found])


def _stem_bytes(word: bytes) -> int:
    return STEM_BYTES if word.isascii() else 2 * STEM_BYTES


def _timeless(text: bytes) -> bytes:
    beginning = text[:WORDS_BYTES].lower()
    # Without a digit it tells no time; to look for one is a hundred times as fast.
    return TICKING_IN_TALK.sub(b" ", beginning) if _NUMBER.search(beginning) else beginning


def says_little(said: Collection[bytes], before: Collection[bytes], share: float) -> bool:
    """Whether few of the words are new: a share of them, and one of several at any rate; none with a digit."""
    new = [word for word in said if word not in before]
    most = max(share * len(said), 1 if len(said) > _FEW_WORDS else 0)
    return len(new) <= most and not any(_NUMBER.search(word) for word in new)


def restates(said: Collection[bytes], other: Collection[bytes]) -> bool:
    """Whether two texts mean the same, by their words: most of them are in both."""
    common = sum(word in other for word in said)
    return common > 0 and 2 * common >= _RESTATED * (len(said) + len(other))


def figures(text: bytes) -> tuple[bytes, ...]:
    """The numbers of a text in their order, without those that only tell the time or count."""
    timeless = _timeless(text)
    if not _NUMBER.search(timeless):
        return ()
    return tuple(_FIGURES.findall(LABELLED.sub(rb"\g<word>", timeless)))


def is_prose(text: bytes) -> bool:
    """Whether a text is made of words; else its marks say what it means, as those of a board or a table do."""
    if len(text) > 3 * len(_LETTER.findall(text if text.isascii() else _SYMBOLS.sub(b"", text))):
        return False
    apart = text.replace(b"\\n", b" ").translate(APART).split()
    return len(apart) < _BOARD_WORDS or 2 * sum(len(word) == 1 for word in apart) <= len(apart)


def in_order(text: bytes) -> list[bytes]:
    """All words of a text in their order; of a long one, those of its beginning."""
    return _apart(text[:WORDS_BYTES].lower()).translate(APART).split()


def is_filled_in(left: Sequence[bytes], right: Sequence[bytes]) -> bool:
    """Whether two texts are one form with other words in one place: words that mean something in both."""
    start, most = 0, min(len(left), len(right))
    if abs(len(left) - len(right)) > _FILLED_IN:
        return False
    while start < most and left[start] == right[start]:
        start += 1
    end = 0
    while end < most - start and left[-1 - end] == right[-1 - end]:
        end += 1
    a, b = left[start : len(left) - end], right[start : len(right) - end]
    if start + end < _FORM_WORDS - 1 or not (0 < len(a) <= _FILLED_IN and 0 < len(b) <= _FILLED_IN):
        return False
    a_means, b_means = set(a) - EMPTY_WORDS, set(b) - EMPTY_WORDS
    return bool(a_means and b_means and a_means != b_means)


def _apart(text: bytes) -> bytes:
    """Scripts that put no space between words: each letter is one; and their marks are none."""
    if not _WIDE.search(text):
        return text
    return _WIDE.sub(rb" \g<0> ", _SYMBOLS.sub(b" ", text))


_LETTER_OF_NO_WORD: Final = rb"(?:\xe0[\xb8-\xbb][\x80-\xbf]|[\xe3-\xe9][\x80-\xbf]{2})"  # Thai, Lao, kana, Han
_WIDE: Final = re.compile(_LETTER_OF_NO_WORD)
_PAIRS: Final = re.compile(_LETTER_OF_NO_WORD + rb"(?=(" + _LETTER_OF_NO_WORD + rb")?)")
_SYMBOLS: Final = re.compile(  # marks of all scripts, and pictures
    rb"\xe2[\x80-\xbf]{2}|\xef[\xbc\xbd][\x80-\xbf]|\xe3\x80[\x80-\xbf]|\xf0[\x80-\xbf]{3}"
)
_FIGURES: Final = re.compile(rb"\d+")
_LETTER: Final = re.compile(rb"[a-zA-Z\x80-\xff]")
_BOARD_WORDS: Final = 5
_FORM_WORDS: Final = 4
_FILLED_IN: Final = 4
_RESTATED: Final = 0.7
