"""What the tests of the command share."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.cli.collector import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
