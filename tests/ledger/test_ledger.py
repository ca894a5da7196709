"""A ledger that lasts: rows once, sums with them, late words, and what is read of it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.ledger.rows import NOON_S, add, call, estimate, in_hours, in_runs, kept, printed, refusal, spent
from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.ledger import ledger_beside, open_ledger
from tokenmeter.record import CallRecord, decode, encode
from tokenmeter.usage import Usage

pytest.importorskip("sqlalchemy")

from tokenmeter.ledger.place import _prepare

if TYPE_CHECKING:
    from tokenmeter.ledger.ledger import Ledger


# -- rows


def test_a_row_comes_back_as_it_was(ledger: Ledger) -> None:
    records = [
        call("a", warned=("daily",), downgraded_from="gpt-5", time_to_first_chunk_s=0.25),
        call("b", agent=None, user=None, team=None, run=None, path=(), tags={}, model=None, nanos=None),
        call("c", usage=Usage({"input_tokens": 7, "web_searches": 2})),
        refusal("d"),
        estimate("e"),
        call("f", usage=None, nanos=None, status="error", error_type="500", http_status=500),
        call("g", root="r0", guards=("max_repeats:warn",), output_cap=5),
    ]
    assert add(ledger, *records) == 7
    assert kept(ledger) == records
    told = {name for name in CallRecord.__struct_fields__ if any(getattr(each, name) for each in records)}
    assert told | {"fingerprint"} >= {*CallRecord.__struct_fields__}, "a field of records is not tried here"


def test_a_row_that_was_written_by_a_store_comes_back(ledger: Ledger) -> None:
    record = decode(encode(call("a")))
    add(ledger, record)
    assert kept(ledger) == [record]


def test_each_id_counts_once(ledger: Ledger) -> None:
    assert add(ledger, call("a"), call("b"), call("a", nanos=7)) == 2
    assert add(ledger, call("b", nanos=9), call("c")) == 1
    assert (spent(kept(ledger)), in_hours(ledger), in_runs(ledger)) == (3_000, 3_000, 3_000)
    assert ledger.totals().calls == 3


def test_many_rows_are_written_in_steps(ledger: Ledger) -> None:
    assert add(ledger, *[call(str(n), nanos=n) for n in range(2_345)]) == 2_345
    assert (in_hours(ledger), in_runs(ledger)) == (sum(range(2_345)), sum(range(2_345)))
    assert len(kept(ledger)) == 2_345


def test_what_lasts_is_there_when_it_is_opened_again(url: str) -> None:
    with open_ledger(url) as first:
        add(first, call("a"))
    with open_ledger(url) as second:
        assert kept(second) == [call("a")]
        assert in_hours(second) == 1_000


def test_text_that_no_database_takes_is_changed_and_numbers_end(ledger: Ledger) -> None:
    add(
        ledger,
        call(
            "a\0\udc80",
            agent="x\0y",
            user="\ud800",
            team="t" * 5_000,
            run="r\0",
            tags={"k\0": "\udfff"},
            path=("\ud800",),
        ),
        call("b", nanos=10**30, usage=Usage({"input_tokens": 10**30, "output_tokens": -5}), at_s=float("inf")),
        call("c", nanos=0, at_s=-5.0, duration_s=float("nan")),
    )
    first, second, third = kept(ledger)
    assert (first.agent, first.user, first.run) == ("x\\x00y", "\\ud800", "r\\x00")
    assert len(first.team or "") == 256
    assert (second.cost_nanos, second.at_s, third.at_s) == (10**17, 0.0, 0.0)
    assert second.usage is not None
    assert second.usage.counts == {"input_tokens": 10**12, "output_tokens": 0}
    assert len(list(ledger.runs(run="r\0"))) == 1


def test_names_that_begin_alike_stay_apart(ledger: Ledger) -> None:
    add(ledger, call("a", team="t" * 300), call("b", team="t" * 301))
    assert len({hour.team for hour in ledger.hours()}) == 2


# -- late words


@pytest.mark.parametrize("died", [True, False])
def test_a_late_word_corrects_an_estimate_once(ledger: Ledger, died: bool) -> None:
    add(ledger, estimate("a", died=died), call("b"))
    assert in_hours(ledger) == 6_000
    assert ledger.totals().incomplete == 1

    assert add(ledger, call("a", nanos=70)) == 1
    assert add(ledger, call("a", nanos=80)) == 0
    assert add(ledger, estimate("a")) == 0

    assert (spent(kept(ledger)), in_hours(ledger), in_runs(ledger)) == (1_070, 1_070, 1_070)
    totals = ledger.totals()
    assert (totals.calls, totals.estimated_nanos, totals.incomplete) == (2, 0, 0)
    assert (totals.input_tokens, totals.output_tokens) == (200, 20)


def test_what_stands_in_for_a_process_replaces_no_better_estimate(ledger: Ledger) -> None:
    add(ledger, estimate("a", died=False, nanos=40))
    assert add(ledger, estimate("a", nanos=5_000)) == 0
    assert in_hours(ledger) == 40


def test_estimate_and_correction_in_one_step(ledger: Ledger) -> None:
    assert add(ledger, estimate("a"), call("a", nanos=5), estimate("a")) == 1
    assert (in_hours(ledger), in_runs(ledger)) == (5, 5)
    assert add(ledger, estimate("b"), estimate("b", nanos=6)) == 1
    assert in_hours(ledger) == 11


def test_a_correction_may_say_that_it_was_another_hour_and_run(ledger: Ledger) -> None:
    add(ledger, estimate("a", run="x"))
    add(ledger, call("a", nanos=5, run="y", at_s=NOON_S + 7_200, model="other"))
    assert {hour.hour_s - NOON_S: hour.nanos for hour in ledger.hours()} == {0: 0, 7_200: 5}
    assert {run.run: (run.nanos, run.calls) for run in ledger.runs()} == {"x": (0, 0), "y": (5, 1)}


def test_a_correction_may_say_that_nothing_was_billed(ledger: Ledger) -> None:
    add(ledger, estimate("a"))
    add(ledger, call("a", usage=None, nanos=None, status="error", error_type="ConnectError"))
    totals = ledger.totals()
    assert (totals.calls, totals.nanos, totals.failed, totals.incomplete) == (0, 0, 1, 0)


# -- what is read


def test_hours(ledger: Ledger) -> None:
    add(
        ledger,
        call("a"),
        call("b", at_s=NOON_S + 3_599),
        call("c", at_s=NOON_S + 3_600, team=None, nanos=None),
        refusal("d"),
        estimate("e", nanos=50),
        call("f", usage=None, nanos=None, status="error"),
        call("g", usage=None, nanos=None, status="incomplete"),
    )
    first, second = ledger.hours()
    assert (first.hour_s, first.agent, first.team, first.user) == (int(NOON_S), "triage", "support", "alice")
    assert (first.calls, first.nanos, first.estimated_nanos, first.refused) == (3, 2_050, 50, 1)
    assert (first.failed, first.incomplete, first.unpriced) == (1, 2, 0)
    assert (first.input_tokens, first.output_tokens, first.cache_read_tokens) == (400, 420, 6)
    assert (second.hour_s, second.team, second.calls, second.unpriced) == (int(NOON_S) + 3_600, None, 1, 1)
    assert [hour.hour_s for hour in ledger.hours(NOON_S + 1)] == [int(NOON_S) + 3_600]
    assert [hour.hour_s for hour in ledger.hours(until_s=NOON_S + 3_600)] == [int(NOON_S)]
    assert [hour.calls for hour in ledger.hours(team=None)] == [1]
    assert [hour.calls for hour in ledger.hours(team="support", user="alice", model="gpt-5-mini")] == [3]
    assert list(ledger.hours(agent="nobody")) == []


def test_hours_are_added_up_by_the_database(ledger: Ledger) -> None:
    for day in range(2):
        for hour in range(3):
            for user in "xyz":
                at_s = NOON_S + day * 86_400 + hour * 3_600
                add(ledger, call(f"{day}{hour}{user}", at_s=at_s, user=user, team=f"t{hour % 2}"))
    found = list(ledger.hours(by=("team",), step_s=86_400))
    assert {(each.hour_s % 86_400, each.user, each.provider, each.model) for each in found} == {(0, None, "", None)}
    assert sorted((each.team, each.calls) for each in found) == [("t0", 6), ("t0", 6), ("t1", 3), ("t1", 3)]
    assert sum(each.nanos for each in found) == 18_000
    [total] = ledger.hours(by=(), step_s=86_400 * 10_000)
    assert (total.calls, total.nanos) == (18, 18_000)
    assert {each.user for each in ledger.hours(by=["user"])} == {"x", "y", "z"}
    with pytest.raises(ConfigError, match=r"by='teem'.*choose of agent"):
        list(ledger.hours(by=["teem"]))
    with pytest.raises(ConfigError, match="step_s=60"):
        list(ledger.hours(step_s=60))


def test_runs(ledger: Ledger) -> None:
    add(
        ledger,
        call("a", path=("boss", "triage"), warned=("daily",)),
        call("b", agent="boss", path=("boss",), model="big"),
    )
    add(
        ledger,
        call("c", path=("boss", "triage", "search"), agent="search", at_s=NOON_S + 60, nanos=5),
        refusal("d", path=("boss", "triage")),
        call("e", run="other", team="sales", nanos=9_999, path=(), at_s=NOON_S + 10_000),
        call("f", run=None),
    )
    one, other = ledger.runs()
    assert (one.run, one.team, one.user) == ("r1", "support", "alice")
    assert one.agents == ("boss", "triage", "search")
    assert (one.first_s, one.last_s, one.calls, one.nanos, one.refused) == (NOON_S, NOON_S + 60, 3, 2_005, 1)
    assert (one.max_depth, one.models, one.warned) == (3, ("gpt-5-mini", "big"), 1)
    assert (other.run, other.agents, other.max_depth) == ("other", ("triage",), 0)
    assert [run.run for run in ledger.runs(largest=1)] == ["other"]
    assert [run.run for run in ledger.runs(NOON_S + 61)] == ["other"]
    assert [run.run for run in ledger.runs(until_s=NOON_S + 61)] == ["r1"]
    assert [run.run for run in ledger.runs(team="sales")] == ["other"]
    assert [run.run for run in ledger.runs(run="r1")] == ["r1"]


def test_repeats(ledger: Ledger) -> None:
    day_s = NOON_S + 86_400
    add(ledger, printed("a", "aa", nanos=100), printed("b", "aa", nanos=30, run="r2"), printed("c", "bb"), refusal("d"))
    add(ledger, printed("e", "aa", nanos=40, run="r2", at_s=day_s), printed("f", "aa", agent="other"), call("g"))
    [found] = ledger.repeats()
    assert (found.fingerprint, found.agent, found.team) == ("aa", "triage", "support")
    assert (found.runs, found.calls, found.nanos, found.first_nanos) == (2, 3, 170, 100)
    [later] = ledger.repeats(day_s)
    assert (later.calls, later.nanos - later.first_nanos) == (2, 40)
    assert list(ledger.repeats(day_s + 86_400)) == []
    assert list(ledger.repeats(agent="other")) == []


def test_a_repeat_whose_estimate_is_corrected(ledger: Ledger) -> None:
    add(ledger, printed("a", "aa", estimate(nanos=100)), printed("b", "aa", estimate(nanos=50)))
    add(ledger, printed("a", "aa", nanos=10), printed("b", "aa", nanos=5))
    [found] = ledger.repeats()
    assert (found.calls, found.nanos, found.first_nanos) == (2, 15, 10)


def test_single_calls_of_a_run(ledger: Ledger) -> None:
    add(ledger, *[call(str(n), run=f"r{n % 2}") for n in range(6)], call("x", run=None, user="bob"))
    first = list(ledger.calls(run="r1", limit=2))
    assert [record.id for _, record in first] == ["1", "3"]
    assert [record.id for _, record in ledger.calls(run="r1", after=first[-1][0])] == ["5"]
    assert [record.id for _, record in ledger.calls(run=None)] == ["x"]
    assert [record.id for _, record in ledger.calls(user="bob")] == ["x"]
    assert list(ledger.calls(run="no such run")) == []


def test_an_iterator_may_be_left_and_sees_one_moment(ledger: Ledger) -> None:
    add(ledger, *[call(str(n), run=f"r{n}") for n in range(50)])
    reading = ledger.runs()
    next(reading)
    add(ledger, call("more", run="more"))
    assert len(list(reading)) == 49
    left = ledger.calls()
    next(left)
    left.close()  # type: ignore[attr-defined]
    add(ledger, call("still more"))
    assert ledger.totals().calls == 52


def test_several_write_at_a_time(url: str) -> None:
    def write(number: int) -> None:
        with open_ledger(url) as ledger:
            for step in range(5):
                add(ledger, *[call(f"{step} {n}", run=f"r{n}") for n in range(20)], call(f"own {number} {step}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open_ledger(url) as ledger:
        assert ledger.totals().calls == 120
        assert in_hours(ledger) == in_runs(ledger) == spent(kept(ledger)) == 120_000


# -- addresses


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("nonsense", "that is no address of a ledger"),
        ("mysql://u:geheim@h/db", "ledger scheme 'mysql://' is unknown"),
        ("redis://:geheim@h", "ledger scheme 'redis://' is unknown"),
        ("sqlite://u:geheim@host/x.db", "takes three slashes"),
        ("sqlite:///", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("sqlite:///x.db?mode=geheim", "takes no options"),
        ("postgresql://u:geheim@h", "names no database"),
        ("sqlite:////no/such/folder/x.db", "'/no/such/folder'"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused_without_its_secrets(address: str, part: str) -> None:
    with pytest.raises(ConfigError, match=r"sqlite|folder") as caught:
        open_ledger(address)
    assert part in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_server_that_is_not_there() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreUnavailable, match=r"postgresql://127\.0\.0\.1:1/db") as caught:
        open_ledger("postgresql://u:geheim@127.0.0.1:1/db")
    assert "geheim" not in str(caught.value)


def test_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    import sqlite3

    (tmp_path / "text.db").write_text("no database at all " * 100)
    with pytest.raises(ConfigError, match="is no database"):
        open_ledger(f"sqlite:///{tmp_path / 'text.db'}")
    db = sqlite3.connect(tmp_path / "theirs.db")
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(ConfigError, match="something else"):
        open_ledger(f"sqlite:///{tmp_path / 'theirs.db'}")


def test_a_file_that_is_damaged_or_not_ours_to_write_says_so(tmp_path: Path) -> None:
    """Neither is a ledger that can't be reached, and both have a remedy."""
    whole = tmp_path / "whole.db"
    with open_ledger(f"sqlite:///{whole}") as ledger:
        add(ledger, call())
    (tmp_path / "half.db").write_bytes(whole.read_bytes()[:6_000])
    with pytest.raises(StoreUnavailable, match=r"half\.db is damaged; put a copy"):
        open_ledger(f"sqlite:///{tmp_path / 'half.db'}")

    whole.chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        if os.access(whole, os.W_OK):
            pytest.skip("this user may write everything")
        with pytest.raises(StoreUnavailable, match="can't be written by this user; give write access"):
            open_ledger(f"sqlite:///{whole}")
    finally:
        tmp_path.chmod(0o700)


