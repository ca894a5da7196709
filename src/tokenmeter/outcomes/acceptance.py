"""Who accepted it: an outcome is one when somebody else than the spender says so.

Two people who mostly accept each other's work are one spender with two names, and so is an account that accepts for
nobody else. Both show in the acceptances alone. They are looked for only where there are enough others: in a company of
three everybody accepts everybody's. A kind that names its accepters trusts them, and isn't looked at.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping
from typing import Final

from tokenmeter.ledger.views import Outcome, RunSum
from tokenmeter.outcomes.people import plain, same

LONGEST_RING: Final = 3
FEWEST: Final = 5  # acceptances; fewer say nothing
FEWEST_OTHERS: Final = 5  # spenders outside
_MOSTLY: Final = 0.5
_ALMOST_ALL: Final = 0.9

Pair = tuple[str, str]  # spender and accepter, as plain names


def is_self_accepted(outcome: Outcome, runs: Iterable[RunSum]) -> bool:
    """Whether who accepted it is who claims it, who spent, or an agent of theirs."""
    accepter = outcome.accepted_by
    if accepter is None:
        return False
    if same(accepter, outcome.user) or any(same(accepter, agent) for agent in outcome.agents):
        return True
    return any(same(accepter, run.user) or any(same(accepter, agent) for agent in run.agents) for run in runs)


def closed(pairs: Iterable[tuple[str, str, bool]], directory: frozenset[str] = frozenset()) -> frozenset[Pair]:
    """The pairs of spender and accepter in which the accepter is as good as the spender.

    The third of each is whether nobody but the claimant says who accepted: what CI or a forge tells of is an account
    that exists. ``directory``: people who are known to be people; none of them is somebody's second account.
    """
    given: dict[str, Counter[str]] = defaultdict(Counter)  # by accepter
    told: set[str] = set()
    for spender, accepter, own_word in pairs:
        given[plain(accepter)][plain(spender)] += 1
        if not own_word:
            told.add(plain(accepter))
    spenders = {spender for those in given.values() for spender in those}
    if len(spenders) <= FEWEST_OTHERS:
        return frozenset()
    found = frozenset(_captive(given, spenders | told | directory)) | frozenset(_rings(given, spenders))
    return found | frozenset(_strangers(given, spenders, directory)) if directory else found


def _captive(given: Mapping[str, Counter[str]], known: Container[str]) -> Iterable[Pair]:
    """Accepters who accept for one spender only, and whom nothing else knows."""
    for accepter, those in given.items():
        spender, most = those.most_common(1)[0]
        if accepter in known:
            continue
        if most >= FEWEST and most >= _ALMOST_ALL * those.total():
            yield spender, accepter


def _strangers(given: Mapping[str, Counter[str]], spenders: set[str], directory: Container[str]) -> Iterable[Pair]:
    """Accepters who spend and are nobody whom the directory knows: programs that accept the work of programs."""
    for accepter in spenders & given.keys():
        if accepter not in directory:
            yield from ((spender, accepter) for spender in given[accepter])


def _rings(given: Mapping[str, Counter[str]], spenders: set[str]) -> Iterable[Pair]:
    """Spenders each of whom has most of what peers accepted of theirs from the next, and the last from the first."""
    by_spender: dict[str, Counter[str]] = defaultdict(Counter)
    for accepter in spenders & given.keys():
        for spender, number in given[accepter].items():
            by_spender[spender][accepter] += number
    chief = {}
    for spender, accepters in by_spender.items():
        accepter, most = min(accepters.items(), key=lambda item: (-item[1], item[0]))
        if most >= FEWEST and most > _MOSTLY * accepters.total():
            chief[spender] = accepter
    for spender, accepter in chief.items():
        at: str | None = accepter
        for _ in range(LONGEST_RING - 1):
            at = chief.get(at) if at is not None else None
            if at == spender:
                yield spender, accepter
                break
