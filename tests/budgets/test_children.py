"""Processes that end without a word: children of ``multiprocessing`` run no exit handlers, and settle all the same."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import httpx
import pytest

from tokenmeter import Budget, Meter
from tokenmeter.budgets import Store, open_store
from tokenmeter.testing import ScriptedProvider

BODY = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hello"}]}
CALLS = 12

_kept: list[Meter] = []


def meter_at(url: str) -> Meter:
    """A meter that nobody closes."""
    meter = Meter([Budget("1000 calls", per="total", name="all")], store=url)
    _kept.append(meter)
    return meter


def spend(meter: Meter, base_url: str) -> None:
    client = meter.wrap(httpx.Client(base_url=base_url))
    for _ in range(CALLS):
        client.post("/chat/completions", json=BODY).raise_for_status()


def spend_there(url: str, base_url: str) -> None:
    spend(meter_at(url), base_url)


def spend_again(url: str, base_url: str) -> None:
    """A worker's errand: its meter lasts as long as the worker."""
    spend(_kept[0] if _kept else meter_at(url), base_url)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'books.db'}?timeout_s=10&lease_s=60"


@pytest.fixture
def books(url: str) -> Iterator[Store]:
    """The books as they are: whoever opened them before doesn't look for the dead."""
    store = open_store(url)
    yield store
    store.close()


@pytest.fixture(autouse=True)
def ours() -> Iterator[None]:
    yield
    while _kept:
        _kept.pop().close()


def assert_all_is_told(books: Store, calls: int) -> None:
    [book] = books.books()
    assert (book.state.posted, book.state.held, book.leased) == (calls, 0, 0)
    assert len(list(books.entries())) == calls


@pytest.mark.parametrize("leases", ["on", "off"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process(method: str, leases: str, url: str, books: Store, provider: ScriptedProvider) -> None:
    context = multiprocessing.get_context(method)
    child = context.Process(target=spend_there, args=(f"{url}&leases={leases}", provider.openai_url))  # type: ignore[attr-defined]
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert_all_is_told(books, CALLS)


@pytest.mark.parametrize("leases", ["on", "off"])
def test_a_meter_that_was_made_before_the_fork(leases: str, url: str, books: Store, provider: ScriptedProvider) -> None:
    meter = meter_at(f"{url}&leases={leases}")
    child = multiprocessing.get_context("fork").Process(target=spend, args=(meter, provider.openai_url))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert_all_is_told(books, CALLS)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool(method: str, url: str, books: Store, provider: ScriptedProvider) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        for done in [pool.submit(spend_again, f"{url}&leases=on", provider.openai_url) for _ in range(4)]:
            done.result(60)
    assert_all_is_told(books, 4 * CALLS)


def test_the_end_of_a_program(url: str, books: Store, provider: ScriptedProvider) -> None:
    """What was answered last is settled before the leases end, and those before the store does."""
    call = f"spend_there({url + '&leases=on'!r}, {provider.openai_url!r})"
    source = f"from tests.budgets.test_children import spend_there; {call}"
    subprocess.run([sys.executable, "-c", source], check=True, timeout=60, cwd=Path(__file__).parents[2])
    assert_all_is_told(books, CALLS)


def test_who_does_not_use_it_does_not_pay_for_it() -> None:
    source = "import sys, tokenmeter; tokenmeter.Meter(store='memory://'); print('multiprocessing' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", source], check=True, timeout=60, capture_output=True, text=True)
    assert found.stdout == "False\n"
