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
    tell: Any = story.send
    came: Any = None
    try:
        while True:
            try:
                effect = tell(came)
            except StopIteration:
                break
            if type(effect) is Relay:
                return port.relay(effect, story)
            try:
                tell, came = story.send, port.do(effect)
            except BaseException as error:
                tell, came = story.throw, error
    except BaseException as fault:
        if port.passes(fault):
            raise
        return port.bare(fault)
    return port.outcome()


async def drive_async(story: Story, port: AsyncPort) -> Any:
    """Tell a story through an async client and return the response."""
    tell: Any = story.send
    came: Any = None
    try:
        while True:
            try:
                effect = tell(came)
            except StopIteration:
                break
            if type(effect) is Relay:
                return await port.relay(effect, story)
            try:
                tell, came = story.send, await port.do(effect)
            except BaseException as error:
                tell, came = story.throw, error
    except BaseException as fault:
        if port.passes(fault):
            raise
        return await port.bare(fault)
    return port.outcome()
