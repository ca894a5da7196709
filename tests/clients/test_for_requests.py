"""requests over real connections: the bare client's answers and errors, and each call counted once."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any
from unittest import mock

import pytest

from tests.clients.faces import ASK, COST_NANOS, chat_body, chat_events
from tests.clients.loopback import Asked, Says, Served, closed_port, serving
from tests.clients.test_for_urllib3 import OPTED, STREAMED, chat
from tokenmeter import Budget, BudgetExceeded, Meter
from tokenmeter.testing import CapturedCalls

requests = pytest.importorskip("requests")
urllib3 = pytest.importorskip("urllib3")

PATH = "/v1/chat/completions"
PLAIN = b"".join(chat_events(usage=False))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(chat) as found:
        yield found


@pytest.fixture
def budgeted(calls: CapturedCalls) -> Iterator[Meter]:
    with Meter([Budget("$1", per="total")], recorders=[calls]) as meter:
        yield meter


@pytest.fixture
def session(budgeted: Meter) -> Iterator[Any]:
    with requests.Session() as found:
        yield budgeted.wrap(found)


def held(meter: Meter) -> list[Any]:
    return [state.held for state in meter.remaining()]


WAYS: dict[str, Callable[[Any], Any]] = {
    "content": lambda response: response.content,
    "text": lambda response: response.text,
    "pieces": lambda response: list(response.iter_content(None)),
    "bytes": lambda response: list(response.iter_content(1)),
    "much": lambda response: list(response.iter_content(1024)),
    "lines": lambda response: list(response.iter_lines()),
    "words": lambda response: list(response.iter_lines(7, delimiter=b"\n\n")),
    "iterated": list,
    "pickled": lambda response: pickle.loads(pickle.dumps(response)).content,
}


@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
@pytest.mark.parametrize("ask", [ASK, STREAMED, OPTED], ids=["whole", "sse", "usage"])
def test_the_bare_answer_in_every_way(
    served: Served, session: Any, calls: CapturedCalls, ask: Any, stream: bool
) -> None:
    for name, way in WAYS.items():
        expected = way(requests.post(served.url + PATH, json=ask, stream=stream))
        response = session.post(served.url + PATH, json=ask, stream=stream)
        found = way(response)
        assert found == expected, name
        assert (calls[-1].cost_nanos, calls[-1].estimated) == (COST_NANOS, False), name
    assert len(calls) == len(WAYS)


def test_what_else_an_answer_tells(served: Served, session: Any) -> None:
    bare = requests.Session().post(served.url + PATH, json=ASK)
    prepared = session.prepare_request(requests.Request("POST", served.url + PATH, json=ASK))
    response = session.send(prepared)
    assert response.request is prepared
    assert response.json() == bare.json()
    assert (response.url, response.history, response.reason, response.encoding) == (bare.url, [], "OK", bare.encoding)
    assert response.elapsed.total_seconds() > 0
    assert response.cookies.get_dict() == session.cookies.get_dict() == {"seen": "1"}
    assert set(response.headers) == set(bare.headers)
    assert served.arrived[-1].headers.keys() - {"cookie"} == served.arrived[-2].headers.keys()


def test_the_request_is_the_callers_own_where_another_went_out(served: Served, session: Any) -> None:
    prepared = session.prepare_request(requests.Request("POST", served.url + PATH, json=STREAMED))
    before = prepared.body
    assert session.send(prepared).request is prepared
    assert prepared.body == before
    assert prepared.headers["Content-Length"] == str(len(before))
    assert json.loads(served.arrived[-1].body)["stream_options"] == {"include_usage": True}
    prepared.url = f"http://127.0.0.1:{closed_port()}{PATH}"
    with pytest.raises(requests.ConnectionError) as caught:
        session.send(prepared)
    assert caught.value.request is prepared


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_each_hop_of_a_redirect_is_sent_once_and_the_answer_charged_once(
    session: Any, calls: CapturedCalls, status: int
) -> None:
    def answer(asked: Asked) -> Says:
        if asked.path.startswith("/old"):
            return Says(status=status, pieces=[b"moved"], headers={"location": PATH})
        return chat(asked) if asked.body else Says(pieces=[b"{}"])

    with serving(answer) as found:
        response = session.post(found.url + "/old" + PATH, json=ASK)
    kept = status in (307, 308)
    assert [asked.method for asked in found.arrived] == ["POST", "POST" if kept else "GET"]
    assert response.content == (chat_body() if kept else b"{}")
    assert [hop.status_code for hop in response.history] == [status]
    assert sum(call.cost_nanos or 0 for call in calls) == (COST_NANOS if kept else 0)


def test_hooks_and_auth(served: Served, session: Any, calls: CapturedCalls) -> None:
    seen = []
    answers = iter([Says(status=401, headers={"www-authenticate": 'Digest realm="r", nonce="n", qop="auth"'})])
    with serving(lambda asked: next(answers, None) or chat(asked)) as found:
        auth = requests.auth.HTTPDigestAuth("user", "word")
        hooks = {"response": lambda response, **_: seen.append(response.status_code)}
        response = session.post(found.url + PATH, json=ASK, auth=auth, hooks=hooks)
    assert response.json() == json.loads(chat_body())
    assert [(call.status, call.cost_nanos) for call in calls] == [("error", None), ("ok", COST_NANOS)]
    assert seen == [200]


def data(kind: str) -> dict[str, Any]:
    body = json.dumps(ASK).encode()
    if kind == "generator":
        return {"data": iter([body[:20], body[20:]])}
    if kind == "file":
        return {"data": BytesIO(body)}
    return {"data": body.decode()} if kind == "text" else {"data": body}


@pytest.mark.parametrize("kind", ["generator", "file", "text", "bytes"])
def test_whatever_the_body_is_given_as(served: Served, meter: Meter, calls: CapturedCalls, kind: str) -> None:
    session = meter.wrap(requests.Session())
    headers = {"content-type": "application/json"}
    assert session.post(served.url + PATH, headers=headers, **data(kind)).content == chat_body()
    assert served.arrived[-1].body == json.dumps(ASK).encode()
    assert [call.cost_nanos for call in calls] == [COST_NANOS]


def test_a_form(session: Any, calls: CapturedCalls) -> None:
    with serving(Says(pieces=[b'{"text": "hi", "usage": {"type": "duration", "seconds": 3}}'])) as found:
        files = {"file": ("a.wav", b"RIFF....", "audio/wav")}
        session.post(found.url + "/v1/audio/transcriptions", data={"model": "whisper-1"}, files=files)
    assert b"RIFF...." in found.arrived[0].body
    assert [call.model for call in calls] == ["whisper-1"]


# What never left, and what did


def untold(*args: Any, **kwargs: Any) -> Any:
    raise socket.gaierror(-2, "Name or service not known")


def timed_out(*args: Any, **kwargs: Any) -> Any:
    raise TimeoutError("timed out")


def interrupted(*args: Any, **kwargs: Any) -> Any:
    raise KeyboardInterrupt


def broken_header(request: Any) -> Any:
    request.headers["x-key"] = "a\nb"
    return request


@pytest.fixture
def plain_server() -> Iterator[Served]:
    with serving(Says(status=403)) as found:
        yield found


NEVER_SENT = [
    "refused", "refused-raw", "unknown", "slow", "interrupted", "no-tls", "certificate", "proxy", "tunnel", "authority",
    "timeout", "header", "pool-closed",
]  # fmt: skip


@pytest.mark.parametrize("how", NEVER_SENT)
def test_what_never_left_is_not_charged(
    plain_server: Served, session: Any, budgeted: Meter, calls: CapturedCalls, how: str, monkeypatch: Any
) -> None:
    url = f"http://127.0.0.1:{closed_port()}{PATH}"
    options: dict[str, Any] = {}
    connects = {"unknown": untold, "slow": timed_out, "interrupted": interrupted}
    bare = requests.Session()
    if how in connects:
        monkeypatch.setattr("urllib3.util.connection.create_connection", connects[how])
    elif how == "refused-raw":
        for client in (bare, session):
            client.get_adapter("http://").max_retries = urllib3.Retry(False)
    elif how == "no-tls":
        url = f"https://127.0.0.1:{plain_server.port}{PATH}"
    elif how == "certificate":
        monkeypatch.setattr("ssl.SSLContext.wrap_socket", distrusting)
        url = f"https://127.0.0.1:{plain_server.port}{PATH}"
    elif how == "proxy":
        options["proxies"] = {"http": f"http://127.0.0.1:{closed_port()}"}
    elif how == "tunnel":
        url, options["proxies"] = "https://api.openai.com" + PATH, {"https": plain_server.url}
    elif how == "authority":
        url, options["verify"] = "https://127.0.0.1:1" + PATH, "/nowhere/ca.pem"
    elif how == "timeout":
        options["timeout"] = (1, 2, 3)
    elif how == "header":
        url, options["auth"] = plain_server.url + PATH, broken_header
    elif how == "pool-closed":
        monkeypatch.setattr("urllib3.connectionpool.HTTPConnectionPool.urlopen", closed_pool)
    with pytest.raises(BaseException) as expected:  # noqa: PT011
        bare.post(url, json=ASK, **options)
    with pytest.raises(type(expected.value)) as found:
        session.post(url, json=ASK, **options)
    assert type(found.value) is type(expected.value)
    assert [(call.status, call.cost_nanos) for call in calls] == [("error", None)]
    assert held(budgeted) == [0]
    assert [asked.method for asked in plain_server.arrived if asked.method != "CONNECT"] == []


def distrusting(*args: Any, **kwargs: Any) -> Any:
    import ssl

    raise ssl.SSLCertVerificationError("self-signed certificate")


def closed_pool(pool: Any, *args: Any, _urlopen: Any = urllib3.HTTPConnectionPool.urlopen, **kwargs: Any) -> Any:
    pool.close()
    return _urlopen(pool, *args, **kwargs)


def raw_server(answer: bytes) -> tuple[str, threading.Thread]:
    """One that answers with these bytes, and breaks off."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", thread


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhel",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello",
    ],
    ids=["silence", "nonsense", "two-lengths", "cut", "cut-chunk", "bad-chunk", "bad-gzip"],
)
def test_what_left_and_broke_is_charged_by_estimate(
    session: Any, budgeted: Meter, calls: CapturedCalls, answer: bytes
) -> None:
    if b": 500" in answer and urllib3.__version__.startswith("1."):
        pytest.skip("it does not look at the length")
    url, thread = raw_server(answer)
    with pytest.raises(Exception) as expected:  # noqa: PT011
        requests.post(url + PATH, json=ASK)
    with pytest.raises(type(expected.value)) as found:
        session.post(url + PATH, json=ASK)
    thread.join(10)
    assert type(found.value) is type(expected.value)
    assert len(calls) == 1
    assert calls[0].estimated
    assert calls[0].cost_nanos
    assert held(budgeted) == [0]


