"""The rules of counting, each with what it is there for. They are the owner's to set, and the same for everybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from tokenmeter.errors import ConfigError
from tokenmeter.outcomes.people import plain

_DAY_S = 86_400.0
_NOBODY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Rules:
    """How outcomes are linked, folded and counted.

    Args:
        window_s: an outcome that names no run is linked to runs that ended at most this long before it.
        max_lag_s: how long after the end of its run an outcome that names it may come.
        fold_s: what one person claims for one target within this time, by their own word, is one change.
        self_accepted: what is left of an outcome that the spender accepted, a circle of few among themselves too.
        unsaid_accepter: what is left of an outcome of which nobody says who accepted it.
        own_word: what is left of an outcome that only the program that claims it tells of, accepter and all. Lower it
            where importers and the endpoint tell of most.
        least_confidence: an outcome that is less sure than this is shown and not counted.
        user_confidence, team_confidence: how sure a link by time is, to the runs of one user and of one team.
        min_group: groups of fewer people are folded.
        adoption_target: the part of each group that is meant to use AI at all in a week.
        teams: the team of each user, as the company's directory says. It goes before the team that a call was charged
            to, and only who stands in it counts as a member of a group.
    """

    window_s: float = _DAY_S
    max_lag_s: float = 30 * _DAY_S
    fold_s: float = _DAY_S
    self_accepted: float = 0.0
    unsaid_accepter: float = 0.5
    own_word: float = 1.0
    least_confidence: float = 0.5
    user_confidence: float = 0.8
    team_confidence: float = 0.4
    min_group: int = 5
    adoption_target: float = 0.8
    teams: Mapping[str, str] = field(default_factory=lambda: _NOBODY, hash=False)
    _by_name: Mapping[str, str] = field(init=False, repr=False, compare=False, default_factory=dict)
    _by_box: Mapping[str, str] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {plain(user): team for user, team in self.teams.items()})
        boxes = Counter(name.partition("@")[0] for name in self._by_name if "@" in name)
        by_box = {box: team for name, team in self._by_name.items() if boxes[box := name.partition("@")[0]] == 1}
        object.__setattr__(self, "_by_box", by_box)
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name.endswith("_s") and not 0 < value <= 3650 * _DAY_S:
                raise ConfigError(f"{each.name} is {value!r}; give seconds from 1 to ten years")
            if (each.name.endswith(("confidence", "accepter")) or each.name in _PARTS) and not 0 <= value <= 1:
                raise ConfigError(f"{each.name} is {value!r}; give a part of one, such as 0.5")
        if not 0 < self.adoption_target <= 1:
            raise ConfigError(f"adoption_target is {self.adoption_target!r}; give a part of one, such as 0.8")
        if isinstance(self.min_group, bool) or not isinstance(self.min_group, int) or self.min_group < 2:
            raise ConfigError(f"min_group is {self.min_group!r}; a group has at least 2 people, and 5 is the default")

    def team_of(self, user: str | None, team: str | None) -> str | None:
        """The team that answers for a call: the user's own by the directory, else the one it was charged to.

        Names are the same as where it matters who accepted what: nobody leaves the directory by another spelling.
        """
        if user is None or not self.teams:
            return team
        name = plain(user)
        box, is_address, _ = name.partition("@")
        found = self._by_name.get(name) or (self._by_name if is_address else self._by_box).get(box)
        return team if found is None else found


_PARTS = ("self_accepted", "own_word")
DEFAULT = Rules()
