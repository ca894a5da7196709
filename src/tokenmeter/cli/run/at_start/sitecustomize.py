"""Python imports this at the start of each process below ``tokenmeter run``; see `tokenmeter.cli.run`.

A process is metered once it imports what sends requests. Until then nothing of it is touched: one that never does is
as fast as it was, and gevent, which has to patch before anything else is imported, can.
"""

from __future__ import annotations

import _thread
import importlib
import importlib.util
import json
import os
import sys
import time

TYPE_CHECKING = False  # as in `typing`, whose import takes long
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from tokenmeter import Meter

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - every Python below starts with this
_SENDERS = frozenset(
    {
        "aiohttp",
        "botocore",
        "dspy._vendor.lm15.transports",
        "httpx",
        "httpx2",
        "lm15.transports",
        "requests",
        "websockets.asyncio.client",
        "websockets.sync.client",
    }
)
_OURS = "tokenmeter"
_PATIENCE_S = 10.0  # not for ever: who begins may itself wait for a module that is imported here


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


class _Waiting:
    """Stands before those that find modules, and begins when one is imported that sends requests.

    Not when it is found: no other thread may import or fork then.
    """

    def __init__(self, orders: str) -> None:
        self._given = orders
        self._orders = [orders]
        self._beginner: int | None = None
        self._begun = False
        self._meters: list[Meter] = []

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As the others find it; None for what they are to find themselves."""
        if self._begun or (name != _OURS and name not in _SENDERS) or self._beginner == _thread.get_ident():
            return None
        found = self._found(name, path, target)
        loader = None if found is None else found.loader
        if loader is None:
            return found
        if isinstance(loader, type) or not hasattr(loader, "exec_module"):  # one for many modules, or an old one
            self.begin()
            return self._found(name, path, target)
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            if name == _OURS:  # a scope that the program enters is within the one that is given
                load(module)
                self.begin(waits=False)  # who is at it waits for this module
                return
            self.begin(name)
            load(module)
            for meter in self._meters:
                meter._instruments.there(module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return found

    def _found(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    return spec
        return None

    def begin(self, arriving: str = "", *, waits: bool = True) -> None:
        """Meter this process, or wait for the thread that is at it."""
        until_s = time.monotonic() + _PATIENCE_S
        while not self._begun:
            try:
                orders = self._orders.pop()
            except IndexError:
                if not waits or time.monotonic() >= until_s:
                    return
                time.sleep(0.005)
            else:
                self._begin(orders, arriving)

    def _begin(self, orders: str, arriving: str) -> None:
        self._beginner = _thread.get_ident()
        try:
            try:
                from tokenmeter.cli.run import begin
            except ImportError as error:
                _say(f"NOT METERED: tokenmeter can't be imported by {sys.executable} ({error})")
            else:
                self._meters = begin.begin(orders, arriving)
            self._begun = True
        except BaseException as error:
            if isinstance(error, Exception) and not _is_the_hosts(error):
                _end(error)
            self._orders.append(orders)  # interrupted: the next one begins again
            raise
        finally:
            self._beginner = None

    def in_child(self) -> None:
        """In a forked child: the thread that was at it isn't there."""
        if not self._begun:
            self._beginner = None
            self._orders[:] = [self._given]


def _begin() -> None:
    orders = os.environ.get("TOKENMETER_RUN")
    if not orders:
        return
    try:
        for each in json.loads(orders):
            if each["rows"] is not None:  # that the file is there says that some process looked for this
                os.close(os.open(each["rows"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    except (OSError, ValueError, TypeError, KeyError) as error:
        _end(error)
    if importlib.util.find_spec(_OURS) is None:
        _say(f"NOT METERED: tokenmeter is not installed for {sys.executable}")
        return
    waiting = _Waiting(orders)
    if _OURS not in sys.modules and _SENDERS.isdisjoint(sys.modules):
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=waiting.in_child)
        sys.meta_path.insert(0, waiting)
    else:
        waiting.begin()


def _end(error: Exception) -> None:
    _say(f"the program was ended, because it can't be metered: {error}")
    sys.stdout.flush()
    os._exit(1)


def _is_the_hosts(error: Exception) -> bool:
    from tokenmeter.faults import is_the_hosts

    return is_the_hosts(error)


def _say(text: str) -> None:
    sys.stderr.write(f"tokenmeter run: {text}\n")
    sys.stderr.flush()


try:
    _the_next()
finally:  # what fails there, Python tells, and goes on
    _begin()
