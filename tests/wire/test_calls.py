"""Paths that other services have, too: on a host that nobody knows, the body decides."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.wire.exchanges import Exchange
from tokenmeter import wire

JSON = "application/json"


def is_call(host: str, path: str, body: bytes | None, content_type: str | None = JSON) -> bool:
    route = wire.recognise("POST", host, path)
    assert route is not None
    return wire.is_call(route, body, {} if content_type is None else {"content-type": content_type})


OTHERS: list[tuple[str, str, dict[str, Any]]] = [
    ("api.nexmo.com", "/v1/messages", {"from": "1", "to": "2", "message_type": "text", "text": "hi"}),
    ("waba.360dialog.io", "/v1/messages", {"to": "1", "type": "text", "text": {"body": "hi"}}),
    ("chat.example.org", "/api/v2/chat", {"room": 7, "text": "hi"}),
    ("forms.example.org", "/api/v1/responses", {"form": 7, "answers": []}),
    ("maps.example.org", "/graph/embeddings", {"nodes": [1]}),
    ("shop.example.org", "/v2/embed", {"url": "https://example.org"}),
    ("search.example.org", "/v1/rerank", {"list": 7}),
    ("tasks.example.org", "/v1/completions", {"task": 7}),
    ("tasks.example.org", "/chat/completions", {"task": 7}),
    ("localhost", "/api/chat", {"room": 7}),
    ("localhost", "/api/generate", {"report": 7}),
    ("localhost", "/generate", {"report": 7}),
    ("localhost", "/completion", {"task": 7}),
    ("crm.example.org", "/v1beta/interactions", {"lead": 7}),
    ("loans.example.org", "/api/v1/decisions", {"application": 7}),
]


@pytest.mark.parametrize(("host", "path", "body"), OTHERS)
def test_another_service_with_the_path_of_one(host: str, path: str, body: dict[str, Any]) -> None:
    sent = json.dumps(body).encode()
    assert not is_call(host, path, sent)
    assert not is_call(host, path, sent, None)
    assert not is_call(host, path, b" [" + sent + b"]")


def test_a_form_of_a_page_is_no_call() -> None:
    form = b"type=stream&to=general&topic=x&content=hello"
    assert not is_call("acme.zulipchat.com", "/api/v1/messages", form, "application/x-www-form-urlencoded")
    # what sends JSON as it may be called a form by whoever sends it
    sent = b'{"messages":[]}'
    assert is_call("llm.example.org", "/v1/messages", sent, "application/x-www-form-urlencoded; charset=utf-8")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (None, JSON),
        (b"", JSON),
        (b'{"text":', JSON),
        (gzip.compress(b'{"text":"hi"}', mtime=0), JSON),
        (b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\n1\r\n--b--", "multipart/form-data; boundary=b"),
        (b"\xff\xfe{\x00", JSON),
        (b"hello", "text/plain"),
    ],
)
def test_what_cannot_be_read_stays_a_call(body: bytes | None, content_type: str) -> None:
    assert is_call("llm.example.org", "/v1/messages", body, content_type)


def test_a_host_that_is_known_is_believed() -> None:
    for host in ("api.anthropic.com", "ai-gateway.vercel.sh"):
        assert is_call(host, "/v1/messages", b'{"text":"hi"}')


def test_a_protocol_whose_requests_share_no_key_is_believed() -> None:
    assert is_call("llm.example.org", "/v1/audio/transcriptions", b'{"url":"x"}')
    assert is_call("llm.example.org", "/model/m/converse", b"{}")


def test_recorded_calls_are_calls_on_any_host(corpus: list[Exchange]) -> None:
    for row in corpus:
        if row.route is not None:
            for host in (row.host, "llm.example.org", "localhost"):
                route = wire.recognise(row.method, host, row.path)
                assert route is None or wire.is_call(route, row.request, {"content-type": JSON}), row.id
