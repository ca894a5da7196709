"""The calls on one websocket: which of the messages that come in belongs to which of those that went out.

The provider works on several conversations of one connection side by side, each in a lane of its own; within a lane one
response follows another.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from tokenmeter.faults import swallow
from tokenmeter.forks import renew_in_child
from tokenmeter.turn import Turn, in_turn
from tokenmeter.wire import sockets
from tokenmeter.wire.sockets import Heard, Sent

MAX_LANES = 256
"""Whose last settings are kept; steering in an older one is not metered."""


class Reads(Protocol):
    """What reads a response: a `Passage`."""

    def passes(self, chunk: bytes, /) -> object:
        """A piece of it."""

    def end(self, failure: BaseException | None = None) -> object:
        """It is over."""


class _Unheard:
    def passes(self, chunk: bytes, /) -> None:
        """To nobody."""

    def end(self, failure: BaseException | None = None) -> None:
        """It was settled before."""


_UNHEARD = _Unheard()


class Asked:
    """What was asked for by one message, as one meter hears of it."""

    def __init__(self, sent: Sent, message: object) -> None:
        self.sent = sent
        self.message = message  # the same for all meters that one message passes
        self.lane = sent.lane
        self.response_id: str | None = None
        self.begun = False
        self._heard = False
        self._kept: list[bytes] = []  # what came in before the passage was there
        self._passage: Reads | None = None

    @property
    def waits_in_line(self) -> bool:
        """Whether it is steering that no response has followed yet."""
        return self.sent.steers is not None and not self.begun

    def take(self, event: bytes) -> None:
        """An event of this response."""
        self._heard = True
        if self._passage is None:
            self._kept.append(event)
        else:
            self._passage.passes(event)

    def attach(self, passage: Reads) -> None:
        """Have it read by this passage."""
        for event in self._kept:
            passage.passes(event)
        self._kept.clear()
        self._passage = passage

    def end(self, failure: BaseException | None = None) -> None:
        """Nothing more is said of it."""
        if self.waits_in_line:
            failure = None
            self.take(sockets.NOT_FOLLOWED)
            self.begun = True
        elif not self._heard:
            self.take(sockets.UNHEARD)
        if self._passage is not None:
            self._passage.end(failure)


class Lanes:
    """What is under way on one connection."""

    def __init__(self) -> None:
        self.hearing = False  # a meter further out is at it
        self._turn = Turn()
        renew_in_child(self, "_turn", Turn)
        self._under_way: list[Asked] = []
        self._settings: dict[str | None, bytes] = {}  # by lane: what was asked for last
        self._over: deque[str] = deque(maxlen=MAX_LANES)  # the responses that ended last

    @property
    def busy(self) -> bool:
        """Whether anything is."""
        return bool(self._under_way)

    def request(self, sent: Sent, message: bytes) -> tuple[Sent, bytes] | None:
        """The lane that a message goes to, and the request that it comes to. None: nobody knows."""
        if sent.steers is None:
            return sent, message
        lane = self._lane_of(sent.steers)
        settings = self._settings.get(lane)
        return None if settings is None else (Sent(lane, sent.steers), sockets.successor(settings, message))

    def expect(self, sent: Sent, message: object, body: bytes) -> Asked:
        """A message is about to go out."""
        asked = Asked(sent, message)
        with _Ends() as stale:
            self._expect(asked, body, stale)
        return asked

    @in_turn
    def _expect(self, asked: Asked, body: bytes, stale: list[Asked]) -> None:
        if asked.sent.steers is None:
            self._settings.pop(asked.lane, None)
            self._settings[asked.lane] = body
            if len(self._settings) > MAX_LANES:
                del self._settings[next(iter(self._settings))]
            # What was steered in a response that has ended is part of this request by now.
            goes_on = {each.response_id for each in self._under_way}
            in_line = [each for each in self._under_way if each.lane == asked.lane and each.waits_in_line]
            stale += [each for each in in_line if each.sent.steers not in goes_on]
        self._under_way = [*[each for each in self._under_way if each not in stale], asked]

    @in_turn
    def withdraw(self, asked: Asked) -> None:
        """It didn't go out."""
        if asked in self._under_way:
            self._under_way.remove(asked)

    def forgo(self, asked: Asked) -> None:
        """Its call is settled by now, but it may have gone out: what is said of it is of no other."""
        self.attach(asked, _UNHEARD)

    def attach(self, asked: Asked, passage: Reads) -> None:
        """A call went out: what is said of it is read by this passage."""
        if self._attach(asked, passage):
            asked.end()

    @in_turn
    def _attach(self, asked: Asked, passage: Reads) -> bool:
        asked.attach(passage)
        return asked not in self._under_way

    def hear(self, message: str | bytes) -> None:
        """A message came in. Never raises."""
        if not self._under_way:
            return
        try:
            data = message.encode() if isinstance(message, str) else bytes(message)
            heard = sockets.read_heard(data)
            if heard is not None:
                with _Ends() as over:
                    self._hear(heard, sockets.as_event(data), over)
        except Exception as fault:
            swallow(fault, "reading a message of a websocket")

    @in_turn
    def _hear(self, heard: Heard, event: bytes, over: list[Asked]) -> None:
        first = self._whose(heard)
        if first is None:
            return
        same = [each for each in self._under_way if each.message is first.message]
        if heard.begins:  # what is under way in its lane has ended unheard
            over += [each for each in self._under_way if each.lane == first.lane and each.begun]
        for asked in same:
            if heard.sets_aside is None:
                asked.begun = asked.begun or heard.begins or heard.rejects
                asked.response_id = heard.response_id or asked.response_id
                asked.take(event)
        if heard.ends or heard.rejects or heard.sets_aside is not None:
            over += same
        if over:
            self._under_way = [each for each in self._under_way if each not in over]
            self._over.extend({each.response_id for each in over if each.response_id is not None})

    def _whose(self, heard: Heard) -> Asked | None:
        known = heard.response_id is not None and heard.response_id in self._over
        if known and heard.begins:  # a server that gives each the same name
            self._over.remove(heard.response_id or "")
        elif known:  # that it failed is said of it once more
            return None
        waiting = [each for each in self._under_way if not each.begun]
        if heard.sets_aside is not None:
            return next((each for each in waiting if each.sent.steers == heard.sets_aside), None)
        in_lane = [each for each in self._under_way if each.lane == heard.lane]
        if heard.rejects:  # a request; or else what is under way
            asked_for = [each for each in waiting if each.sent.steers is None]
            return next(iter([each for each in asked_for if each in in_lane] or in_lane or asked_for), None)
        if heard.begins:
            return next((each for each in in_lane if not each.begun), None)
        begun = [each for each in in_lane if each.begun]
        named = [each for each in begun if each.response_id == heard.response_id]
        return next(iter(named or begun or in_lane), None)

    def _lane_of(self, response_id: str) -> str | None:
        return next((each.lane for each in self._under_way if each.response_id == response_id), None)

    def over(self, failure: BaseException | None = None) -> None:
        """Nothing more comes in."""
        with _Ends(failure) as left:
            self._take_all(left)

    @in_turn
    def _take_all(self, left: list[Asked]) -> None:
        left += self._under_way
        self._under_way = []

    def __del__(self) -> None:
        if getattr(self, "_under_way", None):
            self.over()


class _Ends:
    """Ends the calls that are put into its list, also where an interrupt comes in between."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self._failure = failure
        self._calls: list[Asked] = []

    def __enter__(self) -> list[Asked]:
        return self._calls

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._end()
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        for asked in self._calls:
            asked.end(self._failure)
