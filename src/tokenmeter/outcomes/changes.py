"""One change counts once, however finely it was cut and by however many kinds it was claimed.

Outcomes are parts of one change when they say so by their ``fold``; when they are of foldable kinds and one run led to
them; and, where nothing but the claimant's own word tells them apart, when one person claims them for one target within
a day. A change is worth what its strongest part is worth. Where several people claim it, those count whose claims were
read from where the work happened, and only without such the ones who say so themselves; they share it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tokenmeter.ledger.views import Outcome
from tokenmeter.outcomes.people import plain
from tokenmeter.outcomes.rules import Rules
from tokenmeter.outcomes.shares import split

MICROS: Final = 1_000_000  # one unit, in the integers that it is counted in
OWN_WORD: Final = "api"  # the source of what a program says of itself
_TARGETS: Final = ("target", "service", "repo")

Claimant = tuple[str | None, str | None]  # team and user


@dataclass(frozen=True, slots=True)
class Claim:
    """An outcome that may count: what it is worth, and the runs that led to it with their parts of one."""

    outcome: Outcome
    micros: int
    foldable: bool
    runs: tuple[tuple[str, Claimant, int, float], ...]  # run, who made it, part of WHOLE, confidence of the link
    named: tuple[str, ...]  # the runs that it names
    taken_back: bool = False

    @property
    def order(self) -> tuple[float, str, str]:
        """Strongest first is decided by worth; this decides between equals."""
        return self.outcome.at_s, self.outcome.kind, self.outcome.key

    @property
    def claimants(self) -> frozenset[Claimant]:
        """Who made the runs that led to it."""
        return frozenset(claimant for _, claimant, _, _ in self.runs)

    @property
    def own_word(self) -> bool:
        """Whether nobody but the program that claims it says so."""
        return self.outcome.source == OWN_WORD


@dataclass(frozen=True, slots=True)
class Credit:
    """What one run is credited of one change."""

    run: str
    claimant: Claimant
    micros: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Change:
    """Claims that are one change: the one that counts, the credits, and whether people claim it side by side."""

    strongest: Claim
    claims: tuple[Claim, ...]
    credits: tuple[Credit, ...]
    contested: bool


def changes(claims: Iterable[Claim], rules: Rules) -> tuple[tuple[Change, ...], tuple[Claim, ...]]:
    """The changes that stand, and the claims that a revocation of the same change took back."""
    told = _grouped(sorted(claims, key=lambda claim: claim.order))
    standing: list[list[Claim]] = []
    fallen: list[Claim] = []
    for group in told:
        back = [claim for claim in group if claim.taken_back]
        live: list[Claim] = []
        for claim in group:
            if claim.taken_back:
                continue
            (fallen if any(_takes_down(each, claim) for each in back) else live).append(claim)
        if live:
            standing.append(live)
    return tuple(_change(group) for group in _within_a_day(standing, rules)), tuple(fallen)


def _takes_down(back: Claim, claim: Claim) -> bool:
    """What was taken back takes along what it weighs up to, unless that came later.

    What only a program tells takes along nothing that was read from the work of somebody else.
    """
    if back.own_word and not claim.own_word and not back.claimants & claim.claimants:
        return False
    revoked_s = back.outcome.revoked_s
    same_change = back.outcome.fold == claim.outcome.fold is not None or (back.foldable and claim.foldable)
    return same_change and revoked_s is not None and claim.outcome.at_s <= revoked_s and claim.micros <= back.micros


def _grouped(claims: Sequence[Claim]) -> list[list[Claim]]:
    """What a fold or a run says to be one.

    Who names the fold of a change that was read from the work of others is part of it, and joins it to no other: else
    anybody could make one of all that somebody did.
    """
    union = _Union(len(claims))
    first: dict[tuple[str, str], int] = {}
    workers: dict[str | None, set[Claimant]] = defaultdict(set)
    for claim in claims:
        if not claim.own_word:
            workers[claim.outcome.fold] |= claim.claimants
    for i, claim in enumerate(claims):
        fold = claim.outcome.fold
        marks = [("fold", fold)] if fold is not None else []
        joins = fold not in workers or not claim.own_word or bool(claim.claimants & workers[fold])
        marks += [("run", run) for run in claim.named] if claim.foldable and (joins or fold is None) else []
        for mark in marks:
            union.join(i, first.setdefault(mark, i))
    groups: dict[int, list[Claim]] = defaultdict(list)
    for i, claim in enumerate(claims):
        groups[union.find(i)].append(claim)
    return list(groups.values())


def _within_a_day(groups: Sequence[list[Claim]], rules: Rules) -> list[list[Claim]]:
    """What nothing but the claimant's word keeps apart is one change a day, person and target."""
    found: list[list[Claim]] = []
    open_since: dict[tuple[Claimant, str], tuple[float, list[Claim]]] = {}
    for group in sorted(groups, key=lambda group: group[0].order):
        mark = _mark(group)
        if mark is None:
            found.append(group)
            continue
        at_s = group[0].outcome.at_s
        since_s, day = open_since.get(mark, (at_s, None))
        if day is not None and at_s < since_s + rules.fold_s:
            day += group
        else:
            found.append(group)
            open_since[mark] = at_s, group
    return found


