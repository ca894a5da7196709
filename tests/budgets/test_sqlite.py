"""What is SQLite's own: addresses, files that are no books, numbers, interrupts, full disks and locks."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tokenmeter.budgets import Budget, Claim, Entry, Grant, Held, Need, Pause, Policy, Settled, Short, State
from tokenmeter.budgets import sqlite_desk as desk
from tokenmeter.budgets import sqlite_schema as schema
from tokenmeter.budgets import sqlite_views as views
from tokenmeter.budgets.sqlite import SqliteStore, open_sqlite
from tokenmeter.budgets.sqlite_url import SqliteOptions, parse_url
from tokenmeter.errors import ConfigError, StoreUnavailable

Open = Callable[..., SqliteStore]
SOURCE = Path(__file__).parents[2] / "src"
LONG_S = 60.0


def claim(amount: int = 1, limit: int = 10, key: str = "book") -> Claim:
    return Claim(Budget("10 calls"), key, "global", amount, limit, None, enforce=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "books.db"


@pytest.fixture
def connect(file: Path) -> Iterator[Open]:
    """Opens stores on one file, and closes them."""
    opened: list[SqliteStore] = []

    def make(**options: Any) -> SqliteStore:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        opened.append(open_sqlite(f"sqlite:///{file}?{query}"))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def raw(file: Path) -> sqlite3.Connection:
    """The file as another program sees it."""
    return sqlite3.connect(file, isolation_level=None, timeout=LONG_S)


def whole(store: SqliteStore) -> dict[str, State]:
    """The books, which are what the entries say, and what the holds say."""
    charged = Counter[str]()
    for _, entry in store.entries():
        charged.update(dict(entry.charges))
    books = {book.key: book.state for book in store.books()}
    assert {key: state.posted for key, state in books.items() if state.posted} == +charged
    return books


# -- addresses


def test_an_address_names_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_url("sqlite:///a.db") == SqliteOptions(tmp_path / "a.db")
    assert parse_url(f"sqlite:///{tmp_path}/a%20%23b.db").path == tmp_path / "a #b.db"
    assert parse_url("sqlite:///sub/../a.db").path == tmp_path / "a.db"
    (tmp_path / "link").symlink_to(tmp_path / "a.db")
    assert parse_url("sqlite:///link").path == tmp_path / "a.db"
    found = parse_url("sqlite:///a.db?timeout_s=0.5&lease_s=60&keep_days=0&synchronous=full")
    assert found == SqliteOptions(tmp_path / "a.db", 0.5, 60.0, 0.0, "full")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "names no file; write sqlite:///relative.db"),
        ("sqlite:///", "names no file"),
        ("sqlite:///folder/", "names no file"),
        ("sqlite://a.db", "three slashes"),
        ("sqlite://user:secret@host/a.db", "three slashes"),
        ("sqlite:///:memory:", "write memory://"),
        ("sqlite:///file::memory:?cache=shared", "write memory://"),
        ("sqlite:///a#b.db", "write %23"),
        ("sqlite:///a%00.db", "zero byte"),
        ("mysql:///a.db", "'mysql://' is unknown"),
        ("sqlite:///a.db?timeout=5", "'timeout' is unknown; .* did you mean 'timeout_s'"),
        ("sqlite:///a.db?key=secret", "'key' is unknown; there are timeout_s"),
        ("sqlite:///a.db?timeout_s=", "'timeout_s' is empty"),
        ("sqlite:///a.db?timeout_s=long", "'long' is no number"),
        ("sqlite:///a.db?timeout_s=0", "timeout_s=0 is out of range; give 0.01 to 60"),
        ("sqlite:///a.db?timeout_s=nan", "timeout_s=nan is out of range"),
        ("sqlite:///a.db?keep_days=-1", "keep_days=-1 is out of range"),
        ("sqlite:///a.db?timeout_s=9", "lease_s=15 is too short beside timeout_s=9"),
        ("sqlite:///a.db?synchronous=off", "synchronous='off' is unknown; choose normal or full"),
    ],
)
def test_addresses_that_make_no_sense(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        open_sqlite(url)
    assert "secret" not in str(caught.value)


def test_the_same_books_wherever_one_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    store = open_sqlite("sqlite:///books.db")
    store._desk._let_go()
    monkeypatch.chdir("there")
    assert store.post("p", (claim(),), (3,))
    store.close()
    assert [path.name for path in tmp_path.iterdir()].count("books.db") == 1
    assert not list((tmp_path / "there").iterdir())


def test_only_its_owner_can_read_it(connect: Open, file: Path) -> None:
    store = connect()
    store.hold("h", (claim(),), 0.0)
    for path in [*file.parent.iterdir(), *store._owner.folder.iterdir()]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


# -- files that are no books, or can't be used


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path} is a folder; name a file"):
        open_sqlite(f"sqlite:///{tmp_path}")
    with pytest.raises(ConfigError, match=r"folder .*missing of the budgets does not exist; make it"):
        open_sqlite(f"sqlite:///{tmp_path}/missing/books.db")
    (tmp_path / "plain").touch()
    with pytest.raises(ConfigError, match="below what is no folder"):
        open_sqlite(f"sqlite:///{tmp_path}/plain/books.db")
    with pytest.raises(ConfigError, match="can't be opened"):
        open_sqlite(f"sqlite:///{tmp_path}/{'x' * 300}")


@pytest.mark.parametrize("content", [b"not a database, but long enough to be taken for one" * 40, b"short"])
def test_a_file_of_another_kind(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"{file} is no SQLite database; name another file"):
        open_sqlite(f"sqlite:///{file}")
    assert file.read_bytes() == content


@pytest.mark.parametrize("marks", [(), ("PRAGMA application_id = 7",), ("PRAGMA user_version = 1",)])
def test_a_database_of_another_program(file: Path, marks: tuple[str, ...]) -> None:
    with contextlib.closing(raw(file)) as db:
        for statement in ("CREATE TABLE books (title TEXT)", *marks):
            db.execute(statement)
    before = file.read_bytes()
    with pytest.raises(ConfigError, match=f"{file} is a database of another program; name a file of its own"):
        open_sqlite(f"sqlite:///{file}")
    assert file.read_bytes() == before


def test_a_file_of_a_newer_version(connect: Open, file: Path) -> None:
    connect().close()
    with contextlib.closing(raw(file)) as db:
        db.execute(f"PRAGMA user_version = {len(schema.STEPS) + 1}")
    with pytest.raises(ConfigError, match=f"{file} was written by a newer tokenmeter .*; update the package"):
        connect()


def test_a_damaged_file(connect: Open, file: Path) -> None:
    store = connect()
    for number in range(200):
        store.post(str(number), (claim(0, 10, f"book {number}"),), (1,), b"x" * 500)
    store.close()
    content = bytearray(file.read_bytes())
    for page in range(1, len(content) // 4096):
        content[page * 4096 : page * 4096 + 100] = b"\xff" * 100
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"{file} is damaged .*; put a copy in its place"):
        connect()


def test_damage_that_comes_later(connect: Open, file: Path) -> None:
    store = connect()
    for number in range(200):
        store.post(str(number), (claim(0, 10, f"book {number}"),), (1,), b"x" * 500)
    store._desk._let_go()
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(b"\xff" * (size - 4096))
    with pytest.raises(StoreUnavailable, match=f"{file} is damaged"):
        store.hold("h", (claim(key="book 7"),), 0.0)


@pytest.fixture
def for_all() -> Iterator[Path]:
    """A folder that other users can enter, as pytest's own can't be."""
    folder = Path(tempfile.mkdtemp(prefix="tokenmeter-sqlite-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users on this system")
@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o755, 0o444), (0o555, 0o666), (0o555, None), (0o755, 0o000)])
def test_no_right_to_write(for_all: Path, folder_mode: int, file_mode: int | None) -> None:
    file = for_all / "books.db"
    if file_mode is not None:
        open_sqlite(f"sqlite:///{file}").close()
        file.chmod(file_mode)
    for_all.chmod(folder_mode)
    program = textwrap.dedent("""
        import os, sys
        from tokenmeter.budgets.sqlite import open_sqlite
        from tokenmeter.errors import ConfigError
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            open_sqlite(sys.argv[1])
        except ConfigError as error:
            print(error)
    """)
    ran = run(program, f"sqlite:///{file}")
    assert f"{file} or its folder can't be written by this user; give write access to both" in ran


def test_a_disk_that_is_full(connect: Open) -> None:
    store = connect()
    store.hold("h", (claim(4),), 0.0)
    db = store._desk._db
    assert db is not None
    [pages] = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailable, match=r"the disk with the budgets .* is full; make room"):
        store.settle("h", (3,), b"x" * 100_000)
    assert store.read(["book"]) == (State(0, 4, 10),)
    db.execute("PRAGMA max_page_count = 100000")
    assert store.settle("h", (3,), b"x" * 100_000) == Settled((State(3, 0, 10),), (3,))
    whole(store)


def test_a_file_that_may_not_grow(file: Path) -> None:
    program = textwrap.dedent("""
        import resource, sys
        from tokenmeter.budgets import Budget, Claim
        from tokenmeter.budgets.sqlite import open_sqlite
        from tokenmeter.errors import StoreUnavailable
        claim = Claim(Budget("10 calls"), "book", "global", 4, 10, None, enforce=True)
        store = open_sqlite(sys.argv[1])
        store.hold("h", (claim,), 0.0)
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, most))
        try:
            store.settle("h", (3,), b"x" * 400_000)
        except StoreUnavailable as error:
            print(error)
        print(store.read(["book"]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        print(store.settle("h", (3,), b"x" * 400_000))
    """)
    error, before, after = run(program, f"sqlite:///{file}").splitlines()
    assert str(file) in error
    assert before == "(State(posted=0, held=4, limit=10),)"
    assert after == "Settled(states=(State(posted=3, held=0, limit=10),), added=(3,))"


def test_a_file_that_is_taken_away(connect: Open, file: Path) -> None:
    store = connect()
    store.post("p", (claim(),), (3,))
    aside = file.with_name("aside.db")
    file.rename(aside)
    store._desk._look_at = 0.0  # a second later
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=f"{file} was removed or replaced .*; put it back, or start"):
            store.hold("h", (claim(),), 0.0)
    assert not file.exists()
    file.write_bytes(b"")  # fresh books are not those
    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        store.hold("h", (claim(),), 0.0)
    aside.rename(file)
    assert store.hold("h", (claim(),), 0.0) == Held((State(3, 1, 10),), ())


@pytest.mark.parametrize("part", ["-wal", "-shm"])
def test_a_part_of_the_file_that_is_taken_away(connect: Open, file: Path, part: str) -> None:
    """Whoever opens the file then would not see what this process writes, nor this one what others do."""
    store = connect()
    store.post("p", (claim(),), (3,))
    path = file.with_name(file.name + part)
    aside = path.with_name("aside")
    path.rename(aside)
    store._desk._look_at = 0.0  # a second later
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=f"{path} was removed or replaced"):
            store.hold("h", (claim(),), 0.0)
    aside.rename(path)
    assert store.hold("h", (claim(),), 0.0) == Held((State(3, 1, 10),), ())
    store._desk._let_go()  # as before a fork: they go with the last who has the file open
    assert not path.exists()
    assert store.settle("h", (1,)) is not None


def test_a_file_that_is_gone_before_it_is_opened_again(connect: Open, file: Path) -> None:
    store = connect()
    store._desk._let_go()
    file.unlink()
    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        store.read(["book"])
    assert not file.exists()


# -- versions


def test_an_older_file_is_brought_up_to_date(connect: Open, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = connect()
    older.hold("h", (claim(4),), 0.0)
    older.post("p", (claim(),), (3,), b"row")
    more = ("ALTER TABLE pauses ADD COLUMN until_s REAL", "CREATE TABLE more (name TEXT)")
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, more, ("DROP TABLE more",)))
    newer = connect()
    assert newer.read(["book"]) == (State(3, 4, 10),)
    assert newer.settle("h", (1,)) == Settled((State(4, 0, 10),), (1,))
    with contextlib.closing(raw(file)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (3,)
        assert db.execute("PRAGMA application_id").fetchone() == (schema.APPLICATION,)
        assert [name for _, name, *_ in db.execute("PRAGMA table_info(pauses)")][-1] == "until_s"
    assert connect().read(["book"]) == (State(4, 0, 10),)


def test_a_step_that_fails_changes_nothing(connect: Open, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect().post("p", (claim(),), (3,))
    with monkeypatch.context() as patched:
        patched.setattr(schema, "STEPS", (*schema.STEPS, ("CREATE TABLE more (name TEXT)", "CREATE TABLE books (x)")))
        with pytest.raises(ConfigError, match="isn't as tokenmeter makes it"):
            connect()
    with contextlib.closing(raw(file)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'more'").fetchall()
    assert connect().read(["book"]) == (State(3, 0, 10),)


# -- numbers and words


EDGES = sorted({2**power + more for power in (0, 30, 52, 53, 60, 62) for more in (-1, 0, 1)} | {10**18})


@pytest.mark.parametrize("limit", EDGES)
def test_the_last_nanodollar_counts(connect: Open, limit: int) -> None:
    store = connect()
    for number, posted in enumerate(edge for edge in EDGES if edge < limit):
        key = f"{limit} {number}"
        assert store.post(f"p{key}", (claim(0, limit, key),), (posted,)) == Settled(
            (State(posted, 0, limit),), (posted,)
        )
        left = limit - posted
        assert isinstance(store.hold(f"h{key}", (claim(left + 1, limit, key),), 0.0), Short)
        assert store.hold(f"h{key}", (claim(left, limit, key),), 0.0) == Held((State(posted, left, limit),), ())
        assert isinstance(store.hold(f"i{key}", (claim(1, limit, key),), 0.0), Short)
        assert store.settle(f"h{key}", (left - 1,)) == Settled((State(limit - 1, 0, limit),), (left - 1,))


def test_sums_beyond_what_a_column_of_numbers_keeps(connect: Open) -> None:
    store = connect()
    most = 2**63 - 1
    for number in range(5):
        assert store.post(str(number), (claim(0, most),), (most,)) == Settled(
            (State((number + 1) * most, 0, most),), (most,)
        )
    assert whole(store) == {"book": State(5 * most, 0, most)}
    short = store.hold("h", (claim(1, most),), 0.0)
    assert isinstance(short, Short)
    assert short.if_settled == (-4 * most,)
    for verb in (store.settle, store.adjust):
        with pytest.raises(ValueError, match="amounts"):
            verb("p", (2**63,))
    now_s = store.time_s()
    for number in range(3):
        store.grant(Grant(str(number), "x|", most, now_s - 1, now_s + 1000, "", ""))
    store.grant(Grant("huge", "x|", 10**30, now_s - 1, now_s + 1000, "", ""))
    top = 4 * most + 10**30
    assert store.hold("g", (claim(most, most, "x||total"),), 0.0) == Held((State(0, most, top),), ())
    assert [grant.amount for grant in store.grants()] == [most] * 3 + [10**30]


def test_text_that_is_no_good_unicode(connect: Open) -> None:
    store = connect()
    odd = "half \ud800 \x00 ключ"
    now_s = store.time_s()
    grant, pause = Grant(odd, f"{odd}|", 5, 0.0, 1e11, odd, odd), Pause(odd, now_s, odd, odd)
    store.grant(grant)
    store.pause(pause)
    key = f"{odd}||total"
    scoped = Claim(Budget("10 calls", name=odd), key, odd, 12, 10, None, enforce=True)
    assert store.hold(odd, (scoped,), 0.0) == Held((State(0, 12, 15),), ())
    assert store.adjust(odd, (2,)) == Held((State(0, 2, 15),), ())
    assert store.settle(odd, (2,), b"row")
    assert [entry for _, entry in store.entries()] == [Entry(odd, ((key, 2),), b"row")]
    [book] = store.books()
    assert (book.key, book.budget, book.scope) == (key, odd, odd)
    assert (store.grants(), store.pauses()) == ([grant], [pause])
    assert store.resume(odd)


# -- what comes in between


class Watched:
    """A connection that lets something happen before or after its n-th statement."""

    def __init__(self, db: sqlite3.Connection, before: Callable[[int], object], after: Callable[[int], object]) -> None:
        self._db = db
        self._before = before
        self._after = after
        self.count = 0

    def execute(self, *args: Any) -> sqlite3.Cursor:
        return self._step(self._db.execute, *args)

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        return self._step(self._db.executemany, *args)

    def _step(self, do: Callable[..., sqlite3.Cursor], *args: Any) -> sqlite3.Cursor:
        number = self.count
        self.count += 1
        self._before(number)
        done = do(*args)
        self._after(number)
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


def nothing(number: int) -> None:
    pass


@contextlib.contextmanager
def watched(
    store: SqliteStore, before: Callable[[int], object] = nothing, after: Callable[[int], object] = nothing
) -> Iterator[Watched]:
    db = store._desk._db
    assert db is not None
    watching = Watched(db, before, after)
    store._desk._db = watching  # type: ignore[assignment]
    try:
        yield watching
    finally:
        store._desk._db = db


OUTER: dict[str, Callable[[SqliteStore], object]] = {
    "hold": lambda store: store.hold("other", (claim(),), 0.0),
    "settle": lambda store: store.settle("other", (1,), b"other"),
    "release": lambda store: store.release("other"),
    "adjust": lambda store: store.adjust("other", (2,)),
    "post": lambda store: store.post("other", (claim(),), (1,)),
    "draw": lambda store: store.draw(("other",), [Entry("e", (("book", 1),), b"")]),
    "sent": lambda store: store.sent("other"),
    "read": lambda store: store.read(["book"]),
    "recover": lambda store: store.recover(),
}
# What is done to the hold ``h`` of four, and what its book reads then.
INNER: dict[str, tuple[Callable[[SqliteStore], object], State]] = {
    "settle": (lambda store: store.settle("h", (3,), b"row"), State(3, 0, 10)),
    "release": (lambda store: store.release("h"), State(0, 0, 10)),
    "post": (lambda store: store.post("h", (claim(4, key="inner"),), (3,), b"row"), State(3, 0, 10)),
    "draw": (lambda store: store.draw(("h",), [Entry("d", (("inner", 3),), b"row")]), State(3, 1, 10)),
    "write": (lambda store: store.write([Entry("d", (), b"row")]), State(0, 4, 10)),
}


def empty(store: SqliteStore) -> None:
    """For the next round, which has the same ids."""
    with contextlib.closing(raw(store.options.path)) as db:
        for table in ("holds", "entries", "books"):
            db.execute(f"DELETE FROM {table}")


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("outer", OUTER)
def test_a_finalizer_ends_a_call_within_a_verb(connect: Open, outer: str, inner: str) -> None:
    work, expected = INNER[inner]
    store = connect()
    for place in itertools.count():
        store.hold("h", (claim(4, key="inner"),), 0.0)
        if outer != "hold":
            store.hold("other", (claim(),), 0.0)
        answers: list[object] = []

        def interrupt(number: int, place: int = place, answers: list[object] = answers) -> None:
            if number == place:
                answers.append(work(store))

        with watched(store, after=interrupt):
            OUTER[outer](store)
        if not answers:
            assert place > 1
            break
        assert store.read(["inner"]) == (expected,)
        [answer] = answers
        if inner in ("settle", "post"):
            assert isinstance(answer, Settled)
            assert answer.added == (3,)
        else:
            assert answer == {"release": True, "draw": (), "write": None}[inner]
        assert not work(store)
        assert store.read(["inner"]) == (expected,)
        whole(store)
        empty(store)


def test_what_needs_an_answer_is_refused_within_a_verb(connect: Open) -> None:
    store = connect()
    errors: list[str] = []

    def interrupt(number: int) -> None:
        for work in (
            lambda: store.hold("inner", (claim(),), 0.0),
            lambda: store.queue("inner", (claim(),), 0.0),
            lambda: store.adjust("h", (1,)),
            lambda: store.read(["book"]),
            store.recover,
        ):
            with pytest.raises(StoreUnavailable, match="finalizer or a signal handler") as caught:
                work()
            errors.append(str(caught.value))

    with watched(store, before=interrupt):
        assert isinstance(store.hold("h", (claim(),), 0.0), Held)
    assert len(errors) > 10
    assert store.read(["book"]) == (State(0, 1, 10),)


def test_the_same_end_within_itself_comes_once(connect: Open) -> None:
    store = connect()
    store.hold("h", (claim(4),), 0.0)
    answers: list[object] = []
    with watched(store, after=lambda _: answers.append(store.settle("h", (2,)))):
        assert store.settle("h", (3,)) == Settled((State(3, 0, 10),), (3,))
    assert not any(answers)
    store.hold("i", (claim(4),), 0.0)
    with watched(store, after=lambda _: answers.append(store.release("i"))):
        assert store.hold("j", (claim(1),), 0.0)
    assert answers.count(True) == 1
    assert whole(store) == {"book": State(3, 1, 10)}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("outer", OUTER)
def test_control_c_leaves_a_verb_done_or_not_done(connect: Open, outer: str, after: bool) -> None:
    class Interrupt(BaseException):
        pass

    store = connect()
    for place in itertools.count():
        if outer != "hold":
            store.hold("other", (claim(),), 0.0)

        def interrupt(number: int, place: int = place) -> None:
            if number == place:
                raise Interrupt

        with watched(store, **{"after" if after else "before": interrupt}) as watching:
            try:
                OUTER[outer](store)
            except Interrupt:
                pass
            else:
                assert place >= watching.count
                break
        assert not store._desk._turn.mine
        books = whole(store)
        assert sum(state.held for state in books.values()) <= 2
        store.release("other")
        assert whole(store).get("book", State(0, 0, 0)).held == 0
        assert isinstance(store.hold("next", (claim(),), 0.0), Held)
        empty(store)


def test_a_rollback_that_was_interrupted(connect: Open) -> None:
    store = connect()
    db = store._desk._db
    assert db is not None
    db.execute("BEGIN IMMEDIATE")
    db.execute("DELETE FROM budgets")
    assert isinstance(store.hold("h", (claim(),), 0.0), Held)
    [book] = store.books()
    assert book.budget == "10 calls in total"


def test_a_hold_whose_answer_was_lost(connect: Open) -> None:
    store = connect()
    store.hold("first", (claim(1),), 0.0)
    db = store._desk._db
    assert db is not None

    def fail(number: int) -> None:
        if not db.in_transaction:  # it was committed
            raise sqlite3.OperationalError("the disk failed")

    with watched(store, after=fail), pytest.raises(StoreUnavailable, match="the disk failed"):
        store.hold("h", (claim(4),), 0.0)
    assert store.read(["book"]) == (State(0, 5, 10),)
    assert store.hold("h", (claim(3),), 0.0) == Held((State(0, 4, 10),), ())
    with pytest.raises(ValueError, match="in use"):
        store.hold("h", (claim(3),), 0.0)


def test_a_release_that_failed_is_made_up_for(connect: Open, file: Path) -> None:
    store = connect(timeout_s=0.02)
    store.hold("h", (claim(4),), 0.0)
    with contextlib.closing(raw(file)) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            store.release("h")
    store.sent("whatever")
    assert store.read(["book"]) == (State(0, 0, 10),)


# -- a file that others have


def test_a_file_that_is_locked_for_long(connect: Open, file: Path) -> None:
    store = connect(timeout_s=0.05)
    store.hold("h", (claim(4),), 0.0)
    program = textwrap.dedent("""
        import sqlite3, sys
        db = sqlite3.connect(sys.argv[1], isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        print("locked", flush=True)
        sys.stdin.readline()
        db.execute("ROLLBACK")
        print("free", flush=True)
        sys.stdin.readline()
    """)
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        words = f"has had the file of the budgets {file} locked for 0.05 s; find out who"
        for work in (
            lambda: store.hold("i", (claim(1),), 0.0),
            lambda: store.sent("h"),
            lambda: store.settle("h", (1,)),
            lambda: store.post("p", (claim(),), (1,)),
            lambda: store.draw((), [Entry("e", (("book", 1),), b"")]),
            lambda: store.grant(Grant("g", "x|", 1, 0.0, 1e11, "", "")),
            store.recover,
        ):
            with pytest.raises(StoreUnavailable, match=words):
                work()
        assert store.read(["book"]) == (State(0, 4, 10),)  # who reads is not in the way
        late = open_sqlite(f"sqlite:///{file}?timeout_s=0.05")  # its verbs try again
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "free\n"
        assert late.settle("h", (3,)) == Settled((State(3, 0, 10),), (3,))
        late.close()
    finally:
        other.kill()
        other.communicate()


def test_who_waits_a_little_is_served(connect: Open, file: Path) -> None:
    store = connect(timeout_s=60, lease_s=300)
    with contextlib.closing(raw(file)) as db:
        db.execute("BEGIN IMMEDIATE")
        tries = itertools.count()

        def free(number: int) -> None:
            if next(tries) == 5:
                db.execute("ROLLBACK")

        with watched(store, before=free):
            assert store.post("p", (claim(),), (3,))
    assert next(tries) > 5


# -- what is kept, and how long


def test_what_is_charged_once_stays_so_beside_a_row(connect: Open) -> None:
    store = connect()
    store.hold("h", (claim(4),), 0.0)
    store.write([Entry("h", (), b"written")])
    assert store.settle("h", (3,), b"settled") is None
    assert whole(store) == {"book": State(0, 0, 10)}
    assert [entry.row for _, entry in store.entries()] == [b"written"]


def test_who_reads_on_meets_what_was_corrected(connect: Open) -> None:
    victim, store = connect(), connect()
    victim.hold("h", (claim(4),), 0.0, note=lambda: b"estimated")
    victim.sent("h")
    victim._die()
    assert store.recover() == 1
    [(mark, estimate)] = store.entries()
    assert store.settle("h", (1,), b"true")
    assert [(entry.id, entry.row) for _, entry in store.entries(mark)] == [("h", b"true")]
    assert estimate == Entry("h", (("book", 4),), b"estimated")


def test_old_entries_are_dropped(connect: Open, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_ENTRIES_A_TIDY", 4)
    store = connect(keep_days=7)
    for number in range(10):
        store.write([Entry(f"e{number}", (), b"")])
    with contextlib.closing(raw(file)) as db:
        db.execute("UPDATE entries SET at_s = at_s - 8 * 86400 WHERE number <= 6")
    for left in (6, 4, 4):
        store._tidy()
        assert len(list(store.entries())) == left
    with contextlib.closing(raw(file)) as db:
        db.execute("UPDATE entries SET at_s = at_s - 8 * 86400")
    store._tidy()
    store._tidy()
    [(mark, last)] = store.entries()
    assert last.id == "e9"
    store.write([Entry("e10", (), b"")])
    assert [entry.id for _, entry in store.entries(mark)] == ["e10"]


def test_books_are_dropped_when_they_are_over(connect: Open, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_BOOKS_A_TIDY", 3)
    store = connect()
    policy = Policy([Budget("10 calls", per="hour"), Budget("10 calls", per="run"), Budget("10 calls")])

    def use(number: int, at_s: float) -> None:
        claims = policy.claims({"run": "r"}, Need(None, 1), at_s)
        assert isinstance(store.hold(f"h{number}", claims, at_s), Held)
        store.settle(f"h{number}", (1, 1, 1))

    now_s = store.time_s()
    for number in range(5):
        use(number, now_s - number * 3600)
    two_days_s = now_s - 2 * 86400
    old = policy.claims({"run": "r"}, Need(None, 1), two_days_s)
    store.hold("held", old[:1], two_days_s)
    use(10, two_days_s - 7200)
    with contextlib.closing(raw(file)) as db:
        db.execute("UPDATE books SET used_day = used_day - 2 WHERE resets_at < ?", (now_s - 86400,))
    store._tidy()
    kept = {book.key for book in store.books()}
    assert len(kept) == 5 + 1 + 1 + 1
    assert old[0].key in kept  # somebody holds it
    store.release("held")
    with contextlib.closing(raw(file)) as db:
        db.execute("UPDATE books SET used_day = used_day - 40, ends_s = min(ends_s, 1)")
    for _ in range(3):
        store._tidy()
    assert [book.key for book in store.books()] == [old[2].key]
    use(20, now_s)
    whole_now = {book.key: book.state.posted for book in store.books()}
    assert sorted(whole_now.values()) == [1, 1, 7]


def test_a_hold_outlives_its_book(connect: Open, file: Path) -> None:
    victim, store = connect(), connect()
    victim.hold("nothing", (claim(0),), 0.0)
    victim.hold("sent", (claim(4),), 0.0)
    victim.sent("sent")
    victim._die()
    store.recover()
    victim = connect()
    victim.hold("nothing more", (claim(0),), 0.0)
    with contextlib.closing(raw(file)) as db:
        db.execute("DELETE FROM books")
    assert store.settle("sent", (3,)) == Settled((State(3, 0, 10),), (-1,))
    assert victim.release("nothing more")
    assert store.read(["book"]) == (State(3, 0, 10),)


def test_every_further_grant_of_another_process_is_seen(connect: Open) -> None:
    store, other = connect(), connect()
    for number in range(1, 4):
        other.grant(Grant(f"g{number}", "x|", 1, 0.0, 1e11, "", ""))
        top = 10 + number
        assert store.hold(f"h{number}", (claim(top, 10, f"x||{number}"),), 0.0) == Held((State(0, top, top),), ())
        assert store.read([f"x||{number}"]) == (State(0, top, top),)


def test_the_log_beside_the_file_stays_small(connect: Open, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_CHECKPOINT_PAGES", 100)
    store = connect()
    for number in range(400):
        store.write([Entry(str(number), (), b"x" * 8_000)])
    log = file.with_name(file.name + "-wal")
    assert log.stat().st_size < 2 << 20
    assert file.stat().st_size > 2 << 20
    store.close()
    assert not log.exists()


def test_how_sure_it_is(connect: Open) -> None:
    def kept(store: SqliteStore) -> int:
        assert store._desk._db is not None
        [found] = store._desk._db.execute("PRAGMA synchronous").fetchone()
        return int(found)

    assert kept(connect()) == 1
    assert kept(connect(synchronous="full")) == 2


# -- the end


def test_close_ends_what_is_held(connect: Open) -> None:
    store, other = connect(), connect()
    store.hold("unsent", (claim(3),), 0.0)
    store.hold("sent", (claim(4),), 0.0, note=lambda: b"estimated")
    store.sent("sent")
    store.close()
    store.close()
    assert whole(other) == {"book": State(4, 0, 10)}
    assert other.recover() == 0
    with pytest.raises(StoreUnavailable, match="closed; open another"):
        store.hold("h", (claim(),), 0.0)
    # A call that was under way may still say what it did cost.
    assert store.settle("sent", (1,), b"true") == Settled((State(1, 0, 10),), (-3,))
    assert store._desk._db is None
    assert whole(other) == {"book": State(1, 0, 10)}


def test_nothing_is_left_beside_the_file(connect: Open, file: Path) -> None:
    first, second = connect(), connect()
    first.hold("h", (claim(),), 0.0)
    second.hold("i", (claim(),), 0.0)
    first.close()
    second.close()
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_store_that_is_dropped_lets_go(file: Path) -> None:
    store = open_sqlite(f"sqlite:///{file}")
    store.hold("h", (claim(),), 0.0)
    del store
    other = open_sqlite(f"sqlite:///{file}")
    assert other.read(["book"]) == (State(0, 0, 10),)
    other.close()


def run(program: str, *args: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *args],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
