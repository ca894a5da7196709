"""A lineage arrives as it was sent, and nothing that is done to it on the way makes a run look less deep."""

from __future__ import annotations

import base64
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmeter import ConfigError
from tokenmeter.loops.carriers import (
    BAGGAGE,
    KEY,
    MAX_BAGGAGE_CHARS,
    extract,
    inject,
    merged,
    without,
)
from tokenmeter.loops.lineage import MAX_CHARS, MAX_PATH, Keys, Lineage, decode, encode

OLD, NEW = Keys({"old": b"o" * 32}), Keys({"new": b"n" * 32, "old": b"o" * 32})
names = st.text(min_size=1, max_size=12).filter(lambda name: name.encode("utf-8", "replace").decode() == name)


@st.composite
def lineages(draw: st.DrawFn) -> Lineage:
    path = tuple(draw(st.lists(names, max_size=6)))
    depth = len(path) + draw(st.integers(0, 50))
    return Lineage(draw(names), draw(names), depth, path, draw(st.integers(0, 2 * 10**9)))


@given(lineages(), st.sampled_from([None, OLD, NEW]))
def test_it_comes_back_as_it_was(lineage: Lineage, keys: Keys | None) -> None:
    text = encode(lineage, keys)
    assert decode(text, keys) == (lineage, "trusted" if keys else "unsigned")
    assert len(text) <= MAX_CHARS
    assert not set(text) & set(' ,;="\\\r\n\t')


CARRIERS = ["headers", "pairs", "meta", "params", "environ", "list of values"]


def carried(kind: str, lineage: Lineage, keys: Keys | None, before: str = "") -> Any:
    headers: dict[str, Any] = {"Baggage": before} if before else {}
    if kind == "meta":
        headers["progressToken"] = 7
        inject(headers, lineage, keys)
        return headers
    if kind == "params":
        inject(headers, lineage, keys)
        return {"method": "tools/call", "params": {"name": "tool", "_meta": headers}}
    if kind == "pairs":
        inject(headers, lineage, keys)
        raw = [(key.lower().encode(), value.encode("latin-1")) for key, value in headers.items()]
        return [(b"host", b"a"), *raw]
    inject(headers, lineage, keys)
    if kind == "environ":
        return {"HTTP_BAGGAGE": next(iter(headers.values())), "wsgi.version": (1, 0)}
    return {"baggage": [next(iter(headers.values()))]} if kind == "list of values" else headers


@pytest.mark.parametrize("kind", CARRIERS)
@given(lineage=lineages(), keys=st.sampled_from([None, OLD, NEW]))
def test_extract_undoes_inject(kind: str, lineage: Lineage, keys: Keys | None) -> None:
    arrival = extract(carried(kind, lineage, keys), keys)
    assert arrival.lineage == lineage
    assert arrival.verdict == ("trusted" if keys else "unsigned")
    assert not arrival.suspicious


@pytest.mark.parametrize("kind", ["headers", "pairs", "meta"])
def test_the_baggage_of_others_stays(kind: str) -> None:
    others = "userId=alice;prop=1, server=DF%2028 ,isProduction=false"
    carrier = carried(kind, Lineage("r", "r"), None, before=others)
    twice = carried(kind, Lineage("s", "s"), None, before=merged(others, "x"))
    for found in (carrier, twice):
        pairs = dict(found)
        value = next(v for k, v in pairs.items() if (k if isinstance(k, str) else k.decode()).lower() == "baggage")
        text = value if isinstance(value, str) else value.decode()
        assert text.split(",")[1:] == ["userId=alice;prop=1", "server=DF%2028", "isProduction=false"]
        assert text.count(KEY) == 1


def test_baggage_is_bounded_and_ours_comes_first() -> None:
    found = merged(",".join(f"k{n}={'v' * 90}" for n in range(500)), encode(Lineage("r", "r")))
    assert found.startswith(f"{KEY}=1.r.r.")
    assert len(found) <= MAX_BAGGAGE_CHARS
    assert found.count(",") < 180
    assert without(found).count(KEY) == 0
    assert without("a=1,tokenmeter.lineage=x,b=2") == "a=1,b=2"


def test_a_long_path_is_shortened_and_the_depth_stays() -> None:
    path = tuple(f"agent {n}" for n in range(40))
    found, _ = decode(encode(Lineage("r", "r", 40, path)))
    assert found is not None
    assert (found.depth, found.agent, len(found.path)) == (40, "agent 39", MAX_PATH)
    assert found.path[:4] == path[:4]
    huge = encode(Lineage("ü" * 500, "r" * 900, 3, ("ü" * 256,) * 3), NEW)
    assert len(huge) <= MAX_CHARS
    again, verdict = decode(huge, NEW)
    assert again is not None
    assert (again.depth, verdict) == (3, "trusted")
    assert encode(Lineage("ü" * 501, "r")) != encode(Lineage("ü" * 500, "r"))


