"""Outcomes out of a git history: commits and merges, deployments as tags, reverts as revocations.

The main line is what was accepted: each of its commits is an outcome, a merge together with the commits that it brought
in is one change. An ``AI-Run:`` trailer names the run; without, the author and the time must do. A revert takes back
what it names and is no outcome; reverting a revert is one again. The git program is asked, nothing is written.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tokenmeter.ledger.views import Outcome
from tokenmeter.outcomes.git_program import Commit, Git, Tag
from tokenmeter.outcomes.git_standing import Standing
from tokenmeter.outcomes.harvest import Harvest, Revocation
from tokenmeter.outcomes.kinds import BUILT_IN, Kinds, new_outcome
from tokenmeter.outcomes.linking import LINKED_BY, RUN
from tokenmeter.outcomes.people import same
from tokenmeter.outcomes.trailers import address

_MAX_RUNS: Final = 60
_FORGES: Final = ("noreply@github.com", "noreply@gitlab.com")
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class GitOptions:
    """How a history is read.

    Args:
        branch: the line that counts as accepted.
        name: the name of the repository, the folder's by default.
        team: the team that the commits are claimed for.
        people: users by mail address, where they differ.
        marked_only: leave out commits that neither a run nor a co-author line marks as made with AI.
        deployments: which tags are deployments, as ``deploy/*``; the changes since the one before belong to it.
        since_s: leave out what is older.
        stand_days: wait so many days with each commit, and count it by the part of its lines that still stand then.
        now_s: the present, for ``stand_days``; the newest commit by default.
    """

    branch: str = "HEAD"
    name: str | None = None
    team: str | None = None
    people: Mapping[str, str] = field(default_factory=dict, hash=False)
    marked_only: bool = False
    deployments: str | None = None
    since_s: float | None = None
    stand_days: float | None = None
    now_s: float | None = None
    kinds: Kinds = field(default_factory=lambda: BUILT_IN, hash=False)


def read_git(path: str | Path, options: GitOptions | None = None) -> Harvest:
    """The outcomes and revocations of a repository.

    Raises:
        ConfigError: no repository, no such branch, or no git program.
    """
    git = Git(Path(path))
    reading = _Reading(git, options or GitOptions())
    return reading.harvest()


@dataclass(frozen=True, slots=True)
class _Change:
    """A commit of the main line and the commits that it brought in."""

    commit: Commit
    brought: tuple[Commit, ...]

    @property
    def all(self) -> tuple[Commit, ...]:
        return (*self.brought, self.commit)

    @property
    def is_merge(self) -> bool:
        return len(self.commit.parents) > 1 or self.commit.message.change is not None

    @property
    def kind(self) -> str:
        return "merge" if self.is_merge else "commit"

    @property
    def assisted(self) -> bool:
        return any(commit.message.assisted for commit in self.all)

    @property
    def reverts(self) -> bool:
        return any(commit.message.reverts or commit.message.reverts_changes for commit in self.all)


class _Reading:
    """One pass over a history."""

    def __init__(self, git: Git, options: GitOptions) -> None:
        self._git = git
        self._options = options
        self._name = options.name or git.name
        self._commits = {commit.sha: commit for commit in git.commits(options.branch)}
        self._changes = list(_main_line(self._commits, git.tip(options.branch)))
        self._by_sha = {commit.sha: change for change in self._changes for commit in change.all}
        self._left_out: list[str] = []
        self._reapplied: dict[str, str] = {}  # the commit that reverts a revert: what it brings back

    def harvest(self) -> Harvest:
        outcomes: list[Outcome] = []
        revocations = list(self._reverts())
        deployments, folds = self._deployments(revocations)
        newest_s = max((change.commit.at_s for change in self._changes), default=0.0)
        standing = None
        if self._options.stand_days is not None:
            standing = Standing(self._git, [change.commit for change in self._changes], self._options.stand_days)
        now_s = self._options.now_s if self._options.now_s is not None else newest_s
        for change in self._changes:
            outcome = self._outcome(change, folds)
            if outcome is None:
                continue
            if standing is not None:
                if change.commit.at_s + standing.days * _DAY_S > now_s:
                    self._left_out.append(f"{outcome.key[:12]} hasn't stood for {standing.days:g} days yet")
                    continue
                lines, left = standing.of(change.commit, {commit.sha for commit in change.all})
                outcome = _by_lines(outcome, lines, left)
                if lines and not left:
                    why = f"none of its {lines} lines stood after {standing.days:g} days"
                    revocations.append(
                        Revocation(outcome.kind, outcome.key, outcome.at_s + standing.days * _DAY_S, why)
                    )
            outcomes.append(outcome)
        return Harvest((*outcomes, *deployments), tuple(revocations), tuple(self._left_out))

    def _outcome(self, change: _Change, folds: Mapping[str, str]) -> Outcome | None:
        commit, options = change.commit, self._options
        if options.since_s is not None and commit.at_s < options.since_s:
            return None
        if change.reverts and commit.sha not in self._reapplied:
            self._left_out.append(f"{commit.sha[:12]} is a revert")
            return None
        if options.marked_only and not change.assisted:
            self._left_out.append(f"{commit.sha[:12]} has neither an AI-Run trailer nor a co-author line of a program")
            return None
        return self._new(change.kind, commit.sha, commit.at_s, [change], folds.get(commit.sha, self._fold(change)))

    def _new(self, kind: str, key: str, at_s: float, changes: Iterable[_Change], fold: str) -> Outcome:
        options, changes = self._options, list(changes)
        commits = [commit for change in changes for commit in change.all]
        runs = list(dict.fromkeys(run for commit in commits for run in commit.message.runs))[:_MAX_RUNS]
        attributes = [("target", self._name)]
        if runs:
            attributes += [(LINKED_BY, "trailer"), *((RUN, run) for run in runs[1:])]
        if any(change.assisted for change in changes):
            attributes.append(("assisted", "yes"))
        authors = list(dict.fromkeys(self._author(change) for change in changes))
        one = authors[0] if len(authors) == 1 else None
        return new_outcome(
            kind, key, at_s,
            team=options.team,
            # a run says better who it was than a mail address does
            user=None if runs else one,
            run=runs[0] if runs else None,
            agents=dict.fromkeys(agent for commit in commits for agent in commit.message.agents),
            fold=fold[:256],
            accepted_by=self._accepter(changes[-1], one) if kind != "deployment" else "deployment",
            source="git",
            attributes=attributes,
            kinds=options.kinds,
        )  # fmt: skip

    def _author(self, change: _Change) -> str:
        """Whose work it is: of a merge, who wrote the last commit that it brought in."""
        last = max(change.brought, key=lambda commit: commit.at_s, default=change.commit)
        return self._user(last.author)

    def _accepter(self, change: _Change, author: str | None) -> str | None:
        """Who reviewed it by name, else who merged or committed it, if that is somebody else."""
        said = [name for commit in change.all for name in commit.message.reviewers]
        mergers = [change.commit.author] if len(change.commit.parents) > 1 else []
        for name in (*said, *mergers, change.commit.committer):
            if address(name) not in _FORGES and not same(self._user(name), author):
                return self._user(name)
        return None

    def _user(self, person: str) -> str:
        return (self._options.people.get(person) or person or "unknown")[:256]

    def _fold(self, change: _Change) -> str:
        return f"{self._name}:{self._reapplied.get(change.commit.sha, change.commit.sha)}"

    def _reverts(self) -> Iterator[Revocation]:
        numbers = {
            change.commit.message.change: change for change in self._changes if change.commit.message.change is not None
        }
        for change in self._changes:
            for commit in change.all:
                found = [self._known(sha) for sha in commit.message.reverts]
                found += [numbers.get(number) for number in commit.message.reverts_changes]
                for target in found:
                    if target is None or target is change:
                        continue
                    if target.reverts and target.commit.sha not in self._reapplied:
                        self._reapplied[change.commit.sha] = target.commit.sha
                        continue
                    why = f"reverted by {change.commit.sha[:12]}"
                    yield Revocation(target.kind, target.commit.sha, change.commit.at_s, why)

    def _known(self, sha: str) -> _Change | None:
        if sha in self._by_sha:
            return self._by_sha[sha]
        found = [change for full, change in self._by_sha.items() if full.startswith(sha)]
        return found[0] if len(found) == 1 else None

    def _deployments(self, revocations: list[Revocation]) -> tuple[list[Outcome], dict[str, str]]:
        """Deployments, and to which of them each change belongs. An older state, deployed again, is a rollback."""
        if self._options.deployments is None:
            return [], {}
        tags = [tag for tag in self._git.tags() if fnmatch.fnmatchcase(tag.name, self._options.deployments)]
        place = {change.commit.sha: i for i, change in enumerate(self._changes)}
        outcomes: list[Outcome] = []
        folds: dict[str, str] = {}
        standing: list[tuple[int, Outcome]] = []
        upto = 0
        for tag in tags:
            if tag.sha not in place:
                self._left_out.append(f"tag {tag.name} isn't on the line {self._options.branch}")
                continue
            end = place[tag.sha] + 1
            if end <= upto:
                revocations += self._rolled_back(tag, end, standing)
                upto = end
                continue
            key = f"{self._name}#{tag.name}"[:256]
            changes = self._changes[upto:end]
            folds |= {change.commit.sha: f"deploy:{key}"[:256] for change in changes}
            outcome = self._new("deployment", key, tag.at_s, changes, f"deploy:{key}")
            if self._options.since_s is None or tag.at_s >= self._options.since_s:
                outcomes.append(outcome)
            standing.append((end, outcome))
            upto = end
        return outcomes, folds

    def _rolled_back(self, tag: Tag, end: int, standing: list[tuple[int, Outcome]]) -> Iterator[Revocation]:
        while standing and standing[-1][0] > end:
            _, outcome = standing.pop()
            yield Revocation(outcome.kind, outcome.key, tag.at_s, f"rolled back by {tag.name}")


def _main_line(commits: Mapping[str, Commit], tip: str) -> Iterator[_Change]:
    """The changes from the oldest on: each with the commits that came in through it."""
    line = []
    at: str | None = tip
    while at is not None and at in commits:
        line.append(commits[at])
        at = commits[at].parents[0] if commits[at].parents else None
    taken = {commit.sha for commit in line}
    for commit in reversed(line):
        brought, todo = [], list(commit.parents[1:])
        while todo:
            sha = todo.pop()
            if sha in taken or sha not in commits:
                continue
            taken.add(sha)
            brought.append(commits[sha])
            todo += commits[sha].parents
        yield _Change(commit, tuple(brought))


def _by_lines(outcome: Outcome, lines: int, left: int) -> Outcome:
    """Weighed by the part of its lines that stands; what only removed lines stands by itself."""
    part = left / lines if lines else 1.0
    counts = (("lines", str(lines)), ("standing", str(left)))
    return replace(outcome, weight=outcome.weight * part, attributes=(*outcome.attributes, *counts))
