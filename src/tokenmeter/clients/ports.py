"""What the drivers do for a story: a port does the effects of one call through one client.

The two are alike but for ``await``; what never waits stands in `Port`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any, ClassVar

from tokenmeter.budgets import Held, Short
from tokenmeter.clients.aside import aside, here, sleep, sleep_async
from tokenmeter.clients.port import INSIDE, Port
from tokenmeter.effects import Brake, Effect, Hold, Open, Queue, Record, Relay, Send, Sent, Story
from tokenmeter.notes import Answer
from tokenmeter.telemetry import spans


class SyncPort(Port):
    """Does the effects through a sync client."""

    def do(self, effect: Effect) -> Any:
        """Do one effect and return what came of it."""
        if type(effect) is Open:
            self._recording = self.metering.open(effect.call)
            return None
        if type(effect) is Send:
            return self._send(effect)
        if type(effect) is Hold:
            if self.metering.store.instant:
                return self.held(effect)
            return self.held_at_once(effect) or here(partial(self.held, effect), self.undoing(effect))
        if type(effect) is Queue:
            found = self.queued(effect) if self._instant else here(partial(self.queued, effect), self.undoing(effect))
            if isinstance(found, Held | Short):
                return found
            metering = self.metering
            metering.later.awaited.append(None)
            try:
                metering.dropped.look_after(metering.streams, metering.later.awaited)
                if self._instant:  # else an event loop would wait for the store; the thread does it
                    metering.later.flush()
                return self._noted(found[0].wait(found[1]))
            finally:
                metering.later.awaited.pop()
        if type(effect) is Brake:
            return sleep(effect.pause_s)
        if type(effect) is Sent:
            return self.sent_at_once(effect) or here(partial(self.metering.store.sent, effect.hold_id))
        if self._instant or type(effect) is Record:
            return self.keep_books(effect)
        self.ends(effect)
        return here(partial(self.keep_books, effect))

    def _send(self, effect: Send) -> Answer:
        self._hides = effect.hide_usage
        outgoing = self._outgoing(effect)
        error_text = None
        recording = self._recording
        here = None if recording is None else spans.attach(recording)
        inside = INSIDE.set((*INSIDE.get(), (self.metering, outgoing)))
        self._sent = True
        self._start_s = time.perf_counter()
        try:
            response = self.wrapped(outgoing, stream=self.stream or effect.hide_usage, **self.kwargs)
            if effect.hide_usage and self._reads_error(response.status_code):
                if hasattr(response, "_content"):  # a hook of the caller's has read it
                    error_text = response.text
                else:
                    error_text = self.library.rearm(response, b"".join([piece for piece in response.iter_raw()]))  # noqa: C416 - as its twin
                    if not self.stream:
                        response.read()
        except BaseException as error:
            return self._failed(error)
        finally:
            INSIDE.reset(inside)
            if here is not None:
                spans.detach(here)
        return self._received(response, outgoing, error_text)

    def relay(self, effect: Relay, story: Story) -> Any:
        """Hand the response to the caller, and tell the rest of the story when its body has passed by."""
        response = self.response
        if hasattr(response, "_content"):
            rest = self._rest(effect, story, response)
            if rest is not None:
                rest() if self._instant else here(rest)
            return response
        self._relayed(effect, story, self._hides)
        if not self.stream:
            try:
                response.read()
            except BaseException as error:
                self.error = error
                response.close()
                raise
        return response

    def bare(self, fault: BaseException) -> Any:
        """Give the caller what the bare client gives, because our own part failed."""
        self._clean_up(fault)
        if self._sent:
            response = self.outcome()
            if not self.stream and not hasattr(response, "_content"):
                response.read()
            return response
        return self.wrapped(self.request, stream=self.stream, **self.kwargs)


class AsyncPort(Port):
    """Does the effects through an async client."""

    ASYNC: ClassVar[bool] = True

    async def do(self, effect: Effect) -> Any:
        """Do one effect and return what came of it."""
        if type(effect) is Open:
            self._recording = self.metering.open(effect.call)
            return None
        if type(effect) is Send:
            return await self._send(effect)
        if type(effect) is Hold:
            if self.metering.store.instant:
                return self.held(effect)
            return self.held_at_once(effect) or await aside(partial(self.held, effect), self.undoing(effect))
        if type(effect) is Queue:
            found = (
                self.queued(effect)
                if self._instant
                else await aside(partial(self.queued, effect), self.undoing(effect))
            )
            if isinstance(found, Held | Short):
                return found
            metering = self.metering
            metering.later.awaited.append(None)
            try:
                metering.dropped.look_after(metering.streams, metering.later.awaited)
                if self._instant:  # else an event loop would wait for the store; the thread does it
                    metering.later.flush()
                return self._noted(await found[0].wait_async(found[1]))
            finally:
                metering.later.awaited.pop()
        if type(effect) is Brake:
            return await sleep_async(effect.pause_s)
        if type(effect) is Sent:
            return self.sent_at_once(effect) or await aside(partial(self.metering.store.sent, effect.hold_id))
        if self._instant or type(effect) is Record:
            return self.keep_books(effect)
        self.ends(effect)
        return await aside(partial(self.keep_books, effect))

    async def _send(self, effect: Send) -> Answer:
        self._hides = effect.hide_usage
        outgoing = self._outgoing(effect)
        error_text = None
        recording = self._recording
        here = None if recording is None else spans.attach(recording)
        inside = INSIDE.set((*INSIDE.get(), (self.metering, outgoing)))
        self._sent = True
        self._start_s = time.perf_counter()
        try:
            response = await self.wrapped(outgoing, stream=self.stream or effect.hide_usage, **self.kwargs)
            if effect.hide_usage and self._reads_error(response.status_code):
                if hasattr(response, "_content"):  # a hook of the caller's has read it
                    error_text = response.text
                else:
                    error_text = self.library.rearm(response, b"".join([piece async for piece in response.aiter_raw()]))
                    if not self.stream:
                        await response.aread()
        except BaseException as error:
            return self._failed(error)
        finally:
            INSIDE.reset(inside)
            if here is not None:
                spans.detach(here)
        return self._received(response, outgoing, error_text)

    async def relay(self, effect: Relay, story: Story) -> Any:
        """Hand the response to the caller, and tell the rest of the story when its body has passed by."""
        response = self.response
        if hasattr(response, "_content"):
            rest = self._rest(effect, story, response)
            if rest is not None:
                rest() if self._instant else await aside(rest)
            return response
        self._relayed(effect, story, self._hides)
        if not self.stream:
            try:
                await response.aread()
            except BaseException as error:
                self.error = error
                await response.aclose()
                raise
        return response

    async def bare(self, fault: BaseException) -> Any:
        """Give the caller what the bare client gives, because our own part failed."""
        self._clean_up(fault)
        if self._sent:
            response = self.outcome()
            if not self.stream and not hasattr(response, "_content"):
                await response.aread()
            return response
        return await self.wrapped(self.request, stream=self.stream, **self.kwargs)
