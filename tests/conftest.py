"""What all tests share."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `tests.support`

from tests.support.llama import Llama, missing
from tokenmeter.testing import CapturedCalls, FakeClock, ScriptedProvider

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So it is below a shell's background job, and the commands that tests start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test goes by the clock: a loaded machine is no fault.
settings.register_profile("tokenmeter", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tokenmeter")


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    """A provider that answers from a script."""
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture
def clock() -> FakeClock:
    """A clock that the test moves."""
    return FakeClock()


@pytest.fixture
def calls() -> CapturedCalls:
    """A recorder of metered calls."""
    return CapturedCalls()


@pytest.fixture(scope="session")
def llama() -> Iterator[Llama]:
    """A real llama.cpp server."""
    if reason := missing():
        pytest.skip(f"no llama.cpp server: {reason}")
    with Llama() as server:
        yield server
