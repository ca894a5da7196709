"""``tokenmeter serve``: the report as pages that refresh, on this machine."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import sys
from pathlib import Path

from tokenmeter.cli import sources
from tokenmeter.cli.numbers import whole
from tokenmeter.cli.trouble import Trouble

NAME = "serve"
VARIABLE = "TOKENMETER_SERVE_TOKEN"
_PORT = 8321
_REFRESH_S = 60


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        NAME,
        help="the report as pages that refresh, with a look into runs and calls",
        description="Serves the report until Ctrl-C: on this machine without a token, and to others only with one, "
        f"which ${VARIABLE} or --token-file gives; else it is made and printed.",
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where; default: 127.0.0.1")
    parser.add_argument(
        "--port",
        type=whole(0, 65_535, "port; give 0 to 65535"),
        default=_PORT,
        metavar="N",
        help=f"0 for any; default: {_PORT}",
    )
    parser.add_argument("--token-file", metavar="PATH", help="a file with the token, of 16 characters or more")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a name by which this server is reached, too"
    )
    parser.add_argument(
        "--refresh",
        type=whole(1, 86_400, "interval; give 1 to 86400 seconds"),
        default=_REFRESH_S,
        metavar="SECONDS",
        help=f"default: {_REFRESH_S}",
    )
    sources.add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from tokenmeter.report.access import Access, is_loopback
    from tokenmeter.report.pages import Pages
    from tokenmeter.report.server import Server

    loopback = is_loopback(arguments.host)
    if arguments.me is not None and not loopback:
        raise Trouble("--me shows one person's figures, and this is served to others; leave it out, or --host")
    token = _token(arguments)
    if token is None and not loopback:
        token = secrets.token_urlsafe(24)
        sys.stderr.write(f"tokenmeter {NAME}: the token is {token}\n")
    access = Access(token, arguments.allow_host)
    with sources.opened(arguments) as found:
        pages = Pages(found.ledger, lambda: found.read(sources.Bar()), refresh_s=arguments.refresh)
        with sources.progress() as bar:
            pages.keep(found.read(bar))
        with Server(arguments.host, arguments.port, pages, access) as server, contextlib.suppress(KeyboardInterrupt):
            print(f"{server.address} until Ctrl-C" + ("" if access.is_open else ", with the token"), flush=True)
            server.serve_forever(poll_interval=0.2)
    return 0


def _token(arguments: argparse.Namespace) -> str | None:
    """The token that was given: not as an argument, which others on this machine could read."""
    if arguments.token_file is None:
        return os.environ.get(VARIABLE) or None
    try:
        return Path(arguments.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"--token-file {arguments.token_file!r} can't be read: {error}") from None
