"""The versions of a ledger."""

from __future__ import annotations

import pytest

pytest.importorskip("sqlalchemy")

import sqlalchemy as sa

from tests.ledger.rows import add, call, kept
from tokenmeter.errors import ConfigError
from tokenmeter.ledger import migrations, open_ledger, place
from tokenmeter.ledger.tables import metadata


def test_what_the_steps_make_is_what_is_spoken_to(url: str) -> None:
    with open_ledger(url) as ledger, ledger._place.reading() as db:
        found = sa.inspect(db)
        for table in metadata.sorted_tables:
            columns = {column["name"]: column for column in found.get_columns(table.name)}
            assert [*columns] == [*table.columns.keys()], table.name
            key = found.get_pk_constraint(table.name)["constrained_columns"]
            assert sorted(key) == sorted(column.name for column in table.primary_key)
            for column in table.columns:
                if not column.primary_key:
                    assert columns[column.name]["nullable"] == column.nullable, column
        assert {*found.get_table_names()} == {*metadata.tables}


def test_an_older_ledger_is_brought_up_to_date(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_ledger(url) as ledger:
        add(ledger, call("a"))
    later = (*migrations.STEPS, ("ALTER TABLE tokenmeter_calls ADD COLUMN more TEXT",))
    for module in (migrations, place):
        monkeypatch.setattr(module, "STEPS", later)
    for _ in range(2):
        with open_ledger(url) as ledger:
            assert kept(ledger) == [call("a")]
            with ledger._place.reading() as db:
                assert "more" in {column["name"] for column in sa.inspect(db).get_columns("tokenmeter_calls")}
                assert migrations.version(db, url) == len(later)


def test_a_step_that_fails_leaves_the_ledger_as_it_was(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_ledger(url) as ledger:
        add(ledger, call("a"))
    with monkeypatch.context() as patched:
        broken = (*migrations.STEPS, ("CREATE TABLE tokenmeter_more (x TEXT)", "CREATE NONSENSE"))
        for module in (migrations, place):
            patched.setattr(module, "STEPS", broken)
        with pytest.raises(Exception, match="NONSENSE"):
            open_ledger(url)
    with open_ledger(url) as ledger, ledger._place.reading() as db:
        assert "tokenmeter_more" not in sa.inspect(db).get_table_names()
        assert kept(ledger) == [call("a")]


def test_a_newer_ledger_is_refused(url: str) -> None:
    with open_ledger(url) as ledger, ledger._place.writing() as db:
        db.execute(sa.text("INSERT INTO tokenmeter_versions (version, at_s) VALUES (99, 0)"))
    with pytest.raises(ConfigError, match=r"written by a newer tokenmeter.*version 99.*update the package"):
        open_ledger(url)


def test_several_make_it_at_a_time(url: str) -> None:
    import threading

    failed: list[BaseException] = []

    def make() -> None:
        try:
            open_ledger(url).close()
        except BaseException as error:  # told to the test
            failed.append(error)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
