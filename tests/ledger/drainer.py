"""A process that drains until it is killed: ``python -m tests.ledger.drainer STORE LEDGER``."""

from __future__ import annotations

import sys
import time

from tokenmeter.budgets import open_store
from tokenmeter.errors import StoreUnavailable
from tokenmeter.ledger import open_ledger
from tokenmeter.ledger.drain import drain


def main() -> None:
    """Say when it begins, and when there was nothing more once."""
    store, ledger = open_store(sys.argv[1]), open_ledger(sys.argv[2])
    print("begun", flush=True)
    while True:
        try:
            done = drain(store, ledger, entries_a_step=25)
        except StoreUnavailable as error:  # the test says when it is over
            print(f"trouble: {error}", flush=True)
        else:
            if "once" in sys.argv:
                print(done.entries, flush=True)
                return
        time.sleep(0.005)


if __name__ == "__main__":
    main()
