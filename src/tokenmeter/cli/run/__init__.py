"""``tokenmeter run``: a program as it is, metered and held to budgets, with every Python process that it starts.

The command writes down what to do in ``$TOKENMETER_RUN`` and puts the folder ``at_start`` in front of ``PYTHONPATH``.
Python imports ``sitecustomize`` from there at its start, which calls `begin.begin`.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from tokenmeter.attribution import AgentScope
from tokenmeter.budgets.address import split_leases
from tokenmeter.budgets.sqlite_url import address_of, parse_url
from tokenmeter.cli import where
from tokenmeter.cli.run import summary
from tokenmeter.cli.run.begin import meter_of
from tokenmeter.cli.run.orders import VARIABLE, Orders, orders_of, text_of
from tokenmeter.cli.trouble import Trouble

_AT_START = str(Path(__file__).with_name("at_start"))
_IN_FRONT = "opentelemetry-instrument"  # its own ``sitecustomize`` imports no other
_NOT_FOUND, _NOT_RUN, _BY_SIGNAL = 127, 126, 128  # as shells say it
_PASSED_ON = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")  # Ctrl-C reaches both from the terminal


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The arguments of the command."""
    parser = commands.add_parser(
        "run",
        help="a program as it is, metered and held to budgets",
        description="Runs a program as it is: the model calls of all its Python processes are metered and held to the "
        "budgets of tokenmeter.toml and to those that are given here.",
    )
    parser.add_argument("--config", metavar="PATH", help="the configuration; default: tokenmeter.toml here or above")
    parser.add_argument("--store", metavar="URL", help="the store, in place of the one that the configuration names")
    parser.add_argument(
        "--budget",
        metavar="LIMIT",
        action="append",
        default=[],
        help="what the program may spend: '$2', '100k tokens' or '50 calls'; may be given more than once",
    )
    for name in ("agent", "user", "team"):
        parser.add_argument(f"--{name}", metavar="NAME", help=f"the {name} that calls are charged to")
    parser.add_argument("--quiet", action="store_true", help="say nothing of what was spent")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM", help="the program, and its arguments")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run a program; returns its exit status."""
    program = arguments.program[arguments.program[:1] == ["--"] :]
    if not program:
        raise Trouble("no program is given; write: tokenmeter run [OPTIONS] PROGRAM [ARGUMENTS], as in python agent.py")
    if Path(program[0]).name == _IN_FRONT:
        raise Trouble(f"{_IN_FRONT} hides this command from Python; write it in front: {_IN_FRONT} tokenmeter run …")
    if program[0].endswith(".py"):
        program = [sys.executable, *program]
    with tempfile.TemporaryDirectory(prefix="tokenmeter-run-", ignore_cleanup_errors=True) as folder:
        orders = _orders(arguments, Path(folder))
        environment = _environment(orders)
        meter_of(orders).close()  # what is wrong with them is told before anything is started
        status = _wait_for(program, environment)
        if orders.rows is not None:
            summary.tell(Path(orders.rows), sys.stderr)
    return status


def _orders(arguments: argparse.Namespace, folder: Path) -> Orders:
    """What each process shall do. Raises `ConfigError` here, not in all of them."""
    config = where.config_of(arguments)
    store = arguments.store or (config.store if config is not None else "memory://")
    lasts = store.partition("://")[0] != "memory"
    if arguments.budget and lasts:
        raise Trouble(
            f"--budget {arguments.budget[0]!r} is for this run, and the store {where.shown_address(store)} lasts; "
            "write the budget into tokenmeter.toml under [[budgets]], or leave the store out"
        )
    AgentScope("-" if arguments.agent is None else arguments.agent, arguments.user, arguments.team, None, {})
    return Orders(
        config=None if config is None else str(config.path),
        store=_given(arguments.store) if lasts else f"{address_of(folder / 'budgets.db')}?keep_days=1",
        budgets=tuple(arguments.budget),
        agent=arguments.agent,
        user=arguments.user,
        team=arguments.team,
        rows=None if arguments.quiet else str(folder / "calls.jsonl"),
    )


def _given(store: str | None) -> str | None:
    """The same books for all processes, in whatever directory they start."""
    if store is None or not store.startswith("sqlite:"):
        return store
    _, sign, options = store.partition("?")
    return address_of(parse_url(split_leases(store)[0]).path) + sign + options


def _environment(orders: Orders) -> Mapping[str, str]:
    outer = os.environ.get(VARIABLE)
    given = os.environ.get("PYTHONPATH")
    path = [each for each in given.split(os.pathsep) if each != _AT_START] if given else []
    try:
        text = text_of([*(orders_of(outer) if outer else ()), orders])
    except UnicodeEncodeError:  # which it is isn't shown: an address may carry a password
        raise Trouble("a name, a path or an address that is given is no UTF-8; write it in UTF-8") from None
    return os.environ | {
        VARIABLE: text,
        "PYTHONPATH": os.pathsep.join([_AT_START, *path]),
    }


def _may_be_typed() -> bool:
    """Whether Ctrl-C may have been typed: a terminal has sent it to the program as well."""
    if sys.platform == "win32":
        return True
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:  # there is none
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _wait_for(program: list[str], environment: Mapping[str, str]) -> int:
    """Run it to its end, and pass signals on to it."""
    before: dict[signal.Signals, Any] = {}
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if process is None:
            early.append(number)
        elif number != signal.SIGINT or not _may_be_typed():
            process.send_signal(number)

    for name in ("SIGINT", *_PASSED_ON):
        number = getattr(signal.Signals, name, None)
        # What is ignored here, as below nohup, the program shall ignore too: a handler would undo that.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, pass_on)
    try:
        process = subprocess.Popen(program, env=environment)  # noqa: S603 - what the user wrote
        for each in early:
            pass_on(each, None)
        status = process.wait()
    except FileNotFoundError:
        raise Trouble(f"no program {program[0]!r} is on the PATH; correct its name", _NOT_FOUND) from None
    except OSError as error:
        raise Trouble(f"{program[0]!r} can't be run ({error.strerror}); is it a program?", _NOT_RUN) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else _BY_SIGNAL - status
