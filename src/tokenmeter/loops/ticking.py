"""What in a text only tells when, how long, how often or under which id: times, random ids, counters with a name."""

from __future__ import annotations

import re
from typing import Final


def folded(text: bytes) -> bytes:
    """In small letters, with one space for each gap, also for one that JSON escaped."""
    return b" ".join(text.lower().replace(b"\\n", b" ").replace(b"\\t", b" ").split())


def ticked(text: bytes) -> bytes:
    """A text with its times, its random ids and the counters that say what they are taken out."""
    text = folded(text)
    return TICKING.sub(b"~", LABELLED.sub(rb"\g<word>\g<gap>~", text))


def _behind(words: bytes) -> re.Pattern[bytes]:
    """A number, a time or an id behind a word: "attempt 3", "request_id": "77f1…"."""
    return re.compile(
        rb"(?P<word>(?:\b|(?<=_))(?:"
        + words
        + rb"""))
        (?P<gap>(?:[\W_]|no\b|number\b|count\b){0,8}?)
        (?:\d{4}-\d\d-\d\d[t ][\d:.,z+-]+|\d+\.\d+|[0-9a-f-]{8,}(?![\w:-])|\d[\d:.,tz+-]*)""",
        re.VERBOSE,
    )


# What a word says of the number behind it: that it is none of the question; that it is hardly any; or, in a result,
# none of the answer.
_NEVER_ASKED: Final = rb"""attempts?|retry|retries|try|tries|counter|nonce|now|as[_ ]of|current[_ ]time
    |(?:requested|sent)[_ ]?(?:at|on)|cache_?bust(?:er)?
    |(?:request|call|poll|query|check|try|retry|attempt)[_ -]?(?:no|nr|num|number|count|index)
    |(?:request|idempotency)[_ -]?(?:id|key)"""
_HARDLY_ASKED: Final = rb"""iteration|observation|iter|round|seq|sequence|tick|turn|timestamp|ts|server[_ ]time|salt
    |epoch(?:_?m?s)?
    |(?:checked|updated|generated|fetched|retrieved|served)[_ ]?(?:at|on)
    |(?:elapsed|latency|took|duration)(?:_?(?:ms|s|secs?|seconds|millis))?|uptime
    |(?:execution|response|wall|query|processing|run|cpu)[_ ]?time(?:_?(?:ms|s|secs?|seconds|millis))?
    |(?:completed|finished|done|returned)[ ]in
    |(?:request|call|poll|query)(?=[ #])
    |(?:round|sequence|seq|serial)[_ -]?(?:no|nr|num|number|count|index)"""
_NEVER_ANSWERED: Final = rb"(?:trace|span|correlation|message|call)[_ -]?(?:id|key)"
SURELY_BESIDE: Final = _behind(_NEVER_ASKED)
LIKELY_BESIDE: Final = _behind(_HARDLY_ASKED)
LABELLED: Final = _behind(_NEVER_ASKED + b"|" + _HARDLY_ASKED + b"|" + _NEVER_ANSWERED)
_CLOCK: Final = rb"\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?(?:[ ]?[ap]\.?m\b\.?)?"
_STAMP: Final = (  # a time of day that is not what is said: to the second, in brackets or at an end
    rb'\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?|(?:(?<=[\[(])|(?<=^")|^)' + _CLOCK + rb"(?=[\])]|[ ]?[-:|])"
    rb"|\b" + _CLOCK + rb'(?=[\])]?\\?"?$)'
)
TOOK: Final = re.compile(  # how long a run took that failed; what one measures doesn't fail
    rb"\b(?:in|time:?|duration:?|ok|fail) ?\d+\.\d+ ?(?:m?s|secs?|seconds)\b|\(\d+\.\d+ ?m?s\)|(?<= )\d+\.\d+s\b"
)
_MOMENTS: Final = rb"""|\b0x[0-9a-f]{6,16}\b|(?<=\w)\[\d{2,7}\](?=:)
    |\b\d{4}-\d\d-\d\d[t ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:z|[+-]\d\d:?\d\d)?
    |\b(?:mon|tue|wed|thu|fri|sat|sun),?[ ]\d{1,2}[ ]\w{3}[ ]\d{4}[ ]\d\d:\d\d(?::\d\d)?
    |\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b
    |\b1\d{9}(?:\.\d+|\d{3}|\d{6}|\d{9})?\b
    |\b(?=[0-9a-f]*\d)(?=\d*[a-f])[0-9a-f]{12,}\b
    |(?<=[ ])[#(\[]\d{1,6}[)\]]?(?=[.]?\\?"[}\]\s]*$)"""
TICKING: Final = re.compile(rb"\b" + _CLOCK + _MOMENTS, re.VERBOSE)
_HOUSEKEEPING: Final = rb"""|\b(?:step|iteration)[ ]\d+(?:[ ]?/[ ]?|[ ]of[ ])\d+
    |\b\d+[ ](?:more[ ])?(?:steps?|turns?|iterations?|tokens?)[ ](?:are[ ])?(?:left|remain(?:ing)?)\b
    |\btokens?[ _](?:usage|used|left|remaining)[ ]?[:=]?[ ]?[\d,]+(?:[ ]?/[ ]?[\d,]+)?(?:[;,][ ][\d,]+[ ]remaining)?"""
TICKING_IN_TALK: Final = re.compile(_STAMP + _MOMENTS + _HOUSEKEEPING, re.VERBOSE)
