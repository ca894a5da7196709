"""The two drivers of a story: the same but for ``await``, which a test proves.

A driver does what the story asks for. Nothing of ours reaches the caller but what a policy asked for: any other
fault is logged once, and the caller gets what the bare client would have given.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tokenmeter.call import Relay, Story
from tokenmeter.clients.ports import AsyncPort, SyncPort


def drive(story: Story, port: SyncPort) -> Any:
    """Tell a story through a sync client and return the response."""
    step: Any = partial(next, story)
    try:
        while True:
            try:
                effect = step()
            except StopIteration:
                break
            if isinstance(effect, Relay):
                return port.relay(effect, story)
            try:
                step = partial(story.send, port.do(effect))
            except BaseException as error:
                step = partial(story.throw, error)
    except BaseException as fault:
        if port.passes(fault):
            raise
        return port.bare(fault)
    return port.outcome()


async def drive_async(story: Story, port: AsyncPort) -> Any:
    """Tell a story through an async client and return the response."""
    step: Any = partial(next, story)
    try:
        while True:
            try:
                effect = step()
            except StopIteration:
                break
            if isinstance(effect, Relay):
                return await port.relay(effect, story)
            try:
                step = partial(story.send, await port.do(effect))
            except BaseException as error:
                step = partial(story.throw, error)
    except BaseException as fault:
        if port.passes(fault):
            raise
        return await port.bare(fault)
    return port.outcome()
