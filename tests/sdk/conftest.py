"""Both kinds of client, and books for each test. Tests here are coroutines, run in a loop of their own."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest

pytest.register_assert_rewrite("tests.sdk.helpers")

from tests.sdk.helpers import Books, Kind  # noqa: E402  after the line above, or it has no effect
from tokenmeter.testing import ScriptedProvider  # noqa: E402


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine, and close the clients that it made in the same loop."""
    function = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        return None
    names = inspect.signature(function).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    kind = pyfuncitem.funcargs.get("kind")

    async def run() -> None:
        try:
            await function(**arguments)
        finally:
            if isinstance(kind, Kind):
                await kind.close()

    asyncio.run(run())
    return True


@pytest.fixture(scope="module", autouse=True)
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each client of an SDK loads every root certificate, which takes 40 ms; one is enough on loopback."""
    bundle = Path(certifi.where()).read_text()
    end = "-----END CERTIFICATE-----\n"
    path = tmp_path_factory.mktemp("certificate") / "one.pem"
    path.write_text(bundle[bundle.index("-----BEGIN") : bundle.index(end)] + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Makes sync or async clients."""
    return Kind(request.param)


@pytest.fixture
def books() -> Iterator[Books]:
    """A meter to look into; closed with its test."""
    books = Books()
    yield books
    books.meter.close()


@pytest.fixture
def twin() -> Iterator[ScriptedProvider]:
    """A second provider, for the bare client: it numbers its answers as the first one does."""
    with ScriptedProvider() as provider:
        yield provider
