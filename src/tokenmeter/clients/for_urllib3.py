"""urllib3, on which botocore and requests are built: the body of a response as it passes by, and what never left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Final

import urllib3
import wrapt

from tokenmeter.clients.aside import here
from tokenmeter.clients.foreign import ForeignResponse
from tokenmeter.clients.relay import END_MARKS, Passage, as_failure, forgotten
from tokenmeter.errors import Refused


class RawResponse(ForeignResponse):
    """A response that is built on one of urllib3, which is its ``raw``."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.status_code = self.inner.status_code
        self.headers = self.inner.headers

    @property
    def stream(self) -> Any:
        return self.inner.raw

    @stream.setter
    def stream(self, body: Any) -> None:
        self.inner.raw = body


class RelayBody(wrapt.ObjectProxy):  # type: ignore[type-arg]
    """Stands round a ``urllib3.HTTPResponse``, which has half a dozen ways to be read.

    Those that it builds on others of its own run here as they are, with the relay for their ``self``.
    """

    def __init__(self, inner: Any, passage: Passage) -> None:
        super().__init__(inner)
        self._self_passage = passage
        self._self_kept = b""  # read, and not given to the caller yet
        self._self_over = False

    def read(self, amt: int | None = None, decode_content: bool | None = None, cache_content: bool = False) -> bytes:
        """As urllib3's."""
        inner = self.__wrapped__
        if not self._self_passage.rewrites:
            with _Watched(self):
                chunk: bytes = inner.read(amt, decode_content, cache_content)
                self._pass(chunk, decode_content)
            if amt is None or amt < 0 or (not chunk and amt and inner.isclosed()):
                self._end()
            return chunk
        wanted = None if amt is None or amt < 0 else amt
        while wanted is None or len(self._self_kept) < wanted:  # less is given at the end alone
            with _Watched(self):
                # Never all at once: older ones forget then what they have decoded already.
                chunk = inner.read(1 << 20 if wanted is None else wanted - len(self._self_kept), True)
                self._self_kept += self._pass(chunk, True)
            if not chunk and inner.isclosed():  # older ones give nothing too where they need more to decode
                self._self_kept += self._end()
                break
        end = len(self._self_kept) if wanted is None else wanted
        out, self._self_kept = self._self_kept[:end], self._self_kept[end:]
        if wanted is None and cache_content:
            inner._body = out
        return out

    def read1(self, amt: int | None = None, decode_content: bool | None = None) -> bytes:
        """As urllib3's."""
        inner = self.__wrapped__
        if not hasattr(inner, "read1"):  # older ones have none
            return self.read(1 << 16 if amt is None else amt, decode_content)
        if not self._self_passage.rewrites:
            with _Watched(self):
                chunk: bytes = inner.read1(amt, decode_content)
                self._pass(chunk, decode_content)
            if not chunk and amt != 0:
                self._end()
            return chunk
        while amt != 0 and not self._self_kept:
            with _Watched(self):
                chunk = inner.read1(amt, True)
                self._self_kept = self._pass(chunk, True)
            if not chunk:
                self._self_kept = self._end()
                break
        return b"" if amt == 0 else next(self._shown(amt), b"")

    def readinto(self, buffer: Any) -> int:
        """As urllib3's."""
        view = memoryview(buffer).cast("B")
        chunk = self.read(len(view))
        view[: len(chunk)] = chunk
        return len(chunk)

    def stream(self, amt: int | None = 1 << 16, decode_content: bool | None = None) -> Iterator[bytes]:
        """As urllib3's."""
        if self._self_passage.rewrites and not self.__wrapped__.chunked:
            return (piece for piece in iter(lambda: self.read(amt), b""))
        return self._passing(self.__wrapped__.stream, amt, decode_content)

    def read_chunked(self, amt: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:
        """As urllib3's."""
        return self._passing(self.__wrapped__.read_chunked, amt, decode_content)

    def __iter__(self) -> Iterator[bytes]:
        return self.__wrapped__.__class__.__iter__(self)  # type: ignore[no-any-return]

    def __next__(self) -> bytes:
        if line := self.readline():
            return line
        raise StopIteration

    def readline(self, limit: int | None = -1) -> bytes:
        """The next line with its end, or as much of it."""
        line = b""
        while (limit is None or limit < 0 or len(line) < limit) and not line.endswith(b"\n"):
            byte = self.read(1)
            if not byte:
                break
            line += byte
        return line

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """The lines that are left, or a few more bytes of them than ``hint``."""
        lines, size = [], 0
        for line in self:
            lines.append(line)
            size += len(line)
            if 0 < (hint or 0) < size:
                break
        return lines

    @property
    def data(self) -> bytes:
        """The whole body."""
        return self.__wrapped__.__class__.data.fget(self)  # type: ignore[no-any-return]

    def json(self) -> Any:
        """The whole body, read as JSON."""
        return self.__wrapped__.__class__.json(self)

    def drain_conn(self) -> None:
        """Read what is left, so that the connection can be used again."""
        self.__wrapped__.drain_conn()
        self._self_passage.end()

    def release_conn(self) -> None:
        """Give the connection back."""
        try:
            self.__wrapped__.release_conn()
        finally:
            self._self_passage.end()

    def close(self) -> None:
        """Close the body; what was not read by now is given up."""
        try:
            self.__wrapped__.close()
        finally:
            self._self_passage.end()

    def __enter__(self) -> RelayBody:
        self.__wrapped__.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        forgotten(getattr(self, "_self_passage", None))

    def _passing(self, pieces: Callable[..., Any], amt: int | None, decode: bool | None) -> Iterator[bytes]:
        passage = self._self_passage
        if not passage.rewrites:
            with _Watched(self), closing(pieces(amt, decode)) as flow:
                for chunk in flow:
                    self._pass(chunk, decode)
                    yield chunk
            self._end()
            return
        yield from self._shown(amt)
        with _Watched(self), closing(pieces(amt, True)) as flow:
            for chunk in flow:
                self._self_kept += self._pass(chunk, True)
                yield from self._shown(amt)
        self._self_kept += self._end()
        yield from self._shown(amt)

    def _shown(self, amt: int | None) -> Iterator[bytes]:
        """What may be shown by now."""
        while kept := self._self_kept:
            size = amt if amt and amt > 0 else len(kept)
            self._self_kept = kept[size:]
            yield kept[:size]

    def _end(self) -> bytes:
        """The body is over. What is still to be shown of it."""
        if self._self_over:
            return b""
        self._self_over = True
        return self._self_passage.end()

    def _pass(self, chunk: bytes, decode: bool | None) -> bytes:
        """Read a piece; what the caller shall see of it."""
        passage, inner = self._self_passage, self.__wrapped__
        if not chunk:
            return chunk
        decodes = inner.decode_content if decode is None else decode
        out = passage.passes(chunk, decoded=decodes and inner._decoder is not None)
        if passage.grows and (grow := passage.growing()) is not None:
            here(grow)
        if chunk.endswith(END_MARKS):
            passage.marked()
        return out


class _Watched:
    """Settles a body that ends in an error."""

    def __init__(self, body: RelayBody) -> None:
        self._body = body

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: object) -> None:
        body = self._body
        if isinstance(error, GeneratorExit) and not (body.chunked and body.isclosed()):
            return  # the caller stopped here, and may go on; of a chunked body urllib3 gives no more then
        if error is not None:
            body._self_passage.end(error if isinstance(error, Refused) else as_failure(error))
            if isinstance(error, Refused):
                body.__wrapped__.close()


