"""Steps that are meant to be made again as they are: they wait for something, or move on by a little.

Whoever waits asks the same and hears the same until it is there; whoever scrolls or presses a key hears only that it
was done. A word of waiting in what was found is no wait: a status is told as a status, and what fails doesn't wait.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from tokenmeter.loops.alike import says_much
from tokenmeter.loops.steps import Item

Pace = Literal["waits", "pends", "moves"]


def pace(item: Item) -> Pace | None:
    """Whether a step waits by itself, hears that something is under way, or moves on and hears that it did."""
    who, said = item.who.encode(errors="surrogatepass"), item.said[:_SAID_BYTES]
    got = item.got[:_GOT_BYTES].lower()
    fails = failed(item)
    rejected = fails and _REJECTS.search(got)
    if _PAUSES.search(said) or ((_WAITS.search(who) or _EMPTY.search(said)) and not rejected):
        return "waits"
    if fails:
        return None
    if _is_under_way(item, got):
        return "pends"
    return "moves" if _tells_little(item) and (_MOVES.search(who) or _MOVES_ON.search(said)) else None


def is_receipt(item: Item) -> bool:
    """Whether a result says no more than that something was done: then its return doesn't prove that nothing moved."""
    return _tells_little(item) and (not says_much(item.got) or pace(item) == "moves")


def _tells_little(item: Item) -> bool:
    return len(item.got) <= _RECEIPT_BYTES or (len(item.got) <= _RESTING_BYTES and _ECHO.search(item.got) is not None)


def failed(item: Item) -> bool:
    """Whether a result tells a failure."""
    return _FAILS.search(_NO_FAILURE.sub(b"", item.got[:_GOT_BYTES].lower())) is not None


def _is_under_way(item: Item, got: bytes) -> bool:
    bare = got.strip(b'" \r\n\t').replace(b"\\n", b" ")
    if len(item.got) <= _BARE_BYTES and _STATUS_ALONE.search(bare):
        return True
    named = _STATUS.search(got)
    if named and (len(item.got) < _RESTING_BYTES or not _RESTS.search(named[0])):
        return True
    return _NOT_YET.search(got) is not None


_SAID_BYTES: Final = 512
_GOT_BYTES: Final = 800
_BARE_BYTES: Final = 64
_RECEIPT_BYTES: Final = 60
_RESTING_BYTES: Final = 240  # a job runs, but an order rests in its state: a longer result says more than how it stands

_ECHO: Final = re.compile(rb"Ran Playwright code|await page\.")  # what was asked for, told again
_FAILS: Final = re.compile(
    rb"\b(?:error\w*|fail\w*|exception|traceback|denied|refused|invalid|cannot|can't|could not|couldn't|unable|unknown"
    rb"|not found|no such|not on|forbidden|unauthorized|rejected|declined|aborted|conflict|must|err!|already"
    rb"|not a valid|unsupported|undefined|required|missing)\b"
)
_NO_FAILURE: Final = re.compile(
    rb"\b\w*(?:error|fail)\w*\\?\"?\s?[:=]\s?(?:null|none|0\b|false|\\?\"\\?\"|\[\]|\{\})|\b(?:0|no) (?:error|fail)\w*"
)
_REJECTS: Final = re.compile(
    rb"invalid|not a valid|missing|required|must |could not parse|empty|unknown|denied|unauthorized|no such|no device"
)

