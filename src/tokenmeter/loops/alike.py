"""When two texts say the same: equal, or equal but for a time, an id drawn at random or a counter.

Most pairs differ at once; only those whose letters agree are looked at closely.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import IntEnum
from typing import Final


class Likeness(IntEnum):
    """How alike two texts are; lower is more."""

    SAME = 0
    TICKS = 1  # a time, a random id or a counter that says what it is differs
    COUNTS = 2  # a number went up or down by a little
    MOVED = 3  # other numbers differ
    OTHER = 4


_MAX_LENGTHENED: Final = 24
_MAX_COUNTED: Final = 8
_LOWER: Final = bytes(range(256)).lower()
_DIGITS_AND_HEX: Final = b"0123456789abcdefABCDEF \t\r\n-:.+"

# A number, a time or an id behind a word that says it is none of the question: "attempt 3", "request_id": "77f1…"
_LABELLED: Final = re.compile(
    rb"""(?P<word>\b(?:attempt|retry|retries|try|tries|iteration|iter|round|counter|seq|sequence|nonce|tick|turn
    |timestamp|ts|now|as[_ ]of|current[_ ]time|(?:requested|sent|checked|updated|generated|fetched)[_ ]?at
    |(?:request|call|poll|query)(?=[ #])
    |(?:request|trace|span|correlation|idempotency|message|call)[_ -]?(?:id|key)))
    (?P<gap>(?:[\W_]|no\b|number\b|count\b){0,8}?)
    (?:\d{4}-\d\d-\d\d[t ][\d:.,z+-]+|[0-9a-f-]{8,}(?![\w:-])|\d[\d:.,tz+-]*)""",
    re.VERBOSE,
)
_TICKING: Final = re.compile(
    rb"""\b\d{4}-\d\d-\d\d[t ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:z|[+-]\d\d:?\d\d)?
    |\b(?:mon|tue|wed|thu|fri|sat|sun),?[ ]\d{1,2}[ ]\w{3}[ ]\d{4}[ ]\d\d:\d\d(?::\d\d)?
    |\b\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?(?:[ ]?[ap]\.?m\b\.?)?
    |\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b
    |\b1\d{9}(?:\.\d+|\d{3}|\d{6}|\d{9})?\b
    |\b(?=[0-9a-f]*\d)(?=\d*[a-f])[0-9a-f]{12,}\b
    |(?<=[ ])[#(\[]\d{1,6}[)\]]?(?=[.]?\\?"[}\]\s]*$)""",
    re.VERBOSE,
)
_NUMBER: Final = re.compile(rb"\d+")
_MARKS: Final = b"\"'.,;:!?()[]{}<>*_-/\\|\n\t\r"
_WORDS: Final = _LOWER.translate(bytes.maketrans(_MARKS, b" " * len(_MARKS)))
WORDS_BYTES: Final = 1_600
_FEW_WORDS: Final = 2


def loose(text: bytes) -> bytes:
    """The text without what a number, a time or an id is made of: equal for texts that may be alike."""
    return text.translate(_LOWER, _DIGITS_AND_HEX)


def alike(one: bytes, other: bytes) -> Likeness:
    """How alike two texts are. Texts that differ in more than one long stretch are not."""
    if one == other:
        return Likeness.SAME
    length = len(one)
    pair = _difference(one, other)
    if pair is None:
        return Likeness.OTHER
    one, other = (_LABELLED.sub(rb"\g<word>\g<gap>~", text) for text in pair)
    if one == other:
        return Likeness.TICKS
    likeness = Likeness.OTHER
    for left, right in ((_TICKING.sub(b"~", one), _TICKING.sub(b"~", other)), (one, other)):
        if left == right:
            return Likeness.TICKS
        if _NUMBER.split(left) == _NUMBER.split(right):
            likeness = min(likeness, _by_numbers(left, right))
    if likeness is Likeness.COUNTS and length >= _LONG_BYTES and _COUNTER_AT_END.search(one):
        return Likeness.TICKS
    return likeness


def same_question(one: bytes, other: bytes) -> bool:
    """Whether arguments ask the same: equal but for what says of itself that it is none of the question."""
    if one == other:
        return True
    pair = _difference(one, other)
    if pair is None:
        return False
    one, other = (_LABELLED.sub(rb"\g<word>\g<gap>~", text) for text in pair)
    return one == other


def ticked(text: bytes) -> bytes:
    """A text with its times, its random ids and the counters that say what they are taken out."""
    text = b" ".join(text.lower().split())
    return _TICKING.sub(b"~", _LABELLED.sub(rb"\g<word>\g<gap>~", text))


def _difference(one: bytes, other: bytes) -> list[bytes] | None:
    """The stretch in which two texts differ and a little around it, folded; None if more than numbers differ."""
    if abs(len(one) - len(other)) > _MAX_LENGTHENED:
        return None
    same = min(len(one), len(other))
    if same > _AROUND_BYTES * 4:
        start = max(0, _shared(one, other, same) - _AROUND_BYTES)
        left, right = one[:start:-1], other[:start:-1]
        end = max(0, _shared(left, right, min(len(left), len(right))) - _AROUND_BYTES)
        one, other = one[start : len(one) - end], other[start : len(other) - end]
    if len(one) > _MOST_BYTES or loose(one) != loose(other):
        return None
    return [b" ".join(text.lower().split()) for text in (one, other)]


def _shared(one: bytes, other: bytes, most: int) -> int:
    """How many bytes two texts begin with in common."""
    least = 0
    while least < most:
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least


_AROUND_BYTES: Final = 64
_MOST_BYTES: Final = 4_096
_LONG_BYTES: Final = 200
_COUNTER_AT_END: Final = re.compile(rb'[ ][#(\[]?\d+[)\].]{0,2}\\?"[}\]\s]*$')


def _by_numbers(one: bytes, other: bytes) -> Likeness:
    steps = [int(b[-15:]) - int(a[-15:]) for a, b in zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)]
    moved = {step for step in steps if step}
    if not moved:
        return Likeness.TICKS
    return Likeness.COUNTS if len(moved) == 1 and abs(moved.pop()) <= _MAX_COUNTED else Likeness.MOVED


def words(text: bytes) -> set[bytes]:
    """The words of a text, without regard to case; of a long one, those of its beginning."""
    return set(text[:WORDS_BYTES].translate(_WORDS).split())


def says_little(said: Collection[bytes], before: Collection[bytes], share: float) -> bool:
    """Whether few of the words are new: one or two at any rate, or a share of them."""
    new = sum(word not in before for word in said)
    return new <= max(_FEW_WORDS, share * len(said))
