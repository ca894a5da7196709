"""boto3 over real connections: the bare client's answers and errors, each attempt counted, refusals after none."""

from __future__ import annotations

import gc
import io
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.clients.loopback import Asked, Says, Served, closed_port, serving
from tests.sdk.other_makes import INPUT, OUTPUT, TEXT, converse, framed, messages
from tokenmeter import Budget, BudgetExceeded, Meter, Price
from tokenmeter.testing import CapturedCalls

boto3 = pytest.importorskip("boto3")
botocore = pytest.importorskip("botocore")
botocore_config = pytest.importorskip("botocore.config")
exceptions = pytest.importorskip("botocore.exceptions")
httpsession = pytest.importorskip("botocore.httpsession")

MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
PRICES = {MODEL: Price(3, 15)}
COST_NANOS = INPUT * 3_000 + OUTPUT * 15_000
CONVERSE: Any = {"modelId": MODEL, "messages": [{"role": "user", "content": [{"text": "hi"}]}]}
CAPPED: Any = CONVERSE | {"inferenceConfig": {"maxTokens": 100}}
ASKED = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}]}
INVOKE: Any = {"modelId": MODEL, "body": json.dumps(ASKED)}
STREAM = "application/vnd.amazon.eventstream"


def failing(kind: str) -> bytes:
    """An exception among the events."""
    names = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    headers = b"".join(
        struct.pack(f">B{len(name)}sBH", len(name), name.encode(), 7, len(text)) + text.encode()
        for name, text in names.items()
    )
    payload = b'{"message": "no"}'
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


def events() -> list[bytes]:
    return [framed(*each) for each in converse(streamed=True)]


def parts() -> list[bytes]:
    """Those of invoke, which have the model's own events in them."""
    import base64

    asked = {"model": MODEL, "stream": True}
    return [
        framed("chunk", {"bytes": base64.b64encode(json.dumps(event).encode()).decode()}) for event in messages(asked)
    ]


def bedrock(asked: Asked) -> Says:
    """Bedrock's answer."""
    if asked.path.endswith("/converse-stream"):
        return Says(kind=STREAM, pieces=events(), framing="chunked")
    if asked.path.endswith("/invoke-with-response-stream"):
        return Says(kind=STREAM, pieces=parts(), framing="chunked")
    if asked.path.endswith("/count-tokens"):
        return Says(pieces=[b'{"inputTokens": 5}'])
    whole = messages({"model": MODEL}) if asked.path.endswith("/invoke") else converse(streamed=False)
    return Says(pieces=[json.dumps(whole).encode()])


THROTTLED = Says(status=429, pieces=[b'{"message": "slow"}'], headers={"x-amzn-ErrorType": "ThrottlingException"})
BROKEN = Says(status=500, pieces=[b'{"message": "oh"}'], headers={"x-amzn-ErrorType": "InternalServerException"})


def client(url: str, service: str = "bedrock-runtime", **config: Any) -> Any:
    return boto3.client(
        service,
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=botocore_config.Config(**config),
    )


