"""What both ports share: the effects that never wait, what to tell of a response, and the end of its story."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any, ClassVar

from msgspec import Struct
from msgspec.structs import replace

from tokenmeter import wire
from tokenmeter.budgets import Entry, Held, Short, Ticket
from tokenmeter.clients.decoding import Deaf, Decoder, Undecodable
from tokenmeter.clients.growth import Growth
from tokenmeter.clients.library import Library
from tokenmeter.clients.metering import Metering
from tokenmeter.clients.relay import Passage
from tokenmeter.effects import (
    Effect,
    Hold,
    Now,
    Queue,
    Record,
    Relay,
    Release,
    Send,
    Sent,
    Settle,
    Story,
    Write,
)
from tokenmeter.errors import Refused, StoreUnavailable
from tokenmeter.faults import is_the_hosts, swallow
from tokenmeter.loops import carriers
from tokenmeter.notes import Answer
from tokenmeter.telemetry import spans
from tokenmeter.usage import Usage
from tokenmeter.wire import Route

# The requests that are being sent by a meter right here: a seam further in must not count them again.
INSIDE: ContextVar[tuple[tuple[Metering, Any], ...]] = ContextVar("tokenmeter-inside", default=())

_LARGE_BYTES = 64 << 10  # such a body is read at once: those that wait take memory
_SETTLING_S = 1.0  # how long a call for which there is no room settles those that ended
_MAY_BLAME = (400, 422)


class Port(Struct, eq=False):
    """What both ports share, and what became of one request so far. A Struct, which is made in no time."""

    ASYNC: ClassVar[bool] = False  # whether it works for an event loop, which nothing may keep waiting

    metering: Metering
    library: Library
    wrapped: Callable[..., Any]
    request: Any
    stream: bool
    kwargs: Mapping[str, Any]  # of the caller's ``send``, beside the request and ``stream``
    response: Any = None
    error: BaseException | None = None
    _recording: spans.Recording | None = None
    _held: Hold | Queue | Settle | Release | None = None  # what was last begun with the money of the call, if it stands
    _sent: bool = False
    _hides: bool = False  # whether the usage of the stream was asked for without the caller
    _start_s: float = 0.0
    _duration_s: float = 0.0
    _deadline_s: float | None = None

    @property
    def _instant(self) -> bool:
        return self.metering.store.instant

    def keep_books(self, effect: Effect) -> Any:
        """Settle, release, write, record, or tell the time. Waits for nobody, but takes as long as the store does."""
        metering = self.metering
        # By type, for `isinstance` takes ten times as long to say no.
        if type(effect) is Settle:
            self._held = effect
            settled = metering.store.settle(effect.hold_id, effect.amounts, effect.row)
            self._held = None
            return settled
        if type(effect) is Record:
            metering.record(self._recording, effect)
            self._recording = None
        elif type(effect) is Release:
            self._held = effect
            metering.store.release(effect.hold_id)
            self._held = None
        elif type(effect) is Write:
            metering.store.write([Entry(effect.row_id, (), effect.row)])
        elif type(effect) is Now:
            return metering.clock.now_s()
        return None

    def ends(self, effect: Effect) -> None:
        """What is to become of the money of the call. Whoever is cancelled before it is begun, cleans up likewise."""
        if type(effect) is Settle or type(effect) is Release:
            self._held = effect

    def held_at_once(self, effect: Hold) -> Held | None:
        """Hold without waiting for anything, if the store can."""
        try_hold = self.metering.try_hold
        if try_hold is None:
            return None
        self._held = effect
        return try_hold(effect.hold_id, effect.claims, effect.note)

    def sent_at_once(self, effect: Sent) -> bool:
        """Note without waiting for anything that the request goes out, if the store can."""
        try_sent = self.metering.try_sent
        return try_sent is not None and try_sent(effect.hold_id)

    def held(self, effect: Hold) -> Held | Short:
        """Hold; where there is no room, once more when what ended calls spent is settled."""
        metering = self.metering
        store, now_s = metering.store, metering.clock.now_s()
        self._held = effect  # before it is made, so that an interrupt right after its making leaves none behind
        verdict = store.hold(effect.hold_id, effect.claims, now_s, effect.note)
        if type(verdict) is Held:
            return verdict
        if metering.later.flush(_SETTLING_S):
            verdict = store.hold(effect.hold_id, effect.claims, now_s, effect.note)
        return self._noted(verdict)

    def undoing(self, effect: Hold | Queue) -> Callable[[], object]:
        """What undoes a hold that nobody waits for any more."""
        return partial(self.metering.store.release, effect.hold_id)

    def queued(self, effect: Queue) -> Held | Short | tuple[Ticket, float]:
        """Stand in line for the budgets; a ticket comes with the seconds that are left to wait."""
        metering, now_s = self.metering, time.monotonic()
        if self._deadline_s is None:
            self._deadline_s = now_s + effect.wait_s
            metering.dropped.collect(metering.streams)
        at_s = metering.clock.now_s()
        self._held = effect
        found = metering.store.queue(effect.hold_id, effect.claims, at_s, effect.note)
        if isinstance(found, Held | Short):
            return self._noted(found)
        return found, max(0.0, min(self._deadline_s - now_s, effect.window_s))

    def _noted(self, verdict: Held | Short) -> Held | Short:
        if isinstance(verdict, Short):
            self._held = None
        return verdict

    def _outgoing(self, effect: Send) -> Any:
        """The request to send: the caller's own, unless something must differ on the wire."""
        request = self.request
        drop: tuple[str, ...] = ()
        if self.library.has_header(request, "baggage"):
            keeps = self.metering.propagate_baggage and _has_no_lineage(request)
            drop = () if keeps else ("baggage",)
        if effect.body is None and not drop:
            return request
        return self.library.with_body(request, effect.body, drop=drop)

    def _failed(self, error: BaseException) -> Answer:
        self.error = error
        unsent, status = self.library.reached(error)
        unsent = unsent or isinstance(error, Refused | StoreUnavailable)  # by another meter further in: it never left
        return Answer(status=status, failure=error, unsent=unsent, duration_s=time.perf_counter() - self._start_s)

    def _reads_error(self, status: int) -> bool:
        """Whether the body must be read here: it may blame the option, or the caller expects it read."""
        return status in _MAY_BLAME or not (self.stream or 200 <= status < 300)

    def _received(self, response: Any, outgoing: Any, error_text: str | None) -> Answer:
        """What to tell the story of a response whose head is here."""
        self.response = response
        if outgoing is not self.request and response.request is outgoing:
            _carry_headers(outgoing, self.request)
            response.request = self.request
            following = response.next_request
            if following is not None and following.stream is outgoing.stream is not self.request.stream:
                # A caller may send it by hand.
                response.next_request = self.library.with_body(following, self.request.content)
        status = response.status_code
        duration_s = time.perf_counter() - self._start_s
        if not 200 <= status < 300:
            blamed = (
                status in _MAY_BLAME
                and error_text is not None
                and wire.rejects_usage_asked(outgoing.content, error_text)
            )
            return Answer(status=status, rejected=blamed, duration_s=duration_s)
        self._duration_s = duration_s
        return Answer(status=status, streams=True)

    def _rest(self, effect: Relay, story: Story, response: Any) -> Callable[[], None] | None:
        """What is still to be told of a call whose body is here as a whole; None where that is done later.

        The caller need not wait for it if nobody watches.
        """
        body, call = response.content, effect.call
        if self._hides:
            reader = wire.reader(call.route, response.headers.get("content-type"), stream=True, hide_usage=True)
            shown = reader.feed(body)
            tail, reading = reader.finish()
            response._content = shown + tail
            answer = Answer(status=response.status_code, reading=reading, duration_s=self._duration_s)
            return partial(self.resume, story, lambda: answer)
        rest = _Rest(
            self,
            story,
            call.route,
            status=response.status_code,
            content_type=response.headers.get("content-type"),
            body=body,
            counted=wire.read_headers(call.route, response.headers),
            duration_s=self._duration_s,
        )
        if self.metering.watched(self._recording) or len(body) > _LARGE_BYTES:
            return rest
        # What waits holds nothing of the client's: it is much, and the garbage collector would go through all of it.
        self.request = self.response = None
        self.metering.later.put(rest)
        return None

    def _relayed(self, effect: Relay, story: Story, hide_usage: bool) -> None:
        """Have the body of the caller's response read as it passes by."""
        response = self.response
        call = effect.call
        route, ask = call.route, call.ask
        counted = wire.read_headers(route, response.headers)
        reader = wire.reader(route, response.headers.get("content-type"), stream=ask.stream, hide_usage=hide_usage)
        decoder: Decoder | None
        try:
            decoder = self.library.decoder(response, rewrites=hide_usage)
        except Undecodable as error:
            swallow(error, "reading a compressed body")
            decoder = Deaf()
        passage = Passage(
            self.metering.streams,
            reader,
            decoder,
            lambda answer: self._over(story, _with_headers(answer, counted)),
            status=response.status_code,
            start_s=self._start_s,
            rewrites=hide_usage,
            growth=Growth(self.metering, call, call.stage) if call.stage is not None else None,
        )
        if self._recording is not None:
            spans.before_the_end(self._recording, passage.peek)
        kind = self.library.async_relay if self.ASYNC else self.library.relay
        response.stream = kind(response.stream, passage)
        if hide_usage:
            self.library.show_plain(response)
        # Forgotten here, so that no cycle keeps alive what its caller drops: a response, or the connection of one.
        self.request = self.response = None
        self.wrapped = _gone

    def _over(self, story: Story, answer: Answer) -> None:
        """A body has passed by. Its caller waits for the rest where somebody watches, but no event loop for books that
        may take time, unless a span does.
        """
        metering, recording = self.metering, self._recording
        span_is_anothers = recording is not None and not recording.ours
        if span_is_anothers or (metering.watched(recording) and (self._instant or not self.ASYNC)):
            self.resume(story, lambda: answer)
        else:
            metering.later.put(partial(self.resume, story, lambda: answer))

    def resume(self, story: Story, answer: Callable[[], Answer]) -> None:
        """Tell the rest of a story whose body is over. Never waits, so it may run in a finalizer."""
        tell: Any = story.send
        try:
            came: Any = answer()
            while True:
                effect = tell(came)
                try:
                    tell, came = story.send, self.keep_books(effect)
                except BaseException as error:
                    tell, came = story.throw, error
        except StopIteration:
            return
        except BaseException as fault:
            if isinstance(fault, Exception) and not is_the_hosts(fault):
                self._clean_up(fault)
                return
            self._clean_up(None)
            raise

    def passes(self, fault: BaseException) -> bool:
        """Whether what a driver met is for the caller: a refusal by policy, or an interruption by it or a signal."""
        if fault is self.error:
            return True
        if isinstance(fault, Refused | StoreUnavailable) and not self._sent:
            self._clean_up(None)
            return True
        if isinstance(fault, Exception) and not is_the_hosts(fault):
            return False
        self._clean_up(None)
        return True

    def _clean_up(self, fault: BaseException | None) -> None:
        """A story broke off: leave no money held and no span open."""
        if fault is not None:
            swallow(fault, "metering a call")
        held, self._held = self._held, None
        try:
            if held is not None:
                store = self.metering.store
                end: Callable[[], object]
                if type(held) is Settle:
                    end = partial(store.settle, held.hold_id, held.amounts, held.row)
                elif self._sent and isinstance(held, Hold | Queue):
                    end = partial(store.settle, held.hold_id, [claim.amount for claim in held.claims])
                else:
                    end = partial(store.release, held.hold_id)
                if self._instant or not self.ASYNC:
                    end()
                else:
                    self.metering.later.put(partial(_tidily, end))
            if self._recording is not None and self._recording.ours:
                self._recording.span.end()
        except Exception as second:
            swallow(second, "cleaning up after a call")

    def outcome(self) -> Any:
        """What the bare client would have given: its response, or its error."""
        if self.error is not None:
            raise self.error
        return self.response


