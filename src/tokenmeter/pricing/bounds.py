"""How many input tokens a request can be at the most, before anybody has counted them.

No tokenizer makes more tokens than the text has UTF-8 bytes, so bytes bound plain text, with a little for
the chat template. What the provider adds by itself (tool prompts, images, what its server remembers) gets
an allowance; where a settled call shows that an allowance was too small, the next call of that kind gets
more. An allowance never shrinks below its figure here: a bound that was lowered by experience is no bound.

The same settled calls teach what to charge when a call's own usage never comes.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TypeVar

from msgspec import Struct

from tokenmeter.forks import renew_in_child
from tokenmeter.pricing.tokenizers import TokenCounter
from tokenmeter.turn import Turn, in_turn
from tokenmeter.wire.types import Ask, Reading, Route

UNKNOWN_CONTEXT = 200_000
"""Tokens to allow for what a server adds unseen, where the model's context window is not known."""

_TEMPLATE = 32  # a chat template round one short message: llama.cpp adds 18 tokens
# Some models carry a prompt of the provider's into every call: Grok 680 tokens, and OpenRouter may route
# there.
_HIDDEN_PROMPT = 1_000
_HIDDEN_PROMPT_PROVIDERS = frozenset({"x_ai", "x-ai", "openrouter"})

# The prompt that providers add for tools and response schemas. Anthropic documents 159 to 804 tokens, more
# with its own tools; beyond the bytes were recorded: Claude 700, Nova 900, Cohere 1,070,
# Llama 4 at Groq 360.
_TOOLS_LARGE = 1_500
_TOOLS_OPENAI = 128
_TOOLS_OTHER = 512

# The dearest picture that each takes, from the providers' own tables: gpt-4o-mini: 2,833 + 5,667 for each
# of 8 tiles. Other OpenAI models up to GPT-5.3: 1,536 patches x 2.46 at most; newer ones: 10,000 patches at
# "original" detail x 1.2. Anthropic: 4,784 from 2,576 pixels on. Gemini: 258 a tile, 16 tiles. Pixtral: 64
# x 65 patches. Qwen-VL: 16,384 patches by default.
_IMAGE_GPT_4O_MINI = 48_169
_IMAGE_OPENAI = 3_800
_IMAGE_OPENAI_NEW = 12_000
_IMAGE_GEMINI = 4_200
_IMAGE_VL = 16_400
_IMAGE_OTHER = 5_000
_PATCHED_OPENAI = re.compile(r"^(?:gpt-4|chatgpt-4o|o[134]|gpt-5(?!\.[4-9]))")

_DOCUMENT = 5_000  # a page costs its text and its picture, however few bytes it has
_TOOL_CALLS = 16  # paid calls (web searches …) that one request with server-side tools may make

_MARGIN_NUM, _MARGIN_DEN = 5, 4  # on what was seen
_TAUGHT = 5  # settled calls before what was seen is trusted for estimates
_LESSONS = 16
_KINDS = 1024
_RESPONSES = 4096
_MIN_BYTES = 64  # shorter answers say more of the template than of the text

_Key = tuple[str, str | None, int]
_K = TypeVar("_K")
_V = TypeVar("_V")


class _Input(Struct):
    """What calls of one provider, model and kind have shown of their input."""

    calls: int = 0
    extra_per_unit: int = 0  # tokens beyond the text, for each picture or remote file; else for the call
    tokens_per_mib: int = 0  # the most tokens that a mebibyte of text came to
    most_tokens: int = 0
    most_tool_calls: int = 0


class _Output(Struct):
    """What calls of one provider and model have shown of their output."""

    calls: int = 0
    measured: int = 0
    tokens_per_mib: int = 0
    reasoning: int = 0  # decaying maximum of the reasoning, which leaves no bytes
    tokens: int = 0  # decaying maximum of the whole