def test_beside_a_store() -> None:
    assert ledger_beside("sqlite:////var/tokenmeter.db?timeout_s=1") == "sqlite:////var/tokenmeter-ledger.db"
    assert ledger_beside("sqlite:////var/tokenmeter.db?leases=on") == "sqlite:////var/tokenmeter-ledger.db"
    assert ledger_beside("redis://h") is None
    assert ledger_beside("memory://") is None


def test_it_is_imported_on_first_use_only() -> None:
    code = "import sys, tokenmeter, tokenmeter.cli, tokenmeter.ledger; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("tokenmeter.ledger.")]:
        if name.rpartition(".")[2] not in ("memory", "views"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ConfigError, match=r"pip install 'tokenmeter-sdk\[ledger\]'"):
        open_ledger("sqlite:///x.db")


class Changing(sqlite3.Connection):
    """A connection to a file whose mode others are changing: SQLite refuses at once, and doesn't wait."""

    refusals = 3

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        connection = self

        class Refusing(sqlite3.Cursor):
            def execute(self, sql: str, *given: Any) -> Any:
                if "journal_mode" in sql and connection.refusals:
                    connection.refusals -= 1
                    raise sqlite3.OperationalError("database is locked")
                return super().execute(sql, *given)

        return super().cursor(Refusing)


def test_a_file_that_changes_its_mode_is_waited_for(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "ledger.db", factory=Changing)

    _prepare(connection, None)

    assert connection.refusals == 0
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    for number in range(10):
        address = f"sqlite:///{tmp_path / f'{number}.db'}"
        together = threading.Barrier(12)

        def opened(_: int, address: str = address, together: threading.Barrier = together) -> int:
            together.wait(20)
            with open_ledger(address) as ledger:
                return ledger.totals().calls

        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(opened, range(12))) == [0] * 12
