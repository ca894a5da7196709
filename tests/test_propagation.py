"""inject and extract are mirrors, in every kind of carrier and wherever the code of the other side runs."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from email.message import Message
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import httpx
import httpx2
import pytest

import tokenmeter
from tokenmeter import ConfigError, Meter, attribution
from tokenmeter.attribution import NOBODY
from tokenmeter.loops.lineage import Keys
from tokenmeter.propagation import AsgiMiddleware, WsgiMiddleware, extract, inject, injecting

KEY = b"k" * 32
SIGNING = pytest.mark.parametrize("keys", [None, KEY, {"a": KEY, "b": b"b" * 16}, Keys({"x": KEY})])


@pytest.fixture
def meter() -> Iterator[Meter]:
    with Meter() as found:
        yield found


def header(meter: Meter, *agents: str, run: str = "the-run", keys: Any = None) -> str:
    """What these agents, nested in each other, would send."""
    carrier: dict[str, str] = {}

    def nested(left: tuple[str, ...]) -> None:
        if left:
            with meter.agent(left[0], run=run):
                nested(left[1:])
        else:
            inject(carrier, keys=keys)

    nested(agents)
    return carrier["baggage"]


def here() -> tuple[str | None, int, tuple[str, ...]]:
    scope = attribution.current()
    return scope.root, scope.depth, scope.path


FROM_OUTER = ("the-run", 1, ("outer",))
NOWHERE = (None, 0, ())


# -- carriers


def _message(text: str) -> Message:
    found = Message()
    found["Baggage"] = text
    return found


CARRIERS: dict[str, Callable[[str], Any]] = {
    "dict": lambda text: {"baggage": text},
    "another case": lambda text: {"BAGGAGE": text},
    "pairs of text": lambda text: [("host", "x"), ("Baggage", text)],
    "pairs of bytes": lambda text: [(b"host", b"x"), (b"baggage", text.encode())],
    "httpx": lambda text: httpx.Headers({"baggage": text}),
    "httpx2": lambda text: httpx2.Headers({"baggage": text}),
    "environ": lambda text: {"HTTP_BAGGAGE": text, "wsgi.version": (1, 0)},
    "list of values": lambda text: {"baggage": ["a=b", text]},
    "params of MCP": lambda text: {"name": "tool", "_meta": {"progressToken": 1, "baggage": text}},
    "a queue's message": lambda text: {"body": b"...", "baggage": text.encode()},
}


@pytest.mark.parametrize("kind", CARRIERS)
@SIGNING
def test_what_is_injected_is_extracted(meter: Meter, kind: str, keys: Any) -> None:
    text = header(meter, "outer", "middle", keys=keys)

    with extract(CARRIERS[kind](text), keys=keys) as scope:
        assert here() == ("the-run", 2, ("outer", "middle"))
        assert scope == attribution.current()
        with meter.agent("inner") as inner:
            assert (inner.root, inner.run, inner.depth) == ("the-run", "the-run", 3)
            assert inner.path == ("outer", "middle", "inner")
    assert here() == NOWHERE


def test_who_pays_does_not_cross(meter: Meter) -> None:
    carrier: dict[str, str] = {}
    with meter.agent("outer", user="alice", team="support", project="x"):
        inject(carrier)
    with extract(carrier) as scope:
        assert (scope.agent, scope.user, scope.team, dict(scope.tags)) == (None, None, None, {})
    assert "alice" not in carrier["baggage"]


def test_a_run_within_another_keeps_its_root(meter: Meter) -> None:
    carrier: dict[str, str] = {}
    with meter.agent("outer", run="first"), meter.agent("inner", run="second"):
        inject(carrier)
    with extract(carrier) as scope, meter.agent("there") as there:
        assert (scope.root, scope.run) == (there.root, there.run) == ("first", "second")


def test_outside_of_any_agent_a_run_begins() -> None:
    one: dict[str, str] = {}
    other: dict[str, str] = {}
    inject(one)
    inject(other)
    with extract(one) as scope:
        assert scope.root == scope.run is not None
        assert scope.depth == 0
    assert one != other


def test_a_path_too_long_to_be_told_counts_in_full(meter: Meter) -> None:
    carrier = {"baggage": header(meter, *(f"agent {number}" for number in range(40)))}
    for depth in (41, 42):
        with extract(carrier), meter.agent("next") as scope:
            assert scope.depth == depth
            carrier = {}
            inject(carrier)


def test_other_baggage_is_kept(meter: Meter) -> None:
    headers = httpx.Headers([("baggage", "a=b;p=1"), ("Baggage", "c=d"), ("x-a", "1")])
    with meter.agent("outer", run="the-run"):
        inject(headers)
        inject(headers)
    entries = headers["baggage"].split(",")
    assert [entry for entry in entries if "tokenmeter" not in entry] == ["a=b;p=1", "c=d"]
    assert len(entries) == 3
    assert headers["x-a"] == "1"


def test_of_several_headers_the_deepest_counts(meter: Meter) -> None:
    shallow, deep = header(meter, "outer"), header(meter, "outer", "inner")
    for order in ((shallow, deep), (deep, shallow)):
        with extract([("baggage", text) for text in order]):
            assert here() == ("the-run", 2, ("outer", "inner"))
    with extract([(b"baggage", b"a=b"), (b"baggage", shallow.encode()), (b"baggage", shallow.encode())]):
        assert here() == FROM_OUTER


@pytest.mark.parametrize("carrier", [{}, [], {"baggage": "a=b"}, {"baggage": None}, [("baggage",)], {"_meta": None}])
def test_nothing_that_came_is_nothing(carrier: Any, caplog: pytest.LogCaptureFixture) -> None:
    found = extract(carrier)

    assert (found.lineage, found.verdict) == (None, "none")
    with found as scope:
        assert scope == NOBODY
    assert not caplog.records


def test_where_nothing_came_the_scope_in_force_goes_on(meter: Meter) -> None:
    with meter.agent("here") as scope, extract({}) as same:
        assert same == scope


# -- keys


@SIGNING
def test_what_others_signed_is_reported_and_not_told(meter: Meter, keys: Any, caplog: pytest.LogCaptureFixture) -> None:
    text = header(meter, "outer", keys=keys)
    with caplog.at_level(logging.WARNING, "tokenmeter"):
        found = extract({"baggage": text}, keys=b"another secret of ours")
    with found:
        assert here() == NOWHERE
    [record] = caplog.records
    assert found.verdict in record.getMessage()
    assert "same keys" in record.getMessage()
    assert "outer" not in record.getMessage()


BAD_KEYS = {
    "too short": (b"short", r"keys\['key'\] has less than 16 bytes; give 32 from secrets.token_bytes\(32\)"),
    "empty": (b"", "less than 16 bytes; give 32"),
    "none": ({}, "keys is empty; give at least one"),
    "a short one by name": ({"a": b"x"}, r"keys\['a'\] has less than 16 bytes; give 32"),
    "a text by name": ({"a": "x" * 32}, r"keys\['a'\] has less than 16 bytes; give 32"),
    "a bad name": ({"a.b": KEY}, "names 'a.b'; a name has 1 to 32 letters"),
    "a text": ("k" * 32, "keys is a str; give bytes, such as secrets.token_bytes"),
    "a list": ([KEY], "keys is a list; give bytes"),
}


@pytest.mark.parametrize("kind", BAD_KEYS)
def test_bad_keys_name_the_remedy(kind: str) -> None:
    keys, says = BAD_KEYS[kind]
    given: Any = keys
    attempts: list[Callable[[], Any]] = [
        lambda: inject({}, keys=given),
        lambda: extract({}, keys=given),
        lambda: injecting(httpx.Client(), keys=given),
        lambda: AsgiMiddleware(_nothing, keys=given),
        lambda: WsgiMiddleware(lambda environ, start: [], keys=given),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigError, match=says):
            attempt()


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    pass


# -- contexts, tasks and threads


def test_it_may_be_entered_again_and_nested(meter: Meter) -> None:
    found = extract({"baggage": header(meter, "outer")})
    with found:
        with meter.agent("inner"), found:
            assert here() == FROM_OUTER
        assert here() == FROM_OUTER
    with found:
        assert here() == FROM_OUTER
    assert here() == NOWHERE


def test_an_error_passes_and_the_scope_is_as_before(meter: Meter) -> None:
    with pytest.raises(KeyError), extract({"baggage": header(meter, "outer")}):
        raise KeyError
    assert here() == NOWHERE


def test_threads_share_one_of_them(meter: Meter, caplog: pytest.LogCaptureFixture) -> None:
    found = extract({"baggage": header(meter, "outer")})
    inside = threading.Barrier(4)

    def work(number: int) -> tuple[Any, ...]:
        with found:
            inside.wait(60)
            with meter.agent(f"agent {number}"):
                inside.wait(60)
                mine = here()
            inside.wait(60)
        return mine, here()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [
            (("the-run", 2, ("outer", f"agent {number}")), NOWHERE) for number in range(4)
        ]
    assert not caplog.records


def test_it_goes_along_where_the_context_does(meter: Meter) -> None:
    with extract({"baggage": header(meter, "outer")}), ThreadPoolExecutor(1) as pool:
        assert pool.submit(contextvars.copy_context().run, here).result() == FROM_OUTER


def test_tasks_keep_theirs_apart(meter: Meter) -> None:
    async def one(number: int) -> tuple[Any, ...]:
        async with extract({"baggage": header(meter, f"agent {number}", run=f"run {number}")}):
            await asyncio.sleep(0)
            mine = here()
            assert await asyncio.to_thread(here) == mine
        return mine, here()

    async def main() -> Any:
        return await asyncio.gather(*(one(number) for number in range(5)))

    assert asyncio.run(main()) == [((f"run {number}", 1, (f"agent {number}",)), NOWHERE) for number in range(5)]


# -- ASGI


def asgi(app: Any, scope: dict[str, Any], keys: Any = None) -> None:
    async def main() -> None:
        await AsgiMiddleware(app, keys=keys)(scope, None, None)  # type: ignore[arg-type]
        assert here() == NOWHERE

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["http", "websocket"])
@SIGNING
def test_asgi(meter: Meter, kind: str, keys: Any) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(here())
        await asyncio.sleep(0)
        seen.append(await asyncio.create_task(_here_async()))

    text = header(meter, "outer", keys=keys).encode()
    asgi(app, {"type": kind, "headers": [(b"host", b"x"), (b"baggage", b"a=b"), (b"baggage", text)]}, keys)
    asgi(app, {"type": kind, "headers": []}, keys)
    asgi(app, {"type": kind}, keys)

    assert seen == [FROM_OUTER] * 2 + [NOWHERE] * 4


async def _here_async() -> Any:
    return here()


def test_asgi_leaves_the_lifespan_alone(meter: Meter) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, here()))

    scope = {"type": "lifespan", "headers": [(b"baggage", header(meter, "outer").encode())]}
    asgi(app, scope)

    assert seen == [(scope, NOWHERE)]


def test_asgi_passes_errors(meter: Meter) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        asgi(app, {"type": "http", "headers": [(b"baggage", header(meter, "outer").encode())]})


# -- WSGI


def wsgi(app: Any, text: str, keys: Any = None) -> Iterable[bytes]:
    """The answer of an application, which the standard's own validator looks at."""
    environ: dict[str, Any] = {"HTTP_BAGGAGE": text}
    setup_testing_defaults(environ)
    environ["QUERY_STRING"] = ""
    answer: Iterable[bytes] = validator(WsgiMiddleware(app, keys=keys))(environ, _start_response)
    return answer


