"""``tokenmeter pause`` and ``tokenmeter resume``: the kill switch. Every process obeys within a second."""

from __future__ import annotations

import argparse
import json
import re
import shlex

from tokenmeter.attribution import MAX_VALUE_CHARS
from tokenmeter.budgets import Pause
from tokenmeter.cli import tables, where
from tokenmeter.cli.budgets import pause_for_json
from tokenmeter.cli.people import reason_of, who
from tokenmeter.cli.times import moment, until
from tokenmeter.cli.trouble import FAILURE, Trouble, suggestion
from tokenmeter.texts import clean

_KINDS = ("agent", "user", "team")
_TARGET = "all, agent=NAME, user=NAME or team=NAME; without one: what is paused now"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The arguments of both commands."""
    parser = commands.add_parser(
        "pause",
        help="stop all calls, or those of an agent, a user or a team",
        description="Stops calls before they go out, in every process that shares the store, within a second. Calls "
        "that are under way end as they would.",
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help=_TARGET)
    parser.add_argument("--reason", metavar="TEXT", help="why; whoever is refused reads it")
    parser.add_argument("--by", metavar="NAME", help="who pauses it; default: the user of this system")
    where.add_options(parser)
    parser.set_defaults(run=pause)
    parser = commands.add_parser("resume", help="undo a pause", description="Undoes a pause.")
    parser.add_argument("target", nargs="?", metavar="TARGET", help=_TARGET)
    where.add_options(parser)
    parser.set_defaults(run=resume)


def pause(arguments: argparse.Namespace) -> int:
    """Pause a target, or list the pauses."""
    if arguments.target is None:
        if arguments.reason is not None or arguments.by is not None:
            raise Trouble(f"no target is given; write {_TARGET.partition(';')[0]}")
        return _list(arguments)
    target = _target(arguments.target)
    reason, by = reason_of(arguments.reason), who(arguments.by)
    place = where.find(arguments, with_policy=False)
    with where.opened(place) as store:
        found = Pause(target, store.time_s(), reason, by)
        store.pause(found)
    if arguments.json:
        print(json.dumps(pause_for_json(found)))
    else:
        _say(
            f"Paused {target} in {place.address}, by {by}: {reason}",
            f"Every process obeys within a second. To undo it: tokenmeter resume {shlex.quote(target)}",
        )
    return 0


def resume(arguments: argparse.Namespace) -> int:
    """Undo a pause, or list the pauses."""
    if arguments.target is None:
        return _list(arguments)
    target = _target(arguments.target)
    place = where.find(arguments, with_policy=False)
    with where.opened(place) as store:
        if not store.resume(target):
            known = [each.target for each in store.pauses()]
            else_paused = suggestion(target, known) if known else "nothing is"
            raise Trouble(f"{target!r} is not paused in {place.address}; {else_paused}", FAILURE)
        left = [each.target for each in store.pauses()]
    if arguments.json:
        print(json.dumps({"resumed": target, "still_paused": sorted(left)}))
    else:
        _say(f"Resumed {target} in {place.address}.", *([f"Still paused: {', '.join(sorted(left))}"] if left else []))
    return 0


def _target(text: str) -> str:
    kind, sign, name = text.partition("=")
    if text == "all" or (sign and kind in _KINDS and 0 < len(name) <= MAX_VALUE_CHARS and name.strip()):
        return text
    if sign and kind in _KINDS:
        raise Trouble(f"target {text[:80]!r} names no {kind}; write {kind}=NAME with 1 to {MAX_VALUE_CHARS} characters")
    if sign:
        raise Trouble(f"target {text!r} is unknown; write all, agent=NAME, user=NAME or team=NAME")
    if re.fullmatch("(?i)all|everything|everyone|global", text):
        raise Trouble(f"target {text!r} is unknown; write all")
    raise Trouble(f"target {text!r} is unknown; write agent={text}, user={text} or team={text}, or all")


def _list(arguments: argparse.Namespace) -> int:

    place = where.find(arguments, with_policy=False)
    with where.opened(place) as store:
        now_s, found = store.time_s(), sorted(store.pauses())
    if arguments.json:
        pauses = [pause_for_json(each) for each in found]
        print(json.dumps({"store": place.address, "at": now_s, "pauses": pauses}))
    elif not found:
        _say(f"Nothing is paused in {place.address}.")
    else:
        rows = [
            (each.target, f"{moment(each.at_s)}, {until(each.at_s, now_s)}", each.by, each.reason) for each in found
        ]
        tables.show(tables.Table(("paused", "since", "by", "reason"), rows))
    return 0


def _say(*lines: str) -> None:

    for line in lines:
        print(clean(line))
