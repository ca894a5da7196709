"""``python -m tokenmeter.cli``."""

from __future__ import annotations

import sys

from tokenmeter.cli import main

if __name__ == "__main__":
    sys.exit(main())
