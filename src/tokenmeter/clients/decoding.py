"""Content codings, undone on the side so that a compressed body can be read while its bytes pass unchanged."""

from __future__ import annotations

import contextlib
import functools
import importlib
import zlib
from collections.abc import Callable
from typing import Any, Protocol


class Decoder(Protocol):
    """Undoes one content coding, piece by piece."""

    def decode(self, data: bytes) -> bytes:
        """The plain bytes that follow from ``data``."""
        ...


class Undecodable(Exception):
    """The body can't be read: an unknown coding, a missing library, broken data."""


class Deaf:
    """Stands in where a body can't be decoded, or not any further: it still reaches the caller."""

    def decode(self, data: bytes) -> bytes:
        """Nothing."""
        return b""


class _Deflate:
    """Both forms that servers send as ``deflate``: with the zlib header, which is two bytes, and without."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj()
        self._head = b""

    def decode(self, data: bytes) -> bytes:
        if len(self._head) >= 2:
            return self._inner.decompress(data)
        self._head += data
        try:
            return self._inner.decompress(data)
        except zlib.error:
            self._inner = zlib.decompressobj(-zlib.MAX_WBITS)
            return self._inner.decompress(self._head)


class _Zstd:
    """Any number of frames in a row."""

    def __init__(self, new: Callable[[], Any]) -> None:
        self._new = new
        self._inner = new()

    def decode(self, data: bytes) -> bytes:
        out = b""
        while data:
            if self._inner.eof:
                self._inner = self._new()
            out += self._inner.decompress(data)
            data = self._inner.unused_data
        return out


class Decoded:
    """A decoder of the HTTP library's own, of which one gives bytes and the other pieces of them."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def decode(self, data: bytes) -> bytes:
        """The plain bytes that follow from ``data``. Raises the library's ``DecodingError``."""
        found = self._inner.decode(data)
        return found if isinstance(found, bytes) else b"".join(found)


class _Wrapped:
    def __init__(self, decode: Callable[[bytes], bytes]) -> None:
        self._decode = decode

    def decode(self, data: bytes) -> bytes:
        return self._decode(data)


class _Chain:
    def __init__(self, decoders: list[Decoder]) -> None:
        self._decoders = decoders

    def decode(self, data: bytes) -> bytes:
        for decoder in self._decoders:
            data = decoder.decode(data)
        return data


class Tolerant:
    """Turns whatever a coding library raises into `Undecodable`."""

    def __init__(self, inner: Decoder) -> None:
        self._inner = inner

    def decode(self, data: bytes) -> bytes:
        """The plain bytes that follow from ``data``."""
        try:
            return self._inner.decode(data)
        except Exception as error:
            raise Undecodable(str(error)) from error


def decoder_for(content_encoding: str | None) -> Decoder | None:
    """A decoder for the value of a ``content-encoding`` header, ``None`` when there is nothing to undo.

    Raises `Undecodable` for a coding that can't be undone here.
    """
    names = [name.strip().lower() for name in (content_encoding or "").split(",")]
    names = [name for name in names if name and name != "identity"]
    if not names:
        return None
    chain = [_one(name) for name in reversed(names)]
    return Tolerant(chain[0] if len(chain) == 1 else _Chain(chain))


@functools.cache  # to look for what isn't installed takes longer than to decode a body
def _zstd() -> Callable[[], Any]:
    """What makes a decompressor of one frame: Python's own, or of the library that httpx2 or httpx decodes with."""
    for module in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            found: Callable[[], Any] = importlib.import_module(module).ZstdDecompressor
            return found
    import zstandard

    return lambda: zstandard.ZstdDecompressor().decompressobj()  # each has a state of its own


def _one(name: str) -> Decoder:
    if name in ("gzip", "x-gzip"):
        return _Wrapped(zlib.decompressobj(zlib.MAX_WBITS | 16).decompress)
    if name == "deflate":
        return _Deflate()
    try:
        if name == "br":
            try:
                import brotli
            except ImportError:
                import brotlicffi as brotli  # type: ignore[import-not-found, no-redef, unused-ignore]
            return _Wrapped(brotli.Decompressor().process)
        if name == "zstd":
            return _Zstd(_zstd())
    except ImportError as error:
        raise Undecodable(f"content coding {name!r} needs a library that is not installed") from error
    raise Undecodable(f"unknown content coding {name!r}")
