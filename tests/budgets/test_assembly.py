"""The address of a meter's store: what it says of leases, and that the rest of it stays as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenmeter.budgets import MemoryStore, open_store
from tokenmeter.budgets.address import split_leases
from tokenmeter.budgets.assembly import assemble
from tokenmeter.budgets.guarded import GuardedStore
from tokenmeter.budgets.leases import LeasedStore
from tokenmeter.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "address", "leases"),
    [
        ("sqlite:///books.db", "sqlite:///books.db", None),
        ("sqlite:////var/books.db?leases=on", "sqlite:////var/books.db", True),
        ("sqlite:////var/a%20b.db?timeout_s=3&leases=OFF", "sqlite:////var/a%20b.db?timeout_s=3", False),
        ("redis://h:1/0", "redis://h:1/0", None),
        ("redis://h:1/0?leases=off&state_dir=/a%2Bb&tenant=x", "redis://h:1/0?state_dir=/a%2Bb&tenant=x", False),
        ("redis+sentinel://a,b/main?leases=true", "redis+sentinel://a,b/main", True),
        ("redis://h?leases=on&leases=0", "redis://h", False),
        ("no address", "no address", None),
        ("memory://?leases=off", "memory://", False),
    ],
)
def test_the_option_is_taken_out(url: str, address: str, leases: bool | None) -> None:
    assert split_leases(url) == (address, leases)


def test_whoever_opens_the_store_alone_may_say_it_too(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/books.db?leases=on&timeout_s=3")
    assert store.books() == []
    store.close()
    assert isinstance(open_store("memory://?leases=on"), MemoryStore)
    store = open_store("redis://127.0.0.1:1?leases=off")
    store.close()
    with pytest.raises(ConfigError, match="choose on or off"):
        open_store("redis://h?leases=maybe")


def test_leases_are_on_for_redis(tmp_path: Path) -> None:
    store = assemble(f"redis://127.0.0.1:1?state_dir={tmp_path}")
    assert isinstance(store, LeasedStore)
    store.close()


@pytest.mark.parametrize("value", ["", "maybe"])
def test_an_option_that_makes_no_sense(value: str) -> None:
    with pytest.raises(ConfigError, match="choose on or off"):
        assemble(f"redis://h?leases={value}")


@pytest.mark.parametrize("leases", [True, False])
def test_a_file_with_leases_and_without(tmp_path: Path, leases: bool) -> None:
    path = tmp_path / "a b#.db"
    store = assemble(f"sqlite:///{str(path).replace('#', '%23')}?leases={'on' if leases else 'off'}")
    assert isinstance(store, LeasedStore if leases else GuardedStore)
    store.close()
    assert path.exists()
