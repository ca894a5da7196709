"""What the wire says, in words that the rest of the house understands."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import msgspec

from tokenmeter.usage import Usage

_EMPTY: Mapping[str, str] = MappingProxyType({})


# Structs, because a frozen dataclass costs five times as much to make, and each call makes these in its caller's way.
class Route(msgspec.Struct, frozen=True, gc=False):
    """What the address of a request says: that it is a model call, and whose."""

    protocol: str  # "openai.chat", "anthropic.messages", "gemini.generate", "bedrock.converse", …
    provider: str  # the value of gen_ai.provider.name: "openai", "anthropic", "gcp.gemini", "aws.bedrock", …
    price_provider: str | None  # the provider's id in genai-prices; None when the host is none that it knows
    operation: str  # the value of gen_ai.operation.name: "chat", "embeddings", "text_completion", …
    host: str
    model: str | None = None  # when the path names it
    stream: bool | None = None  # when the path says it
    known_host: bool = True  # False: one's own, or of some other service that has the same paths


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What the body of a request asks for."""

    model: str | None = None
    stream: bool = False
    max_output_tokens: int | None = None  # the cap that the caller gave, for one choice
    choices: int = 1  # how many answers are paid for
    passes: int = 1  # how often the provider may work through it: summing it up first, or by a model that steps in
    text_bytes: int = 0  # UTF-8 bytes that can become input tokens; payloads of media are not in it
    text_only: bool = False  # known to hold nothing but text: no tools, no media, nothing that the server adds
    images: int = 0
    media_bytes: int = 0  # decoded bytes of audio, documents and video given inline
    remote_media: int = 0  # documents, audio and video that are given by address: their size is not known
    tools: bool = False  # tools or a response schema: the provider adds a prompt of its own
    server_tools: bool = False  # tools that run at the provider: they add input that nobody here sees
    previous_response_id: str | None = None  # names what the server holds, when it is one response
    server_state: bool = False  # the server adds earlier turns or cached content
    can_ask_usage: bool = False  # a stream whose protocol reports usage only on request, and it was not requested
    can_cap: bool = False  # `with_output_cap` can write a cap into this body
    text: bytes | None = None  # the body, where an exact tokenizer may count it; None when media are in it
    user: str | None = None  # an end user that the request's own fields name
    metadata: Mapping[str, str] = _EMPTY  # the request's own metadata, strings only
    price_context: Mapping[str, str] = _EMPTY  # {"service_tier": "flex"}, … as genai-prices reads it
    readable: bool = True  # False: a model call whose body could not be read


class Beside(msgspec.Struct, frozen=True, gc=False):
    """Work that was billed beside a call, and is not in its usage."""

    model: str | None  # None: the call's own
    usage: Usage


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What a response said."""

    usage: Usage | None = None  # None: no usage was reported
    model: str | None = None
    response_id: str | None = None
    finish_reasons: tuple[str, ...] = ()
    price_context: Mapping[str, str] = _EMPTY  # what of it changes the price: the tier that was served
    complete: bool = True  # False: the stream ended without its end marker
    pending: bool = False  # it is worked on in the background, and its usage comes with another request, if ever
    failed: str | None = None  # the error type that the body itself reports, within an HTTP 200
    output_bytes: int = 0  # UTF-8 bytes of generated text seen, at least; for estimates
    body_bytes: int = 0
    beside: tuple[Beside, ...] = ()  # compaction of the conversation, advice of another model


class Reader(Protocol):
    """Reads one response body as it passes by. Constant memory; never raises."""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next decoded bytes and return those that the caller shall see."""
        ...

    def peek(self) -> Reading:
        """What was read so far, while more may come."""
        ...

    def finish(self) -> tuple[bytes, Reading]:
        """Call once at the end, however it came: the bytes still withheld, and what was read."""
        ...
