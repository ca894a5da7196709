"""From a provider's usage object to counters under the keys of genai-prices.

genai-prices knows for many providers which field means what; its extractors are compiled here into one walk over
the fields that are present. Where it has none, or a field that it requires is missing, `tolerant` reads what the
protocols have in common. A counter that is missing stays absent; a bool, a negative or a broken number is missing.
An extractor may know fewer fields than the provider sends: cached, reasoning and searches that it passes over are
taken by the names that protocols share.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

from tokenmeter.wire.words import (
    CHAT_SPARES,
    MESSAGES_SPARES,
    MOST,
    Counts,
    bring_in_reasoning,
    bring_in_thoughts,
    number,
    tolerant,
    whole,
)

_Extract: TypeAlias = Callable[[Mapping[str, Any]], Counts | None]

_log = logging.getLogger("tokenmeter")

# the flavours of a provider's extractors that may read a protocol, the most specific first
_FLAVORS: Final[Mapping[str, tuple[str, ...]]] = {
    "openai.chat": ("chat", "default"),
    "openai.completions": ("chat", "default"),
    "openai.responses": ("responses", "default"),
    "openai.decisions": ("decisions", "default"),
    "openai.embeddings": ("embeddings", "chat", "default"),
    "openai.images": ("images",),
    "anthropic.messages": ("anthropic", "default"),
    "gemini.generate": ("default",),
    "gemini.embed": ("default",),
    "cloudflare.run": ("default",),
    "bedrock.converse": ("default",),
    "bedrock.invoke": ("anthropic", "default"),
    "cohere.chat": ("tokens", "default"),
    "cohere.embed": ("embeddings",),
}

# whose words a protocol speaks, also behind a gateway: what has a price of its own is told nowhere else
_OWNERS: Final[Mapping[str, str]] = {
    "gemini.generate": "google",
    "gemini.embed": "google",
    "bedrock.converse": "aws",
    "bedrock.invoke": "aws",
}


def counts(
    price_provider: str | None, protocol: str, document: Mapping[str, Any], *, model: str | None = None
) -> Counts | None:
    """The counters in ``document``, which holds ``usage``, ``usageMetadata`` or ``meta`` as the provider sent it.

    None when the document reports nothing that can be read.
    """
    found: Counts | None = None
    if price_provider is not None or protocol in _OWNERS:
        for extract in _extractors(price_provider, protocol):
            if found := extract(document):
                break
    found = found or tolerant(document)
    if found and protocol == "openai.chat" and (price_provider == "google" or (model and "gemini" in model)):
        bring_in_thoughts(found, document.get("usage"))
    return found


@lru_cache(maxsize=256)
def _extractors(price_provider: str | None, protocol: str) -> tuple[_Extract, ...]:
    flavors = _FLAVORS.get(protocol)
    if flavors is None:
        return ()
    try:
        from genai_prices.data_snapshot import get_snapshot  # 335 ms, on first use

        listed = {each.id: each.extractors or () for each in get_snapshot().providers}
        chosen = [
            each
            for provider in dict.fromkeys((price_provider, _OWNERS.get(protocol)))
            for flavor in flavors
            for each in listed.get(provider or "", ())
            if each.api_flavor == flavor
        ]
        if protocol == "anthropic.messages":
            chosen = [each for each in chosen if _adds_cached(each.mappings)]
        return tuple([_compile(each.root, each.mappings) for each in chosen])
    except Exception:  # noqa: BLE001  a snapshot that can't be read must not lose a count
        _log.warning("genai-prices has no readable extractors", exc_info=True)
    return ()


def _adds_cached(mappings: Iterable[Any]) -> bool:
    """Whether Anthropic's words are meant: where cached input stands apart, it must come into the input."""
    return any(each.path == "cache_read_input_tokens" and each.dest == "input_tokens" for each in mappings)


class _Step:
    """What is to be done with the value under one key."""

    __slots__ = ("children", "destinations", "matches", "spare")

    def __init__(self) -> None:
        self.destinations: list[str] = []
        self.children: dict[str, _Step] = {}
        self.matches: list[tuple[str, Callable[[Any], bool], _Step]] = []
        self.spare: int | None = None  # its place among the spares, where the extractor passes it over

    def walk(self, value: Any, out: Counts, spares: dict[int, int]) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                step = self.children.get(key)
                if step is None or item is None:
                    continue
                if type(item) is int:
                    if 0 <= item < MOST:  # as `put`, without its call
                        for name in step.destinations:
                            out[name] = out.get(name, 0) + item
                        if step.spare is not None:
                            spares[step.spare] = item
                else:
                    step.walk(item, out, spares)
        elif isinstance(value, list):
            for field, matches, step in self.matches:
                for item in value:
                    if isinstance(item, dict) and matches(item.get(field)):
                        step.walk(item, out, spares)
                        break
        elif (count := whole(value)) is not None:  # a counter that is written as a float
            self.put(count, out, spares)

    def put(self, count: int, out: Counts, spares: dict[int, int]) -> None:
        for name in self.destinations:
            out[name] = out.get(name, 0) + count
        if self.spare is not None:
            spares[self.spare] = count


def _compile(root: Any, mappings: Iterable[Any]) -> _Extract:
    roots = [root] if isinstance(root, str) else list(root)
    top = _Step()
    required: list[tuple[str, ...]] = []
    for mapping in mappings:
        path = [mapping.path] if isinstance(mapping.path, str) else list(mapping.path)
        step = top
        for part in path:
            if isinstance(part, str):
                step = step.children.setdefault(part, _Step())
            else:
                inner = _Step()
                step.matches.append((part.field, _matcher(part.match.is_match), inner))
                step = inner
        step.destinations.append(mapping.dest)
        if mapping.required and all(isinstance(part, str) for part in path):
            required.append(tuple(path))
    spares = _add_spares(top)
    is_chat = "completion_tokens" in top.children

    def extract(document: Mapping[str, Any]) -> Counts | None:
        value: Any = document
        for key in roots:
            if not isinstance(value, dict):
                return None
            value = value.get(key)
        if not isinstance(value, dict):
            return None
        for path in required:
            if number(value, *path) is None:
                return None
        found: Counts = {}
        spared: dict[int, int] = {}
        top.walk(value, found, spared)
        for at in sorted(spared):
            found.setdefault(spares[at], spared[at])
        if is_chat and found.get("output_reasoning_tokens"):
            bring_in_reasoning(found, value)
        return found or None

    return extract


def _add_spares(top: _Step) -> list[str]:
    """Let the walk collect what these mappings pass over; which counter each of the spares is."""
    if "prompt_tokens" in top.children:
        paths = CHAT_SPARES
    elif "input_tokens" in top.children:
        paths = MESSAGES_SPARES
    else:
        return []
    spares: list[str] = []
    for path, name in paths:
        if path[0] == "cache_creation" and path[0] + "_input_tokens" not in top.children:
            continue  # a part of what is not counted
        step = top
        for key in path:
            step = step.children.setdefault(key, _Step())
        if not step.destinations:
            step.spare = len(spares)
            spares.append(name)
    return spares


def _matcher(is_match: Callable[[str], bool]) -> Callable[[Any], bool]:
    return lambda name: type(name) is str and is_match(name)
