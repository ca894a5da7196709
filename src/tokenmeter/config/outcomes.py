"""``[outcomes]`` and ``[teams]``: which outcomes count and for how much, and who is of which team.

What they build is imported when a file has them: a program that only meters never loads it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tokenmeter.config.tables import Source, Table, kind_of, shown
from tokenmeter.errors import ConfigError

if TYPE_CHECKING:
    from tokenmeter.outcomes.kinds import Kind, Kinds
    from tokenmeter.outcomes.rules import Rules

# The arguments of `Rules` that a file has under the same names, besides `min_group`.
_NUMBERS: Final = (
    "own_word", "self_accepted", "unsaid_accepter", "least_confidence", "window_s", "max_lag_s", "fold_s",
    "adoption_target",
)  # fmt: skip


def kinds_of(source: Source, outcomes: object) -> Kinds | None:
    """The built-in kinds and those of the file; None where it declares none."""
    found = outcomes.get("kinds") if isinstance(outcomes, dict) else None
    if found is None:
        return None
    from tokenmeter.outcomes.kinds import declare

    place = ("outcomes", "kinds")
    every = Table(source, place, found, "[outcomes.kinds]").rest()
    return declare(*[
        _kind(Table(source, (*place, name), each, f"[outcomes.kinds.{name}]"), name) for name, each in every.items()
    ])  # fmt: skip


def rules_of(source: Source, outcomes: object, teams: object) -> Rules | None:
    """The rules of counting, with the directory of teams; None where the file has neither."""
    table = Table(source, ("outcomes",), outcomes, "[outcomes]")
    directory = _directory(Table(source, ("teams",), teams, "[teams]"))
    table.any("kinds")
    given: dict[str, Any] = {name: value for name in _NUMBERS if (value := table.number(name)) is not None}
    min_group = table.take("min_group", int, 0)
    if "min_group" in table:
        given["min_group"] = min_group
    table.done()
    if not given and not directory:
        return None
    from tokenmeter.outcomes.rules import Rules

    try:
        return Rules(**given, teams=directory)
    except ConfigError as error:
        table.blame(given, error)


def _kind(table: Table, name: str) -> Kind:
    """A kind; what isn't said of a built-in one stays as it is."""
    from tokenmeter.outcomes.kinds import BUILT_IN, Kind

    try:
        known = BUILT_IN.get(name) or Kind(name)
    except ConfigError as error:
        table.source.refuse(table.place, f"{table.title} {error}")
    weight = table.number("weight")
    given: dict[str, Any] = {} if weight is None else {"weight": weight}
    given["foldable"] = table.take("foldable", bool, known.foldable)
    accepters = table.texts("accepters", '["ci", "customer:*"]')
    if "accepters" in table:
        given["accepters"] = accepters
    table.done()
    if "" in accepters:
        table.refuse("accepters", f"{shown(list(accepters))} has an empty name; write the names of who may accept it")
    try:
        return replace(known, **given)
    except ConfigError as error:
        table.blame(given, error)


def _directory(table: Table) -> dict[str, str]:
    """The team of each user. Nobody is in two: their spend is charged to one."""
    found: dict[str, str] = {}
    teams: dict[str, str] = {}  # by names to compare by: ``Alice`` is ``alice``
    for team, users in table.rest().items():
        if not team.strip():
            table.source.refuse((*table.place, team), "[teams] has a team without a name; write one before the sign =")
        if not isinstance(users, list):
            table.refuse(team, f'{shown(users)} is {kind_of(users)}; write a list of users such as ["alice", "bob"]')
        for number, user in enumerate(users):
            place = (*table.place, team, number)
            if not isinstance(user, str) or not user.strip():
                table.source.refuse(place, f"[teams] {team} has {shown(user)}, which is no name of a user; correct it")
            other = teams.setdefault(user.strip().casefold(), team)
            if other != team:
                table.source.refuse(
                    place, f"[teams] {team} has {shown(user)}, who is in {shown(other)} too; keep the user in one team"
                )
            found[user] = team
    return found