def test_a_read_timeout_is_charged_by_estimate(session: Any, budgeted: Meter, calls: CapturedCalls) -> None:
    done = threading.Event()
    with serving(Says(pieces=[b"{"], until=done)) as found, pytest.raises(requests.ConnectionError):
        session.post(found.url + PATH, json=ASK, timeout=0.05)
    done.set()
    assert [(call.estimated, call.cost_nanos is not None) for call in calls] == [(True, True)]
    assert held(budgeted) == [0]


def test_a_failure_that_its_caller_handles_meanwhile_says_nothing_of_the_next(
    session: Any, calls: CapturedCalls
) -> None:
    try:
        session.post(f"http://127.0.0.1:{closed_port()}{PATH}", json=ASK)
    except requests.ConnectionError:
        with serving(lambda asked: None) as found, pytest.raises(requests.ConnectionError):
            session.post(found.url + PATH, json=ASK)
    assert [(call.estimated, call.cost_nanos is not None) for call in calls] == [(False, False), (True, True)]


def test_retries_of_urllib3(session: Any, budgeted: Meter, calls: CapturedCalls) -> None:
    retry = urllib3.Retry(2, status_forcelist=[500], allowed_methods=None, backoff_factor=0)
    budgeted.instrument()
    session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))
    bad = iter([Says(status=500)] * 2)
    with serving(lambda asked: next(bad, None) or chat(asked)) as found:
        assert session.post(found.url + PATH, json=ASK).content == chat_body()
    assert len(found.arrived) == 3
    with serving(Says(status=500)) as found, pytest.raises(requests.exceptions.RetryError):
        session.post(found.url + PATH, json=ASK)
    assert [(call.status, call.http_status, call.cost_nanos) for call in calls] == [
        ("ok", 200, COST_NANOS),
        ("error", 500, None),
    ]
    assert held(budgeted) == [0]


