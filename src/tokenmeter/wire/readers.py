"""The reader for a response: which framing its bytes have, and whose words are in it."""

from __future__ import annotations

from typing import Final

from tokenmeter.wire.framed import LARGE_BYTES, Framed
from tokenmeter.wire.hide import HidingReader
from tokenmeter.wire.lines import JsonReader, LinesReader, read_json
from tokenmeter.wire.protocols import tally_of
from tokenmeter.wire.sse import SseReader
from tokenmeter.wire.tally import Tally
from tokenmeter.wire.types import Reader, Reading, Route

_BOM: Final = b"\xef\xbb\xbf"
_SSE_STARTS: Final = b"deir:"  # data, event, id, retry, a comment


def reader(route: Route, content_type: str | None, *, stream: bool, hide_usage: bool = False) -> Reader:
    """A reader for one response body. ``hide_usage``: the stream's usage was asked for without the caller."""
    kind = _essence(content_type)
    if kind == "text/event-stream":
        return _sse(route, hide_usage=hide_usage)
    return _SniffingReader(route, kind, stream=stream, hide_usage=hide_usage)


def read_body(route: Route, body: bytes, content_type: str | None) -> Reading:
    """Read a response body that is at hand as a whole."""
    kind = _essence(content_type)
    if kind != "text/event-stream" and not _by_line(kind) and len(body) <= LARGE_BYTES:
        reading = _read_document(route, body)
        if reading is not None:
            return reading
    framed = reader(route, content_type, stream=kind != "application/json")
    framed.feed(body)
    return framed.finish()[1]


def _read_document(route: Route, body: bytes) -> Reading | None:
    """One JSON document, as most bodies are; None for others."""
    if body[:1] != b"{" and body[:64].removeprefix(_BOM).lstrip()[:1] not in (b"{", b"["):
        return None
    tally = _tally(route)
    try:
        return tally.reading(body_bytes=len(body), complete=True) if read_json(tally, body) else None
    except Exception:  # noqa: BLE001 - read again as pieces, where faults are met
        return None


def _essence(content_type: str | None) -> str:
    return "" if content_type is None else content_type.partition(";")[0].strip().lower()


def _tally(route: Route) -> Tally:
    return tally_of(route.protocol)(route)


def _sse(route: Route, *, hide_usage: bool) -> SseReader | HidingReader:
    inner = SseReader(_tally(route))
    return HidingReader(inner) if hide_usage and route.protocol.startswith("openai.") else inner


class _BlindReader(Framed):
    """Counts the bytes of what is no text: generated audio, images."""

    __slots__ = ()

    def cut(self, joined: bytes, *, last: bool) -> bytes:
        return b""

    def complete(self) -> bool:
        """Nothing in it says otherwise."""
        return True


class _TextReader(_BlindReader):
    """Weighs a transcript that comes as plain text or subtitles."""

    __slots__ = ()

    def cut(self, joined: bytes, *, last: bool) -> bytes:
        self.tally.text_bytes += len(joined)
        return b""


class _SniffingReader:
    """Decides by the first byte that is no white space: content types lie, or are missing."""

    __slots__ = ("_head", "_hide_usage", "_inner", "_kind", "_route", "_stream")

    def __init__(self, route: Route, kind: str, *, stream: bool, hide_usage: bool) -> None:
        self._route = route
        self._kind = kind
        self._stream = stream
        self._hide_usage = hide_usage
        self._head = b""
        self._inner: Framed | HidingReader | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes and return those that the caller shall see."""
        if self._inner is not None:
            return self._inner.feed(chunk)
        head = self._head + chunk
        start = head.removeprefix(_BOM).lstrip()[:1]
        if not start or head in (_BOM[:1], _BOM[:2]):
            self._head = head[-4096:] if not self._hide_usage else head
            return b"" if self._hide_usage else chunk
        self._inner = self._choose(start)
        seen = self._inner.feed(head)
        return seen if self._hide_usage else chunk

    def peek(self) -> Reading:
        """What was read so far."""
        if self._inner is not None:
            return self._inner.peek()
        return Reading(complete=False, body_bytes=len(self._head))

    def finish(self) -> tuple[bytes, Reading]:
        """The end, however it came."""
        if self._inner is not None:
            return self._inner.finish()
        self._inner = JsonReader(_tally(self._route))
        self._inner.feed(self._head)
        return self._head if self._hide_usage else b"", self._inner.finish()[1]

    def _choose(self, start: bytes) -> Framed | HidingReader:
        route, kind = self._route, self._kind
        if _by_line(kind) or (start == b"{" and self._stream and route.protocol.startswith(_LINES)):
            return LinesReader(_tally(route))
        if start in (b"{", b"["):
            return JsonReader(_tally(route))
        if kind == _FRAMES or (self._stream and route.protocol.startswith("bedrock.")):
            from tokenmeter.wire.eventstream import EventStreamReader

            return EventStreamReader(_tally(route))
        if kind in _TEXTS and route.protocol == "openai.transcriptions":
            return _TextReader(_tally(route))
        if start in _SSE_STARTS:
            return _sse(route, hide_usage=self._hide_usage)
        if kind.startswith(("audio/", "image/", "video/")) or route.protocol == "openai.speech":
            return _BlindReader(_tally(route))
        if self._stream and "json" not in kind:
            return _sse(route, hide_usage=self._hide_usage)
        return JsonReader(_tally(route))


_TEXTS: Final = frozenset({"text/plain", "text/vtt", "text/srt", "application/x-subrip"})
_FRAMES: Final = "application/vnd.amazon.eventstream"
_LINES: Final = ("ollama.chat", "ollama.generate", "cohere.chat")


def _by_line(kind: str) -> bool:
    return kind.endswith(("ndjson", "stream+json", "jsonl", "json-seq", "jsonlines"))
