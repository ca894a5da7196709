"""``tokenmeter demo``: a handful of agents, one of them a runaway, against a scripted provider."""

from __future__ import annotations

import sys

from tokenmeter.cli.demo.missing import MissingExtra


def run(*, plain: bool, as_json: bool) -> int:
    """Play the demonstration. 0: all went as it should; 1: the figures don't balance; 2: something is missing."""
    try:
        from tokenmeter.cli.demo.play import play

        return play(plain=plain, as_json=as_json)
    except MissingExtra as missing:
        sys.stderr.write(f"tokenmeter demo: {missing}\n")
        return 2
