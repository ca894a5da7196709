"""Loops that a conversation shows by itself: its last turns bring nothing new.

A step with a tool is new unless the same question had the same answer before; a text is new unless it was said before
or has hardly a word that wasn't. What counts is the run of turns at the end that bring nothing new: one new result or
one new thing said ends it, so a conversation that goes on is never a loop, however long it is. Nothing is remembered
from request to request, and only the last turns are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from tokenmeter.loops.asked import NOTHING, UNREADABLE
from tokenmeter.loops.loosely import loose
from tokenmeter.loops.news import ends_with_news, told_news_before, uses_tools

if TYPE_CHECKING:
    from tokenmeter.loops.repeats import Repeats
    from tokenmeter.loops.steps import Item

FEWEST_TURNS: Final = 5
FIRST_LOOK_TURNS: Final = 26
LAST_TURNS: Final = 96


def nothing_allowed(_tool: str) -> bool:
    """No tool's repeats are meant."""
    return False


def look(
    turns: Sequence[msgspec.Raw],
    allowed: Callable[[str], bool] = nothing_allowed,
    times: int = 3,
    all_turns: Callable[[], Sequence[msgspec.Raw]] | None = None,
) -> tuple[Repeats, ...]:
    """What the last turns repeat; empty for nearly all requests. Counts only, the policy draws the lines.

    ``times`` is from how many times on it is of interest; ``all_turns`` is asked for where those given are only the
    last ones and the loop began before them.
    """
    if len(turns) < FEWEST_TURNS or ends_with_news(turns, FIRST_LOOK_TURNS) or not _may_repeat(turns, times):
        return ()
    from tokenmeter.loops.steps import read_items  # what few requests need takes long to make

    items = read_items(turns, FIRST_LOOK_TURNS)
    if len(items) < 3:
        return ()
    from tokenmeter.loops.repeats import Tail

    found = Tail(items, allowed).repeats()
    if (all_turns or len(turns) > FIRST_LOOK_TURNS) and (
        any(each.turns > len(items) - _PERIOD for each in found) or _ends_as_before(items)
    ):
        turns = turns if all_turns is None else all_turns()
        found = Tail(read_items(turns, LAST_TURNS), allowed).repeats()
    return found


def _ends_as_before(items: Sequence[Item]) -> bool:
    """Whether the last two steps stood one after the other before: then they may be the end of a long cycle."""
    last, before = items[-1], items[-2]
    return last.tool and any(items[at] == last and items[at - 1] == before for at in range(1, len(items) - 2))


class _Probe(msgspec.Struct, gc=False):
    content: msgspec.Raw = NOTHING
    output: msgspec.Raw = NOTHING
    parts: msgspec.Raw = NOTHING


class _Nested(msgspec.Struct, gc=False):
    content: msgspec.Raw = NOTHING
    response: msgspec.Raw = NOTHING


class _ProbePart(msgspec.Struct, gc=False):
    text: msgspec.Raw = NOTHING
    content: msgspec.Raw = NOTHING
    result: _Nested | None = msgspec.field(name="toolResult", default=None)
    response: _Nested | None = msgspec.field(name="functionResponse", default=None)
    snake_response: _Nested | None = msgspec.field(name="function_response", default=None)

    def said(self) -> msgspec.Raw:
        nested = self.result or self.response or self.snake_response
        return self.content or self.text or (NOTHING if nested is None else nested.content or nested.response)


_as_probe = msgspec.json.Decoder(_Probe).decode
_as_probe_parts = msgspec.json.Decoder(list[_ProbePart]).decode


def _may_repeat(turns: Sequence[msgspec.Raw], times: int) -> bool:
    """Whether a closer look is worth its while, from the sizes of turns and the ends of those that are as large."""
    last, before = turns[-1], times - 1
    size = len(last)
    least, most = size - _SHIFT - _MARKED, size + _SHIFT
    as_large = [turn for turn in turns[-LAST_TURNS:-1] if least <= len(turn) <= most]
    if len(as_large) >= before and size > _LARGE_BYTES:
        inside = _inside(last, 0)
        as_large = [turn for turn in as_large if inside in _inside(turn, 2 * _SHIFT + _MARKED)]
    if len(as_large) >= before:
        own = _ending(last)
        middle = own[_SHIFT:-_SHIFT] if len(own) > 4 * _SHIFT else None
        for turn in reversed(as_large):
            other = _ending(turn)
            if own == other or (middle is not None and middle in other):
                before -= 1
                if before <= 0:
                    return True
    return (len(turns) >= _MANY_TURNS and _may_poll(turns)) or (
        size <= _TALK_BYTES
        and b"tool" not in bytes(last)
        and _only_talk(turns[-_FEWEST_TEXTS:])
        and not (times > _TWICE and told_news_before(turns[-FIRST_LOOK_TURNS:]))
    )


def _may_poll(turns: Sequence[msgspec.Raw]) -> bool:
    """Whether the last two steps ask the same; their results may differ in size. A step is two turns or three."""
    asked = len(turns[-2])
    if min(abs(asked - len(turns[-4])), abs(asked - len(turns[-5]))) > _SHIFT:
        return False
    if not uses_tools(b"".join(turns[-3:])):
        return False
    from tokenmeter.loops.steps import QUICK_BYTES, read_items

    items = read_items(turns, _TWO_STEPS, most_bytes=QUICK_BYTES)
    return len(items) > 1 and items[-1].tool and items[-1].said == items[-2].said


def _inside(turn: msgspec.Raw, more: int) -> bytes:
    """What stands in the middle of a turn: to read a large one takes longer than to see that it differs there."""
    view, reach = memoryview(turn), _SHIFT + _MARKED + more
    middle = len(view) // 2
    return loose(bytes(view[middle - reach : middle + reach]))


def _ending(turn: msgspec.Raw) -> bytes:
    """The end of what a turn says, without the names around it."""
    try:
        probe = _as_probe(turn)
        said = probe.content or probe.output or probe.parts
        if not said:
            return b""
        view = memoryview(said)
        if view[0] == _BRACKET:
            parts = _as_probe_parts(said)  # a mark for the provider's cache may stand last
            view = memoryview(next(filter(None, (part.said() for part in reversed(parts))), said))
    except (*UNREADABLE, IndexError):
        return b""
    return loose(bytes(view[-_ENDING_BYTES:]))


def _only_talk(turns: Sequence[msgspec.Raw]) -> bool:
    """Whether nobody used a tool in turns that are short enough to be talk."""
    if len(turns) < _FEWEST_TEXTS or sum(map(len, turns)) > _TALK_BYTES:
        return False
    joined = b"".join(turns)
    return b"tool" not in joined and b"unction" not in joined


_BRACKET: Final = ord("[")
_PERIOD: Final = 6
_SHIFT: Final = 24
_MARKED: Final = 48  # the last turn may bear a mark for the provider's cache
_ENDING_BYTES: Final = 256
_LARGE_BYTES: Final = 2_048
_MANY_TURNS: Final = 16
_TWO_STEPS: Final = 6
_FEWEST_TEXTS: Final = 6
_TWICE: Final = 2  # the last turn alone may be one, with what it repeats
_TALK_BYTES: Final = 16_384
