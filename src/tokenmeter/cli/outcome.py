"""``tokenmeter outcome``: say what came of the spend, take it back, or read it from where it is known already."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tokenmeter.cli import where
from tokenmeter.cli.drain import ledger_url
from tokenmeter.cli.people import reason_of
from tokenmeter.cli.times import parse_moment
from tokenmeter.cli.trouble import FAILURE, Trouble
from tokenmeter.config import find_config, load_outcomes
from tokenmeter.ledger import open_ledger
from tokenmeter.texts import clean

if TYPE_CHECKING:
    from tokenmeter.ledger.ledger import Ledger
    from tokenmeter.ledger.views import Outcome
    from tokenmeter.outcomes import Harvest, Kinds, Rules

NAME = "outcome"
_MOST_BYTES = 64 * 1024 * 1024


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        NAME,
        help="record what came of the spend, or take it back",
        description="Records outcomes in the ledger, each once by its kind and key, and revocations, which count for "
        "good. Importing the same again changes nothing.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    put = verbs.add_parser("put", help="record one outcome")
    put.add_argument("kind", metavar="KIND", help="deployment, merge, case, or a kind that is declared")
    put.add_argument("key", metavar="KEY", help="what names it: api#412")
    put.add_argument("--at", metavar="TIME", help="when it was accepted, in ISO 8601; default: now")
    _add_who(put)
    put.add_argument("--agent", action="append", default=[], metavar="NAME", help="an agent that took part; repeatable")
    put.add_argument("--weight", type=float, metavar="NUMBER", help="less than its kind's; more counts as its kind's")
    put.add_argument("--confidence", type=float, default=1.0, metavar="PART", help="how sure it is, from 0 to 1")
    put.add_argument("--accepted-by", metavar="NAME", help="who accepted it, which must be somebody else")
    _finish(put, _put)
    back = verbs.add_parser("revoke", help="take one back: rolled back, reopened, reverted")
    back.add_argument("kind", metavar="KIND")
    back.add_argument("key", metavar="KEY")
    back.add_argument("--at", metavar="TIME", help="since when, in ISO 8601; default: now")
    back.add_argument("--reason", metavar="TEXT", help="why; kept with it")
    _finish(back, _revoke)
    importer = verbs.add_parser("import", help="read outcomes from git, JUnit, CSV or OpenTelemetry")
    sources = importer.add_subparsers(dest="source", required=True, metavar="SOURCE")
    _add_git(sources.add_parser("git", help="commits and merges, tags as deployments, reverts as revocations"))
    junit = sources.add_parser("junit", help="a report that passed, as one outcome")
    junit.add_argument("path", metavar="FILE")
    junit.add_argument("--key", required=True, metavar="KEY", help="what was checked: api@3f1c2d")
    junit.add_argument("--at", metavar="TIME", help="when it ran; default: the time in the report")
    junit.add_argument("--accepted-by", default="ci", metavar="NAME", help="default: ci")
    _add_who(junit)
    _finish(junit, _import_junit)
    csv = sources.add_parser("csv", help="a file with the columns kind, key, at and more")
    csv.add_argument("path", metavar="FILE", help="- for the standard input")
    _finish(csv, _import_csv)
    otel = sources.add_parser("otel", help="CI/CD and deployment spans as OTLP/JSON, one document or one a line")
    otel.add_argument("path", metavar="FILE", help="- for the standard input")
    otel.add_argument(
        "--environment", action="append", metavar="NAME", help="where a deployment counts; default: production"
    )
    _finish(otel, _import_otel)


def _add_who(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--team", metavar="NAME", help="whose it is; leave it out where the run says it")
    parser.add_argument("--user", metavar="NAME", help="whose work it is")
    parser.add_argument("--run", dest="run_id", metavar="ID", help="the run that led to it")
    parser.add_argument("--fold", metavar="NAME", help="the change that it is part of, which counts once")


def _add_git(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="REPOSITORY", nargs="?", default=".")
    parser.add_argument(
        "--branch", default="HEAD", metavar="NAME", help="the line that counts as accepted; default: HEAD"
    )
    parser.add_argument("--name", metavar="NAME", help="the repository's name; default: its folder's")
    parser.add_argument("--team", metavar="NAME", help="the team that the commits are claimed for")
    parser.add_argument("--deployments", metavar="PATTERN", help="tags that are deployments: 'deploy/*'")
    parser.add_argument("--since", metavar="TIME", help="leave out what is older")
    parser.add_argument(
        "--stand-days", type=float, metavar="DAYS", help="count the lines that stand after so many days"
    )
    parser.add_argument("--marked-only", action="store_true", help="only what a trailer marks as made with AI")
    _finish(parser, _import_git)


def _finish(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("--ledger", metavar="URL", help="the ledger, in place of the one that the configuration names")
    where.add_options(parser)
    parser.set_defaults(run=run)


def _put(arguments: argparse.Namespace) -> int:
    from tokenmeter.outcomes import Harvest, new_outcome

    kinds = _kinds(arguments)
    outcome = new_outcome(
        arguments.kind, arguments.key, _at_s(arguments.at),
        team=arguments.team, user=arguments.user, run=arguments.run_id, agents=arguments.agent, weight=arguments.weight,
        confidence=arguments.confidence, fold=arguments.fold, accepted_by=arguments.accepted_by, source="api",
        kinds=kinds,
    )  # fmt: skip
    if outcome.kind not in kinds:
        sys.stderr.write(
            f"tokenmeter {NAME}: kind {outcome.kind!r} doesn't count until it is declared under "
            f"[outcomes.kinds.{outcome.kind}] in tokenmeter.toml, or with Kind(…)\n"
        )
    return _pour(Harvest((outcome,)), arguments)


def _revoke(arguments: argparse.Namespace) -> int:
    from tokenmeter.outcomes import Harvest, Revocation

    back = Revocation(arguments.kind, arguments.key, _at_s(arguments.at), reason_of(arguments.reason))
    return _pour(Harvest(revocations=(back,)), arguments)


def _import_git(arguments: argparse.Namespace) -> int:
    from tokenmeter.outcomes.git import GitOptions, read_git

    options = GitOptions(
        branch=arguments.branch,
        name=arguments.name,
        team=arguments.team,
        marked_only=arguments.marked_only,
        deployments=arguments.deployments,
        since_s=None if arguments.since is None else parse_moment(arguments.since),
        stand_days=arguments.stand_days,
        now_s=time.time(),
        kinds=_kinds(arguments),
    )
    return _pour(read_git(arguments.path, options), arguments)


def _import_junit(arguments: argparse.Namespace) -> int:
    from tokenmeter.outcomes.junit import read_junit

    found = read_junit(
        _bytes(arguments.path), key=arguments.key, at_s=None if arguments.at is None else parse_moment(arguments.at),
        team=arguments.team, user=arguments.user, run=arguments.run_id, fold=arguments.fold,
        accepted_by=arguments.accepted_by, kinds=_kinds(arguments),
    )  # fmt: skip
    return _pour(found, arguments)


def _import_csv(arguments: argparse.Namespace) -> int:
    from tokenmeter.outcomes.csv import read_csv

    lines = _text(arguments.path).splitlines(keepends=True)
    return _pour(read_csv(lines, kinds=_kinds(arguments)), arguments)


def _import_otel(arguments: argparse.Namespace) -> int:
    from tokenmeter.outcomes.otel import PRODUCTION, read_otel

    documents = list(_documents(_text(arguments.path), arguments.path))
    environments = arguments.environment or PRODUCTION
    return _pour(read_otel(documents, environments=environments, kinds=_kinds(arguments)), arguments)


def _pour(found: Harvest, arguments: argparse.Namespace) -> int:
    with _opened(arguments) as ledger:
        fresh = [outcome for outcome in found.outcomes if ledger.put_outcome(outcome)]
        new = len(fresh)
        back = sum(bool(ledger.revoke(each.kind, each.key, each.at_s, each.why)) for each in found.revocations)
        linked = _link(ledger, fresh if new == len(found.outcomes) else _kept(ledger, found.outcomes), arguments)
        address = ledger.address
    if arguments.json:
        told = {"ledger": address, "outcomes": len(found.outcomes), "new": new, "revoked": back, "linked": linked}
        print(json.dumps({**told, "left_out": list(found.left_out)}))
        return 0

    known = len(found.outcomes) - new
    parts = [f"{new:,} new outcomes"] if found.outcomes or not found.revocations else []
    parts += [f"{known:,} known before"] if known else []
    parts += [f"{linked:,} linked to runs"] if found.outcomes else []
    parts += [f"{back:,} taken back"] if found.revocations else []
    print(clean(f"{', '.join(parts)} in {address}."))
    for line in found.left_out[:5]:
        print(clean(f"left out: {line}"))
    if len(found.left_out) > 5:
        print(f"and {len(found.left_out) - 5:,} more were left out")
    return 0


def _counting(arguments: argparse.Namespace) -> tuple[Kinds, Rules]:
    """The kinds and the rules of the configuration, else the built-in ones."""
    from tokenmeter.outcomes import BUILT_IN, Rules

    path = arguments.config or find_config()
    kinds, rules = (None, None) if path is None else load_outcomes(path)
    return kinds or BUILT_IN, rules or Rules()


def _kinds(arguments: argparse.Namespace) -> Kinds:
    return _counting(arguments)[0]


def _kept(ledger: Ledger, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """These outcomes as the ledger has them: what was said of one first is what counts, and is what is linked."""
    from tokenmeter.ledger.lines import name_of

    names = {(name_of(each.kind), name_of(each.key)) for each in outcomes}
    return [each for each in ledger.outcomes() if (each.kind, each.key) in names]


def _link(ledger: Ledger, outcomes: Iterable[Outcome], arguments: argparse.Namespace) -> int:
    """Keep what led to these outcomes, as far as it is known by now; how many have a link."""
    from tokenmeter.outcomes import link

    outcomes = list(outcomes)
    if not outcomes:
        return 0
    rules = _counting(arguments)[1]
    since_s = min(each.at_s for each in outcomes) - rules.max_lag_s
    until_s = max(each.at_s for each in outcomes) + rules.window_s
    links = link(outcomes, ledger.runs(max(0.0, since_s), until_s), rules)
    if links:
        ledger.put_links(links)
    return len({(each.kind, each.key) for each in links})


@contextmanager
def _opened(arguments: argparse.Namespace) -> Iterator[Ledger]:

    url = arguments.ledger or ledger_url(None, where.find(arguments, with_policy=True))
    with open_ledger(url) as ledger:
        yield ledger


def _at_s(text: str | None) -> float:

    return time.time() if text is None else parse_moment(text)


def _bytes(path: str) -> bytes:
    try:
        if path == "-":
            return sys.stdin.buffer.read(_MOST_BYTES + 1)
        with Path(path).open("rb") as file:
            found = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise Trouble(f"{path!r} can't be read: {error.strerror}; give the path of a file", FAILURE) from None
    if len(found) > _MOST_BYTES:
        raise Trouble(f"{path!r} has more than {_MOST_BYTES:,} bytes; cut it in parts")
    return found


def _text(path: str) -> str:
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Trouble(f"{path!r} is no UTF-8 at byte {error.start}; save it as UTF-8") from None


def _documents(text: str, path: str) -> Iterator[dict[str, object]]:
    """One JSON document, a list of them, or one a line."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise Trouble(f"{path!r} is no JSON at line {number}: {error}; give OTLP/JSON") from None
        return
    yield from found if isinstance(found, list) else [found]