def _mark(group: Sequence[Claim]) -> tuple[Claimant, str] | None:
    if not all(claim.own_word and claim.foldable for claim in group):
        return None
    who = {claimant for claim in group for _, claimant, _, _ in claim.runs}
    targets = {_target(claim.outcome) for claim in group}
    if len(who) != 1 or len(targets) != 1:
        return None
    claimant, target = who.pop(), targets.pop()
    return None if claimant[1] is None and not target else (claimant, target)


def _target(outcome: Outcome) -> str:
    """What it was done to: ``api`` of ``api#412``, unless an attribute says it."""
    given = dict(outcome.attributes)
    for name in _TARGETS:
        if name in given:
            return plain(given[name])
    head, sign, _ = outcome.key.partition("#")
    return plain(head) if sign else ""


def _change(group: Sequence[Claim]) -> Change:
    from_work = [claim for claim in group if not claim.own_word]
    heard = from_work or group
    strongest = min(heard, key=lambda claim: (-claim.micros, claim.order))
    people: dict[Claimant, int] = defaultdict(int)
    runs: dict[Claimant, dict[str, tuple[int, float]]] = defaultdict(dict)
    for claim in heard:
        theirs: dict[Claimant, int] = defaultdict(int)
        for run, claimant, part, confidence in claim.runs:
            theirs[claimant] += part
            before = runs[claimant].get(run, (0, 0.0))
            runs[claimant][run] = max(before[0], part), max(before[1], confidence)
        for claimant, part in theirs.items():
            people[claimant] = max(people[claimant], part)
    order = sorted(people, key=lambda who: (who[0] or "", who[1] or ""))
    found = []
    for claimant, micros in zip(order, split(strongest.micros, [people[who] for who in order]), strict=True):
        names = sorted(runs[claimant])
        # how sure it is must not fall when a change is cut: the surest link of a claimant holds for all of theirs
        confidence = max(confidence for _, confidence in runs[claimant].values())
        parts = split(round(micros * confidence), [runs[claimant][name][0] for name in names])
        found += [
            Credit(name, claimant, part, runs[claimant][name][1]) for name, part in zip(names, parts, strict=True)
        ]
    lone = {tuple(sorted({claimant for _, claimant, _, _ in claim.runs}, key=str)) for claim in group}
    return Change(strongest, tuple(group), tuple(found), contested=len(lone) > 1)


class _Union:
    """Which belong together."""

    __slots__ = ("_above",)

    def __init__(self, size: int) -> None:
        self._above = list(range(size))

    def find(self, i: int) -> int:
        while self._above[i] != i:
            self._above[i] = self._above[self._above[i]]
            i = self._above[i]
        return i

    def join(self, one: int, other: int) -> None:
        self._above[self.find(one)] = self.find(other)
