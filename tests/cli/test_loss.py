"""``tokenmeter accept-loss``: one word for the whole fleet, from a machine that never knew the budgets too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer
from tokenmeter.budgets import Budget, Need, Policy, open_store
from tokenmeter.cli import main
from tokenmeter.errors import StoreUnavailable


@pytest.mark.parametrize("machine", ["the same", "another"])
def test_all_go_on(
    machine: str, redis_server: RedisServer, elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("redis")
    url = f"{redis_server.url}?tenant=loss-{machine[:3]}&timeout_s=5&lease_s=60"
    claims = Policy([Budget("5 calls", name="few")]).claims({}, Need(0, 0), 0.0)
    program = open_store(f"{url}&state_dir={tmp_path / 'program'}")
    program.post("p", claims, (3,))
    redis_server.flush()
    with pytest.raises(StoreUnavailable, match="tokenmeter accept-loss"):
        program.read([claims[0].key])
    here = f"{url}&leases=on&state_dir={tmp_path / ('program' if machine == 'the same' else 'another')}"
    assert main(["accept-loss", "--store", here]) == 0
    assert "has now, 0 books" in capsys.readouterr().out
    assert program.read([claims[0].key])[0].posted == 0
    assert main(["accept-loss", "--store", here, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["books"] == 0
    program.close()


def test_a_file_has_no_loss_to_accept(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_store(f"sqlite:///{elsewhere / 'books.db'}").close()
    assert main(["accept-loss", "--store", "sqlite:///books.db"]) == 2
    assert "is no Redis" in capsys.readouterr().err


def test_a_redis_that_is_gone(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("redis")
    assert main(["accept-loss", "--store", "redis://me:s3cret@127.0.0.1:1"]) == 1
    told = capsys.readouterr().err
    assert "can't be reached" in told
    assert "s3cret" not in told
