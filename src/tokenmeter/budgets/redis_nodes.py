"""Which node has the books, and a connection to it: one server, the node of a slot, or the master by the sentinels.

redis-py makes the connections. Where nodes are looked up stands here, because redis-py limits each step of that and
not their sum. All keys of a tenant lie in one slot, so that there is one node to know.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Protocol, cast

import redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from tokenmeter.budgets.redis_url import Node, RedisOptions
from tokenmeter.budgets.redis_words import bulk


class Connection(Protocol):
    """What is used of redis-py's connections, whose own methods have no types."""

    host: str

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def can_read(self, timeout: float) -> bool: ...
    def send_packed_command(self, command: Sequence[bytes], check_health: bool = True) -> None: ...
    def read_response(self, disable_decoding: bool, *, timeout: float = ...) -> Any: ...


class Nodes:
    """What is known of the nodes. ``here`` is the one that has the books, None if it must be looked up."""

    def __init__(self, options: RedisOptions, tag: str) -> None:
        self._options = options
        self._slot = key_slot(tag.encode())
        self._known = list(options.nodes)
        self.here: Node | None = None
        self.lose()

    def lose(self) -> None:
        """What is known may be old."""
        self.here = self._options.nodes[0] if self._options.kind == "single" else None

    def open(self) -> Connection:
        """Connect to the node that has the books; may take several time limits."""
        here = self.here
        if here is None:
            here = self.here = self._find()
        return self.connect(here)

    def connect(self, node: Node, *, sentinel: bool = False, timeout_s: float | None = None) -> Connection:
        """Connect to a node; ``timeout_s`` is for each of the steps that takes."""
        options = self._options
        timeout_s = timeout_s or options.timeout_s
        files: dict[str, Any] = dict(options.tls_files())
        kind = redis.SSLConnection if options.tls else redis.Connection
        made = kind(
            host=node[0],
            port=node[1],
            db=0 if sentinel else options.db,
            username=options.sentinel_username if sentinel else options.username,
            password=options.sentinel_password if sentinel else options.password,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            protocol=2,
            driver_info=None,  # it would cost two round trips
            **files,
        )
        connection = cast(Connection, made)
        connection.connect()
        return connection

    def _find(self) -> Node:
        """The node that has the books, by those that are known."""
        trouble: Exception = redis.ConnectionError("no node is known")
        sentinel = self._options.kind == "sentinel"
        for node in list(self._known):
            try:
                connection = self.connect(node, sentinel=sentinel)
                try:
                    return self._master(connection) if sentinel else self._of_slot(connection)
                finally:
                    with contextlib.suppress(Exception):
                        connection.disconnect()
            except (RedisError, OSError) as error:
                trouble = error
        raise trouble

    def _master(self, sentinel: Connection) -> Node:
        service = self._options.service
        sentinel.send_packed_command([pack(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", service.encode())])
        answer = sentinel.read_response(disable_decoding=True)
        if answer is None:
            raise redis.ConnectionError(f"the sentinel knows no service {service!r}")
        return answer[0].decode(), int(answer[1])

    def _of_slot(self, node: Connection) -> Node:
        node.send_packed_command([pack(b"CLUSTER", b"SLOTS")])
        here: Node | None = None
        known: dict[Node, None] = {}
        for first, last, *nodes in node.read_response(disable_decoding=True):
            places = [((name or b"").decode() or node.host, int(port)) for name, port, *_ in nodes]
            known.update(dict.fromkeys(places))
            if first <= self._slot <= last:
                here = places[0]
        # Those from the address stay: they are names that outlive the nodes of a day.
        self._known = list(dict.fromkeys((*known, *self._options.nodes)))
        if here is None:
            raise redis.ConnectionError(f"no node of the cluster serves slot {self._slot}")
        return here


def pack(*words: bytes) -> bytes:
    """A command as it is sent."""
    return b"*%d\r\n%b" % (len(words), b"".join(map(bulk, words)))