class InputBound:
    """Bounds the input of requests and learns from settled ones. Thread-safe; memory is bounded.

    With ``exact`` an installed tokenizer counts the text of OpenAI's own models instead of its bytes; it is
    loaded by ``preload``, and until then bytes are used.
    """

    def __init__(self, *, exact: bool = True) -> None:
        self._counter = TokenCounter() if exact else None
        self._turn = Turn()
        renew_in_child(self, "_turn", Turn)
        self._fell_short = False  # an allowance of some kind was too small once
        self._inputs: dict[_Key, _Input] = {}
        self._outputs: dict[tuple[str, str | None], _Output] = {}
        self._held: dict[str, int] = {}
        self._lessons: deque[tuple[Route, Ask, int, Reading]] = deque()

    def preload(self) -> None:
        """Load the optional tokenizer, which takes a second; for a background thread."""
        if self._counter is not None:
            self._counter.preload()

    def bound(self, ask: Ask, route: Route, context_window: int | None = None) -> int:
        """The most input tokens that this request can be billed for; takes about a microsecond.

        Server-side tools may read the context several times within one call; until such a call was seen, one
        context window (or ``UNKNOWN_CONTEXT``) is allowed for, which is the one case that can be too little.
        """
        if self._lessons and ask.previous_response_id is not None:
            self._take_in()
        plain = self._plain(ask, route) * ask.passes
        extra = 0 if ask.text_only else _allowance(ask, route, context_window, self._held)
        if self._fell_short:
            seen = self._inputs.get((route.provider, ask.model or route.model, _kind(ask)))
            if seen is not None and seen.extra_per_unit:
                extra = max(extra, seen.extra_per_unit * _units(ask))
        return plain + extra

    def tool_calls(self, ask: Ask, route: Route) -> int:
        """How many paid calls of server-side tools to allow for; 0 for a request without such tools."""
        if not ask.server_tools:
            return 0
        self._take_in()
        seen = self._inputs.get((route.provider, ask.model or route.model, _kind(ask)))
        return max(_TOOL_CALLS, _with_margin(seen.most_tool_calls) if seen else 0)

    def learn(self, route: Route, ask: Ask, bound: int, reading: Reading) -> None:
        """Take in a settled call; ``bound`` is what ``bound()`` gave, 0 if it was not asked.

        Estimated usage teaches nothing, and an answer that was cut teaches nothing of its length.
        """
        usage = reading.usage
        if usage is None or usage.estimated:
            return
        self._lessons.append((route, ask, bound, reading))
        given = usage.input_tokens
        # What no call waits to know is taken in for several calls at once, which is faster.
        if len(self._lessons) >= _LESSONS or (given is not None and given > (bound or self.bound(ask, route))):
            self._take_in()

    def _take_in(self) -> None:
        lessons = self._lessons
        while lessons:
            try:
                lesson = lessons.popleft()
            except IndexError:  # another thread was faster
                return
            self._learn(*lesson)

    @in_turn
    def _learn(self, route: Route, ask: Ask, bound: int, reading: Reading) -> None:
        usage = reading.usage
        assert usage is not None  # noqa: S101 - `learn` saw to it
        counts = usage.counts
        given, made = counts.get("input_tokens"), counts.get("output_tokens")
        model = ask.model or route.model
        shortfall = 0
        if given is not None and given > (bound or self.bound(ask, route)):
            shortfall = given - self._plain(ask, route)
        if given is not None and reading.response_id and reading.complete:
            _put(self._held, reading.response_id, given + (made or 0), _RESPONSES)
        if given is not None:
            seen = _touch(self._inputs, (route.provider, model, _kind(ask)), _Input, _KINDS)
            seen.calls += 1
            seen.most_tokens = max(seen.most_tokens, given)
            if ask.text_bytes and (each := (given << 20) // ask.text_bytes + 1) > seen.tokens_per_mib:
                seen.tokens_per_mib = each
            if shortfall:
                self._fell_short = True
                units = _units(ask)
                seen.extra_per_unit = max(seen.extra_per_unit, -(-(_with_margin(shortfall) + 2 * _TEMPLATE) // units))
            if ask.server_tools:
                calls = sum([counts.get(key, 0) for key in _TOOL_CALL_KEYS])
                seen.most_tool_calls = max(seen.most_tool_calls, calls)
        if made is not None and reading.complete:
            said = _touch(self._outputs, (route.provider, model), _Output, _KINDS)
            reasoning = min(counts.get("output_reasoning_tokens", 0), made)
            said.calls += 1
            said.tokens = max(made, said.tokens - (said.tokens >> 4))
            said.reasoning = max(reasoning, said.reasoning - (said.reasoning >> 4))
            if reading.output_bytes >= _MIN_BYTES:
                said.measured += 1
                each = ((made - reasoning) << 20) // reading.output_bytes + 1
                said.tokens_per_mib = max(said.tokens_per_mib, each)

    def estimate_input(self, ask: Ask, route: Route) -> int:
        """What to charge as input when the usage never came: the bound, until settled calls showed less.

        After 5 settled calls of the kind: the densest text seen (for requests with media or server-held
        context the largest input seen), with a quarter on top; never more than the bound.
        """
        self._take_in()
        bound = self.bound(ask, route)
        seen = self._inputs.get((route.provider, ask.model or route.model, _kind(ask)))
        if seen is None or seen.calls < _TAUGHT:
            return bound
        if self._plain(ask, route) < ask.text_bytes:
            return bound  # an exact count
        if _kind(ask) & ~_TOOLS or not ask.text_bytes:
            return min(bound, max(_with_margin(seen.most_tokens), ask.text_bytes >> 3))
        return min(bound, _with_margin((ask.text_bytes * seen.tokens_per_mib >> 20) + 1) + _TEMPLATE)

    def estimate_output(self, route: Route, model: str | None, output_bytes: int) -> int:
        """What to charge as output when ``output_bytes`` of text arrived and the usage never came.

        A token a byte, until 5 settled answers of the model showed its text to be less dense (then the
        densest seen, with a quarter on top), and at least a token for 8 bytes. Reasoning, which leaves no
        bytes, is added as it was seen. It can exceed what was held for the call; then the hold is the
        better figure.
        """
        self._take_in()
        said = self._outputs.get((route.provider, model))
        if said is None or said.measured < _TAUGHT:
            text = output_bytes
        else:
            text = max(_with_margin((output_bytes * said.tokens_per_mib >> 20) + 1), -(-output_bytes // 8))
        return text + (said.reasoning if said is not None else 0)

    def typical_output(self, provider: str, model: str | None) -> int | None:
        """A large output of this model, from at least 5 settled calls; for a call whose answer never came.

        ``provider`` is ``Route.provider``. It decays by a sixteenth a call; ``None`` when not known.
        """
        self._take_in()
        said = self._outputs.get((provider, model))
        return said.tokens if said is not None and said.calls >= _TAUGHT else None

    def _plain(self, ask: Ask, route: Route) -> int:
        """Tokens of the text that the caller sends, at most."""
        if self._counter is not None and ask.text is not None:
            exact = self._counter.count(ask, route)
            if exact is not None:
                return min(exact, ask.text_bytes + _TEMPLATE)
        return ask.text_bytes + (_HIDDEN_PROMPT if route.provider in _HIDDEN_PROMPT_PROVIDERS else _TEMPLATE)


_TOOL_CALL_KEYS = ("web_searches", "social_searches", "storage_searches", "code_executions")
_TOOLS = 1


def _kind(ask: Ask) -> int:
    """What of a request makes its input differ from its text, as one number."""
    return (
        ask.tools
        | (ask.images > 0) << 1
        | (ask.media_bytes > 0) << 2
        | (ask.remote_media > 0) << 3
        | ask.server_tools << 4
        | (ask.server_state or ask.previous_response_id is not None) << 5
        | (not ask.readable) << 6
    )


def _units(ask: Ask) -> int:
    return ask.images + ask.remote_media or 1


def _allowance(ask: Ask, route: Route, context_window: int | None, held: dict[str, int]) -> int:
    """Tokens that the provider may add to the text of this request."""
    extra = 0
    if ask.tools:
        extra += _tools_allowance(ask, route)
    if ask.images:
        extra += ask.images * _image_allowance(ask, route)
    if ask.media_bytes:
        # A token a byte; but what passes the context window is refused, not billed.
        extra += max(min(ask.media_bytes, context_window or ask.media_bytes), _DOCUMENT)
    unseen = ask.remote_media > 0 or ask.server_tools or not ask.readable
    if ask.previous_response_id is not None:
        known = held.get(ask.previous_response_id)
        if known is None:
            unseen = True
        else:
            extra += known
    elif ask.server_state:
        unseen = True
    if unseen:
        extra += context_window or UNKNOWN_CONTEXT
    return extra


def _tools_allowance(ask: Ask, route: Route) -> int:
    if route.provider in {"openai", "azure.ai.openai"}:
        return _TOOLS_OPENAI
    if route.protocol.startswith(("anthropic", "bedrock", "cohere")):
        return _TOOLS_LARGE
    model = ask.model or route.model
    return _TOOLS_LARGE if model is not None and "claude" in model else _TOOLS_OTHER


def _image_allowance(ask: Ask, route: Route) -> int:
    model = (ask.model or route.model or "").lower()
    if "4o-mini" in model:
        return _IMAGE_GPT_4O_MINI
    if route.provider in {"openai", "azure.ai.openai"}:
        return _IMAGE_OPENAI if _PATCHED_OPENAI.match(model) else _IMAGE_OPENAI_NEW
    if route.protocol.startswith("gemini"):
        return _IMAGE_GEMINI
    return _IMAGE_VL if "vl" in model else _IMAGE_OTHER


def _with_margin(tokens: int) -> int:
    return -(-tokens * _MARGIN_NUM // _MARGIN_DEN)


def _touch(seen: dict[_K, _V], key: _K, kind: type[_V], size: int) -> _V:
    """The record of ``key``, the youngest of ``seen`` once that matters; the oldest goes when there are too many."""
    record = seen.get(key)
    if record is None:
        record = kind()
    elif len(seen) < size // 2:
        return record
    else:
        del seen[key]
    _put(seen, key, record, size)
    return record


def _put(seen: dict[_K, _V], key: _K, record: _V, size: int) -> None:
    if len(seen) >= size and key not in seen:
        del seen[next(iter(seen))]
    seen[key] = record
