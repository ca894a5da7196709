"""The command ``tokenmeter``: one module for each of its commands, which declares its arguments and runs it.

Exit statuses: 0 done, 1 it failed (the store can't be reached), 2 the arguments or the configuration are wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tokenmeter.cli import budgets, demo, doctor, drain, grant, loss, outcome, pause, report, run, serve
from tokenmeter.cli.trouble import FAILURE, USAGE, Trouble
from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.texts import clean
from tokenmeter.version import VERSION

_RAISING = frozenset({"strict", "surrogateescape"})  # the latter in the C locale


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    _open_what_is_closed()
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in _RAISING:
        sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal's encoding lacks
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except Trouble as trouble:
        return _fail(arguments.command, trouble, trouble.status)
    except ConfigError as error:
        return _fail(arguments.command, error, USAGE)
    except StoreUnavailable as error:
        return _fail(arguments.command, error, FAILURE)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of the output has closed it
        _let_go_of_output()
        return 141
    except OSError as error:  # a disk that is full, a folder that can't be written
        _let_go_of_output()
        named = "" if error.filename is None else f"{str(error.filename)!r}: "
        return _fail(arguments.command, f"{named}{error.strerror or error}", FAILURE)
    return status


def _open_what_is_closed() -> None:
    """Something to write to in place of an output that is closed: its number would go to the next file, say a store."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open to the end


def _let_go_of_output() -> None:
    """What can't be written is not tried again when the process ends."""
    with contextlib.suppress(OSError, ValueError):  # it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(command: str, error: Exception | str, status: int) -> int:

    sys.stderr.write(f"tokenmeter {command}: {clean(' '.join(str(error).split()))}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tokenmeter",
        description="Meters the LLM calls of a Python program: who spent what, held to a budget before it is spent.",
    )
    parser.add_argument("--version", action="version", version=f"tokenmeter {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (demo, run, budgets, grant, pause, drain, loss, outcome, report, serve, doctor):
        module.add(commands)
    return parser