# How a stream ends


def slow(asked: Asked, done: threading.Event) -> Says:
    return Says(kind="text/event-stream", pieces=chat_events(usage=True), framing="chunked", until=done)


def left(response: Any) -> None:
    for _ in response.iter_lines():
        break


def leave_with(response: Any) -> None:
    with response:
        next(response.iter_content(None))


def close_unread(response: Any) -> None:
    response.close()


def drop(response: Any) -> None:
    pass


def interrupt(response: Any) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        mock.patch.object(response.raw._fp, "_safe_read", side_effect=KeyboardInterrupt),
    ):
        response.content  # noqa: B018


@pytest.mark.parametrize("end", [left, leave_with, close_unread, drop, interrupt])
@pytest.mark.parametrize("ask", [STREAMED, OPTED], ids=["hidden", "asked"])
def test_a_stream_that_ends_early_settles_once(
    budgeted: Meter, session: Any, calls: CapturedCalls, ask: Any, end: Callable[[Any], None]
) -> None:
    done = threading.Event()
    with serving(lambda asked: slow(asked, done)) as found:
        response = session.post(found.url + PATH, json=ask, stream=True)
        assert held(budgeted) != [0]
        end(response)
        del response
        gc.collect()
        done.set()
    assert [(call.estimated, call.http_status) for call in calls] == [(True, 200)]
    assert held(budgeted) == [0]