def test_keys_are_rotated_without_a_gap() -> None:
    lineage = Lineage("r", "s", 1, ("a",), 5)
    verifying = Keys({"old": b"o" * 32, "new": b"n" * 32})
    assert decode(encode(lineage, OLD), verifying) == (lineage, "trusted")
    assert decode(encode(lineage, NEW), verifying) == (lineage, "trusted")
    assert decode(encode(lineage, OLD), NEW) == (lineage, "trusted")
    assert decode(encode(lineage, NEW), OLD) == (None, "unknown key")
    assert decode(encode(lineage), NEW) == (None, "unsigned")
    assert decode(encode(lineage, Keys({"new": b"x" * 32})), NEW) == (None, "forged")


def test_an_old_one_is_refused_where_age_counts() -> None:
    text = encode(Lineage("r", "r", issued_s=1_000), NEW)
    assert decode(text, NEW, 1_060, 60)[1] == "trusted"
    assert decode(text, NEW, 1_061, 60) == (None, "expired")


@given(lineages(), st.integers(0, 10_000), st.characters(codec="ascii"))
def test_what_is_altered_is_found_out(lineage: Lineage, at: int, other: str) -> None:
    text = encode(lineage, NEW)
    at %= len(text)
    altered = text[:at] + other + text[at + 1 :]
    found, verdict = decode(altered, NEW)
    if altered != text and _code(altered) != _code(text):
        assert (found, verdict == "trusted") == (None, False)


def _code(text: str) -> tuple[str, bytes]:
    """The last character of base64 has bits to spare: two texts may carry one code. What is signed may not differ."""
    head, _, code = text.rpartition(".")
    try:
        return head, base64.urlsafe_b64decode(code + "=")
    except ValueError:
        return head, b""


garbage = st.sampled_from(
    [
        "",
        "x",
        "=",
        ",,,",
        f"{KEY}",
        f"{KEY}=",
        f"{KEY}=1.2",
        f"{KEY}=1.r.r.0.0.",
        f"{KEY}=%",
        "a=b;c",
        " = ",
        f"{KEY}=" + "9" * 5000,
    ]
)


@given(lineages(), st.lists(garbage, max_size=6), st.lists(lineages(), max_size=3), st.randoms(use_true_random=False))
def test_nothing_on_the_way_makes_it_look_less_deep(
    lineage: Lineage, junk: list[str], forged: list[Lineage], rng: random.Random
) -> None:
    """Doubled, reordered, mixed with garbage and forgeries of a stranger's key: the good one counts."""
    stranger = Keys({"new": b"?" * 32})
    good = f"{KEY}={encode(lineage, NEW)}"
    entries = [good, good, *junk, *(f"{KEY}={encode(each, stranger)}" for each in forged)]
    rng.shuffle(entries)
    headers = [(b"Baggage", ",".join(entries[:2]).encode()), (b"bAGGAGE", ",".join(entries[2:]).encode())]
    arrival = extract(headers, NEW)
    assert arrival.lineage == lineage
    assert arrival.verdict == "trusted"
    assert arrival.suspicious is bool(arrival.rejected)


@given(st.lists(lineages(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_deepest_counts_whatever_the_order(several: list[Lineage], rng: random.Random) -> None:
    entries = [f"{KEY}={encode(each)}" for each in several]
    first = extract({BAGGAGE: ",".join(entries)}).lineage
    rng.shuffle(entries)
    assert extract({BAGGAGE: ",".join(entries)}).lineage == first
    assert first is not None
    assert first.depth == max(each.depth for each in several)


def test_a_forged_one_is_a_fresh_root_and_told() -> None:
    stranger = Keys({"new": b"?" * 32})
    arrival = extract({BAGGAGE: f"{KEY}={encode(Lineage('r', 'r'), stranger)}"}, NEW)
    assert (arrival.lineage, arrival.verdict, arrival.suspicious) == (None, "forged", True)
    assert extract({}, NEW).suspicious is False
    assert extract({BAGGAGE: f"{KEY}={encode(Lineage('r', 'r'))}"}, NEW).suspicious is True


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([BAGGAGE, "_meta", "params", "x"]), inner)


@given(st.recursive(st.none() | st.integers() | st.binary(max_size=9) | st.text(max_size=30), _nested))
@settings(deadline=None)
def test_extract_never_raises(carrier: Any) -> None:
    extract(carrier, NEW)


@pytest.mark.parametrize("bad", [{}, {"": b"x" * 32}, {"a.b": b"x" * 32}, {"a": b"short"}, {"a": "x" * 32}])
def test_bad_keys_are_named(bad: Any) -> None:
    with pytest.raises(ConfigError, match="keys"):
        Keys(bad)


def test_keys_hide_themselves() -> None:
    assert repr(NEW) == "Keys(new, old)"
