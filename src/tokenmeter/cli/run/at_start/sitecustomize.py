"""Python imports this at the start of each process below ``tokenmeter run``; see `tokenmeter.cli.run`."""

import importlib
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - every Python below starts with this


def _the_next() -> None:
    """The module of this name that this one hides."""
    hidden = sys.modules.pop(__name__)
    sys.path[:] = [each for each in sys.path if os.path.abspath(each) != _HERE]  # noqa: PTH100
    try:
        importlib.import_module(__name__)
    except ModuleNotFoundError as error:
        if error.name != __name__:
            raise
    finally:
        sys.modules.setdefault(__name__, hidden)


def _begin() -> None:
    orders = os.environ.get("TOKENMETER_RUN")
    if not orders:
        return
    try:
        from tokenmeter.cli.run.begin import begin
    except ImportError as error:
        _say(f"NOT METERED: tokenmeter is not installed for {sys.executable} ({error})")
        return
    try:
        begin(orders)
    except Exception as error:  # noqa: BLE001 - what is to be held to a budget doesn't run without it
        _say(f"the program was not started: {error}")
        os._exit(1)


def _say(text: str) -> None:
    sys.stderr.write(f"tokenmeter run: {text}\n")
    sys.stderr.flush()


try:
    _the_next()
finally:  # what fails there, Python tells, and goes on
    _begin()
