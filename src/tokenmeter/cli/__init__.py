"""The command ``tokenmeter``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tokenmeter.version import VERSION


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        from tokenmeter.cli import demo

        status = demo.run(plain=arguments.plain, as_json=arguments.json)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tokenmeter",
        description="Meters the LLM calls of a Python program: who spent what, held to a budget before it is spent.",
    )
    parser.add_argument("--version", action="version", version=f"tokenmeter {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="a handful of agents against a scripted provider on this machine; no key, no network",
        description="Runs a handful of agents against a scripted provider on this machine. No key is needed and "
        "nothing leaves the machine, unless OTEL_EXPORTER_OTLP_ENDPOINT says where to export the spans.",
    )
    demo.add_argument("--plain", action="store_true", help="plain lines, also on a terminal")
    demo.add_argument("--json", action="store_true", help="only the final figures, as JSON")
    return parser
