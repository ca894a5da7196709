"""Content codings are undone piece by piece, and what can't be undone says so."""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clients.faces import ENCODINGS
from tokenmeter.clients import decoding
from tokenmeter.clients.decoding import Undecodable, decoder_for

TEXT = ("The quick brown fox jumps over the lazy dog. " * 300).encode()


@pytest.mark.parametrize("header", [None, "", "identity", " Identity , ", ","])
def test_nothing_to_undo(header: str | None) -> None:
    assert decoder_for(header) is None


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name != "identity"])
@given(sizes=st.lists(st.integers(1, 400), max_size=30))
def test_any_split_gives_the_same(encoding: str, sizes: list[int]) -> None:
    header, encode = ENCODINGS[encoding]
    packed = encode(TEXT)
    decoder = decoder_for(header)
    assert decoder is not None
    out = b""
    for size in sizes:
        out += decoder.decode(packed[:size])
        packed = packed[size:]
    assert out + decoder.decode(packed) == TEXT


@pytest.mark.parametrize("header", ["gzip", "GZIP", "x-gzip", " gzip ", "identity, gzip"])
def test_names_are_taken_loosely(header: str) -> None:
    decoder = decoder_for(header)
    assert decoder is not None
    assert decoder.decode(ENCODINGS["gzip"][1](TEXT)) == TEXT


def test_the_last_coding_is_undone_first() -> None:
    decoder = decoder_for("gzip, br")
    assert decoder is not None
    assert decoder.decode(ENCODINGS["br"][1](ENCODINGS["gzip"][1](TEXT))) == TEXT


@pytest.mark.parametrize("header", ["gzip", "deflate", "br", "zstd"])
def test_broken_data(header: str) -> None:
    decoder = decoder_for(header)
    assert decoder is not None
    with pytest.raises(Undecodable):
        decoder.decode(b"this is no compressed data at all, whatever is said of it" * 10)


def test_raw_deflate_is_told_by_its_first_piece_only() -> None:
    decoder = decoder_for("deflate")
    assert decoder is not None
    packed = zlib.compress(TEXT)
    decoder.decode(packed[:50])
    with pytest.raises(Undecodable):
        decoder.decode(b"\xff" * 500)


def test_a_coding_that_nobody_knows() -> None:
    with pytest.raises(Undecodable, match="rot13"):
        decoder_for("gzip, rot13")


ZSTD = ("compression.zstd", "backports.zstd", "zstandard")


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """Which library there is, is remembered."""
    decoding._zstd.cache_clear()
    yield
    decoding._zstd.cache_clear()


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize("module", ZSTD)
def test_any_library_for_zstandard_will_do(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    pytest.importorskip(module)
    packed = ENCODINGS["zstd"][1](TEXT)
    for other in ZSTD:
        if other != module:
            monkeypatch.setitem(sys.modules, other, None)
    decoder = decoder_for("zstd")
    assert decoder is not None
    pieces = [packed[at : at + 7] for at in range(0, len(packed), 7)]
    assert b"".join(decoder.decode(piece) for piece in (*pieces, *pieces)) == TEXT * 2
    with pytest.raises(Undecodable):
        decoder.decode(b"no frame of it" * 10)


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize(("header", "modules"), [("br", ("brotli", "brotlicffi")), ("zstd", ZSTD)])
def test_a_library_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, header: str, modules: tuple[str, ...]
) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Undecodable, match="not installed"):
        decoder_for(header)


def test_they_are_imported_on_first_use() -> None:
    source = importlib.import_module("tokenmeter.clients.decoding")
    assert not {"brotli", "zstandard", "ZstdDecompressor"} & set(vars(source))
