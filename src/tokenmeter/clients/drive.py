"""The two drivers of a story: the same but for ``await``, which a test proves.

A driver does what the story asks for. Nothing of ours reaches the caller but what a policy asked for: any other
fault is logged once, and the caller gets what the bare client would have given.
"""

from __future__ import annotations

from typing import Any

from tokenmeter.clients.ports import AsyncPort, SyncPort
from tokenmeter.effects import Relay, Story


def drive(story: Story, port: SyncPort) -> Any:
    """Tell a story through a sync client and return the response."""
    try:
        try:
            effect = story.send(None)
            while type(effect) is not Relay:
                try:
                    came = port.do(effect)
                except BaseException as error:
                    effect = story.throw(error)
                else:
                    effect = story.send(came)
        except StopIteration:
            pass
        else:
            return port.relay(effect, story)
        return port.outcome()  # not while StopIteration is handled: it would stand in the caller's traceback
    except BaseException as fault:
        if port.passes(fault):
            raise
        return port.bare(fault)


async def drive_async(story: Story, port: AsyncPort) -> Any:
    """Tell a story through an async client and return the response."""
    try:
        try:
            effect = story.send(None)
            while type(effect) is not Relay:
                try:
                    came = await port.do(effect)
                except BaseException as error:
                    effect = story.throw(error)
                else:
                    effect = story.send(came)
        except StopIteration:
            pass
        else:
            return await port.relay(effect, story)
        return port.outcome()
    except BaseException as fault:
        if port.passes(fault):
            raise
        return await port.bare(fault)
