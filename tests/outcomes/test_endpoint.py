"""The endpoint, spoken to as an ASGI server does."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.outcomes import MemorySink
from tokenmeter.outcomes.endpoint import MAX_BODY_BYTES, Endpoint, into

TOKEN = "t0ken-of-the-pipeline"
GOOD = {"kind": "deployment", "key": "api#412", "run": "r", "at": 5.0}


def post(
    app: Endpoint,
    path: str = "/outcomes",
    body: object = None,
    *,
    token: str | None = f"Bearer {TOKEN}",
    method: str = "POST",
    pieces: list[bytes] | None = None,
    length: int | None = None,
) -> tuple[int, dict[str, Any], dict[bytes, bytes]]:
    """One request; the status, the answer and the headers."""
    raw = pieces if pieces is not None else [json.dumps(body).encode()]
    headers = [(b"authorization", token.encode())] if token is not None else []
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    incoming = [
        {"type": "http.request", "body": piece, "more_body": i < len(raw) - 1} for i, piece in enumerate(raw)
    ] + [{"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "path": path, "method": method, "headers": headers}, receive, send))
    start, end = sent
    return start["status"], json.loads(end["body"]), dict(start["headers"])


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def app(sink: MemorySink) -> Endpoint:
    return Endpoint(into(sink), {"ci": TOKEN, "forge": "another-token-of-16"}, clock=lambda: 99.0)


def test_an_outcome_is_kept_once(app: Endpoint, sink: MemorySink) -> None:
    for _ in range(2):
        status, answer, headers = post(app, body=GOOD)
        assert (status, answer["state"], headers[b"content-type"]) == (200, "kept", b"application/json")

    [found] = sink.outcomes()
    assert (found.kind, found.key, found.run, found.at_s) == ("deployment", "api#412", "r", 5.0)
    assert (found.source, found.accepted_by, found.weight) == ("http:ci", "ci", 1.0)


def test_a_revocation_takes_it_back_also_before(app: Endpoint, sink: MemorySink) -> None:
    assert post(app, "/revocations", {"kind": "deployment", "key": "api#412", "why": "rolled\nback"})[0] == 200
    post(app, body=GOOD)

    [found] = sink.outcomes()
    assert (found.revoked_s, found.revoked_why) == (99.0, "rolled back (told by ci)")


@pytest.mark.parametrize("token", [None, "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer ", f"Bearer {TOKEN}x"])
def test_without_the_token_nothing_is_read(app: Endpoint, sink: MemorySink, token: str | None) -> None:
    status, answer, headers = post(app, body=GOOD, token=token)

    assert (status, headers[b"www-authenticate"]) == (401, b"Bearer")
    assert "token" in answer["error"]
    assert TOKEN not in answer["error"]
    assert sink.outcomes() == ()


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        ({"path": "/other"}, 404, "/outcomes"),
        ({"method": "GET"}, 405, "GET"),
        ({"pieces": [b"{"]}, 400, "no JSON"),
        ({"pieces": [b"[" * 100_000]}, 413, "too large"),
        ({"pieces": [b"[" * 60_000]}, 400, "no JSON"),
        ({"body": [GOOD]}, 400, "no object"),
        ({"pieces": [b"x" * 40_000] * 3}, 413, "too large"),
        ({"body": GOOD, "length": MAX_BODY_BYTES + 1}, 413, "too large"),
        ({"pieces": []}, 400, "ended before"),
        ({"body": {**GOOD, "source": "git"}}, 422, "'source' is not known"),
        ({"body": {**GOOD, "kind": 3}}, 422, "kind"),
        ({"body": {**GOOD, "key": " "}}, 422, "key"),
        ({"body": {**GOOD, "at": "now"}}, 422, "at is"),
        ({"pieces": [b'{"kind": "a", "key": "b", "at": Infinity}']}, 422, "at_s is inf"),
        ({"body": {**GOOD, "at": 10**400}}, 422, "at_s is 1000"),
        ({"body": {**GOOD, "weight": 10**400}}, 422, "weight is 1000"),
        ({"body": {**GOOD, "confidence": -(10**400)}}, 422, "confidence is -1000"),
        ({"path": "/revocations", "body": {"kind": "a", "key": "b", "at": 10**400}}, 422, "at_s is 1000"),
        ({"path": "/revocations", "body": {"kind": "Not A Kind", "key": "b"}}, 422, "'Not A Kind' is no name"),
        ({"path": "/revocations", "body": {"kind": "a", "key": "b", "why": 3}}, 422, "why is 3"),
        ({"body": {**GOOD, "agents": "a"}}, 422, "agents"),
        ({"body": {**GOOD, "attributes": [1]}}, 422, "attributes"),
        ({"body": {**GOOD, "weight": "1"}}, 422, "weight"),
        ({"body": {**GOOD, "run": 3}}, 422, "run"),
    ],
)
def test_what_is_wrong_is_said(app: Endpoint, sink: MemorySink, more: dict[str, Any], status: int, says: str) -> None:
    found, answer, _ = post(app, **more)

    assert found == status
    assert says in answer["error"]
    assert sink.outcomes() == ()


def test_a_ledger_that_is_gone_is_a_503() -> None:
    def gone(found: object) -> None:
        raise StoreUnavailable("no route")

    assert post(Endpoint(gone, {"ci": TOKEN}), body=GOOD)[0] == 503


def test_tokens_must_be_hard_to_guess() -> None:
    with pytest.raises(ConfigError, match="no token"):
        Endpoint(print, {})
    with pytest.raises(ConfigError, match="too short"):
        Endpoint(print, {"ci": "short"})


def test_lifespan(app: Endpoint) -> None:
    todo, sent = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}], []

    async def receive() -> Any:
        return todo.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(app({"type": "lifespan"}, receive, send))

    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