@pytest.fixture(autouse=True)
def at_once(monkeypatch: Any) -> None:
    """No retry waits, and nothing is read from the machine."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(bedrock) as found:
        yield found


@pytest.fixture
def budgeted(calls: CapturedCalls) -> Iterator[Meter]:
    with Meter([Budget("$1", per="total")], recorders=[calls], prices=PRICES) as meter:
        yield meter


def held(meter: Meter) -> list[Any]:
    return [state.held for state in meter.remaining()]


def facts(calls: CapturedCalls) -> list[tuple[Any, Any, bool]]:
    return [(call.status, call.cost_nanos, call.estimated) for call in calls]


def without_date(answer: Any) -> Any:
    answer["ResponseMetadata"]["HTTPHeaders"].pop("date")
    return answer


EXACT = ("ok", COST_NANOS, False)


def test_converse(served: Served, budgeted: Meter, calls: CapturedCalls) -> None:
    bare, metered = client(served.url), budgeted.wrap(client(served.url))
    assert without_date(metered.converse(**CAPPED)) == without_date(bare.converse(**CAPPED))
    assert list(metered.converse_stream(**CAPPED)["stream"]) == list(bare.converse_stream(**CAPPED)["stream"])
    assert facts(calls) == [EXACT, EXACT]
    assert calls[0].provider == "aws.bedrock"
    assert held(budgeted) == [0]


def _into(body: Any) -> bytes:
    found, room = b"", bytearray(11)
    while size := body.readinto(room):
        found += room[:size]
    return found


def _with(body: Any) -> Any:
    with body as raw:
        return raw.read()


def _bounded(body: Any) -> Any:
    body.set_socket_timeout(5)
    return body.read(3), body.tell(), body.read()


WAYS: dict[str, Callable[[Any], Any]] = {
    "read": lambda body: (body.read(), body.read()),
    "read-some": lambda body: list(iter(lambda: body.read(10), b"")),
    "readinto": _into,
    "chunks": lambda body: list(body.iter_chunks(7)),
    "iterated": list,
    "next": lambda body: (next(body), body.read()),
    "lines": lambda body: list(body.iter_lines()),
    "readlines": lambda body: body.readlines(),
    "with": _with,
    "bounded": _bounded,
    "text": lambda body: json.load(io.TextIOWrapper(body)),
    "loaded": json.load,
}


@pytest.mark.parametrize("way", WAYS)
def test_invoke_model(served: Served, budgeted: Meter, calls: CapturedCalls, way: str) -> None:
    bare, metered = client(served.url), budgeted.wrap(client(served.url))
    if way == "readinto" and not hasattr(type(bare.invoke_model(**INVOKE)["body"]), "readinto"):
        pytest.skip("an older botocore")
    answer = metered.invoke_model(**INVOKE)
    assert WAYS[way](answer["body"]) == WAYS[way](bare.invoke_model(**INVOKE)["body"])
    assert facts(calls) == [EXACT]
    assert held(budgeted) == [0]


def test_invoke_model_that_is_not_read(served: Served, budgeted: Meter, calls: CapturedCalls) -> None:
    metered = budgeted.wrap(client(served.url))
    metered.invoke_model(**INVOKE)["body"].close()
    metered.invoke_model(**INVOKE)
    gc.collect()
    assert [(call.status, call.estimated) for call in calls] == [("incomplete", True)] * 2
    assert held(budgeted) == [0]


def test_invoke_model_with_a_response_stream(served: Served, budgeted: Meter, calls: CapturedCalls) -> None:
    found = list(budgeted.wrap(client(served.url)).invoke_model_with_response_stream(**INVOKE)["body"])
    assert json.loads(found[2]["chunk"]["bytes"])["delta"]["text"] == TEXT
    assert facts(calls) == [EXACT]


def left(stream: Any) -> None:
    for _ in stream:
        break


def next_and_close(stream: Any) -> None:
    next(iter(stream))
    stream.close()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # as it may be on the bare client
@pytest.mark.parametrize("end", [left, next_and_close, lambda stream: stream.close(), lambda stream: None])
def test_a_stream_that_is_left(budgeted: Meter, calls: CapturedCalls, end: Callable[[Any], None]) -> None:
    done = threading.Event()
    with serving(Says(kind=STREAM, pieces=events(), framing="chunked", until=done)) as found:
        answer = budgeted.wrap(client(found.url)).converse_stream(**CAPPED)
        assert held(budgeted) != [0]
        end(answer["stream"])
        del answer
        gc.collect()
        done.set()
    assert [(call.status, call.estimated, call.http_status) for call in calls] == [("incomplete", True, 200)]
    assert held(budgeted) == [0]


@pytest.mark.parametrize("cut", [False, True], ids=["in-silence", "cut"])
def test_a_stream_that_breaks_off(budgeted: Meter, calls: CapturedCalls, cut: bool) -> None:
    framing = "chunked" if cut else "close"
    with serving(Says(kind=STREAM, pieces=events()[:2], framing=framing, cut=cut)) as found:

        def read(each: Any) -> Any:
            try:
                return list(each.converse_stream(**CAPPED)["stream"])
            except Exception as error:
                return type(error)

        assert read(budgeted.wrap(client(found.url))) == read(client(found.url))
    assert [(call.status, call.estimated) for call in calls] == [("incomplete", True)]
    assert held(budgeted) == [0]


@pytest.mark.parametrize("before", [0, 2], ids=["at-once", "in-the-middle"])
def test_an_exception_among_the_events(budgeted: Meter, calls: CapturedCalls, before: int) -> None:
    pieces = [*events()[:before], failing("throttlingException")]
    with serving(Says(kind=STREAM, pieces=pieces, framing="chunked")) as found:
        answer = budgeted.wrap(client(found.url)).converse_stream(**CAPPED)
        with pytest.raises(exceptions.EventStreamError):
            list(answer["stream"])
        answer["stream"].close()
    assert len(calls) == 1
    assert (calls[0].cost_nanos is not None) == bool(before)
    assert held(budgeted) == [0]


# Retries


@pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
@pytest.mark.parametrize("first", [THROTTLED, BROKEN, None], ids=["throttled", "broken", "cut"])
def test_each_attempt_is_a_call(budgeted: Meter, calls: CapturedCalls, mode: str, first: Says | None) -> None:
    answers = [first, first]
    with serving(lambda asked: answers.pop() if answers else bedrock(asked)) as found:
        metered = budgeted.wrap(client(found.url, retries={"mode": mode, "max_attempts": 3}))
        answer = metered.converse(**CAPPED)
    assert answer["ResponseMetadata"]["RetryAttempts"] == 2
    assert len(found.arrived) == len(calls) == 3
    if first is None:
        assert [call.estimated for call in calls] == [True, True, False]  # who knows what was done for them
    else:
        assert facts(calls) == [("error", None, False)] * 2 + [EXACT]
    assert held(budgeted) == [0]


@pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
@pytest.mark.parametrize("how", ["converse", "converse_stream", "invoke_model"])
def test_a_refusal_reaches_the_caller_after_no_attempt(
    served: Served, calls: CapturedCalls, mode: str, how: str
) -> None:
    before = len(served.arrived)
    with Meter([Budget("1 token", per="total")], recorders=[calls], prices=PRICES) as meter:
        metered = meter.wrap(client(served.url, retries={"mode": mode, "max_attempts": 5}))
        with pytest.raises(BudgetExceeded):
            getattr(metered, how)(**(INVOKE if how == "invoke_model" else CAPPED))
    assert [call.status for call in calls] == ["refused"]
    assert len(served.arrived) == before


# What never left


@pytest.mark.parametrize("how", ["refused", "unknown", "slow", "no-tls", "proxy", "tunnel", "certificate"])
def test_what_never_left_is_not_charged(
    served: Served, budgeted: Meter, calls: CapturedCalls, how: str, monkeypatch: Any
) -> None:
    import socket
    import ssl

    def fails(error: Exception) -> Any:
        def fail(*args: Any, **kwargs: Any) -> Any:
            raise error

        return fail

    url = f"http://127.0.0.1:{closed_port()}"
    config: dict[str, Any] = {"retries": {"max_attempts": 0}}
    connect = "urllib3.util.connection.create_connection"
    refusing = serving(Says(status=403))
    if how == "unknown":
        monkeypatch.setattr(connect, fails(socket.gaierror(-2, "Name or service not known")))
    elif how == "slow":
        monkeypatch.setattr(connect, fails(TimeoutError("timed out")))
    elif how in ("no-tls", "certificate"):
        url = f"https://127.0.0.1:{served.port}"
        if how == "certificate":
            monkeypatch.setattr("ssl.SSLContext.wrap_socket", fails(ssl.SSLCertVerificationError("self-signed")))
    with refusing as proxy:
        if how == "proxy":
            config["proxies"] = {"http": f"http://127.0.0.1:{closed_port()}"}
        elif how == "tunnel":
            url = "https://bedrock-runtime.us-east-1.amazonaws.com"
            config["proxies"] = {"https": proxy.url}
        with pytest.raises(exceptions.BotoCoreError) as expected:
            client(url, **config).converse(**CAPPED)
        with pytest.raises(exceptions.BotoCoreError) as found:
            budgeted.wrap(client(url, **config)).converse(**CAPPED)
    assert type(found.value) is type(expected.value)
    assert facts(calls) == [("error", None, False)]
    assert held(budgeted) == [0]


def test_a_read_timeout_is_charged_by_estimate(budgeted: Meter, calls: CapturedCalls) -> None:
    done = threading.Event()
    with serving(Says(pieces=[b"{"], until=done)) as found:
        metered = budgeted.wrap(client(found.url, read_timeout=0.05, retries={"max_attempts": 0}))
        with pytest.raises(exceptions.ReadTimeoutError):
            metered.converse(**CAPPED)
        done.set()
    assert [(call.estimated, bool(call.cost_nanos)) for call in calls] == [(True, True)]
    assert held(budgeted) == [0]


# Bodies that are signed, and those that are not


def clamped(calls: CapturedCalls) -> Meter:
    budget = Budget("1000 tokens", per="total", on_exceed="clamp")
    return Meter([budget], recorders=[calls], prices=PRICES)


def test_a_signed_request_is_refused_where_it_would_have_to_be_smaller(served: Served, calls: CapturedCalls) -> None:
    before = len(served.arrived)
    with clamped(calls) as meter, pytest.raises(BudgetExceeded):
        meter.wrap(client(served.url)).converse(**CONVERSE, inferenceConfig={"maxTokens": 5000})
    assert len(served.arrived) == before


def test_a_request_with_a_token_is_made_smaller(served: Served, calls: CapturedCalls) -> None:
    made = client(served.url, signature_version=botocore.UNSIGNED)
    seen: dict[str, Any] = {}

    def bear(request: Any, **_: Any) -> None:
        request.headers["Authorization"] = "Bearer secret"  # botocore does so over TLS alone
        seen.update(body=request.body, sent=request)

    made.meta.events.register("before-send", bear)
    with clamped(calls) as meter:
        answer = meter.wrap(made).converse(**CONVERSE, inferenceConfig={"maxTokens": 5000})
    arrived = served.arrived[-1]
    assert answer["usage"]["outputTokens"] == OUTPUT
    assert 0 < json.loads(arrived.body)["inferenceConfig"]["maxTokens"] < 1000
    assert int(arrived.headers["content-length"]) == len(arrived.body)
    assert seen["sent"].body == seen["body"]


# Where it is metered


def test_calls_that_are_no_model_calls(served: Served, budgeted: Meter, calls: CapturedCalls) -> None:
    budgeted.instrument()
    if hasattr(found := client(served.url), "count_tokens"):
        found.count_tokens(modelId=MODEL, input={"converse": {"messages": CONVERSE["messages"]}})
    with serving(Says(kind="application/xml", pieces=[b"<ListAllMyBucketsResult/>"])) as other:
        client(other.url, "s3").list_buckets()
    with serving(Says(kind="application/octet-stream", pieces=[b"abc"])) as other:
        body = client(other.url, "s3").get_object(Bucket="b", Key="v1/chat/completions")["Body"]
        assert type(body._raw_stream).__name__ == "HTTPResponse"
        assert body.read() == b"abc"
    assert len(calls) == 0


def test_wrapped_and_instrumented_it_is_counted_once(served: Served, budgeted: Meter, calls: CapturedCalls) -> None:
    send = httpsession.URLLib3Session.send
    before = client(served.url)
    budgeted.wrap(before)
    budgeted.instrument()
    for each in (before, client(served.url)):
        each.converse(**CAPPED)
        list(each.converse_stream(**CAPPED)["stream"])
        each.invoke_model(**INVOKE)["body"].read()
    assert facts(calls) == [EXACT] * 6
    budgeted.close()
    assert httpsession.URLLib3Session.send is send
    assert "send" not in vars(before._endpoint.http_session)
    before.converse(**CAPPED)
    assert len(calls) == 6


def test_two_meters_count_it_both(served: Served, budgeted: Meter, calls: CapturedCalls) -> None:
    seen = CapturedCalls()
    with Meter(recorders=[seen], prices=PRICES) as other:
        metered = other.wrap(budgeted.wrap(client(served.url)))
        metered.converse(**CAPPED)
        assert len(list(metered.converse_stream(**CAPPED)["stream"])) == 5
        assert metered.invoke_model(**INVOKE)["body"].readlines()
    assert facts(calls) == facts(seen) == [EXACT] * 3


def test_handlers_of_events(served: Served, budgeted: Meter, calls: CapturedCalls) -> None:
    from botocore.awsrequest import AWSResponse

    metered = budgeted.wrap(client(served.url))
    received: list[Any] = []
    metered.meta.events.register("response-received", lambda parsed_response, **_: received.append(parsed_response))
    metered.converse(**CAPPED)
    assert received[0]["usage"]["inputTokens"] == INPUT

    class Raw(io.BytesIO):
        def stream(self, **_: Any) -> Iterator[bytes]:
            yield self.read()

    def answer(request: Any, **_: Any) -> Any:
        return AWSResponse(request.url, 200, {}, Raw(json.dumps(converse(streamed=False)).encode()))

    metered.meta.events.register("before-send", answer)
    assert metered.converse(**CAPPED)["usage"]["inputTokens"] == INPUT
    assert len(calls) == 1  # that other one never left


def test_a_stubbed_client(budgeted: Meter, calls: CapturedCalls) -> None:
    from botocore.stub import Stubber

    metered = budgeted.wrap(client("http://127.0.0.1:1"))
    with Stubber(metered) as stub:
        stub.add_response("converse", converse(streamed=False), CAPPED)
        assert metered.converse(**CAPPED)["stopReason"] == "end_turn"
    assert len(calls) == 0


@pytest.mark.parametrize("store", ["memory://", "sqlite:///{}/books.db"])
def test_exactly_ten_of_fifty(served: Served, tmp_path: Any, store: str) -> None:
    before = len(served.arrived)
    with Meter([Budget("10 calls", per="total", wait_s=0)], store=store.format(tmp_path), prices=PRICES) as meter:
        shared = meter.wrap(client(served.url, max_pool_connections=50))

        def call(_: int) -> int:
            try:
                return int(shared.converse(**CAPPED)["usage"]["outputTokens"])
            except BudgetExceeded:
                return 0

        with ThreadPoolExecutor(50) as pool:
            found = list(pool.map(call, range(50)))
        assert sorted(found) == [0] * 40 + [OUTPUT] * 10
        assert meter.spend().calls == 10
    assert len(served.arrived) - before == 10


def test_a_stream_that_its_budget_can_not_pay_ends_with_the_refusal(calls: CapturedCalls) -> None:
    many = [framed("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "word " * 200}})] * 50
    budget = Budget("6000 tokens", per="total", extend_streams=True, wait_s=0)
    with (
        serving(Says(kind=STREAM, pieces=many, framing="chunked")) as found,
        Meter([budget], recorders=[calls], prices=PRICES) as meter,
    ):
        answer = meter.wrap(client(found.url)).converse_stream(**CONVERSE, inferenceConfig={"maxTokens": 20_000})
        with pytest.raises(BudgetExceeded):
            list(answer["stream"])
        assert held(meter) == [0]
    assert len(calls) == 1
    assert calls[0].estimated


def test_a_baggage_header_stays_here(served: Served, budgeted: Meter) -> None:
    metered = budgeted.wrap(client(served.url))

    def bear(request: Any, **_: Any) -> None:
        request.headers["baggage"] = "a=b"
        request.headers["traceparent"] = "x"

    metered.meta.events.register("before-send", bear)
    metered.converse(**CAPPED)
    assert "baggage" not in served.arrived[-1].headers
    assert served.arrived[-1].headers["traceparent"] == "x"