def _start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
    return lambda _: None


def say() -> bytes:
    return repr(here()).encode()


def close(answer: Iterable[bytes]) -> None:
    answer.close()  # type: ignore[attr-defined]


TEXT = [("content-type", "text/plain")]


@SIGNING
def test_wsgi(meter: Meter, keys: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", TEXT)
        return [say()]

    answer = wsgi(app, header(meter, "outer", keys=keys), keys)

    assert list(answer) == [repr(FROM_OUTER).encode()]
    close(answer)
    assert here() == NOWHERE


def test_wsgi_generators_stay_in_their_run_and_their_agent(meter: Meter) -> None:
    said: list[Any] = []
    mine: ContextVar[str] = ContextVar("mine", default="nobody's")

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield say()
        mine.set("the application's")
        with meter.agent("inner"):
            yield say()
            yield say()
        try:
            yield say()
        finally:
            said.append((here(), mine.get()))

    answers = [wsgi(app, header(meter, f"outer {n}", run=f"run {n}")) for n in range(3)]
    pieces = [iter(answer) for answer in answers]
    for piece in pieces:  # in between, the server is nowhere
        assert next(piece)
        assert (here(), mine.get()) == (NOWHERE, "nobody's")
    for _ in range(2):
        for n, piece in enumerate(pieces):
            assert next(piece) == repr((f"run {n}", 2, (f"outer {n}", "inner"))).encode()
            assert (here(), mine.get()) == (NOWHERE, "nobody's")
    for n, piece in enumerate(pieces):
        assert next(piece) == repr((f"run {n}", 1, (f"outer {n}",))).encode()
    for answer in answers:
        close(answer)

    assert said == [((f"run {n}", 1, (f"outer {n}",)), "the application's") for n in range(3)]
    assert here() == NOWHERE


class Eager:
    """A body that works when it is asked for its pieces."""

    def __init__(self) -> None:
        self.closed: list[Any] = []

    def __iter__(self) -> Iterator[bytes]:
        return iter([say()])

    def close(self) -> None:
        self.closed.append(here())


def test_wsgi_bodies_of_another_make(meter: Meter) -> None:
    body = Eager()

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return body

    answer = wsgi(app, header(meter, "outer"))

    assert list(answer) == [repr(FROM_OUTER).encode()]
    close(answer)
    assert body.closed == [FROM_OUTER]


def test_wsgi_passes_errors(meter: Meter) -> None:
    def at_once(environ: Any, start_response: Any) -> list[bytes]:
        raise KeyError

    def later(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"x"
        raise KeyError

    with pytest.raises(KeyError):
        wsgi(at_once, header(meter, "outer"))
    answer = wsgi(later, header(meter, "outer"))
    with pytest.raises(KeyError):
        list(answer)
    close(answer)
    assert here() == NOWHERE


# -- clients


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("keys", [None, KEY])
@pytest.mark.parametrize("how", ["bare", "wrapped", "instrumented"])
def test_a_client_injects(meter: Meter, library: Any, keys: Any, how: str) -> None:
    seen: list[Any] = []
    hooked: list[Any] = []

    def answer(request: Any) -> Any:
        with extract(request.headers, keys=keys):
            seen.append((here(), request.headers["baggage"].split(",")[1:]))
        return library.Response(200)

    transport = library.MockTransport(answer)
    if how == "instrumented":
        meter.instrument()
    client = library.Client(transport=transport, event_hooks={"request": [hooked.append]})
    assert injecting(client if how != "wrapped" else meter.wrap(client), keys=keys) is client
    with meter.agent("outer", run="the-run"):
        client.get("https://intranet.example/", headers={"baggage": "a=b"})

    async def main() -> None:
        async_client = library.AsyncClient(transport=transport)
        injecting(async_client if how != "wrapped" else meter.wrap(async_client), keys=keys)
        with meter.agent("outer", run="the-run"):
            await async_client.get("https://intranet.example/")
        await async_client.aclose()

    asyncio.run(main())
    client.close()

    assert seen == [(FROM_OUTER, ["a=b"]), (FROM_OUTER, [])]
    assert len(hooked) == 1


@pytest.mark.parametrize("client", [None, object(), {}, "httpx", threading.Thread()], ids=lambda x: type(x).__name__)
def test_a_client_of_another_kind_is_refused(client: Any) -> None:
    with pytest.raises(ConfigError, match=r"can't inject into a \S+; give an httpx or httpx2 client, or call inject"):
        injecting(client)


def test_an_sdk_client_is_refused_with_the_way_out() -> None:
    openai = pytest.importorskip("openai")
    with (
        openai.OpenAI(api_key="none") as client,
        pytest.raises(ConfigError, match=r"inject into a openai\S*OpenAI; give an httpx"),
    ):
        tokenmeter.injecting(client)