def _gone(*args: Any, **kwargs: Any) -> Any:
    """Stands for the client's function once it was called."""
    raise RuntimeError("the request went out before")


def _has_no_lineage(request: Any) -> bool:
    """Whether the baggage says nothing of the run: that is for one's own services, never for a provider."""
    return carriers.KEY not in request.headers["baggage"]


def _tidily(end: Callable[[], object]) -> None:
    try:
        end()
    except Exception as fault:
        swallow(fault, "cleaning up after a call")


def _carry_headers(outgoing: Any, request: Any) -> None:
    """What an auth flow or a hook of the caller's set on the request that went out, it set on the caller's own."""
    known = dict(request.headers.items())  # at once: to look each up takes as long
    for name, value in outgoing.headers.items():
        if name not in ("content-length", "transfer-encoding") and known.get(name) != value:
            request.headers[name] = value


class _Rest(Struct, frozen=True, gc=False, eq=False):
    """What is still to be told of a call whose body is here as a whole."""

    port: Port
    story: Story
    route: Route
    status: int
    content_type: str | None
    body: bytes
    counted: Usage | None  # in the headers
    duration_s: float

    def __call__(self) -> None:
        self.port.resume(self.story, self._answer)

    def _answer(self) -> Answer:
        reading = wire.read_body(self.route, self.body, self.content_type)
        answer = Answer(status=self.status, reading=reading, duration_s=self.duration_s)
        return _with_headers(answer, self.counted)


def _with_headers(answer: Answer, counted: Usage | None) -> Answer:
    """The answer with what its headers counted, where its body counted nothing."""
    reading = answer.reading
    if counted is None or reading is None or reading.usage is not None:
        return answer
    return replace(answer, reading=replace(reading, usage=counted))
