"""Whether two names mean the same one: mail addresses and plain names are both used for people."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_ADDRESSED = re.compile(r"<([^<>\s]+@[^<>\s]+)>$")  # Alice <alice@example.com>
_NUMBER = re.compile(r"^[0-9]+[+-](?=[^@]+@users\.noreply\.git(?:hub|lab)\.com$)")
_TAG = re.compile(r"(?<=[^@])\+[^@]*(?=@)")  # alice+news@example.com is alice's, too
_BETWEEN = re.compile(r"[\W_]+")
_WITHIN = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[^\W\d_])(?=\d+(?:[\W_]|$))")  # aliceMail, alice2
_MOST_WORDS = 32


@lru_cache(maxsize=65_536)
def plain(name: str) -> str:
    """A name to compare by: no case, nothing unseen, no spaces around it; of a mail address, whose box it is."""
    text = _seen(name)
    addressed = _ADDRESSED.search(text)
    return _TAG.sub("", _NUMBER.sub("", addressed[1] if addressed is not None else text))


def _seen(name: str) -> str:
    seen = "".join(each for each in unicodedata.normalize("NFKC", name) if unicodedata.category(each) != "Cf")
    return seen.strip().casefold()


def same(one: str | None, other: str | None) -> bool:
    """``Alice`` is ``alice``, and ``alice@example.com`` is ``alice``; two addresses must agree in whole."""
    if one is None or other is None:
        return False
    if one == other:
        return True
    left, right = plain(one), plain(other)
    if ("@" in left) != ("@" in right):
        left, right = left.partition("@")[0], right.partition("@")[0]
    return left == right


def names_a_person(name: str, users: frozenset[str]) -> bool:
    """Whether the name of an agent gives away who it belongs to: ``alice-mail`` and ``aliceMail2`` do.

    ``planner`` isn't of ``ann``. ``users`` are plain names, without what follows an ``@``.
    """
    return any(_has_one_of(users, _BETWEEN.split(_seen(each))) for each in (name, _WITHIN.sub(" ", name)))


def _has_one_of(users: frozenset[str], parts: list[str]) -> bool:
    words = [word for word in parts if word][:_MOST_WORDS]
    for i in range(len(words)):
        for j in range(i + 1, min(len(words), i + 3) + 1):
            if any(sign.join(words[i:j]) in users for sign in ("", ".", "-", "_", " ")):
                return True
    return False
