"""What a commit message says about its origin: runs, reviewers, programs that helped to write it, and reverts."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TRAILER = re.compile(r"^([A-Za-z][A-Za-z0-9-]{0,40}):[ \t]*(\S.{0,400}?)[ \t\r]*$", re.MULTILINE)
_PERSON = re.compile(r"^(.*?)\s*<([^<>\s]*)>$")
_PROGRAMS = re.compile(
    r"\b(?:claude|copilot|cursor|codex|chatgpt|gpt-?\d|gemini|aider|devin|llama|mistral|amazon q|jules)\b|\[bot\]|"
    r"@(?:anthropic|openai|cursor)\.com",
    re.IGNORECASE,
)
_REVERTS = re.compile(r"\b[Rr]everts (?:commit |changeset )?([0-9a-f]{7,64})\b")
_REVERTS_CHANGE = re.compile(r"\bReverts (?:[\w.-]+/[\w.-]+)?#(\d{1,9})\b")
_CHANGE = (
    re.compile(r"^Merge pull request #(\d{1,9})\b"),
    re.compile(r"\(#(\d{1,9})\)\s*$"),
    re.compile(r"!(\d{1,9})$"),
)
_REVIEWS = ("reviewed-by", "approved-by", "acked-by", "accepted-by")


@dataclass(frozen=True, slots=True)
class Message:
    """A commit message, read. ``assisted``: by a program, which a run or a co-author line tells."""

    runs: tuple[str, ...]
    agents: tuple[str, ...]
    reviewers: tuple[str, ...]
    assisted: bool
    reverts: tuple[str, ...]  # commits, perhaps abbreviated
    reverts_changes: tuple[str, ...]  # numbers of pull requests
    change: str | None


def read_message(text: str) -> Message:
    """What a message says; what it doesn't say is empty."""
    subject, _, body = text.partition("\n")
    runs, agents, reviewers, assisted = [], [], [], False
    for name, value in _TRAILER.findall(body):
        key = name.lower()
        if key == "ai-run" and len(value) <= 256:
            runs.append(value)
        elif key == "ai-agent" and len(value) <= 256:
            agents.append(value)
        elif key in _REVIEWS:
            reviewers.append(address(value))
        elif key == "co-authored-by" and _PROGRAMS.search(value):
            assisted = True
    change = next((found[1] for pattern in _CHANGE if (found := pattern.search(subject))), None)
    return Message(
        runs=tuple(dict.fromkeys(runs)),
        agents=tuple(dict.fromkeys(agents)),
        reviewers=tuple(dict.fromkeys(reviewers)),
        assisted=assisted or bool(runs),
        reverts=tuple(dict.fromkeys(_REVERTS.findall(text))),
        reverts_changes=tuple(dict.fromkeys(_REVERTS_CHANGE.findall(text))),
        change=change,
    )


def address(person: str) -> str:
    """The mail address of ``Name <address>``, else the name."""
    found = _PERSON.match(person)
    return (found[2] or found[1]) if found else person
