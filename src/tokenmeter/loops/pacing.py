"""Steps that are meant to be made again as they are: they wait for something, or move on by a little.

Whoever waits asks the same and hears the same until it is there; whoever scrolls or presses a key hears only that it
was done.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from tokenmeter.loops.steps import Item

Pace = Literal["waits", "moves"]


def pace(item: Item) -> Pace | None:
    """Whether a step waits, by its name, by what it asks for or by what comes of it; or moves on, and hears no more."""
    who = item.who.encode(errors="surrogatepass")
    if _WAITS.search(who) or _PAUSES.search(item.said[:_SAID_BYTES]):
        return "waits"
    got = item.got[:_GOT_BYTES].lower()
    if len(item.got) < _STATUS_BYTES and _UNDER_WAY.search(got):
        return "waits"
    if len(item.got) <= _GOT_BYTES and _NOT_YET.search(got):
        return "waits"
    if len(item.got) < _STATUS_BYTES and (_MOVES.search(who) or _MOVES_ON.search(item.said)):
        return "moves"
    return None


_SAID_BYTES: Final = 512
_GOT_BYTES: Final = 800
_STATUS_BYTES: Final = 240  # a longer result says more than how things stand
_WAITS: Final = re.compile(rb"(?i:^|[_.+-])(?i:sleep|wait)(?:[_.+A-Z-]|s?$)|[a-z](?:Sleep|Wait)(?:[A-Z_]|$)")
_MOVES: Final = re.compile(rb"(?i)scroll|swipe|press_?key|key_?press|page_?(?:down|up)\b")
_MOVES_ON: Final = re.compile(rb'"action\\?"\s*:\s*\\?"(?:scroll|swipe|key|keypress|press)')
_PAUSES: Final = re.compile(
    rb"""(?:^|["';&|(]|\bdo\b|\bthen\b|\\n)\s*(?:sleep\s+[\d$.]|start-sleep\b|timeout\s+/t\b|wait(?:\s+[$%\d-]|\s*(?:[;&|]|\\?"|$)))
    |"action\\?"\s*:\s*\\?"(?:wait|sleep)\\?"
    |"(?:command|chars|keys|input)\\?"\s*:\s*\\?"(?:\\+n)?\\?"\s*[,}]""",
    re.VERBOSE | re.IGNORECASE,
)
_UNDER_WAY: Final = re.compile(
    rb"""\b(?:running|pending|queued|in[ _-]?progress|in[ _-]flight|waiting|processing|building|deploying
    |provisioning|initiali[sz]ing|starting|uploading|downloading|importing|exporting|indexing|syncing|training)\b
    |\bnot\ (?:yet\ )?(?:finished|ready|complete|completed|done)\b""",
    re.VERBOSE,
)
_NOT_YET: Final = re.compile(
    rb"\bno (?:new )?output\b|\bstill (?:running|pending|queued|building|processing|waiting|in progress|going)\b"
    rb"|\b(?:has|have|is|are)(?: not|n't) (?:yet )?(?:finished|completed|exited|ready)\b"
)
