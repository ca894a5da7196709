"""What tells one request from another, in eight bytes each: whether two may say the same, and in what they do.

A fingerprint is a keyed hash, so that nobody who has it can try texts against it. The ``key`` is quick, and nearly all
requests have one of their own; only those that share theirs with another are looked at ``closely``. Of a very long
conversation the last turns are hashed whole, and of what stands before them samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from msgspec import Raw

from tokenmeter.loops.asked import Asked
from tokenmeter.loops.loosely import loose

_HEAD_BYTES: Final = 96
_TAIL_BYTES: Final = 160
_SIZE_BITS: Final = 6  # a number more or less hardly changes a size in steps of 64 bytes
_LOOSE_BYTES: Final = 1_536  # as much of a request may differ in its numbers and still be nearly the same
_END_BYTES: Final = 512
_FIRST_BYTES: Final = 256
_SAMPLES: Final = 16  # of what stands before the turns that were cut
_SAMPLE_BYTES: Final = 64
_ANSWERED: Final = (b'"assistant"', b'"model"', b'"function_call', b'"tool_result"')


class Prints(NamedTuple):
    """What a request says."""

    exact: int
    loose: int  # without digits, times, ids and the width of spaces
    ticked: Callable[[], int]  # without times, random ids and counters that say what they are: slow and sure


class Fingerprints:
    """Makes fingerprints under one key: SipHash, which Python keys by the process, over our own key and the text.

    They are compared within one process only. BLAKE2b would take as long as all other guards together.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = hashlib.blake2b(key, digest_size=16).digest()

    def key(self, asked: Asked) -> int:
        """Equal for requests that may say the same but for times, ids and numbers: from their edges and sizes."""
        turns = asked.turns
        number, first, last = len(turns), turns[0], turns[-1]
        if asked.server_state:
            said = self._key + _without_ids(asked)
        else:
            view = memoryview(last)
            edges = (self._key, memoryview(first)[:_HEAD_BYTES], view[:_HEAD_BYTES], view[-_TAIL_BYTES:])
            said = loose(b"".join(edges))
        before = len(turns[-2]) if number > 1 else 0
        rest = b"".join(asked.rest[:2])[:512]
        sizes = len(first) >> _SIZE_BITS, before >> _SIZE_BITS, len(last) >> _SIZE_BITS
        return hash((number, sizes, rest, said))

    def whole(self, body: bytes) -> int:
        """The key of a request that is taken as it is."""
        return hash(self._key + body)

    def closely(self, asked: Asked) -> Prints:
        """The fingerprints of a request."""
        shape, said = _parts(asked)
        text = b"\0".join((self._key, *said))
        loosely = _without_ids(asked) if asked.server_state else loose(text)
        return Prints(hash((shape, hash(text))), hash((shape, hash(loosely))), partial(self._ticked, shape, said))

    def _ticked(self, shape: tuple[int, ...], said: list[Raw | memoryview]) -> int:
        from tokenmeter.loops.ticking import ticked  # its expressions take long to compile

        return hash((shape, hash(b"\0".join([self._key, *(ticked(bytes(each)) for each in said)]))))


def _parts(asked: Asked) -> tuple[tuple[int, ...], list[Raw | memoryview]]:
    """What must be equal in any case, as hashes and sizes; and what may differ in its numbers.

    The latter are the last turns, the two ends of a long one, and the two ends of the first, for a system prompt may
    tell the time.
    """
    turns, earlier, rest = asked.turns, asked.earlier, asked.rest
    left = _LOOSE_BYTES
    said: list[Raw | memoryview] = []
    at = len(turns)
    fixed = [at, hash(b"".join(rest[:2])[:512]), *map(len, rest)]
    for turn in reversed(turns):
        if left <= 0:
            break
        at -= 1
        size = len(turn)
        left -= size
        if left >= 0 or size <= 2 * _END_BYTES:
            said.append(turn)
        else:
            _say(said, fixed, turn, max(_END_BYTES, (size + left) // 2))
    first = 0
    if earlier is not None:
        size = len(earlier)
        fixed.append(size)
        said += [earlier[i : i + _SAMPLE_BYTES] for i in range(0, size, 1 + size // _SAMPLES)]
    elif at:
        _say(said, fixed, turns[0], _FIRST_BYTES)
        first = 1
    if at > first:
        fixed.append(hash(b"".join(turns[first:at])))
    return tuple(fixed), said


def _say(said: list[Raw | memoryview], fixed: list[int], turn: Raw, end: int) -> None:
    """Take a turn, or its two ends."""
    size = len(turn)
    if size <= 2 * end:
        said.append(turn)
    else:
        view = memoryview(turn)
        said += (view[:end], view[-end:])
        fixed.append(hash(bytes(view[end:-end])))


def _without_ids(asked: Asked) -> bytes:
    """What an answer to the provider's own memory says, without the ids of the calls that it answers."""
    from tokenmeter.loops.steps import QUICK_BYTES, read_items  # what few requests need takes long to make

    items = read_items(asked.turns, 16, alone=True, most_bytes=QUICK_BYTES)
    return b"\0".join(loose(item.said) + loose(item.got) for item in items)


def has_answers(asked: Asked) -> bool:
    """Whether it holds an earlier answer: then it is a step of a conversation, not a question of its own."""
    ends = b"".join(bytes(memoryview(turn)[:64]) + bytes(memoryview(turn)[-64:]) for turn in asked.turns[-4:])
    return len(asked.turns) > 1 and any(mark in ends for mark in _ANSWERED)
