"""``tokenmeter demo``: a handful of agents, one of them a runaway, against a scripted provider."""

from __future__ import annotations

import argparse


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "demo",
        help="a handful of agents against a scripted provider on this machine; no key, no network",
        description="Runs a handful of agents against a scripted provider on this machine. No key is needed and "
        "nothing leaves the machine, unless OTEL_EXPORTER_OTLP_ENDPOINT says where to export the spans.",
    )
    parser.add_argument("--plain", action="store_true", help="plain lines, also on a terminal")
    parser.add_argument("--json", action="store_true", help="only the final figures, as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play the demonstration. 0: all went as it should; 1: the figures don't balance."""
    from tokenmeter.cli.demo.play import play

    return play(plain=arguments.plain, as_json=arguments.json)
