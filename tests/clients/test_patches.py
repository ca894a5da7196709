"""Patches are undone to the very same functions, in any order, and fall silent under a foreign wrapper."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import wrapt

from tests.clients.faces import ASK, FACES, URL, Face, Origin, chat_body, come, on_a_loop
from tokenmeter import Budget, BudgetExceeded, ConfigError, Meter
from tokenmeter.clients import instruments
from tokenmeter.clients.patches import Patch
from tokenmeter.clients.seam import Wrapper
from tokenmeter.testing import CapturedCalls


class Greeter:
    def greet(self, name: str) -> str:
        return f"hello {name}"


class Loud(Greeter):
    pass


def marking(mark: str) -> Callable[[Callable[[], bool]], Wrapper]:
    def make(active: Callable[[], bool]) -> Wrapper:
        def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            found = wrapped(*args, **kwargs)
            return f"{found}{mark}" if active() else found

        return wrapper

    return make


def test_a_class() -> None:
    before = vars(Greeter)["greet"]
    patch = Patch(Greeter, "greet", marking("!"))
    assert Greeter().greet("you") == "hello you!"
    assert Loud().greet("you") == "hello you!"
    patch.undo()
    assert vars(Greeter)["greet"] is before
    patch.undo()
    assert vars(Greeter)["greet"] is before


def test_a_class_that_inherits_it() -> None:
    patch = Patch(Loud, "greet", marking("!"))
    assert Loud().greet("you") == "hello you!"
    assert Greeter().greet("you") == "hello you"
    patch.undo()
    assert "greet" not in vars(Loud)


def test_an_object() -> None:
    one, other = Greeter(), Greeter()
    patch = Patch(one, "greet", marking("!"))
    assert (one.greet("you"), other.greet("you")) == ("hello you!", "hello you")
    patch.undo()
    assert vars(one) == {}
    assert one.greet("you") == "hello you"


def test_an_object_that_has_its_own() -> None:
    one = Greeter()

    def own(name: str) -> str:
        return f"own {name}"

    one.greet = own  # type: ignore[method-assign]
    patch = Patch(one, "greet", marking("!"))
    assert one.greet("you") == "own you!"
    patch.undo()
    assert vars(one)["greet"] is own


def test_a_foreign_wrapper_on_top_stays() -> None:
    before = vars(Greeter)["greet"]
    patch = Patch(Greeter, "greet", marking("!"))
    foreign = wrapt.FunctionWrapper(vars(Greeter)["greet"], marking("?")(lambda: True))
    Greeter.greet = foreign  # type: ignore[method-assign]
    try:
        assert Greeter().greet("you") == "hello you!?"
        patch.undo()
        assert vars(Greeter)["greet"] is foreign
        assert Greeter().greet("you") == "hello you?"
    finally:
        Greeter.greet = before  # type: ignore[method-assign]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1), (2, 0, 1), (1, 2, 0)])
def test_undone_in_any_order(order: tuple[int, ...]) -> None:
    before = vars(Greeter)["greet"]
    patches = [Patch(Greeter, "greet", marking(mark)) for mark in "abc"]
    left = set("abc")
    try:
        for nth in order:
            assert Greeter().greet("you") == "hello you" + "".join(sorted(left))
            patches[nth].undo()
            left.remove("abc"[nth])
        assert vars(Greeter)["greet"] is before
    finally:
        Greeter.greet = before  # type: ignore[method-assign]


# -- meters ------------------------------------------------------------------------------------------------------


def functions() -> list[Any]:
    return [vars(face.kind)["send"] for face in FACES]


@pytest.mark.parametrize("first", [0, 1])
@on_a_loop
async def test_two_meters_at_once_count_once_each(face: Face, origin: Origin, first: int) -> None:
    before = functions()
    meters = [Meter(), Meter()]
    client = origin.client()  # made before
    try:
        for meter in meters:
            meter.instrument()
            meter.instrument()
        await come(client.post(URL, json=ASK))
        assert [meter.spend().calls for meter in meters] == [1, 1]
        meters[first].uninstrument()
        await come(client.post(URL, json=ASK))
        assert [meter.spend().calls for meter in meters] == ([1, 2] if first == 0 else [2, 1])
        meters[1 - first].uninstrument()
        await come(client.post(URL, json=ASK))
        assert [meter.spend().calls for meter in meters] == ([1, 2] if first == 0 else [2, 1])
        assert len(origin.requests) == 3
    finally:
        for meter in meters:
            meter.close()
    assert functions() == before
    assert all(now is then for now, then in zip(functions(), before, strict=True))


@on_a_loop
async def test_wrapped_and_instrumented_counts_once(face: Face, origin: Origin, calls: CapturedCalls) -> None:
    with Meter(recorders=[calls]) as meter:
        client = meter.wrap(meter.wrap(origin.client()))
        meter.instrument()
        await come(client.post(URL, json=ASK))
        await come(client.post(URL, json=ASK | {"stream": True}))
        assert len(calls) == 2
        meter.uninstrument()
        await come(client.post(URL, json=ASK))  # wrapped, as it was
        assert len(calls) == 3
    await come(client.post(URL, json=ASK))
    assert len(calls) == 3
    assert "send" not in vars(client)


@on_a_loop
async def test_the_outer_meter_may_refuse_what_the_inner_allows(face: Face, origin: Origin) -> None:
    with Meter([Budget("1 calls", wait_s=0)]) as strict, Meter() as loose:
        for meter in (strict, loose), (loose, strict):
            client = meter[0].wrap(meter[1].wrap(origin.client()))
            if meter[0] is strict:
                await come(client.post(URL, json=ASK))
            with pytest.raises(BudgetExceeded):
                await come(client.post(URL, json=ASK))
        assert len(origin.requests) == 1
        assert strict.spend().calls == loose.spend().calls == 1


def test_a_foreign_wrapper_on_top_of_instrument(face: Face, calls: CapturedCalls) -> None:
    origin = Origin(face)
    before = vars(face.kind)["send"]
    seen: list[str] = []

    def foreign(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append("foreign")
        return wrapped(*args, **kwargs)

    @on_a_loop
    async def post() -> None:
        await come(origin.client().post(URL, json=ASK))

    with Meter(recorders=[calls]) as meter:
        meter.instrument()
        wrapper = wrapt.FunctionWrapper(vars(face.kind)["send"], foreign)
        face.kind.send = wrapper
        try:
            post()
            meter.uninstrument()
            assert vars(face.kind)["send"] is wrapper
            post()
            assert (len(calls), len(seen)) == (1, 2)
            meter.instrument()  # on top of it now
            post()
            assert (len(calls), len(seen)) == (2, 3)
            meter.uninstrument()
            assert vars(face.kind)["send"] is wrapper
        finally:
            face.kind.send = before


def test_introspection_still_works(face: Face, origin: Origin) -> None:
    import inspect

    before = inspect.signature(face.kind.send), face.kind.send.__name__, face.kind.send.__doc__
    is_coroutine = inspect.iscoroutinefunction(face.kind.send)
    with Meter() as meter:
        meter.instrument()
        assert (inspect.signature(face.kind.send), face.kind.send.__name__, face.kind.send.__doc__) == before
        assert inspect.iscoroutinefunction(face.kind.send) == is_coroutine
        client = meter.wrap(origin.client())
        assert inspect.iscoroutinefunction(client.send) == is_coroutine
        assert type(client) is face.kind


def test_what_cant_be_wrapped() -> None:
    with Meter() as meter:
        for thing in (object(), None, 3, "client", FACES[0].kind, type("Mine", (), {"_client": 3})()):
            with pytest.raises(ConfigError, match="can't wrap"):
                meter.wrap(thing)


def test_a_client_that_is_dropped_is_collected(face: Face, origin: Origin) -> None:
    import gc
    import weakref

    with Meter() as meter:
        client = meter.wrap(origin.client())
        alive = weakref.ref(client)
        del client
        gc.collect()
        assert alive() is None


IMPORTED_LATER = """
import sys
import tokenmeter
meter = tokenmeter.Meter()
meter.instrument()
assert "httpx" not in sys.modules and "httpx2" not in sys.modules
import {library} as library
assert type(vars(library.Client)["send"]).__name__ == "FunctionWrapper"
assert type(vars(library.AsyncClient)["send"]).__name__ == "FunctionWrapper"
body = b'{{"usage":{{"prompt_tokens":5,"completion_tokens":7}}}}'
answer = dict(headers={{"content-type": "application/json"}}, content=body)
client = library.Client(transport=library.MockTransport(lambda request: library.Response(200, **answer)))
client.post("https://api.openai.com/v1/chat/completions", json={{"model": "gpt-4o-mini", "messages": []}})
assert (meter.spend().input_tokens, meter.spend().output_tokens) == (5, 7), meter.spend()
meter.uninstrument()
assert type(vars(library.Client)["send"]).__name__ == "function"
meter.close()
"""


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_a_library_that_is_imported_after_instrument(library: str) -> None:
    code = IMPORTED_LATER.format(library=library)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert not done.stderr


NEEDED = """
import sys, threading
import tokenmeter
meter = tokenmeter.Meter()
meter.instrument()
assert "genai_prices" not in sys.modules
assert threading.active_count() == 1
import {library}
assert "tokenmeter-load" in {{thread.name for thread in threading.enumerate()}} or "genai_prices" in sys.modules
meter.close()
"""


@pytest.mark.parametrize("library", ["httpx", "httpx2", "aiohttp", "requests", "botocore.session"])
def test_prices_are_loaded_once_something_can_be_metered(library: str) -> None:
    """A third of a second: much for a process that calls no model."""
    pytest.importorskip(library)
    done = subprocess.run(
        [sys.executable, "-c", NEEDED.format(library=library)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


IMPORTED_AFTER_UNDO = """
import tokenmeter
meter = tokenmeter.Meter()
meter.instrument()
meter.uninstrument()
import {library} as library
assert type(vars(library.Client)["send"]).__name__ == "function"
meter.instrument()
assert type(vars(library.Client)["send"]).__name__ == "FunctionWrapper"
meter.close()
assert type(vars(library.Client)["send"]).__name__ == "function"
"""


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_a_library_that_is_imported_after_uninstrument(library: str) -> None:
    code = IMPORTED_AFTER_UNDO.format(library=library)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()


IMPORTED_MEANWHILE = """
import importlib.machinery, sys, threading
import tokenmeter
half, go_on = threading.Event(), threading.Event()


