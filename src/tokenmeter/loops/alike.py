"""When two texts say the same: equal, or equal but for a time, an id drawn at random or a counter.

Most pairs differ at once; only those whose letters agree are looked at closely.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec

from tokenmeter.loops.loosely import loose
from tokenmeter.loops.ticking import LABELLED, LIKELY_BESIDE, SURELY_BESIDE, TICKING, TICKING_IN_TALK, TOOK, folded


class Likeness(IntEnum):
    """How alike two texts are; lower is more."""

    SAME = 0
    TICKS = 1  # a time, a random id or a counter that says what it is differs
    COUNTER = 2  # a number that stands apart from all that is said goes up by a step
    BESIDE = 3  # a number goes up by a step, and no name says that it is what is asked for
    COUNTS = 4  # a number went up or down by a little
    MOVED = 5  # other numbers differ
    OTHER = 6


_MAX_LENGTHENED: Final = 24
_MAX_COUNTED: Final = 8


_FAILED: Final = re.compile(rb"(?i)\bfail(?:ed|ure|s)?\b|\berror\b")
_NUMBER: Final = re.compile(rb"\d+")


class Relation(NamedTuple):
    """How alike two texts are, and the step by which a number goes from one to the other."""

    likeness: Likeness
    step: int = 0


EQUAL: Final = Relation(Likeness.SAME)
_TICKS: Final = Relation(Likeness.TICKS)
_OTHER: Final = Relation(Likeness.OTHER)


def alike(one: bytes, other: bytes, tool: bool = True) -> Relation:
    """How alike two results of tools, or two texts, are: from the earlier to the later one.

    Texts that differ in more than one long stretch are not alike.
    """
    if one == other:
        return EQUAL
    found = _difference(one, other)
    if found is None:
        return _OTHER
    left, right = (LABELLED.sub(rb"\g<word>\g<gap>~", text) for text in found.folded())
    if tool and left != right and _FAILED.search(one) and _FAILED.search(other):
        left, right = TOOK.sub(b"~", left), TOOK.sub(b"~", right)
    if left == right:
        return _TICKS
    relation, ticking = _OTHER, TICKING if tool else TICKING_IN_TALK
    for a, b in ((ticking.sub(b"~", left), ticking.sub(b"~", right)), (left, right)):
        if a == b:
            return _TICKS
        if _NUMBER.split(a) == _NUMBER.split(b):
            relation = min(relation, _by_numbers(a, b, found._replace(one=a, other=b), _result if tool else _text))
    return relation


def same_question(one: bytes, other: bytes) -> Relation:
    """How alike the arguments of two calls are: a time or an id is part of the question unless its name denies it."""
    if one == other:
        return EQUAL
    one, other = _in_order(one), _in_order(other)
    if one == other:
        return EQUAL
    found = _difference(one, other)
    if found is None:
        return _OTHER
    left, right = (SURELY_BESIDE.sub(rb"\g<word>\g<gap>~", text) for text in found.folded())
    if left == right:
        return _TICKS
    left, right = (LIKELY_BESIDE.sub(rb"\g<word>\g<gap>~", text) for text in (left, right))
    if left == right:
        return _TICKS if _names_a_subject(left) else Relation(Likeness.COUNTER)
    if _NUMBER.split(left) != _NUMBER.split(right):
        return _OTHER
    return _by_numbers(left, right, found._replace(one=left, other=right), _argument)


def _in_order(arguments: bytes) -> bytes:
    """Arguments with their names in order and nothing between them; what is no JSON object stays as it is."""
    try:
        value = msgspec.json.decode(arguments)
        if type(value) is str:  # as some protocols send them
            value = msgspec.json.decode(value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return arguments
    return msgspec.json.encode(value, order="sorted") if type(value) is dict else arguments


def says_much(result: bytes) -> bool:
    """Whether a result says more than that something was done, or that there is nothing."""
    if len(result) >= _LONG_BYTES:
        return True
    return len(loose(result)) >= _MUCH_LETTERS and not (len(result) < _SHORT_BYTES and _DONE.search(result.lower()))


def says_more(result: bytes) -> bool:
    """Whether a result says anything beside a time or an id, which else is its answer."""
    rest = TICKING.sub(b"", _FIELDS.sub(b"", result.lower()).replace(b"\\n", b" "))
    return _ANYTHING.search(rest) is not None


_FIELDS: Final = re.compile(rb'\\?"[\w .-]{1,32}\\?"\s?:')
_ANYTHING: Final = re.compile(rb"[a-z0-9]|[^\x00-\x7f]|\[\]|\{\}")


def asks_much(said: bytes) -> bool:
    """Whether a question has so much to it that a counter beside it makes no other question of it."""
    return len(said) >= _LONG_BYTES


class _Difference(NamedTuple):
    """The stretch in which two texts differ, and a little around it."""

    one: bytes
    other: bytes
    from_start: bool
    to_end: bool
    length: int  # of the whole text

    def folded(self) -> tuple[bytes, bytes]:
        return folded(self.one), folded(self.other)


def _difference(one: bytes, other: bytes) -> _Difference | None:
    """Where two texts differ; None if more than numbers differ."""
    if abs(len(one) - len(other)) > _MAX_LENGTHENED:
        return None
    length = same = min(len(one), len(other))
    start = end = 0
    if same > _AROUND_BYTES * 4:
        start = max(0, _shared(one, other, same) - _AROUND_BYTES)
        left, right = one[:start:-1], other[:start:-1]
        end = max(0, _shared(left, right, min(len(left), len(right))) - _AROUND_BYTES)
        one, other = one[start : len(one) - end], other[start : len(other) - end]
    if len(one) > _MOST_BYTES or loose(one) != loose(other):
        return None
    return _Difference(one, other, start == 0, end == 0, length)


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
_SHORT_BYTES: Final = 60
_MUCH_LETTERS: Final = 12
_MAX_STEP: Final = 1_000

# What stands before and behind a number tells what it is.
_KEY: Final = re.compile(rb'([\w .-]{0,32})\\*"\s?:\s?\\*"?$')
_BEHIND_VALUE: Final = re.compile(rb'\\*"?\s?[,}\]]')
_WORD_BEFORE: Final = re.compile(rb"([a-z_%/]*)[\s:=]{0,2}$")
_WORD_BEHIND: Final = re.compile(rb"\s?([a-z%/]*)")
_LETTERS: Final = re.compile(rb"[a-z]|[^\x00-\x7f]")
_SAYS: Final = re.compile(rb'[^\s".#()\\:,-]')
_PART_BEFORE: Final = re.compile(rb"\d[.,:/-]$")
_PART_BEHIND: Final = re.compile(rb"[.,:/-]\d")
_AT_START: Final = re.compile(rb'^[\s\\"\[({<#]*$')
_START_ENDS: Final = re.compile(rb'^[\])}>]?(?:[.:;,)|-]|\\n|\\t|\s?[\[{"(\\<-]|\s)')
_AT_END: Final = re.compile(rb'^[\s\\".)\]}>]*$')
_END_BEGINS: Final = re.compile(rb'(?:\s|\\n|[.!?,;|}\]"])[#(\[<-]*$')
_MARK_BEGINS: Final = re.compile(rb'(?:^|[\s"])[#(\[]{1,2}$')
_SENTENCE_ENDS: Final = re.compile(rb"[.!?)\]][\s#(\[]*$")
_COUNTERS: Final = re.compile(rb"_*(?:n|i|k|c|t|v|nr|no|num|number|ct|cb|cnt|ctr|idx|tag|mark|serial|_)_*")
_NAMES: Final = re.compile(rb'(\w+)\\*"\s?:(?!\s?\\*"?~)')
_MARK_ENDS: Final = re.compile(rb'[)\]]?\\*"')
_QUANTITY: Final = re.compile(
    rb"""%|percent|pct|progress|done|complet|finish|process|remain|left|pending|queue|position|eta|upload|download|load
    |import|export|deploy|sync|copied|written|received|step|stage|phase|part|chunk|page|item|row|record|line|file|byte
    |size|total|\bof\b|/|score|balance|price|amount|cost|seat|stock|avail|unread|temperature|value|level|offset|cursor
    |batch|task|job|test|pass|fail|errors|messages|results|count|width|height|age|rate|speed|depth|rank|votes?|likes?|views?
    |users?|visits?|points?|id$""",
    re.VERBOSE,
)
_BUSY: Final = re.compile(
    rb"%|percent|progress|pending|running|queue|processing|waiting|working|uploading|downloading|loading|building"
    rb"|deploying|training|importing|exporting|indexing|copying|syncing|remaining|starting|in flight|complete|\bof \d"
)
_DONE: Final = re.compile(
    rb"\b(?:ok|okay|done|success\w*|succeeded|created|updated|deleted|saved|sent|added|removed|written|archived|moved"
    rb"|clicked|typed|accepted|booked|taken)\b"
)
_SUBJECT: Final = re.compile(
    rb"id$|_id|page|offset|cursor|start|skip|limit|day|date|month|year|hour|minute|time|row|line|col|index|slot|seat|room"
    rb"|order|item|chapter|part|port|number|key|name|code|from|to$|file|path|level|depth|^[xyz]$"
)


def _by_numbers(one: bytes, other: bytes, found: _Difference, apart: Callable[[_Spot], Likeness]) -> Relation:
    """What kind of numbers differ: all by the same step, or each by its own."""
    steps: set[int] = set()
    worst = Likeness.TICKS
    for left, right in zip(_NUMBER.finditer(one), _NUMBER.finditer(other), strict=True):
        if step := int(right[0][-15:]) - int(left[0][-15:]):
            steps.add(step)
            spot = _Spot(one[: left.start()], one[left.end() :], found)
            worst = max(worst, Likeness.COUNTS if spot.is_part() else apart(spot))
    if not steps:
        return _TICKS
    if len(steps) > 1:
        return Relation(Likeness.MOVED)
    step = steps.pop()
    if 0 < step <= _MAX_STEP and worst <= Likeness.BESIDE:
        return Relation(worst, step)
    return Relation(Likeness.COUNTS if abs(step) <= _MAX_COUNTED else Likeness.MOVED, step)


class _Spot(NamedTuple):
    """A number that differs, and what is around it."""

    before: bytes
    behind: bytes
    found: _Difference

    @property
    def key(self) -> bytes | None:
        """The name of a JSON value that is nothing but the number."""
        named = _KEY.search(self.before)
        return named[1] if named is not None and _BEHIND_VALUE.match(self.behind) else None

    def is_part(self) -> bool:
        """Whether it is a part of a date, a fraction or a list of numbers."""
        return bool(_PART_BEFORE.search(self.before) or _PART_BEHIND.match(self.behind))

    def at_start(self) -> bool:
        return self.found.from_start and bool(_AT_START.match(self.before) and _START_ENDS.match(self.behind))

    def at_end(self) -> bool:
        return self.found.to_end and bool(_AT_END.match(self.behind) and _END_BEGINS.search(self.before))


def _result(spot: _Spot) -> Likeness:
    """A number in a result: a counter stands at an end of it or has an empty name, and nothing is under way."""
    found = spot.found
    is_long = found.length >= _LONG_BYTES
    if not is_long and _BUSY.search(found.one):
        return Likeness.COUNTS
    key = spot.key
    if key is not None:
        counts = _COUNTERS.fullmatch(key) and (is_long or found.one.count(b":") > 1)
        return Likeness.COUNTER if counts or (is_long and not _QUANTITY.search(key)) else Likeness.COUNTS
    if not is_long:
        rest = (spot.before + spot.behind).replace(b"\\n", b" ")
        if not _SAYS.search(rest) or 0 < len(_LETTERS.findall(rest)) < _MUCH_LETTERS:
            return Likeness.COUNTS
    word = _WORD_BEFORE.search(spot.before)
    if spot.at_end() and not (word and word[1] and _QUANTITY.search(word[1])):
        return Likeness.COUNTER
    behind = _WORD_BEHIND.match(spot.behind)
    if spot.at_start() and not (behind and behind[1] and _QUANTITY.search(behind[1])):
        return Likeness.COUNTER
    return Likeness.COUNTS


def _text(spot: _Spot) -> Likeness:
    """A number in what somebody says: a mark before it or behind it, and no word of it."""
    if spot.at_start() and not spot.behind[:1].isspace():
        return Likeness.COUNTER
    marked = _MARK_BEGINS.search(spot.before) or _SENTENCE_ENDS.search(spot.before)
    return Likeness.COUNTER if marked and spot.at_end() else Likeness.COUNTS


def _argument(spot: _Spot) -> Likeness:
    """A number in a question that has more to it, under a name that says nothing; or one that may be anything."""
    if len(loose(spot.found.one)) < _MUCH_LETTERS:
        return Likeness.COUNTS
    key = spot.key
    if key is None:
        return (
            Likeness.COUNTER if _MARK_BEGINS.search(spot.before) and _MARK_ENDS.match(spot.behind) else Likeness.COUNTS
        )
    if _SUBJECT.search(key):
        return Likeness.COUNTS
    if _COUNTERS.fullmatch(key):
        return Likeness.COUNTER
    alone = len(_NAMES.findall(spot.before + spot.behind)) <= 1  # then it is what is asked for
    return Likeness.COUNTS if alone else Likeness.BESIDE


def _names_a_subject(arguments: bytes) -> bool:
    """Whether something among them says what is asked for; else a number beside it may be just that."""
    return any(_SUBJECT.search(name) for name in _NAMES.findall(arguments))
