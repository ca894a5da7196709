"""How many lines of a commit still stand some days later, on the main line as it was then."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Final

from tokenmeter.errors import ConfigError
from tokenmeter.outcomes.git_program import Commit, Git

_BLAMED: Final = re.compile(r"^\^?([0-9a-f]{40,64}) \d+ \d+", re.MULTILINE)
_MOST_FILES: Final = 400  # of one commit; a commit of more is a move or an import, and stands
_MOST_KEPT: Final = 2_000


class Standing:
    """Asks git who a line is of, and remembers the answers."""

    def __init__(self, git: Git, line: Sequence[Commit], days: float) -> None:
        if not 0 < days <= 3650:
            raise ConfigError(f"stand_days is {days!r}; give days from 1 to 3650, such as 14")
        self.days = days
        self._git = git
        self._line = line
        latest = float("-inf")
        self._times = [latest := max(latest, commit.at_s) for commit in line]  # clocks of committers differ
        self._blames: dict[tuple[str, str], Counter[str]] = {}

    def of(self, commit: Commit, own: set[str]) -> tuple[int, int]:
        """The lines that a commit of the main line added, and how many stand; ``own``: it and what it merged."""
        later = self._line[max(0, bisect_right(self._times, commit.at_s + self.days * 86_400) - 1)].sha
        added = self._added(commit)
        if len(added) > _MOST_FILES:
            return sum(added.values()), sum(added.values())
        moved = self._moved(commit.sha, later)
        left = 0
        for path, lines in added.items():
            now = moved.get(path, path)
            if now is not None and lines:
                blame = self._blame(later, now)
                left += min(lines, sum(blame[sha] for sha in own))
        return sum(added.values()), left

    def _added(self, commit: Commit) -> dict[str, int]:
        before = [commit.parents[0]] if commit.parents else ["--root"]
        said = self._git.ask("diff-tree", "-r", "-z", "--no-commit-id", "--numstat", "--no-renames", "--no-ext-diff",
                             "--no-textconv", *before, commit.sha)  # fmt: skip
        found = {}
        for entry in said.split("\0"):
            added, _, path = [*entry.split("\t", 2), "", ""][:3]
            if path and added.strip().isdigit():
                found[path] = int(added)
        return found

    def _moved(self, sha: str, later: str) -> dict[str, str | None]:
        """Where files went: a new name, or nowhere."""
        if sha == later:
            return {}
        parts = self._git.ask("diff-tree", "-r", "-z", "-M", "--diff-filter=RD", "--name-status", sha, later).split(
            "\0"
        )
        found: dict[str, str | None] = {}
        i = 0
        while i + 1 < len(parts) and parts[i]:
            if parts[i].startswith("R"):
                found[parts[i + 1]] = parts[i + 2]
                i += 3
            else:
                found[parts[i + 1]] = None
                i += 2
        return found

    def _blame(self, rev: str, path: str) -> Counter[str]:
        key = rev, path
        if key not in self._blames:
            if len(self._blames) >= _MOST_KEPT:
                self._blames.clear()
            said = self._git.ask("blame", "--porcelain", "-w", "--no-textconv", rev, "--", path)
            self._blames[key] = Counter(_BLAMED.findall(said))
        return self._blames[key]
