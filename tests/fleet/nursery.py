"""The parent of a fleet: a process without threads that has imported what its children need, and forks them."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys

from tests.fleet import roles
from tests.fleet.fleet import Gone, Link
from tokenmeter.pricing import InputBound, PriceBook


def _born(order: dict[str, object]) -> None:
    """The life of a child."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for path, how, file in ((os.devnull, os.O_RDONLY, 0), (str(order["errors"]), os.O_WRONLY | os.O_APPEND, 2)):
        opened = os.open(path, how)
        os.dup2(opened, file)
        os.close(opened)
    os.environ["XDG_STATE_HOME"] = str(order["state"])
    connection = socket.create_connection(("127.0.0.1", int(str(order["port"]))))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link = Link(connection)
    link.send({"pid": os.getpid()})
    options = order["options"]
    assert isinstance(options, dict)
    try:
        roles.ROLES[str(order["role"])](link, **options)
    except Gone:
        os._exit(1)
    link.close()


def main() -> None:
    """Fork a child for each order that comes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    PriceBook(None).preload()
    InputBound().preload()
    gc.freeze()
    for line in iter(sys.stdin.buffer.readline, b""):
        if os.fork() == 0:
            _born(json.loads(line))
            return


if __name__ == "__main__":
    main()