_BEFORE: Final = frozenset(
    {"_get_conn", "_prepare_proxy", "_validate_conn", "connect", "_new_conn", "putrequest", "putheader"}
)
"""What urllib3 does before it writes anything of a request."""
_AFTER: Final = frozenset({"urlopen", "build_response", "content"})


def never_left(error: BaseException, client: str) -> bool:
    """Whether no byte of a request went out, read from where the error was raised, and those that it masks.

    ``client``: the module whose ``send`` calls urllib3. It prepares much before that.
    """
    prepared = asked = False
    for each in _masked(error):
        if isinstance(each, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
            return True
        step = each.__traceback__
        while step is not None:
            module, name = step.tb_frame.f_globals.get("__name__", ""), step.tb_frame.f_code.co_name
            if module.startswith("urllib3.") and name in _BEFORE:
                return True
            asked = asked or name in _AFTER or module == "urllib3.response"
            prepared = prepared or (module == client and name == "send")
            step = step.tb_next
    return prepared and not asked and isinstance(error, Exception)  # an interrupt may come between any two steps


def _masked(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it names. Its context is left out: that may be an older one, of its caller's."""
    yield error
    kept = getattr(error, "kwargs", None)  # botocore's
    named = [error.__cause__, getattr(error, "reason", None), getattr(error, "original_error", None), *error.args]
    named.append(kept.get("error") if isinstance(kept, dict) else None)
    for each in named:
        if isinstance(each, BaseException):
            yield from _masked(each)
