"""Under which names things are shown: teams that are too small are folded, and what names a person is not said.

A figure of one person is theirs alone. So a team of few stands with others like it, as in the figures by team; an
agent, a run or a budget that has somebody's name in its own stands without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tokenmeter.outcomes.groups import SMALL_GROUPS
from tokenmeter.outcomes.normalized import Row
from tokenmeter.outcomes.people import names_a_person, plain
from tokenmeter.outcomes.rules import DEFAULT, Rules

UNATTRIBUTED: Final = "(unattributed)"
NO_AGENT: Final = "(no agent)"
OF_A_PERSON: Final = "(named after a person)"
_SHORTEST: Final = 3


class Shown:
    """The names of one report. ``teams`` are those that stand by themselves, ``people`` everybody who is known.

    ``team_of`` says which team answers for a call of a user; ``by_directory``: it may be another than was charged.
    """

    def __init__(self, teams: Iterable[str], people: Iterable[str], rules: Rules = DEFAULT) -> None:
        self.teams = frozenset(teams)
        self.team_of, self.by_directory = rules.team_of, bool(rules.teams)
        names = {plain(name).partition("@")[0] for name in people}
        self._people = frozenset(name for name in names if len(name) >= _SHORTEST)
        self._known: dict[str, bool] = {}

    def team(self, name: str | None) -> str | None:
        """The team under which something is shown; None where no team answers for it."""
        return name if name is None or name in self.teams else SMALL_GROUPS

    def agent(self, name: str | None) -> str | None:
        """The name of an agent, unless it gives away who it belongs to."""
        return OF_A_PERSON if name is not None and self.is_personal(name) else name

    def text(self, text: str) -> str:
        """Any other name."""
        return OF_A_PERSON if self.is_personal(text) else text

    def is_personal(self, name: str) -> bool:
        """Whether a person's name is part of this one."""
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = names_a_person(name, self._people)
        return known


def teams_of(rows: Iterable[Row]) -> list[str]:
    """The teams that have a row of their own."""
    return [row.name for row in rows if row.name is not None and not _is_folded(row)]


def _is_folded(row: Row) -> bool:
    return row.groups > 1 or row.name == SMALL_GROUPS
