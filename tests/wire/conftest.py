"""Fixtures of the tests of the wire."""

from __future__ import annotations

import pytest

from tests.wire.exchanges import CORPUS, Exchange, recorded


@pytest.fixture(scope="session")
def corpus() -> list[Exchange]:
    if not CORPUS.exists():
        pytest.skip(f"no recorded traffic at {CORPUS}")
    return recorded()
