from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tokenmeter.budgets import MemoryStore, open_store
from tokenmeter.errors import ConfigError

from .places import Place


def test_memory() -> None:
    assert isinstance(open_store("memory://"), MemoryStore)


def test_sqlite(tmp_path: Path) -> None:
    pytest.importorskip("tokenmeter.budgets.sqlite")
    store = open_store(f"sqlite:///{tmp_path / 'books.db'}")
    assert store.books() == []
    assert store.keeps_rows
    store.close()


@pytest.mark.parametrize(
    "url",
    ["redis://127.0.0.1:1", "rediss://127.0.0.1:1", "redis+cluster://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/svc"],
)
def test_the_kinds_of_redis(url: str) -> None:
    pytest.importorskip("redis")
    store = open_store(url)  # one that can't be reached is tried again by each verb
    assert type(store).__name__ == "RedisStore"
    store.close()


def test_a_store_that_lasts_lasts(lasting: Place) -> None:
    url: str = getattr(lasting, "_url")  # noqa: B009 - for tests of this folder
    first, second = open_store(url), open_store(url)
    assert type(first) is type(lasting.open())
    assert first.resume("all") is False
    assert second.pauses() == []
    first.close()
    second.close()


@pytest.mark.parametrize(
    "url", ["rediss:/:secret@host/0", "memory", "memory://x?key=secret", "nosql://:secret@host", "", None, 5]
)
def test_other_addresses_are_refused_without_telling_secrets(url: Any) -> None:
    with pytest.raises(ConfigError, match=r"this version has memory://, sqlite:///FILE, redis://") as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@host/x",
        "redis+cluster://:secret@host/3",
        "sqlite://secret/x.db",
        "redis://me:a/secret@host/0",
        "redis://me:secret/a@host/0",
        "redis://me:12/secret@host/0",
        "redis://me:secret?a@host",
        "redis://me:12?secret@host",
        "redis://me:12?timeout_s=secret@host",
        "redis://me:secret#a@host",
        "redis://me:12#secret@host",
        "redis://me:a@b/secret@host",
    ],
)
def test_addresses_that_make_no_sense_are_refused_without_telling_secrets(url: str) -> None:
    if url.startswith("sqlite"):
        pytest.importorskip("tokenmeter.budgets.sqlite")
    with pytest.raises(ConfigError) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_drivers_are_imported_on_use() -> None:
    code = (
        "import sys; from tokenmeter.budgets import open_store; open_store('memory://'); "
        "sys.exit(bool({'redis', 'sqlite3'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