class Slow:
    @staticmethod
    def find_spec(name, path, target=None):
        if name != "{within}":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def slowly(module):
            half.set()
            go_on.wait(30)
            run(module)

        spec.loader.exec_module = slowly
        return spec


sys.meta_path.insert(0, Slow)
importer = threading.Thread(target=lambda: __import__("{library}"))
importer.start()
assert half.wait(30)
meter = tokenmeter.Meter()
meter.instrument()
go_on.set()
importer.join()
for thread in threading.enumerate():
    if thread.name == "tokenmeter-import":
        thread.join(30)
import {module} as module
for name in {names}:
    assert type(vars(getattr(module, name))["{method}"]).__name__ == "FunctionWrapper"
meter.uninstrument()
for name in {names}:
    assert type(vars(getattr(module, name))["{method}"]).__name__ == "function"
meter.close()
"""
HTTP = {"method": "send", "names": ("Client", "AsyncClient")}
OF_SDK = {"method": "request", "names": ("SyncAPIClient", "AsyncAPIClient"), "module": "openai._base_client"}


@pytest.mark.parametrize(
    "names",
    [
        {"library": "httpx", "module": "httpx", "within": "httpx._client", **HTTP},
        {"library": "httpx2", "module": "httpx2", "within": "httpx2._client", **HTTP},
        {"library": "openai", "within": "openai._base_client", **OF_SDK},
    ],
    ids=lambda names: names["library"],
)
def test_a_library_that_another_thread_imports_meanwhile(names: dict[str, Any]) -> None:
    code = IMPORTED_MEANWHILE.format(**names)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_a_client_that_sends_through_others_names_the_way_out() -> None:
    openai = pytest.importorskip("openai")
    auth = pytest.importorskip("openai.auth")
    if not hasattr(auth, "x509_workload_identity"):
        pytest.skip("this openai has no X.509 identities")
    identity = auth.x509_workload_identity(identity_provider_id="idp", service_account_id="sa")
    with Meter() as meter, pytest.raises(ConfigError, match=r"X.509 identity.*meter.instrument\(\)"):
        meter.wrap(openai.OpenAI(workload_identity=identity, http_client=httpx2.Client(), max_retries=0))


def test_two_meters_that_patch_one_client_at_once() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(200):
            client = FACES[0].client(lambda _: FACES[0].library.Response(200, content=chat_body()))
            meters = [Meter() for _ in range(3)]
            meters[2].wrap(client)
            start = threading.Barrier(3)

            def work(act: Callable[[], object], start: threading.Barrier = start) -> None:
                start.wait(30)
                act()

            acts = [partial(meters[0].wrap, client), partial(meters[1].wrap, client), meters[2].close]
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(work, acts))
            client.post(URL, json=ASK)
            assert [meter.spend().calls for meter in meters] == [1, 1, 0]
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(Meter.close, meters[:2]))
            assert "send" not in vars(client)
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("first", [False, True], ids=["before", "after"])
def test_what_nobody_can_meter_is_said_once(
    first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "xai_sdk.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "xai_sdk", raising=False)
    monkeypatch.setattr(instruments, "_told", set())
    with caplog.at_level("WARNING", "tokenmeter"), Meter() as meter, Meter() as other:
        if first:
            importlib.import_module("xai_sdk")
        meter.instrument()
        other.instrument()
        importlib.import_module("xai_sdk")
    assert [each.getMessage().partition(":")[0] for each in caplog.records] == ["xai_sdk is NOT METERED"]
