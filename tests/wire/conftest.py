"""Fixtures of the tests of the wire."""

from __future__ import annotations

import pytest

from tests.support.shared import CORPUS
from tests.wire.exchanges import Exchange, recorded


@pytest.fixture(scope="session")
def corpus() -> list[Exchange]:
    if not CORPUS.exists():
        pytest.skip(f"no recorded traffic at {CORPUS}")
    return recorded()
