"""A signal's handler that raises, as timeouts do, while a call waits here: it is the host's, and nothing is sent."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.clients.faces import ASK, FACES, URL
from tokenmeter import Budget, LoopPolicy, Meter
from tokenmeter.faults import is_the_hosts, swallow

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers by signal")


face = next(face for face in FACES if not face.is_async)


class TooLong(Exception):
    """A timeout of the host's own."""


def plainly(_number: int, _frame: object) -> None:
    raise TooLong


class Host:
    """Whose method handles the signal, or who does so itself."""

    def method(self, _number: int, _frame: object) -> None:
        raise TooLong

    def __call__(self, _number: int, _frame: object) -> None:
        raise TooLong


def with_more(_more: str, _number: int, _frame: object) -> None:
    raise TooLong


HANDLERS: dict[str, Any] = {
    "a function": plainly,
    "a method": Host().method,
    "an object": Host(),
    "a partial": partial(with_more, "more"),
}


@pytest.fixture
def rings() -> Iterator[Callable[[Any], None]]:
    """Sets the handler, and a timer that calls it soon."""
    before = signal.getsignal(signal.SIGALRM)

    def ring(handler: Any) -> None:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2)

    yield ring
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("handler", HANDLERS)
def test_a_call_that_waits_for_its_budget(
    handler: str, store: str, tmp_path: Path, rings: Callable[[Any], None]
) -> None:
    let_go, arrived = threading.Event(), threading.Event()
    sent: list[str] = []

    def answer(request: Any) -> Any:
        sent.append("sent")
        arrived.set()
        let_go.wait(30)
        return face.response(200, [b"{}"], {"content-type": "application/json"})

    url = f"sqlite:///{tmp_path / 'books.db'}" if store == "sqlite" else "memory://"
    with Meter([Budget("1 calls", per="total", wait_s=30)], store=url) as meter:
        client = meter.wrap(face.client(answer))
        first = threading.Thread(target=lambda: client.post(URL, json=ASK))
        first.start()
        assert arrived.wait(30)
        rings(HANDLERS[handler])
        with pytest.raises(TooLong):
            client.post(URL, json=ASK)
        let_go.set()
        first.join(30)
        assert sent == ["sent"]
        [left] = meter.remaining()
        assert (left.spent, left.held) == (1, 0)


def test_a_call_that_is_braked(rings: Callable[[Any], None]) -> None:
    sent: list[str] = []

    def answer(request: Any) -> Any:
        sent.append("sent")
        return face.response(200, [b"{}"], {"content-type": "application/json"})

    policy = LoopPolicy(max_calls_per_minute=1, actions={"max_calls_per_minute": "brake"})
    with Meter(loops=policy) as meter:
        client = meter.wrap(face.client(answer))
        with meter.agent("busy"):
            client.post(URL, json=ASK)
            rings(plainly)
            with pytest.raises(TooLong):
                client.post(URL, json=ASK)
    assert sent == ["sent"]


def test_what_a_handler_raised_is_not_swallowed(rings: Callable[[Any], None]) -> None:
    rings(plainly)
    with pytest.raises(TooLong) as caught:
        time.sleep(30)
    assert is_the_hosts(caught.value)
    with pytest.raises(TooLong):
        swallow(caught.value, "sleeping")
    assert not is_the_hosts(TooLong())
