"""A meter that a file describes, and that follows the file."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import httpx2
import pytest

import tokenmeter
from tokenmeter import Budget, ConfigError, Meter
from tokenmeter.config import watch
from tokenmeter.testing import Reply, ScriptedProvider

TOML = """
[store]
url = "sqlite:///books.db"

[prices]
"house" = { input = "10", output = "40" }

[[budgets]]
name = "three"
limit = "3 calls"
thresholds = []
wait_s = 0
"""


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(Reply("word " * 10, input_tokens=100, output_tokens=10)) as provider:
        yield provider


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(watch, "INTERVAL_S", 0.0)  # look before each call
    file = tmp_path / "tokenmeter.toml"
    file.write_text(TOML)
    return file


def put(file: Path, text: str) -> None:
    """Into the place of the old one, as an editor does."""
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(file)


def ask(client: httpx2.Client, provider: ScriptedProvider) -> None:
    body = {"model": "house", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
    assert client.post(provider.openai_url + "/chat/completions", json=body).status_code == 200


def test_it_is_found_and_used(
    file: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    below = tmp_path / "src"
    below.mkdir()
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(below)
    with Meter.from_config() as meter, meter.wrap(httpx2.Client()) as client:
        for _ in range(3):
            ask(client, provider)
        with pytest.raises(tokenmeter.BudgetExceeded, match="'three'"):
            ask(client, provider)
        assert meter.spend().usd == 3 * (100 * Decimal(10) + 10 * Decimal(40)) / 1_000_000
    assert (tmp_path / "books.db").exists()  # beside the file, not in the working directory
    with Meter.from_config(file) as meter:
        [book] = meter.remaining()
        assert (book.spent, book.left) == (3, 0)


def test_a_new_file_is_in_force_at_once_and_the_books_go_on(file: Path, provider: ScriptedProvider) -> None:
    with Meter.from_config(file) as meter, meter.wrap(httpx2.Client()) as client:
        for _ in range(3):
            ask(client, provider)
        put(file, TOML.replace("3 calls", "5 calls"))
        for _ in range(2):
            ask(client, provider)
        with pytest.raises(tokenmeter.BudgetExceeded):
            ask(client, provider)
        [book] = meter.remaining()
        assert (book.limit, book.spent, book.held) == (5, 5, 0)


def test_a_hold_that_stands_outlives_a_new_file(file: Path, provider: ScriptedProvider) -> None:
    with Meter.from_config(file) as meter, meter.wrap(httpx2.Client()) as client:
        body = {"model": "house", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10, "stream": True}
        with client.stream("POST", provider.openai_url + "/chat/completions", json=body) as answer:
            put(file, TOML.replace("3 calls", "2 calls"))
            [book] = meter.remaining()
            assert (book.limit, book.held) == (2, 1)
            answer.read()
        [book] = meter.remaining()
        assert (book.spent, book.held) == (1, 0)


def test_a_broken_file_changes_nothing_and_is_told_once(
    file: Path, provider: ScriptedProvider, caplog: pytest.LogCaptureFixture
) -> None:
    with Meter.from_config(file) as meter, meter.wrap(httpx2.Client()) as client:
        put(file, TOML.replace("3 calls", "3 bananas"))
        with caplog.at_level(logging.ERROR, logger="tokenmeter"):
            for _ in range(3):
                ask(client, provider)
        with pytest.raises(tokenmeter.BudgetExceeded):
            ask(client, provider)
    [told] = [record.getMessage() for record in caplog.records if "bananas" in record.getMessage()]
    assert f"{file}:" in told


def test_what_is_given_in_code_goes_before_the_file(file: Path, provider: ScriptedProvider) -> None:
    mine = Budget("1 calls", name="mine", thresholds=(), wait_s=0)
    with Meter.from_config(file, budgets=[mine], store="memory://") as meter, meter.wrap(httpx2.Client()) as client:
        ask(client, provider)
        put(file, TOML.replace("3 calls", "9 calls"))
        with pytest.raises(tokenmeter.BudgetExceeded, match="'mine'"):
            ask(client, provider)
    assert not (file.parent / "books.db").exists()


def test_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOKENMETER_CONFIG", raising=False)
    with pytest.raises(ConfigError, match=r"no tokenmeter\.toml .* write one"):
        Meter.from_config()
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        Meter.from_config(tmp_path / "nowhere.toml")
    assert not list(tmp_path.iterdir())


def test_an_outcome_has_the_weight_of_the_kind_that_is_in_force(file: Path, provider: ScriptedProvider) -> None:
    pytest.importorskip("sqlalchemy")
    from tokenmeter.ledger import open_ledger

    ledger = '[ledger]\nurl = "sqlite:///kept.db"\n'
    put(file, f"{TOML}{ledger}[outcomes.kinds.deployment]\nweight = 3\n[outcomes.kinds.ticket]\nweight = 0.2")
    with Meter.from_config(file) as meter, meter.wrap(httpx2.Client()) as client:
        meter.outcome("deployment", "one")
        meter.outcome("ticket", "two")
        put(file, f"{TOML}{ledger}[outcomes.kinds.ticket]\nweight = 0.4")
        ask(client, provider)
        meter.outcome("deployment", "three")
        meter.outcome("ticket", "four")

    with open_ledger(f"sqlite:///{file.parent / 'kept.db'}") as kept:
        assert {each.key: each.weight for each in kept.outcomes()} == {"one": 3, "two": 0.2, "three": 1, "four": 0.4}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_that_was_forked_while_a_thread_looked_at_the_file_follows_it(file: Path) -> None:
    watched = watch.Watched(file)
    put(file, TOML.replace("3 calls", "4 calls"))
    assert watched._looking.begin(60.0)
    child = os.fork()
    if child == 0:
        os._exit(0 if watched.changed() is not None else 1)
    watched._looking.end()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
