"""What the last turns of a conversation do over and over: the run of items at its end that brings nothing new."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

from tokenmeter.loops.alike import Likeness, alike, asks_much, same_question, says_more, says_much
from tokenmeter.loops.pacing import failed, is_receipt, pace
from tokenmeter.loops.steps import Item
from tokenmeter.loops.vocabulary import WORDS_BYTES
from tokenmeter.loops.wording import (
    figures,
    in_order,
    is_filled_in,
    is_prose,
    restates,
    says_little,
    words,
)

Kind = Literal["same", "waits", "moves", "restated", "silent", "poll"]

_INFORMATIVE_BYTES: Final = 200
_LITTLE: Final = 0.1  # the share of words, at most, that are new in a text that says nothing new
_TWICE: Final = 2
_TEXTS_BEFORE: Final = 12


_DIGITS: Final = re.compile(rb"[\d.,]*\d")
_HOUSE: Final = re.compile(
    rb"\b(?:steps?|turns?|iterations?|rounds?|tokens?|budget|remaining|left|used|usage|elapsed)\b"
)


class Repeats(NamedTuple):
    """What the last turns of a conversation do over and over."""

    kind: Kind  # the same again; the same, with a wait in it; the same long result to a question that goes on; …
    times: int  # or rounds
    who: tuple[str, ...]  # tools or speakers
    turns: int  # how many items the loop spans


class Tail:
    """The run of items at the end that bring nothing new."""

    def __init__(self, items: Sequence[Item], allowed: Callable[[str], bool]) -> None:
        self.items = items
        self.allowed = allowed
        self.twins: dict[int, int] = {}  # item -> the nearest earlier one that is the same
        self.little: dict[int, bool] = {}
        self.words: dict[int, frozenset[bytes]] = {}
        self.ordered: dict[int, list[bytes]] = {}
        self.numbers: dict[int, tuple[bytes, ...]] = {}
        self.steps: dict[int, tuple[int, ...]] = {}  # by how much the counters of an item go on from its twin

    def repeats(self) -> tuple[Repeats, ...]:
        same = [each for each in (self._same(), self._same_steps()) if each is not None]
        most = max(same, key=lambda each: each.times, default=None)
        found = (most, self._silent(), self._restated(), self._poll())
        return tuple(each for each in found if each is not None)

    def _same(self) -> Repeats | None:
        """Every item of the run was done or said before; how often the most frequent of them."""
        items = self.items
        at = len(items) - 1
        while at > 0 and (self._twin(at) is not None or self._little_news(at)):
            at -= 1
        return self._most_frequent(range(at + 1, len(items)), range(len(items)))

    def _same_steps(self) -> Repeats | None:
        """The same among the steps alone, whatever a model says between them; that counts for one less.

        A user who says something new begins a new row, and so does an event that the system tells.
        """
        steps = [at for at, item in enumerate(self.items) if item.tool]
        run: list[int] = []
        for at in range(len(self.items) - 1, -1, -1):
            if self.items[at].tool:
                if self._twin(at) is None:
                    break
                run.append(at)
            elif self._is_news_of_others(at):
                break
        found = self._most_frequent(run[::-1], steps)
        return found._replace(times=found.times - 1) if found is not None else None

    def _is_news_of_others(self, at: int) -> bool:
        item = self.items[at]
        return (
            item.who in ("user", "system")
            and self._twin(at) is None
            and not self._little_news(at)
            and bool(self._words(at))
            and not self._keeps_house(at)
        )

    def _keeps_house(self, at: int) -> bool:
        """Whether a text tells steps, tokens or money that are left, and else what its speaker said before."""
        item = self.items[at]
        if len(item.said) > WORDS_BYTES or not _HOUSE.search(item.said.lower()):
            return False
        bare = _DIGITS.sub(b"0", item.said)
        return any(
            other.who == item.who and not other.tool and _DIGITS.sub(b"0", other.said) == bare
            for other in self.items[:at]
        )

    def _most_frequent(self, run: Sequence[int], among: Sequence[int]) -> Repeats | None:
        """How often the most frequent of a run, its first time included if that is right before the run."""
        firsts: dict[int, int] = {}
        for at in run:
            if self._twin(at) is not None:
                first = self._first(at)
                firsts[first] = firsts.get(first, 0) + 1
        if not firsts:
            return None
        before = among.index(run[0])
        near = set(among[max(0, before - len(firsts)) : before]) | set(run)
        counts = {first: count + (first in near) for first, count in firsts.items()}
        most = max(counts.values())
        if most < _TWICE:
            return None
        who = {self.items[first].who: None for first, count in counts.items() if count == most}
        kind = self._kind([self.items[at] for at in run if self.items[at].tool])
        return Repeats(kind, most, tuple(who), len(run) + len(counts))

    @staticmethod
    def _kind(steps: Sequence[Item]) -> Kind:
        """Whether a row of repeats waits for something, moves on by a little, or just goes round."""
        paces = {pace(step) for step in steps}
        if "waits" in paces or ("pends" in paces and not any(map(failed, steps))):
            return "waits"
        return "moves" if "moves" in paces and all(map(is_receipt, steps)) else "same"

    def _silent(self) -> Repeats | None:
        """Two speakers who say nothing new."""
        items = self.items
        at = len(items) - 1
        while at > 0 and not items[at].tool and (self._twin(at) is not None or self._little_news(at)):
            at -= 1
        length = len(items) - 1 - at
        who = {item.who: None for item in items[at + 1 :]}
        return Repeats("silent", length // 2, tuple(who), length) if length >= 4 and len(who) > 1 else None

    def _restated(self) -> Repeats | None:
        """Steps in a row with the same result that says much, while a number of the question goes on."""
        items = self.items
        at = len(items) - 1
        while at > 0 and self._follows(items[at], items[at - 1]):
            at -= 1
        times = len(items) - at
        return Repeats("restated", times, (items[-1].who,), times) if times > 2 else None

    def _follows(self, item: Item, before: Item) -> bool:
        return (
            item.tool
            and item.who == before.who
            and len(item.got) >= _INFORMATIVE_BYTES
            and not self.allowed(item.who)
            and alike(before.got, item.got).likeness <= Likeness.TICKS
            and same_question(before.said, item.said).likeness <= Likeness.COUNTS
        )

    def _poll(self) -> Repeats | None:
        """The same question in a row, whatever comes of it."""
        items = self.items
        last = items[-1]
        if not last.tool or self.allowed(last.who):
            return None
        count = 0
        for item in reversed(items):
            if not item.tool or item.who != last.who or not _asks_again(item, last):
                break
            count += 1
        return Repeats("poll", count, (last.who,), count) if count > 1 else None

    def _twin(self, at: int) -> int | None:
        """The nearest earlier item that is the same."""
        known = self.twins.get(at)
        if known is not None:
            return known if known >= 0 else None
        item = self.items[at]
        found = -1
        if not (item.tool and self.allowed(item.who)):
            for earlier in range(at - 1, -1, -1):
                same = self._same_as(at, earlier)
                if same is not False:
                    found = earlier if same else -1
                    break
        self.twins[at] = found
        return found if found >= 0 else None

    def _first(self, at: int) -> int:
        while (twin := self._twin(at)) is not None:
            at = twin
        return at

    def _little_news(self, at: int) -> bool:
        """Whether a text has hardly a word that the texts before it haven't, and none of them together for once."""
        if self.items[at].tool or len(self.items[at].said) > WORDS_BYTES:
            return False
        known = self.little.get(at)
        if known is None:
            texts = [i for i in range(at - 1, -1, -1) if not self.items[i].tool][:_TEXTS_BEFORE]
            said, before = self._words(at), [self._words(i) for i in texts]
            heard = frozenset[bytes]().union(*before)
            known = len(before) > 1 and says_little(said, heard, _LITTLE) and is_prose(self.items[at].said)
            if known and said:
                known = any(self._means(at, i) for i in texts)
            if known and not said <= heard:  # the one word that is new may be what a form is filled in with
                known = not any(is_filled_in(self._in_order(i), self._in_order(at)) for i in texts)
            self.little[at] = known
        return known

    def _words(self, at: int) -> frozenset[bytes]:
        found = self.words.get(at)
        if found is None:
            found = self.words[at] = words(self.items[at].said)
        return found

    def _same_as(self, at: int, earlier: int) -> bool | None:
        """Whether an item is the same as an earlier one but for its times, ids and counters.

        None where a counter stands in it that goes on, but not by the step it had: then it is none, and all is new.
        """
        item, other = self.items[at], self.items[earlier]
        if item.who != other.who or item.tool is not other.tool:
            return False
        if not item.tool:
            said = alike(other.said, item.said, tool=False)
            if said.likeness <= Likeness.COUNTER:
                return self._goes_on(at, earlier, said.step, 0)
            return self._restates(at, earlier)
        got = alike(other.got, item.got)
        if got.likeness > Likeness.COUNTER:
            return None if got.likeness < Likeness.OTHER and self._is_another_answer(at, earlier) else False
        if got.likeness is Likeness.TICKS and not says_more(item.got):
            return False
        asked = same_question(other.said, item.said)
        if asked.likeness >= Likeness.COUNTER and not self._proves(item, asked.likeness):
            return False
        return self._goes_on(at, earlier, got.step, asked.step)

    def _is_another_answer(self, at: int, earlier: int) -> bool:
        """Whether the same question had an answer with another number, and never this one: then the number is it."""
        item = self.items[at]
        if same_question(self.items[earlier].said, item.said).likeness > Likeness.TICKS:
            return False
        return not any(each.got == item.got and each.who == item.who for each in self.items[:at])

    def _proves(self, item: Item, asked: Likeness) -> bool:
        """Whether a result says so much that it would not come twice if the number in the question mattered."""
        if asked is Likeness.COUNTER:
            return says_much(item.got) or asks_much(item.said)
        return asked is Likeness.BESIDE and len(item.got) >= _INFORMATIVE_BYTES

    def _goes_on(self, at: int, earlier: int, *steps: int) -> bool | None:
        """Whether counters go on by the same steps each time."""
        if any(steps):
            if self._twin(earlier) is not None and self.steps.get(earlier, steps) != steps:
                return None
            self.steps[at] = steps
        return True

    def _restates(self, at: int, earlier: int) -> bool:
        """Whether a speaker says in other words what he said before."""
        if max(len(self.items[at].said), len(self.items[earlier].said)) > WORDS_BYTES:
            return False
        return self._little_news(at) and self._means(at, earlier)

    def _means(self, at: int, earlier: int) -> bool:
        """Whether two texts have nearly the same words, and the same numbers."""
        if not restates(self._words(at), self._words(earlier)):
            return False
        if self._figures(at) != self._figures(earlier):
            return False
        return not is_filled_in(self._in_order(earlier), self._in_order(at))

    def _figures(self, at: int) -> tuple[bytes, ...]:
        found = self.numbers.get(at)
        if found is None:
            found = self.numbers[at] = figures(self.items[at].said)
        return found

    def _in_order(self, at: int) -> list[bytes]:
        found = self.ordered.get(at)
        if found is None:
            found = self.ordered[at] = in_order(self.items[at].said)
        return found


def _asks_again(item: Item, last: Item) -> bool:
    return same_question(item.said, last.said).likeness <= Likeness.TICKS
