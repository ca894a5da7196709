"""Which outcomes count, for whom and how much, and why the others don't.

Nothing is dropped without a word: each outcome gets one verdict, and what doesn't count is shown apart with its reason.
The credit of an outcome goes to who made the runs that led to it, never to who says that it is theirs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from tokenmeter.ledger.views import Link, Outcome, RunSum
from tokenmeter.outcomes.acceptance import Pair, closed, is_self_accepted
from tokenmeter.outcomes.changes import MICROS, OWN_WORD, Change, Claim, Credit, changes
from tokenmeter.outcomes.kinds import BUILT_IN, Kind, Kinds
from tokenmeter.outcomes.people import plain, same
from tokenmeter.outcomes.rules import DEFAULT, Rules
from tokenmeter.outcomes.shares import as_part

Verdict = Literal[
    "counted",
    "folded",
    "revoked",
    "undeclared",
    "future",
    "unsure",
    "spendless",
    "disputed",
    "self_accepted",
    "not_accepted",
]

WHY: Final[Mapping[Verdict, str]] = {
    "counted": "it counts",
    "folded": "it is part of a change that counts once",
    "revoked": "it was taken back, or the change that it is part of was",
    "undeclared": "nobody declared its kind; declare it under [outcomes.kinds] in tokenmeter.toml, or with Kind(…)",
    "future": "it lies after the time that is looked at",
    "unsure": "it is less sure than least_confidence that it was accepted",
    "spendless": "no spend led to it",
    "disputed": "the runs that it names are those of somebody else",
    "self_accepted": "who accepted it is who spent, or one of few who accept each other's",
    "not_accepted": "who accepted it is none of the accepters of its kind",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """An outcome and what became of it. ``micros`` are millionths of a unit, ``credits`` say which runs have them."""

    outcome: Outcome
    verdict: Verdict
    micros: int = 0
    credits: tuple[Credit, ...] = ()
    contested: bool = False

    @property
    def why(self) -> str:
        """The verdict in words."""
        return WHY[self.verdict]


def judge(
    outcomes: Iterable[Outcome],
    runs: Iterable[RunSum],
    links: Iterable[Link],
    *,
    kinds: Kinds = BUILT_IN,
    rules: Rules = DEFAULT,
    as_of_s: float | None = None,
) -> tuple[Judged, ...]:
    """What each outcome counts for, in the order of their kinds and keys. The order of what is given doesn't matter.

    A revocation takes an outcome back for good, in past windows too: it is judged by what is known now. Of outcomes
    with one kind and key the first counts.
    """
    by_run = {run.run: run for run in runs}
    by_outcome: dict[tuple[str, str], list[Link]] = defaultdict(list)
    for each in links:
        if each.run in by_run:
            by_outcome[each.kind, each.key].append(each)
    unique = _unique(outcomes)
    done: dict[tuple[str, str], Judged] = {}
    open_: list[tuple[Outcome, Kind, list[tuple[Link, RunSum]]]] = []
    for name, outcome in unique.items():
        led = [(each, by_run[each.run]) for each in by_outcome.get(name, ())]
        verdict, own = _alone(outcome, kinds.get(outcome.kind), led, rules, as_of_s)
        if verdict is None:
            open_.append((outcome, kinds[outcome.kind], own))
        else:
            done[name] = Judged(outcome, verdict)
    circle = closed(_acceptances(open_), frozenset(plain(user) for user in rules.teams))
    circle |= _agents_of_one(by_run.values())
    claims = []
    for outcome, kind, own in open_:
        left = _left(outcome, kind, [run for _, run in own], circle, rules)
        if left or outcome.revoked_s is not None:
            claims.append(_claim(outcome, kind, own, left, rules))
        else:
            verdict = "self_accepted" if outcome.accepted_by is not None else "not_accepted"
            done[outcome.kind, outcome.key] = Judged(outcome, verdict)
    standing, fallen = changes(claims, rules)
    for claim in fallen + tuple(claim for claim in claims if claim.taken_back):
        done[claim.outcome.kind, claim.outcome.key] = Judged(claim.outcome, "revoked")
    for change in standing:
        for judged in _of_change(change):
            done[judged.outcome.kind, judged.outcome.key] = judged
    return tuple(done[name] for name in sorted(done))


def _unique(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], Outcome]:
    """The first outcome of each kind and key, revoked where any of that name is."""
    found: dict[tuple[str, str], Outcome] = {}
    for outcome in sorted(outcomes, key=lambda each: (each.at_s, repr(each))):
        name = outcome.kind, outcome.key
        known = found.setdefault(name, outcome)
        if outcome.revoked_s is not None and (known.revoked_s is None or outcome.revoked_s < known.revoked_s):
            found[name] = replace(known, revoked_s=outcome.revoked_s, revoked_why=outcome.revoked_why)
    return found


def _alone(
    outcome: Outcome,
    kind: Kind | None,
    led: Sequence[tuple[Link, RunSum]],
    rules: Rules,
    as_of_s: float | None,
) -> tuple[Verdict | None, list[tuple[Link, RunSum]]]:
    """The verdict on an outcome by itself, and the runs behind it, unless none of them is of who claims it."""
    own = list(led) if any(_is_theirs(outcome, run, rules) for _, run in led) else []
    if kind is None:
        return "undeclared", own
    if as_of_s is not None and outcome.at_s > as_of_s:
        return "future", own
    if not led:
        return "revoked" if outcome.revoked_s is not None else "spendless", own
    if not own:
        return "revoked" if outcome.revoked_s is not None else "disputed", own
    if outcome.confidence < rules.least_confidence:
        return "unsure", own
    if outcome.accepted_by is not None and not kind.admits(outcome.accepted_by):
        return "not_accepted", own
    if outcome.accepted_by is None and kind.accepters:
        return "not_accepted", own
    return None, own


def _is_theirs(outcome: Outcome, run: RunSum, rules: Rules) -> bool:
    """Whether a run is of who claims the outcome; a claim that names nobody is of whoever made the run."""
    if outcome.user is not None and run.user is not None and not same(outcome.user, run.user):
        return False
    team = rules.team_of(run.user, run.team)
    claimed = rules.team_of(outcome.user, outcome.team)
    return claimed is None or same(claimed, team)


def _acceptances(
    open_: Iterable[tuple[Outcome, Kind, list[tuple[Link, RunSum]]]],
) -> Iterable[tuple[str, str, bool]]:
    for outcome, kind, own in open_:
        if (
            outcome.accepted_by is not None
            and not kind.accepters
            and not is_self_accepted(outcome, (run for _, run in own))
        ):
            for user in {run.user for _, run in own if run.user is not None}:
                yield user, outcome.accepted_by, outcome.source == OWN_WORD


def _agents_of_one(runs: Iterable[RunSum]) -> frozenset[Pair]:
    """The agents that one person alone has: what they accept of hers she accepts herself, in whichever run."""
    users: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for agent in run.agents:
            users[plain(agent)].add(plain(run.user or ""))
    return frozenset((user, agent) for agent, those in users.items() if len(those) == 1 for user in those)


def _left(outcome: Outcome, kind: Kind, spenders: Sequence[RunSum], circle: frozenset[Pair], rules: Rules) -> float:
    """What is left of an outcome after a look at who accepted it."""
    heard = rules.own_word if outcome.source == OWN_WORD else 1.0
    if outcome.accepted_by is None:
        return rules.unsaid_accepter * heard
    accepter = plain(outcome.accepted_by)
    if is_self_accepted(outcome, spenders):
        return rules.self_accepted * heard
    if not kind.accepters and any(run.user and (plain(run.user), accepter) in circle for run in spenders):
        return rules.self_accepted * heard
    return heard


def _claim(outcome: Outcome, kind: Kind, own: Sequence[tuple[Link, RunSum]], left: float, rules: Rules) -> Claim:
    weight = min(max(outcome.weight, 0.0), kind.weight)
    return Claim(
        outcome=outcome,
        micros=round(weight * min(max(outcome.confidence, 0.0), 1.0) * left * MICROS),
        foldable=kind.foldable,
        runs=tuple(
            (run.run, (rules.team_of(run.user, run.team), run.user), as_part(each.share), each.confidence)
            for each, run in own
        ),
        named=tuple(run.run for each, run in own if each.how != "window"),
        taken_back=outcome.revoked_s is not None,
    )


def _of_change(change: Change) -> Iterable[Judged]:
    for claim in change.claims:
        if claim is change.strongest:
            micros = sum(credit.micros for credit in change.credits)
            yield Judged(claim.outcome, "counted", micros, change.credits, change.contested)
        else:
            yield Judged(claim.outcome, "folded", contested=change.contested)
