"""One question to all guards: may this request go out?

`judge` reads the request once, counts it in the memory and says what it found; what becomes of a finding (refuse it,
warn, wait) is done by who asked. After the answer, `answered` tells the memory how it went.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from msgspec import Raw, Struct

from tokenmeter.loops.asked import Asked, open_request
from tokenmeter.loops.findings import Facts, Finding, Passed, listed, told
from tokenmeter.loops.fingerprints import Fingerprints, has_answers
from tokenmeter.loops.history import FEWEST_TURNS, look
from tokenmeter.loops.memory import Asker, Known, Seen, Tally
from tokenmeter.loops.policy import Action, Guard, LoopPolicy, shown_path
from tokenmeter.money import usd

if TYPE_CHECKING:
    from tokenmeter.loops.repeats import Repeats

_NONE: Final = sys.maxsize
_MOST_LONE_TURNS: Final = 2  # what the system says, and the question
_SHORT_BYTES: Final = 4_096
_MILESTONES: Final = frozenset({10, 100, 1_000, 10_000, 100_000})
_ANSWERED_BY: Final[Mapping[str, bytes]] = {
    "openai.chat": b'"assistant"',
    "anthropic.messages": b'"assistant"',
    "bedrock.converse": b'"assistant"',
    "ollama.chat": b'"assistant"',
}
_NEAR_TIMES: Final = 4  # requests that differ only in numbers may be the items of a batch
_WINDOW_ITEMS: Final = 30  # as many as the turns that are read hold at least
_PACED_TIMES: Final = 6  # what waits hears the same until it is there, and what moves on hears only that it did
_STEERING: Final = frozenset({"chat", "text_completion", "generate_content"})


class Judged(Struct, frozen=True, gc=False):
    """What the guards found, and how the memory knows the request again; None where no answer is waited for."""

    findings: tuple[Finding, ...] = ()
    ticket: int | None = None

    @property
    def refusal(self) -> Finding | None:
        """The first finding that refuses."""
        return next((each for each in self.findings if each.action == "refuse"), None)

    @property
    def pause_s(self) -> float:
        """How long to wait before the request goes out."""
        return max((each.pause_s for each in self.findings), default=0.0)


class Memory:
    """What guards remember between requests, in one process."""

    __slots__ = ("prints", "seen")

    def __init__(self, key: bytes) -> None:
        self.prints = Fingerprints(key)
        self.seen = Seen()

    def answered(self, ticket: int | None, failed: bool = False) -> None:
        """Tell of each request that was judged and not refused: its answer came, or it failed and may be retried."""
        if ticket is not None:
            self.seen.end(ticket, failed)


_NOTHING: Final = Judged()


def judge(policy: LoopPolicy, memory: Memory, facts: Facts) -> Judged:
    """All guards on one request. It is counted; one that is refused is taken back."""
    own = policy.of(facts.agent)
    asker = Asker(facts.agent, facts.run, facts.at_s)
    asked, key = _opened(own, memory, facts)
    known = memory.seen.begin(asker, key, own.window_s)
    found: list[Passed] = []
    if (
        len(facts.path) > 1
        or facts.depth > 1
        or (facts.run_calls or 0) >= (own.max_calls_per_run or _NONE)
        or (facts.run_nanos or 0) >= (own.max_nanos_per_run or _NONE)
    ):
        found += _standing(own, facts)
    if known.calls_in_minute >= (own.max_calls_per_minute or _NONE) or known.runs_in_minute >= (
        own.max_runs_per_minute or _NONE
    ):
        found += _rates(own, known)
    if asked is not None:
        found += _conversation(own, memory, facts, asker, known=known, asked=asked)
    elif key is not None:
        found += _asked_again(own, memory, asker, known.alike)
    ticket = known.ticket
    if not found:
        return _NOTHING if ticket is None else Judged((), ticket)
    findings = tuple(told(own, memory.seen, facts, each) for each in found)
    judged = Judged(findings, ticket)
    if judged.refusal is not None:
        memory.answered(ticket, failed=True)
    return judged


def standing(policy: LoopPolicy, memory: Memory, facts: Facts) -> tuple[Finding, ...]:
    """What is wrong with where a request stands: its path, and the counters of its run where they are given."""
    own = policy.of(facts.agent)
    return tuple(told(own, memory.seen, facts, each) for each in _standing(own, facts))


def _opened(own: LoopPolicy, memory: Memory, facts: Facts) -> tuple[Asked | None, int | None]:
    """The turns of a conversation, none of a question that is asked alone; and by which key it is known again."""
    lone = _is_lone(own, facts)
    if not lone:
        asked = _asked(own, facts)
        if asked is None:
            return None, None
        if lone is False or not _asks_alone(asked):
            return asked, memory.prints.key(asked)
    return None, _lone_key(own, memory, facts) if len(facts.path) > 1 else None


def _asked(own: LoopPolicy, facts: Facts) -> Asked | None:
    """The request, where its repeats are looked at."""
    body = facts.body
    if body is None or facts.operation not in _STEERING or not own.reads_requests:
        return None
    if own.allow and own.allows(facts.agent):
        return None
    asked = open_request(facts.protocol, body)
    return asked if asked is not None and asked.turns else None


def _all(facts: Facts) -> Callable[[], Sequence[Raw]]:
    """All turns of a request of which only the last were cut."""

    def turns() -> Sequence[Raw]:
        asked = open_request(facts.protocol, facts.body or b"", whole=True)
        return asked.turns if asked is not None else ()

    return turns


def _standing(own: LoopPolicy, facts: Facts) -> Iterable[Passed]:
    """Where the request stands in its run."""
    path = facts.path
    depth = max(facts.depth, len(path))
    if own.max_depth is not None and depth > own.max_depth:
        yield Passed("max_depth", depth, own.max_depth, f"it stands {depth} agents deep: {shown_path(path)}", path)
    if own.max_visits is not None and len(path) > own.max_visits and facts.agent is not None:
        visits = path.count(facts.agent)
        if visits > own.max_visits:
            agents = tuple(dict.fromkeys(path))
            what = f"it stands {visits} times on its own path: {shown_path(path)}"
            yield Passed("max_visits", visits, own.max_visits, what, agents)
    calls, nanos, since_s = facts.run_calls, facts.run_nanos, facts.run_since_s
    if own.max_calls_per_run is not None and calls is not None and calls >= own.max_calls_per_run:
        yield Passed("max_calls_per_run", calls, own.max_calls_per_run, f"its run made {calls} calls", (), since_s)
    most = own.max_usd_per_run
    if nanos is not None and isinstance(most, Decimal) and nanos >= (own.max_nanos_per_run or 0):
        yield Passed("max_usd_per_run", usd(nanos), most, f"its run spent ${facts.run_usd}", (), since_s)


def _rates(own: LoopPolicy, known: Known) -> Iterable[Passed]:
    most = own.max_calls_per_minute
    if most is not None and known.calls_in_minute >= most:
        what = f"it made {known.calls_in_minute} calls within a minute"
        yield Passed("max_calls_per_minute", known.calls_in_minute, most, what)
    most = own.max_runs_per_minute
    if most is not None and known.runs_in_minute >= most:
        what = f"it began {known.runs_in_minute} runs within a minute"
        yield Passed("max_runs_per_minute", known.runs_in_minute, most, what)


def _is_lone(own: LoopPolicy, facts: Facts) -> bool | None:
    """Whether it is a question without any answer in it: often meant to be asked again, as in samples and batches.

    A look for the word that every conversation has in it: to read a short request would take longer. None: to read it
    takes no longer.
    """
    mark, body = _ANSWERED_BY.get(facts.protocol), facts.body
    if mark is None or body is None or "max_repeats" in own.actions:
        return False
    if body.rfind(mark, -_SHORT_BYTES) >= 0:
        return False
    return None if len(body) > _SHORT_BYTES else body.count(b'"role"') <= _MOST_LONE_TURNS


def _asks_alone(asked: Asked) -> bool:
    return asked.earlier is None and len(asked.turns) <= _MOST_LONE_TURNS and not has_answers(asked)


def _lone_key(own: LoopPolicy, memory: Memory, facts: Facts) -> int | None:
    """Only where several agents share a run do its questions say anything: that they ask each other the same."""
    if facts.run is None or facts.body is None or facts.operation not in _STEERING:
        return None
    return None if own.allows(facts.agent) else memory.prints.whole(facts.body)


def _conversation(
    own: LoopPolicy, memory: Memory, facts: Facts, asker: Asker, *, known: Known, asked: Asked
) -> list[Passed]:
    """A conversation that goes out again as it was, and one that shows by itself that it goes round."""
    found: list[Passed] = []
    turns = asked.turns
    if known.alike.times:
        # what the provider remembers is not seen here: there may be news in it
        unsure = facts.run is None or asked.server_state or not has_answers(asked)
        noted = memory.seen.note(known.ticket, memory.prints.closely(asked), facts.at_s)
        found += _again(own, memory, asker, noted, softly="warn" if unsure else None)
    else:
        memory.seen.news(asker)
    if len(turns) >= FEWEST_TURNS:
        all_turns = None if asked.earlier is None else _all(facts)
        repeats = look(turns, own.allows, own.max_repeats or 3, all_turns)
        if repeats:
            found += _history(own, repeats)
    return found


def _asked_again(own: LoopPolicy, memory: Memory, asker: Asker, exact: Tally) -> Iterable[Passed]:
    """Agents that ask each other the same in turn; and, told now and then, a question that is asked again."""
    if not exact.times:
        memory.seen.news(asker)
        return
    yield from _turns(own, exact, *memory.seen.turn(asker))
    if exact.times in _MILESTONES and own.max_repeats is not None:
        what = f"the same request went out {exact.times} times before"
        yield Passed("max_repeats", exact.times, own.max_repeats, what, exact.agents, exact.since_s, softly="warn")


def _again(
    own: LoopPolicy, memory: Memory, asker: Asker, noted: tuple[Tally, Tally, Tally], *, softly: Action | None
) -> Iterable[Passed]:
    """The same request again, or nearly the same. With other numbers it may be the next one of a batch."""
    exact, loose, ticked = noted
    rounds, agents = memory.seen.turn(asker) if exact.times or ticked.times else memory.seen.news(asker)
    most = own.max_repeats
    if most is not None:
        if exact.times >= most:
            what = f"the same request went out {exact.times} times before"
            yield Passed("max_repeats", exact.times, most, what, exact.agents, exact.since_s, softly=softly)
        elif ticked.times >= most:
            what = f"a request that differs only in a time, an id or a counter went out {ticked.times} times before"
            yield Passed("max_repeats", ticked.times, most, what, ticked.agents, ticked.since_s, softly=softly)
        elif loose.times >= _NEAR_TIMES * most:
            what = f"a request that differs only in its numbers went out {loose.times} times before"
            limit = _NEAR_TIMES * most
            yield Passed("max_repeats", loose.times, limit, what, loose.agents, loose.since_s, softly="warn")
    yield from _turns(own, ticked, rounds, agents)


def _turns(own: LoopPolicy, tally: Tally, rounds: int, agents: tuple[str, ...]) -> Iterable[Passed]:
    """Agents that take turns with nothing new."""
    most = own.max_rounds_without_news
    if most is not None and len(agents) > 1 and rounds >= most * len(agents):
        count = rounds // len(agents)
        what = f"{listed(agents)} took turns for {count} rounds with nothing new"
        yield Passed("max_rounds_without_news", count, most, what, agents, tally.since_s)


def _history(own: LoopPolicy, repeats: tuple[Repeats, ...]) -> Iterable[Passed]:
    """What the conversation itself shows."""
    named: set[Guard] = set()
    for each in repeats:
        passed = _line(own, each)
        if passed is not None and passed.guard not in named:
            named.add(passed.guard)
            yield passed


def _line(own: LoopPolicy, each: Repeats) -> Passed | None:
    who, count = listed(each.who), each.times
    tools = tuple(name for name in each.who if name not in {"user", "assistant"})
    if each.kind == "same" and own.max_repeats is not None and count >= own.max_repeats:
        done = f"called {who} with the same arguments and the same result" if tools else f"heard the same from {who}"
        what = f"its conversation {done} {count} times, with nothing new in between"
        return Passed("max_repeats", count, own.max_repeats, what, tools=tools)
    if each.kind in ("waits", "moves") and own.max_repeats is not None:
        limit, waits = _PACED_TIMES * own.max_repeats, each.kind == "waits"
        fills_all = waits and each.turns >= _WINDOW_ITEMS and count >= 2 * own.max_repeats
        if count >= limit or fills_all:
            what = f"its conversation {each.kind} with {who}, and heard the same {count} times with nothing new"
            return Passed("max_repeats", count, limit, what, tools=tools, softly="brake" if waits else None)
    if each.kind == "restated" and own.max_repeats is not None and count >= _NEAR_TIMES * own.max_repeats:
        what = f"its conversation called {who} {count} times in a row for the same result, with a number that goes on"
        return Passed("max_repeats", count, _NEAR_TIMES * own.max_repeats, what, tools=tools)
    if each.kind == "silent" and own.max_rounds_without_news is not None and count >= own.max_rounds_without_news:
        what = f"{who} took turns for {count} rounds in its conversation with nothing new"
        return Passed("max_rounds_without_news", count, own.max_rounds_without_news, what)
    if each.kind == "poll" and own.max_polls is not None and count >= own.max_polls:
        what = f"its conversation called {who} with the same arguments {count} times in a row"
        return Passed("max_polls", count, own.max_polls, what, tools=tools)
    return None
