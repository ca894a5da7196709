"""The four raw clients, and a server in place of their transport, so that one test body fits all of them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import importlib
import inspect
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec

P = ParamSpec("P")

URL = "https://api.openai.com/v1/chat/completions"
MODEL = "gpt-4o-mini"
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}
WORDS = ("Hello", " from", " the", " other", " side", ".")
TEXT = "".join(WORDS)
INPUT, OUTPUT, CACHED, REASONING = 110, 27, 30, 20
USAGE = {
    "prompt_tokens": INPUT,
    "completion_tokens": OUTPUT,
    "total_tokens": INPUT + OUTPUT,
    "prompt_tokens_details": {"cached_tokens": CACHED},
    "completion_tokens_details": {"reasoning_tokens": REASONING},
}
# gpt-4o-mini: $0.15 in, $0.075 cached, $0.60 out for a million tokens
COST_NANOS = (INPUT - CACHED) * 150 + CACHED * 75 + OUTPUT * 600


def on_a_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Lets pytest run a coroutine function."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def whole() -> None:
            await asyncio.wait_for(test(*args, **kwargs), 60)

        asyncio.run(whole())

    return run


async def come(result: Any) -> Any:
    """What a call gave, whether it came from a sync or an async client."""
    return await result if inspect.isawaitable(result) else result


@dataclass(frozen=True)
class Face:
    """A client class of one of the two libraries."""

    library: Any
    is_async: bool

    @property
    def kind(self) -> Any:
        return self.library.AsyncClient if self.is_async else self.library.Client

    def client(self, handler: Callable[[Any], Any], **options: Any) -> Any:
        return self.kind(transport=self.library.MockTransport(handler), **options)

    def stream(self, pieces: Sequence[bytes], failure: BaseException | None = None) -> Any:
        """A body that arrives in these pieces, and may break off then."""

        class Body(self.library.SyncByteStream, self.library.AsyncByteStream):  # type: ignore[misc, name-defined]
            def __iter__(self) -> Iterator[bytes]:
                yield from pieces
                if failure is not None:
                    raise failure

            async def __aiter__(self) -> AsyncIterator[bytes]:
                for piece in pieces:
                    yield piece
                if failure is not None:
                    raise failure

        return Body()

    def response(
        self, status: int, pieces: Sequence[bytes], headers: Mapping[str, str], failure: BaseException | None = None
    ) -> Any:
        return self.library.Response(status, headers=headers, stream=self.stream(pieces, failure))

    async def pieces(self, response: Any, how: str) -> list[Any]:
        """All that ``iter_raw``, ``iter_bytes``, ``iter_lines`` or ``iter_text`` gives."""
        if self.is_async:
            return [piece async for piece in getattr(response, "a" + how)()]
        return list(getattr(response, how)())

    async def read(self, response: Any) -> bytes:
        found: bytes = await come(response.aread() if self.is_async else response.read())
        return found

    async def close(self, thing: Any) -> None:
        await come(thing.aclose() if self.is_async else thing.close())


FACES = [Face(importlib.import_module(name), is_async) for name in ("httpx", "httpx2") for is_async in (False, True)]


def face_id(face: Face) -> str:
    return f"{face.library.__name__}-{'async' if face.is_async else 'sync'}"


def chunk(delta: Any, finish: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def chat_events(*, usage: bool) -> list[bytes]:
    """A chat stream as OpenAI sends it; ``usage``: it was asked for."""
    tail = {"usage": None} if usage else {}
    events = [event(chunk({"role": "assistant", "content": ""}) | tail)]
    events += [event(chunk({"content": word}) | tail) for word in WORDS]
    events.append(event(chunk({}, "stop") | tail))
    if usage:
        events.append(event(chunk({}) | {"choices": [], "usage": USAGE}))
    return [*events, b"data: [DONE]\n\n"]


def chat_body() -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice]}
    return json.dumps(body | {"usage": USAGE}).encode()


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def _brotli(data: bytes) -> bytes:
    packed: bytes = importlib.import_module("brotli").compress(data)
    return packed


def _zstd(data: bytes) -> bytes:
    packed: bytes
    for module in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            packed = importlib.import_module(module).compress(data)
            return packed
    packed = importlib.import_module("zstandard").ZstdCompressor().compress(data)
    return packed


ENCODINGS: dict[str, tuple[str | None, Callable[[bytes], bytes]]] = {
    "identity": (None, bytes),
    "gzip": ("gzip", functools.partial(gzip.compress, mtime=0)),
    "deflate": ("deflate", zlib.compress),
    "raw-deflate": ("deflate", _raw_deflate),
    "br": ("br", _brotli),
    "zstd": ("zstd", _zstd),
}


@dataclass
class Origin:
    """Answers chat completions as OpenAI does, and keeps what it was asked."""

    face: Face
    encoding: str = "identity"
    piece_bytes: int | None = None
    rejects_options: bool = False
    status: int = 200
    cut_after: int | None = None  # pieces of a body
    requests: list[Any] = field(default_factory=list)

    def client(self, **options: Any) -> Any:
        return self.face.client(self, **options)

    def __call__(self, request: Any) -> Any:
        self.requests.append(request)
        if not request.url.path.endswith("/chat/completions"):
            return self.answer(200, [b'{"object":"list","data":[]}'], "application/json")
        ask = json.loads(request.content)
        if self.status != 200:
            return self.answer(self.status, [b'{"error":{"message":"no"}}'], "application/json")
        if self.rejects_options and "stream_options" in ask:
            error = {"error": {"message": "Unknown parameter: 'stream_options'.", "type": "invalid_request_error"}}
            return self.answer(400, [json.dumps(error).encode()], "application/json")
        if ask.get("stream"):
            asked = (ask.get("stream_options") or {}).get("include_usage") is True
            return self.answer(200, chat_events(usage=asked), "text/event-stream; charset=utf-8")
        return self.answer(200, [chat_body()], "application/json")

    def answer(self, status: int, pieces: list[bytes], content_type: str) -> Any:
        headers = {"content-type": content_type, "x-request-id": "req-1", "set-cookie": "seen=1; Path=/"}
        name, encode = ENCODINGS[self.encoding]
        if name is not None:
            headers["content-encoding"] = name
            pieces = [encode(b"".join(pieces))]
        if self.piece_bytes is not None:
            whole = b"".join(pieces)
            pieces = [whole[at : at + self.piece_bytes] for at in range(0, len(whole), self.piece_bytes)]
        failure = None
        if self.cut_after is not None:
            pieces = pieces[: self.cut_after]
            failure = self.face.library.RemoteProtocolError("peer closed connection")
        return self.face.response(status, pieces, headers, failure)

    @property
    def asked(self) -> Any:
        """The body of the last request."""
        return json.loads(self.requests[-1].content)
