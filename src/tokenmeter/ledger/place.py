"""Where a ledger is, as it is written in an address; and the connection to it, with one writer at a time.

That there is one writer is what makes it simple and right to read a sum, add to it and write it back: in SQLite a
transaction that writes begins ``IMMEDIATE``, in PostgreSQL it takes one advisory lock. Readers wait for nobody.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
    SQLAlchemyError,
)

from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.ledger.migrations import STEPS, migrate, version

_EXAMPLE = "write sqlite:///relative.db, sqlite:////absolute/path.db or postgresql://USER@HOST/DATABASE"
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgresql+psycopg": "postgresql+psycopg"}
_WAIT_S = 30
_PAUSE_S = 0.02
_OLDEST_SQLITE = (3, 35)
_PRAGMAS = (
    "auto_vacuum = INCREMENTAL",  # before the first table: what is pruned gives its room back
    "journal_mode = WAL",
    "synchronous = NORMAL",
    f"busy_timeout = {_WAIT_S * 1000}",
    "cache_size = -65536",
)


_REMEDIES = (  # of what SQLite says
    ("readonly", "or its folder can't be written by this user; give write access to both, or report on a copy"),
    ("malformed", "is damaged; put a copy in its place, or save what can be read with: sqlite3 FILE .recover"),
)


class Place:
    """One database, whose transactions are for reading or for writing. ``address`` has no password."""

    def __init__(self, url: str) -> None:
        parsed = _parsed(url)
        self.address = _shown(parsed)
        self.is_sqlite = parsed.drivername == "sqlite"
        self._engine = _engine(parsed)
        if self.is_sqlite:
            event.listen(self._engine, "connect", _prepare)
            event.listen(self._engine, "begin", _begin)
        self._readers = self._engine.execution_options(tokenmeter_writes=False)
        self._writers = self._engine.execution_options(tokenmeter_writes=True)
        self._open()

    @contextlib.contextmanager
    def reading(self, *, streamed: bool = False) -> Iterator[sa.Connection]:
        """A transaction that sees one moment. ``streamed``: the answer is longer than what fits into memory."""
        with self._told(), self._readers.connect() as db:
            yield db.execution_options(yield_per=2_000) if streamed else db

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """The transaction that writes: all of it is done or nothing, and there is one at a time."""
        with self._told(), self._writers.begin() as db:
            if not self.is_sqlite:
                db.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('tokenmeter ' || current_schema()))"))
            yield db

    def give_room_back(self) -> None:
        """Return what was deleted to the disk; PostgreSQL does so by itself."""
        if self.is_sqlite:
            with self._told():
                raw = self._engine.raw_connection()
                try:
                    raw.cursor().executescript("PRAGMA incremental_vacuum")  # which takes a step a page
                finally:
                    raw.close()

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    def _open(self) -> None:
        try:
            with self.reading() as db:
                found = version(db, self.address)
            if found < len(STEPS):
                with self.writing() as db:
                    migrate(db, self.address)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What the driver says, in one line that names the place."""
        try:
            yield
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            if isinstance(error, DataError | IntegrityError | ProgrammingError):
                raise
            text = " ".join(str(cause).split())[:300]
            if isinstance(cause, sqlite3.DatabaseError) and "not a database" in text:
                raise ConfigError(f"{self.address} is no database; name another file for the ledger") from None
            known = [remedy for sign, remedy in _REMEDIES if sign in text and isinstance(cause, sqlite3.DatabaseError)]
            told = known[0] if known else f"can't be reached: {text}"
            raise StoreUnavailable(f"the ledger {self.address} {told}") from error


def _parsed(url: str) -> URL:
    # The address is left out of the texts: it may carry a password.
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError, AttributeError):
        raise ConfigError(f"that is no address of a ledger; {_EXAMPLE}") from None
    if parsed.drivername == "sqlite":
        if parsed.host or parsed.username or parsed.password or parsed.port:
            raise ConfigError(f"sqlite:// has a host, and a file has none: it takes three slashes; {_EXAMPLE}")
        if parsed.query:
            raise ConfigError(f"a ledger in SQLite takes no options, not {', '.join(parsed.query)}; {_EXAMPLE}")
        name = parsed.database or ""
        if not name or name.endswith("/") or ":memory:" in name or name.startswith("file:"):
            raise ConfigError(f"a ledger needs a file, not {name or 'nothing'!r}; {_EXAMPLE}")
        return parsed.set(database=str(Path(name).resolve()))
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        raise ConfigError(f"ledger scheme {parsed.drivername + '://'!r} is unknown; {_EXAMPLE}")
    if not parsed.database:
        raise ConfigError(f"that address names no database; {_EXAMPLE}")
    return parsed.set(drivername=driver)


def _shown(url: URL) -> str:
    if url.drivername == "sqlite":
        return f"sqlite:///{url.database}"
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{url.host or ''}{port}/{url.database}"


def _engine(url: URL) -> sa.Engine:
    if url.drivername == "sqlite":
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise ConfigError(f"SQLite is of version {sqlite3.sqlite_version}; a ledger needs 3.35 or later")
        folder = Path(url.database or "").parent
        if not folder.is_dir():
            raise ConfigError(f"the folder {str(folder)!r} of the ledger is not there; make it, or correct the path")
        return sa.create_engine(url, hide_parameters=True, connect_args={"timeout": _WAIT_S})
    try:
        connect = {"connect_timeout": "10", "application_name": "tokenmeter"}
        given = {name: value for name, value in connect.items() if name not in url.query}
        return sa.create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=given)
    except (ImportError, NoSuchModuleError):
        raise ConfigError(
            "a ledger in PostgreSQL needs the package psycopg; install the extra: "
            "pip install 'tokenmeter-sdk[ledger,postgres]'"
        ) from None


def _prepare(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins no transaction by itself
    cursor = connection.cursor()
    until_s = time.monotonic() + _WAIT_S
    for pragma in _PRAGMAS:
        while True:
            try:
                cursor.execute(f"PRAGMA {pragma}").fetchall()
                break
            except sqlite3.OperationalError as error:  # SQLite doesn't wait by itself while a file changes its mode
                if "locked" not in str(error) or time.monotonic() > until_s:
                    raise
                time.sleep(_PAUSE_S)
    cursor.close()


def _begin(db: sa.Connection) -> None:
    writes = db.get_execution_options().get("tokenmeter_writes")
    db.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