def test_a_stream_that_is_truncated_in_silence(budgeted: Meter, session: Any, calls: CapturedCalls) -> None:
    pieces = chat_events(usage=False)[:3]
    with serving(Says(kind="text/event-stream", pieces=pieces, framing="close")) as found:
        assert session.post(found.url + PATH, json=STREAMED).content == b"".join(pieces)
    assert [(call.status, call.estimated) for call in calls] == [("incomplete", True)]
    assert held(budgeted) == [0]


# The option


@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
def test_a_server_that_rejects_the_option_is_asked_without_it(session: Any, calls: CapturedCalls, stream: bool) -> None:
    error = json.dumps({"error": {"message": "Unknown parameter: 'stream_options'."}}).encode()

    def answer(asked: Asked) -> Says:
        return Says(status=400, pieces=[error]) if b"stream_options" in asked.body else chat(asked)

    with serving(answer) as found:
        assert session.post(found.url + PATH, json=STREAMED, stream=stream).content == PLAIN
        assert session.post(found.url + PATH, json=STREAMED, stream=stream).content == PLAIN
    assert len(found.arrived) == 3
    assert [call.status for call in calls] == ["ok", "ok"]


BROKEN = {
    "plain": Says(status=400, pieces=[b'{"error": "no"}']),
    "cut": Says(status=400, pieces=[b'{"error"'], cut=True),
    "cut-chunk": Says(status=422, pieces=[b'{"error"'], framing="chunked", cut=True),
    "no-gzip": Says(status=400, pieces=[b'{"error": "no"}'], headers={"content-encoding": "gzip"}),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
def test_an_error_of_another_kind_is_the_bare_one(
    session: Any, calls: CapturedCalls, broken: str, stream: bool
) -> None:
    def outcome(client: Any, url: str) -> Any:
        try:
            response = client.post(url, json=STREAMED, stream=stream)
            return response.status_code, response.content, dict(response.headers, Date="")
        except Exception as error:
            return type(error)

    with serving(BROKEN[broken]) as found:
        assert outcome(session, found.url + PATH) == outcome(requests, found.url + PATH)


# Where it is metered


class Custom(requests.adapters.HTTPAdapter):  # type: ignore[misc, name-defined]
    def send(self, request: Any, **kwargs: Any) -> Any:
        response = super().send(request, **kwargs)
        response.content  # noqa: B018 - as those do that log it
        return response


class Canned(requests.adapters.BaseAdapter):  # type: ignore[misc, name-defined]
    """One without urllib3."""

    def __init__(self, raw: Any) -> None:
        super().__init__()
        self.raw = raw

    def send(self, request: Any, **kwargs: Any) -> Any:
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, request.url
        response.headers["content-type"] = "application/json"
        response.raw = self.raw
        return response

    def close(self) -> None:
        pass


@pytest.mark.parametrize("ask", [ASK, STREAMED], ids=["whole", "hidden"])
def test_an_adapter_of_ones_own(served: Served, meter: Meter, calls: CapturedCalls, ask: Any) -> None:
    expected = chat_body() if ask is ASK else PLAIN
    with requests.Session() as session:
        session.mount("http://", Custom())
        meter.wrap(session)
        assert session.post(served.url + PATH, json=ask).content == expected
        meter.instrument()
        assert session.post(served.url + PATH, json=ask).content == expected
    assert [call.cost_nanos for call in calls] == [COST_NANOS] * 2


@pytest.mark.parametrize("raw", [BytesIO, lambda body: None])
def test_an_adapter_that_does_not_use_urllib3(meter: Meter, calls: CapturedCalls, raw: Any) -> None:
    bare, session = requests.Session(), requests.Session()
    for client in (bare, session):
        client.mount("http://", Canned(raw(chat_body())))
    meter.wrap(session)
    expected = bare.post("http://here" + PATH, json=ASK).content
    assert session.post("http://here" + PATH, json=ASK).content == expected
    assert len(calls) == 1


def test_a_mock_in_place_of_the_adapter(meter: Meter, calls: CapturedCalls) -> None:
    meter.instrument()
    with mock.patch.object(requests.adapters.HTTPAdapter, "send", return_value=mock.Mock(status_code=200)) as mocked:
        requests.Session().get_adapter("http://").send(mock.Mock())
    assert mocked.call_count == 1
    assert len(calls) == 0


def test_a_session_that_is_wrapped_can_be_copied_and_pickled(served: Served, session: Any) -> None:
    for other in (copy.copy(session), copy.deepcopy(session), pickle.loads(pickle.dumps(session))):
        assert other.post(served.url + PATH, json=ASK).content == chat_body()


def test_wrapped_and_instrumented_it_is_counted_once(served: Served, meter: Meter) -> None:
    send = requests.adapters.HTTPAdapter.send
    with requests.Session() as session:
        meter.wrap(session)
        meter.instrument()
        for ask in (ASK, STREAMED):
            session.post(served.url + PATH, json=ask)
        assert meter.spend().calls == 2
    meter.uninstrument()
    assert requests.adapters.HTTPAdapter.send is send


def test_other_requests_pass_untouched(served: Served, meter: Meter, calls: CapturedCalls) -> None:
    meter.instrument()
    with serving(Says(pieces=[b"[]"])) as found:
        response = requests.get(found.url + "/v1/models", stream=True)
        assert type(response.raw) is urllib3.HTTPResponse
        assert response.content == b"[]"
    assert len(calls) == 0


# Budgets


@pytest.mark.parametrize("store", ["memory://", "sqlite:///{}/books.db"])
def test_exactly_ten_of_fifty(served: Served, tmp_path: Any, store: str) -> None:
    before = len(served.arrived)

    def call(_: int) -> int:
        try:
            return int(requests.post(served.url + PATH, json=ASK).status_code)
        except BudgetExceeded:
            return 0

    with Meter([Budget("10 calls", per="total", wait_s=0)], store=store.format(tmp_path)) as meter:
        meter.instrument()
        with ThreadPoolExecutor(50) as pool:
            found = list(pool.map(call, range(50)))
        assert sorted(found) == [0] * 40 + [200] * 10
        assert meter.spend().calls == 10
    assert len(served.arrived) - before == 10


def test_a_stream_that_its_budget_can_not_pay_ends_with_the_refusal(calls: CapturedCalls) -> None:
    words = [b'data: {"choices": [{"index": 0, "delta": {"content": "%s"}}]}\n\n' % (b"word " * 200)] * 50
    ask = OPTED | {"max_tokens": 20_000}
    with (
        serving(Says(kind="text/event-stream", pieces=words, framing="chunked")) as found,
        Meter([Budget("6000 tokens", per="total", extend_streams=True, wait_s=0)], recorders=[calls]) as meter,
    ):
        session = meter.wrap(requests.Session())
        response = session.post(found.url + PATH, json=ask, stream=True)
        with pytest.raises(BudgetExceeded):
            list(response.iter_content(None))
        assert response.raw.closed
        assert held(meter) == [0]
    assert len(calls) == 1
    assert calls[0].estimated


def test_a_refusal_comes_after_no_attempt(served: Served, calls: CapturedCalls) -> None:
    before = len(served.arrived)
    retry = urllib3.Retry(5, allowed_methods=None)
    with requests.Session() as session, Meter([Budget("1 token", per="total")], recorders=[calls]) as meter:
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))
        meter.wrap(session)
        with pytest.raises(BudgetExceeded):
            session.post(served.url + PATH, json=ASK)
    assert len(served.arrived) == before
    assert [call.status for call in calls] == ["refused"]


def test_a_baggage_header_stays_here(served: Served, session: Any) -> None:
    for ask in (ASK, STREAMED):
        session.post(served.url + PATH, json=ask, headers={"baggage": "a=b", "traceparent": "x"})
        assert "baggage" not in served.arrived[-1].headers
        assert served.arrived[-1].headers["traceparent"] == "x"
