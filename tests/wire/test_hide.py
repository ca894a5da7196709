"""A stream whose usage was asked for without the caller looks as if it had not been asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.exchanges import Exchange
from tokenmeter import wire

CHAT = wire.recognise("POST", "api.openai.com", "/v1/chat/completions")
USAGE = '{"prompt_tokens":7,"completion_tokens":11,"total_tokens":18}'
WORDS = ("Hello", ' "usage":null', ',"usage":null}', "\n\ndata: {", "usage", "ü😀", "")


def through(pieces: Iterable[bytes], content_type: str | None = "text/event-stream") -> tuple[bytes, wire.Reading]:
    assert CHAT is not None
    reader = wire.reader(CHAT, content_type, stream=True, hide_usage=True)
    seen = b"".join([reader.feed(piece) for piece in pieces])
    rest, reading = reader.finish()
    return seen + rest, reading


def pieces_of(body: bytes, cuts: Iterable[int]) -> list[bytes]:
    stops = [0, *sorted({cut % (len(body) + 1) for cut in cuts}), len(body)]
    return [body[start:stop] for start, stop in pairwise(stops)]


def chunk(word: str, where: str, *, asked: bool) -> str:
    """One event; the option makes a null member appear last, before what comes last, or first."""
    head = '"id":"c1","object":"chat.completion.chunk"'
    choice = '"choices":[{"index":0,"delta":{"content":' + json.dumps(word)
    # A member of the same name further in, which stays; the plainest chunks have none.
    choice += ("" if where in ("compact", "python") else ',"usage":null') + '},"finish_reason":null}]'
    tail = ',"obfuscation":"abc"' if where == "middle" else ""
    null = '"usage":null' if where != "spaced" else '"usage" : null'
    if where == "python":  # as its own encoder spaces it
        head, choice, tail, null = (_spaced(each) for each in (head, choice, tail, null))
        comma = ", "
    else:
        comma = ","
    if not asked:
        return "data: {" + head + comma + choice + tail + "}"
    if where == "first":
        return "data: {" + null + comma + head + comma + choice + tail + "}"
    return "data: {" + head + comma + choice + comma + null + tail + "}"


def _spaced(members: str) -> str:
    return json.dumps(json.loads("{" + members.removeprefix(",") + "}"), ensure_ascii=True)[1:-1] if members else ""


@pytest.mark.parametrize("where", ["last", "middle", "first", "spaced", "compact", "python"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@given(words=st.lists(st.sampled_from(WORDS), max_size=6), cuts=st.lists(st.integers(0, 1 << 16), max_size=10))
@settings(max_examples=30, deadline=None)
def test_hidden_is_as_if_unasked(where: str, end: str, words: list[str], cuts: list[int]) -> None:
    plain = "".join(chunk(word, where, asked=False) + end * 2 for word in words)
    asked = "".join(chunk(word, where, asked=True) + end * 2 for word in words)
    done = "data: [DONE]" + end * 2
    extra = 'data: {"id":"c1","choices":[],"usage":' + USAGE + "}" + end * 2
    body = (asked + extra + done).encode()
    blank = (end * 2).encode()
    events = [each + blank for each in body.split(blank)[:-1]]
    pairs = [b"".join(events[at : at + 2]) for at in range(0, len(events), 2)]
    for pieces in (pieces_of(body, cuts), [body], body.splitlines(keepends=True), events, pairs):
        seen, reading = through(pieces)
        assert seen == (plain + done).encode()
        assert reading.usage is not None
        assert dict(reading.usage.counts) == {"input_tokens": 7, "output_tokens": 11}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@given(words=st.lists(st.sampled_from(WORDS), max_size=6), cuts=st.lists(st.integers(0, 1 << 16), max_size=10))
@settings(max_examples=30, deadline=None)
def test_events_that_no_blank_line_parts(end: str, words: list[str], cuts: list[int]) -> None:
    plain = "".join(chunk(word, "last", asked=False) + end for word in words)
    asked = "".join(chunk(word, "last", asked=True) + end for word in words)
    extra = 'data: {"id":"c1","choices":[],"usage":' + USAGE + "}" + end
    body = (asked + extra + f"data: [DONE]{end}").encode()
    for pieces in (pieces_of(body, cuts), [body], body.splitlines(keepends=True)):
        seen, reading = through(pieces)
        assert seen == (plain + f"data: [DONE]{end}").encode()
        assert reading.usage is not None
        assert dict(reading.usage.counts) == {"input_tokens": 7, "output_tokens": 11}


def test_lines_pass_as_they_come() -> None:
    assert CHAT is not None
    reader = wire.reader(CHAT, "text/event-stream", stream=True, hide_usage=True)
    line = (chunk("Hello", "last", asked=False) + "\n").encode()
    assert [reader.feed(line) for _ in range(3)] == [b"", line, line]  # the last may go on
    several = b'data: {"choices":\ndata: []}\n'
    assert reader.feed(several + b"\n") == line + several + b"\n"


def test_the_extra_chunk_is_hidden_without_its_blank_line() -> None:
    seen, reading = through([b'data: {"choices":[],"usage":' + USAGE.encode() + b"}"])
    assert seen == b""
    assert reading.usage is not None


def test_usage_beside_choices_is_read_and_stays() -> None:
    event = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":' + USAGE.encode() + b"}\n\n"
    seen, reading = through([event])
    assert seen == event
    assert reading.usage is not None


@pytest.mark.parametrize(
    "event",
    [
        b': comment "usage"\n\n',
        b'data: {"choices":[],"prompt_filter_results":[]}\n\n',
        b'data: {"error":{"message":"usage"},"usage":\n\n',
        b'event: "usage"\ndata: {"choices":[{"delta":{"content":"\\"usage\\":null"}}]}\n\n',
        b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}',
    ],
)
def test_what_did_not_come_from_the_option_passes(event: bytes) -> None:
    assert through([event])[0] == event
    assert through([event[:9], event[9:]])[0] == event


def test_only_an_unfinished_event_is_withheld_and_a_large_one_passes() -> None:
    assert CHAT is not None
    reader = wire.reader(CHAT, "text/event-stream", stream=True, hide_usage=True)
    whole = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    assert reader.feed(whole + b'data: {"cho') == whole
    assert reader.feed(b'ices":[1],"x":"') == b""
    large = b"y" * 70_000
    assert reader.feed(large) == b'data: {"choices":[1],"x":"' + large
    assert reader.feed(b'"}\n') == b'"}\n'
    extra = b'data: {"choices":[],"usage":' + USAGE.encode() + b"}\n\n"
    assert reader.feed(b"\n" + extra + whole) == b"\n" + whole
    rest, reading = reader.finish()
    assert rest == b""
    assert reading.usage is not None


def test_a_body_that_is_no_stream_passes() -> None:
    body = b'\n {"choices":[],"usage":null}'
    for content_type in ("application/json", None, "text/event-stream"):
        assert through([body[:2], body[2:]], content_type)[0] in (body, body.replace(b',"usage":null', b""))
    assert through([b" "], None)[0] == b" "


def test_recorded_streams_lose_only_what_the_option_brings(corpus: list[Exchange]) -> None:
    seen_streams = 0
    for row in corpus:
        route = row.route
        if route is None or route.protocol != "openai.chat" or not row.response.startswith(b"data:"):
            continue
        reader = wire.reader(route, "text/event-stream", stream=True, hide_usage=True)
        out = b"".join([reader.feed(row.response[at : at + 777]) for at in range(0, len(row.response), 777)])
        rest, hidden = reader.finish()
        bare = wire.read_body(route, row.response, "text/event-stream")
        assert hidden == bare, row.id
        before, after = events(row.response), events(out + rest)
        assert [kept(event) for event in before if not is_extra(event)] == after, row.id
        seen_streams += 1
    assert seen_streams > 50


def events(body: bytes) -> list[Any]:
    data = [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]
    return [json.loads(line) for line in data if line != b"[DONE]"]


def is_extra(event: Any) -> bool:
    return event.get("choices") == [] and isinstance(event.get("usage"), dict)


def kept(event: Any) -> Any:
    return {name: value for name, value in event.items() if name != "usage" or value is not None}