_STATES: Final = (
    rb"(?:running|pending|queued|in[ _-]?progress|in[ _-]flight|waiting|processing|building|deploying|creating"
    rb"|modifying|provisioning|initiali[sz]ing|starting|uploading|downloading|importing|exporting|indexing|syncing"
    rb"|training|scheduled|submitted|accepted|rendering|generating"
    rb"|not[ _-](?:yet[ _-])?(?:finished|ready|complete|completed|done))"
)
_RESTS: Final = re.compile(rb"pending|in progress|scheduled|submitted|accepted|waiting")
_STATUS: Final = re.compile(  # by its name: "status": "running", state=PENDING, <status>running</status>
    rb"\b(?:\w+[_ ])?(?:status|state|phase|progress|stage)\b\\?\"?\s?(?:[:=>]|is\b)\s?\\?\"?(?:still )?"
    + _STATES
    + rb"\b"
)
_STATUS_ALONE: Final = re.compile(  # all that is said, with a name or a number before it at most
    rb"^(?:(?:the |your |this |my )?[\w#-]+(?: [\w#-]+)? (?:is |are )?)?(?:still |currently |yet )?"
    + _STATES
    + rb"\b(?:[.!\xe2\x80\xa6]*$|[,;]| [(\[{.-])"
    rb"|^[\w #-]{1,30}: " + _STATES + rb"[. ]*$"
    rb"|^waiting (?:for|on|until)\b|^pending approval|^(?:still|please) wait\w*\b"
    rb"|^\w+ing ?(?:\.\.\.|\xe2\x80\xa6)$|^[\w-]*not_?(?:yet_?)?ready\b|^202\b|^no (?:new|unread) \w+[.!]?$"
)
_NOT_YET: Final = re.compile(
    rb"\bno (?:new )?output yet\b|\bno new output\b|\b\w+_in_progress\b|\b(?:is|are) being \w+ed\b"
    rb"|^\\?\"?\{[^\[\]{}]*\"(?:ready|done|completed?|finished|isready|isdone)\\?\"\s?:\s?false\b"
    rb"|\b0/\d+ +(?:containercreating|podinitializing|pending|init:)"
    rb"|\bstill (?:running|pending|queued|building|processing|waiting|in progress|going|training|loading)\b"
    rb"|\b(?:has|have|is|are)(?: not|n't) (?:yet )?(?:finished|completed|exited)\b"
    rb"|\b(?:is|are)(?: not|n't) (?:yet ready|ready yet)\b|\bnot (?:yet )?(?:finished|ready)(?: yet)?[ .!]*\"?$"
)

_WAITS: Final = re.compile(  # names of tools
    rb"(?:^|[_.+-])(?i:sleep|wait)"
    rb"(?:$|[+.]|s?$|_?(?i:for|until|till|ms|s|secs?|seconds|a|and)(?:[_+A-Z]|$)|For|Until)"
    rb"|[a-z](?:Sleep|Wait)(?:For|Until|[+]|$)"
)
_PAUSES: Final = re.compile(  # arguments
    rb"""(?:[;&|(]|\bdo\b|\bthen\b|\\n|"(?:command|cmd|script|code|input|chars)\\?"\s*:\s*\\?")\s*
        (?:sleep\s+[\d$.]|start-sleep\b|timeout\s+/t\b|wait(?:\s+[$%\d-]|\s*(?:[;&|]|\\?"|$)))
    |["']\s*sleep\s+[\d.]+[smh]?\s*(?:[;&|\\"']|$)
    |\b(?:time|asyncio)\.sleep\(
    |"action\\?"\s*:\s*\\?"(?:wait|sleep)\\?" """,
    re.VERBOSE | re.IGNORECASE,
)
_EMPTY: Final = re.compile(  # nothing is sent to what runs already
    rb"""^\\?"?\{\s*\\?"command\\?"\s*:\s*\\?"\\?"
    |_id\\?"\s*:.*\\?"(?:command|chars|keys|input)\\?"\s*:\s*\\?"(?:\\+n)?\\?"
    |\\?"(?:command|chars|keys|input)\\?"\s*:\s*\\?"(?:\\+n)?\\?"\s*,.*_id\\?"\s*:""",
    re.VERBOSE | re.IGNORECASE,
)
_MOVES: Final = re.compile(
    rb"(?i)scroll|swipe(?!_?card)|press_?(?:key|button)|key_?press|send_?keys|keyboard|page_?(?:down|up)\b"
    rb"|(?:^|_)(?:undo|redo|next|prev(?:ious)?|skip|step|forward|back(?:ward)?|turn(?!_o(?:n|ff))|jog|zoom|volume|brighter"
    rb"|dim(?:mer)?|nudge)(?:_|$)"
)
_MOVES_ON: Final = re.compile(
    rb'"action\\?"\s*:\s*\\?"(?:scroll|swipe|key|keypress|press|press_key)(?:_(?:up|down|left|right))?\\?"'
    rb"|\binput (?:keyevent|swipe|tap)\b|\bxdotool key\b|\bsend-keys\b|scroll(?:By|To|IntoView)\("
)
