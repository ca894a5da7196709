"""The git program, asked in forms that no message, name or setting can break: fields end with a NUL."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenmeter.errors import ConfigError
from tokenmeter.outcomes.trailers import Message, read_message

_FIELDS: Final = ("%H", "%P", "%ct", "%ae", "%an", "%ce", "%B")
_TIMEOUT_S: Final = 300
_PLAIN: Final = (
    "-c", "log.showSignature=false", "-c", "i18n.logOutputEncoding=UTF-8", "-c", "core.quotePath=false",
    "-c", "color.ui=never", "-c", "log.mailmap=true", "-c", "core.fsmonitor=false", "-c", "diff.external=",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit. People are their mail addresses, or their names where there is none."""

    sha: str
    parents: tuple[str, ...]
    at_s: float
    author: str
    committer: str
    message: Message


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag and the commit that it is on."""

    name: str
    sha: str
    at_s: float


class Git:
    """One repository."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ConfigError(f"{str(path)!r} is no folder; give the path of a git repository")
        self._path = path
        top = self.ask("rev-parse", "--absolute-git-dir").strip()
        folder = Path(top)
        self.name = (folder.parent if folder.name == ".git" else folder).name.removesuffix(".git") or "repository"

    def tip(self, branch: str) -> str:
        """The commit that a name stands for."""
        return self.ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{branch}^{{commit}}").strip()

    def commits(self, branch: str) -> Iterator[Commit]:
        """All commits that a branch has."""
        form = "%x00".join(_FIELDS)
        said = self.ask("log", "-z", f"--format=tformat:{form}", "--end-of-options", self.tip(branch), "--")
        parts = said.split("\0")
        for i in range(0, len(parts) - len(_FIELDS) + 1, len(_FIELDS)):
            sha, parents, at_s, email, name, committer, body = parts[i : i + len(_FIELDS)]
            yield Commit(
                sha.strip(), tuple(parents.split()), float(at_s or 0), email or name, committer, read_message(body)
            )

    def tags(self) -> list[Tag]:
        """The tags that are on commits, the oldest first."""
        form = (
            "%(refname:strip=2)%00%(objectname)%00%(*objectname)%00%(*objecttype)%00%(objecttype)%00%(creatordate:unix)"
        )
        found = []
        for line in self.ask("for-each-ref", f"--format={form}", "refs/tags").splitlines():
            name, sha, peeled, peeled_kind, kind, at_s = line.split("\0")
            if (peeled_kind or kind) == "commit":
                found.append(Tag(name, peeled or sha, float(at_s or 0)))
        return sorted(found, key=lambda tag: (tag.at_s, tag.name))

    def ask(self, *arguments: str) -> str:
        """What git says. Raises ConfigError when it says no."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        environment |= {
            "LC_ALL": "C",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_REPLACE_OBJECTS": "1",
        }
        command = ["git", "--no-pager", *_PLAIN, "-C", str(self._path), *arguments]
        try:
            ran = subprocess.run(  # noqa: S603  a list, and never through a shell
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
            )
        except FileNotFoundError:
            raise ConfigError("there is no git program; install git, or import from a CSV file") from None
        except subprocess.TimeoutExpired:
            raise ConfigError(f"git {arguments[0]} took longer than {_TIMEOUT_S} s in {self._path}") from None
        if ran.returncode:
            said = ran.stderr.decode(errors="replace").strip().splitlines()
            what = said[-1] if said else f"no {arguments[-1]!r}"
            raise ConfigError(f"git {arguments[0]} failed in {str(self._path)!r}: {what[:200]}")
        return ran.stdout.decode(errors="replace")
