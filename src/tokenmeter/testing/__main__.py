"""``python -m tokenmeter.testing``: a scripted provider of its own, until its standard input ends."""

from __future__ import annotations

import sys

from tokenmeter.testing.provider import ScriptedProvider
from tokenmeter.testing.script import Reply


def main() -> None:
    """Print the address on one line, then serve. The first argument is the text of the replies."""
    with ScriptedProvider(Reply(*sys.argv[1:2])) as provider:
        sys.stdout.write(provider.url + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
