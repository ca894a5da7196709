"""A place in the line of a MemoryStore, for a thread or an asyncio task."""

from __future__ import annotations

import threading
from typing import Protocol

from tokenmeter.budgets.store import Held, Short
from tokenmeter.budgets.waiting import Waiter, resolve


class Desk(Protocol):
    """Where a ticket is handed in."""

    def take(self, waiter: Waiter) -> Held | Short:
        """The answer to a waiter whose waiting is over."""
        ...

    def withdraw(self, waiter: Waiter) -> None:
        """Undo a waiter, and the hold that may have been made for it meanwhile."""
        ...


class MemoryTicket:
    """A place in the line of a MemoryStore."""

    __slots__ = ("__weakref__", "_desk", "_done", "_waiter")

    def __init__(self, desk: Desk, waiter: Waiter) -> None:
        self._desk = desk
        self._waiter = waiter
        self._done = False

    def wait(self, timeout_s: float) -> Held | Short:
        """Wait on this thread."""
        waiter = self._waiter
        try:
            if waiter.answer is None:
                waiter.gate.acquire(timeout=min(max(timeout_s, 0.0), threading.TIMEOUT_MAX))
            answer = self._desk.take(waiter)
        except BaseException:
            self._desk.withdraw(waiter)
            self._done = True
            raise
        self._done = True
        return answer

    async def wait_async(self, timeout_s: float) -> Held | Short:
        """Wait as a task of asyncio; under another event loop, Short at once."""
        waiter = self._waiter
        try:
            await _sleep(waiter, timeout_s)
            answer = self._desk.take(waiter)
        except BaseException:
            self._desk.withdraw(waiter)
            self._done = True
            raise
        self._done = True
        return answer

    def __del__(self) -> None:
        if not getattr(self, "_done", True):  # where its making was interrupted, it stands in no line
            self._desk.withdraw(self._waiter)


async def _sleep(waiter: Waiter, timeout_s: float) -> None:
    import asyncio

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    future = loop.create_future()
    waiter.sleeper = (loop, future)
    if waiter.answer is not None:  # looked at after the sleeper is known: no wake-up is missed
        return
    timer = loop.call_later(max(timeout_s, 0.0), resolve, future)
    try:
        await future
    finally:
        timer.cancel()
