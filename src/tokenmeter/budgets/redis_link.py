"""The way to Redis: connections that are kept, and one deadline for all that a question needs.

No lock is held while anything waits, so that a finalizer may ask Redis in the middle of another question of the
same thread: it takes another connection.
"""

from __future__ import annotations

import contextlib
import ipaddress
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import (
    AuthenticationError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from tokenmeter.budgets.redis_lua import Script
from tokenmeter.budgets.redis_nodes import Connection, Nodes, pack
from tokenmeter.budgets.redis_url import Node, RedisOptions
from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.forks import start_thread

Reply = Any  # bytes, int, or a list of such

_MAX_IDLE = 32
_MAX_CONNECTING = 256


class Link:
    """Talks to the node that has the keys with this tag."""

    def __init__(self, options: RedisOptions, tag: str) -> None:
        self._options = options
        self._tag = tag
        self.forget()

    def forget(self) -> None:
        """Know nothing any more, as in a forked child: its parent's connections are not its own."""
        self._idle: deque[Connection] = deque()
        self.nodes = Nodes(self._options, self._tag)
        self._connecting: set[object] = set()
        self._keeps = True

    def close(self) -> None:
        """Close what is idle, and keep nothing from now on."""
        self._keeps = False
        self._drop_idle()

    def run(self, script: Script, arguments: Sequence[bytes], deadline: float) -> Reply:
        """Run a script; ``arguments`` are ready to be sent."""
        packed = b"".join((b"*%d\r\n" % (len(arguments) + 2), script.head, *arguments))
        for _ in range(3):
            connection = self._take(deadline)
            try:
                try:
                    return self._use(connection, packed, deadline)
                except NoScriptError:
                    self._use(self._take(deadline), pack(b"SCRIPT", b"LOAD", script.text), deadline)
                    connection = self._take(deadline)
                    return self._use(connection, packed, deadline)
            except ResponseError as error:
                if isinstance(error, MovedError):
                    if self._options.kind != "cluster":
                        raise ConfigError(
                            f"{self._options.address} belongs to a Redis Cluster; write redis+cluster://"
                        ) from None
                    self._move((error.host or connection.host, error.port))
                    continue
                if isinstance(error, ReadOnlyError):  # it was the master once
                    self._lose()
                raise self._refused(error) from error
        raise StoreUnavailable(f"{self._name}: its books are being moved between nodes; try again")

    def command(self, deadline: float, *words: bytes) -> Reply:
        """One command without keys, on the node that has the books."""
        return self._use(self._take(deadline), pack(*words), deadline)

    # -- connections

    def _use(self, connection: Connection, packed: bytes, deadline: float) -> Reply:
        """Ask, and keep the connection or let go of it. Raises `ResponseError` or `StoreUnavailable`."""
        try:
            answer = self._ask(connection, packed, deadline)
        except ResponseError:
            self._give_back(connection)
            raise
        except (RedisError, OSError) as error:
            self._discard(connection)
            self._lose()
            raise self._gone(error) from error
        except BaseException:
            self._discard(connection)
            raise
        self._give_back(connection)
        return answer

    def _ask(self, connection: Connection, packed: bytes, deadline: float) -> Reply:
        connection.send_packed_command([packed], check_health=False)
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise redis.TimeoutError
        return connection.read_response(disable_decoding=True, timeout=left_s)

    def _take(self, deadline: float) -> Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._connect(deadline)
            try:
                if not connection.can_read(0):  # else it was closed by the server: nothing is due
                    return connection
            except (RedisError, OSError):
                pass
            self._discard(connection)

    def _give_back(self, connection: Connection) -> None:
        if self._keeps and len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        else:
            self._discard(connection)

    def _discard(self, connection: Connection) -> None:
        with contextlib.suppress(Exception):
            connection.disconnect()

    def _drop_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._discard(self._idle.pop())

    def _lose(self) -> None:
        """What is known of the nodes may be old."""
        self._drop_idle()
        self.nodes.lose()

    def _move(self, node: Node) -> None:
        self._drop_idle()
        self.nodes.here = node

    def _connect(self, deadline: float) -> Connection:
        """A new connection; made by a thread if a host's name or a node must be looked up, which takes any time."""
        here = self.nodes.here
        if here is not None and _is_plain(here[0]):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._gone(redis.TimeoutError())
            steps = 1 + bool(self._options.password) + bool(self._options.db) + self._options.tls
            try:
                return self.nodes.connect(here, timeout_s=left_s / steps)
            except (RedisError, OSError) as error:
                self._lose()
                raise self.explain(error) from error
        opening = _Opening(self)
        self._connecting.add(opening)
        try:
            if len(self._connecting) > _MAX_CONNECTING:
                raise StoreUnavailable(f"{self._name}: too many connections are waited for; {_REMEDY}")
            if start_thread(opening.run, name="redis-connect") is None:
                opening.run()
        except BaseException:
            self._connecting.discard(opening)
            raise
        try:
            opening.ready.acquire(timeout=max(0.0, deadline - time.monotonic()))
        finally:
            opening.awaited = False
        try:
            found = opening.found.pop()
        except IndexError:
            raise self._gone(redis.TimeoutError()) from None
        if isinstance(found, Exception):
            raise found
        return found

    # -- what went wrong, for people

    @property
    def _name(self) -> str:
        return f"the budgets in Redis at {self._options.address} (tenant {self._options.tenant!r})"

    def _gone(self, error: Exception) -> StoreUnavailable:
        if isinstance(error, StoreUnavailable):
            return error
        if isinstance(error, redis.TimeoutError | TimeoutError):
            return StoreUnavailable(f"{self._name} did not answer within {self._options.timeout_s:g} s; {_REMEDY}")
        if isinstance(error, AuthenticationError):
            return StoreUnavailable(f"{self._name} refuse the login: {error}; look at the user and the password")
        return StoreUnavailable(f"{self._name} can't be reached: {error}; {_REMEDY}")

    def _refused(self, error: ResponseError) -> StoreUnavailable:
        if isinstance(error, NoPermissionError):
            return StoreUnavailable(f"{self._name}: {error}; allow the user EVALSHA, SCRIPT, INFO and ~{{tokenmeter:*")
        code = error.status_code or str(error).partition(" ")[0]
        return StoreUnavailable(f"{self._name} refuse: {code} {error}; {_REMEDIES.get(code, _REMEDY)}")

    def explain(self, error: Exception) -> Exception:
        """An error of redis-py in words."""
        if "cluster support disabled" in str(error):
            return ConfigError(f"{self._options.address} is no Redis Cluster; write redis://")
        if "DB index is out of range" in str(error):
            return ConfigError(f"{self._options.address}: that server has no database {self._options.db}; name another")
        found = self._refused(error) if isinstance(error, ResponseError) else self._gone(error)
        found.__cause__ = error
        return found


class _Opening:
    """A connection on its way."""

    def __init__(self, link: Link) -> None:
        self.ready = threading.Lock()
        self.ready.acquire()
        self.awaited = True
        self.found: deque[Connection | Exception] = deque()
        self._link = link

    def run(self) -> None:
        """Open it; one that nobody waits for any more goes to the others."""
        link = self._link
        try:
            self.found.append(link.nodes.open())
        except Exception as error:  # noqa: BLE001 - it is raised where the connection is waited for
            link.nodes.lose()
            self.found.append(link.explain(error))
        link._connecting.discard(self)
        self.ready.release()
        if not self.awaited:
            with contextlib.suppress(IndexError):
                late = self.found.pop()
                if not isinstance(late, Exception):
                    link._give_back(late)


_REMEDY = "look whether the server is up and the address right, or give it more time with ?timeout_s="
_REMEDIES = {
    "OOM": "the server has no memory left: raise maxmemory, or drop old entries with ?keep_days=",
    "MISCONF": "the server can't save to its disk: see its log",
    "READONLY": "that is a replica: name the master, or write redis+sentinel:// with the sentinels",
    "LOADING": "the server is just starting",
    "CLUSTERDOWN": "some slots of the cluster have no node: see CLUSTER INFO",
    "TRYAGAIN": "the books are being moved between nodes",
    "ASK": "the books are being moved between nodes",
    "ERR": "please report this",
    "BUSY": "another script takes long there",
}


def _is_plain(host: str) -> bool:
    """Whether no name has to be looked up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True
