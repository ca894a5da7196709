"""Compressed answers: the caller gets what the bare client gives, and the usage in them is read."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from tests.clients.faces import (
    ASK,
    COST_NANOS,
    ENCODINGS,
    INPUT,
    OUTPUT,
    URL,
    Face,
    Origin,
    chat_body,
    chat_events,
    come,
    on_a_loop,
)
from tokenmeter import Meter
from tokenmeter.testing import CapturedCalls

STREAMED = ASK | {"stream": True}
PACKED = [name for name in ENCODINGS if name != "identity"]
SPLITS = [(name, size) for name in PACKED for size in (None, 1, 3, 17)]
# both libraries take the first byte alone for the header of zlib, and fail at the second
DECODED = [(name, size) for name, size in SPLITS if (name, size) != ("raw-deflate", 1)]


def decodes(face: Face, encoding: str) -> bool:
    """Whether the library itself can undo a coding, as it is installed here."""
    return ENCODINGS[encoding][0] in face.library.Client().headers["accept-encoding"]


def check_read(calls: CapturedCalls) -> None:
    [row] = calls
    assert row.usage is not None
    assert (row.status, row.estimated) == ("ok", False)
    assert (row.usage.input_tokens, row.usage.output_tokens, row.cost_nanos) == (INPUT, OUTPUT, COST_NANOS)


@pytest.mark.parametrize(("encoding", "piece_bytes"), DECODED)
@on_a_loop
async def test_whole(face: Face, meter: Meter, calls: CapturedCalls, encoding: str, piece_bytes: int | None) -> None:
    if not decodes(face, encoding):
        pytest.skip(f"{face.library.__name__} can't decode {encoding} here, and asks no server for it")
    origin = Origin(face, encoding=encoding, piece_bytes=piece_bytes)
    response = await come(meter.wrap(origin.client()).post(URL, json=ASK))
    assert response.content == chat_body()
    assert response.headers["content-encoding"] == ENCODINGS[encoding][0]
    check_read(calls)


@pytest.mark.parametrize("how", ["iter_raw", "iter_bytes", "iter_lines"])
@pytest.mark.parametrize(("encoding", "piece_bytes"), SPLITS)
@on_a_loop
async def test_streamed_and_not_rewritten(
    face: Face, meter: Meter, calls: CapturedCalls, encoding: str, piece_bytes: int | None, how: str
) -> None:
    origin = Origin(face, encoding=encoding, piece_bytes=piece_bytes)
    readable = decodes(face, encoding) and (encoding, piece_bytes) in DECODED
    found: list[list[Any]] = []
    sizes: list[int] = []
    for client in (origin.client(), meter.wrap(origin.client())):
        asked = STREAMED | {"stream_options": {"include_usage": True}}
        response = await come(client.send(client.build_request("POST", URL, json=asked), stream=True))
        found.append(await face.pieces(response, how if readable else "iter_raw"))
        sizes.append(response.num_bytes_downloaded)
        await face.close(response)
    assert found[1] == found[0]  # piece by piece: no byte is held back
    assert sizes[1] == sizes[0]
    check_read(calls)


@pytest.mark.parametrize("how", ["iter_bytes", "iter_lines", "iter_text"])
@pytest.mark.parametrize(("encoding", "piece_bytes"), DECODED)
@on_a_loop
async def test_the_extra_chunk_is_hidden(
    face: Face, meter: Meter, calls: CapturedCalls, encoding: str, piece_bytes: int | None, how: str
) -> None:
    if not decodes(face, encoding):
        pytest.skip(f"{face.library.__name__} can't decode {encoding} here, and asks no server for it")
    origin = Origin(face, encoding=encoding, piece_bytes=piece_bytes)
    client = meter.wrap(origin.client())
    response = await come(client.send(client.build_request("POST", URL, json=STREAMED), stream=True))
    pieces = await face.pieces(response, how)
    await face.close(response)
    assert origin.asked["stream_options"] == {"include_usage": True}
    expected = b"".join(chat_events(usage=False)).decode()
    if how == "iter_lines":
        assert pieces == expected.splitlines()
    else:
        assert "".join(p.decode() if isinstance(p, bytes) else p for p in pieces) == expected
    check_read(calls)


@pytest.mark.parametrize("encoding", PACKED)
@on_a_loop
async def test_the_extra_chunk_is_hidden_in_a_stream_that_is_read_as_a_whole(
    face: Face, meter: Meter, calls: CapturedCalls, encoding: str
) -> None:
    if not decodes(face, encoding):
        pytest.skip(f"{face.library.__name__} can't decode {encoding} here, and asks no server for it")
    origin = Origin(face, encoding=encoding, piece_bytes=5)
    response = await come(meter.wrap(origin.client()).post(URL, json=STREAMED))
    assert response.content == b"".join(chat_events(usage=False))
    check_read(calls)


# -- broken and strange ------------------------------------------------------------------------------------------


def broken(face: Face, data: bytes, encoding: str = "gzip", content_type: str = "application/json") -> Any:
    def handler(request: Any) -> Any:
        headers = {"content-type": content_type, "content-encoding": encoding}
        return face.response(200, [data[:40], data[40:]], headers)

    return handler


BROKEN = gzip.compress(chat_body(), mtime=0)[:60] + b"\xff" * 200


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
@on_a_loop
async def test_broken_gzip_is_the_bare_clients_error(
    face: Face, meter: Meter, calls: CapturedCalls, ask: dict[str, Any], stream: bool
) -> None:
    async def read(client: Any) -> None:
        response = await come(client.send(client.build_request("POST", URL, json=ask), stream=stream))
        try:
            await face.read(response)
        finally:
            await face.close(response)

    async def error_of(client: Any) -> str:
        with pytest.raises(face.library.DecodingError) as caught:
            await read(client)
        return str(caught.value)

    expected = await error_of(face.client(broken(face, BROKEN)))
    got = await error_of(meter.wrap(face.client(broken(face, BROKEN))))
    assert got == expected
    [row] = calls
    assert row.estimated
    assert row.cost_nanos


@on_a_loop
async def test_truncated_gzip(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    data = gzip.compress(chat_body(), mtime=0)[:-30]
    bare = await come(face.client(broken(face, data)).post(URL, json=ASK))
    metered = await come(meter.wrap(face.client(broken(face, data))).post(URL, json=ASK))
    assert metered.content == bare.content
    assert len(calls) == 1


@pytest.mark.parametrize("encoding", ["rot13", "gzip, rot13", "", "identity", " , "])
@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "sse"])
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
@on_a_loop
async def test_codings_that_nobody_knows(
    face: Face, meter: Meter, calls: CapturedCalls, encoding: str, ask: dict[str, Any], stream: bool
) -> None:
    plain = chat_body()
    data = gzip.compress(plain, mtime=0) if "gzip" in encoding else plain
    found = []
    for client in (face.client(broken(face, data, encoding)), meter.wrap(face.client(broken(face, data, encoding)))):
        response = await come(client.send(client.build_request("POST", URL, json=ask), stream=stream))
        found.append(await face.read(response))
    assert found[1] == found[0]
    assert len(calls) == 1


@on_a_loop
async def test_codings_on_top_of_each_other(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    data = ENCODINGS["deflate"][1](ENCODINGS["gzip"][1](chat_body()))
    client = meter.wrap(face.client(broken(face, data, "gzip, deflate")))
    response = await come(client.send(client.build_request("POST", URL, json=ASK), stream=True))
    assert await face.read(response) == chat_body()
    check_read(calls)


@on_a_loop
async def test_several_frames_in_a_row(meter: Meter, calls: CapturedCalls, face: Face) -> None:
    if not decodes(face, "zstd"):
        pytest.skip(f"{face.library.__name__} can't decode zstd here, and asks no server for it")
    encode = ENCODINGS["zstd"][1]
    for ask, events in ((STREAMED, True), (STREAMED | {"stream_options": {"include_usage": True}}, False)):
        calls.clear()
        data = b"".join(encode(piece) for piece in chat_events(usage=True))
        client = meter.wrap(face.client(broken(face, data, "zstd", "text/event-stream")))
        response = await come(client.send(client.build_request("POST", URL, json=ask), stream=True))
        assert await face.read(response) == b"".join(chat_events(usage=not events))
        check_read(calls)
