"""An endpoint that CI or a webhook posts outcomes to: an ASGI application without a framework.

``POST /outcomes`` and ``POST /revocations``, JSON in and out, a bearer token each. Who posts is known by the token, and
the outcome's source says so: a body can't claim to come from elsewhere. Posting the same twice changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import replace
from typing import Any, Final

from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.ledger.views import Outcome
from tokenmeter.outcomes.harvest import Revocation
from tokenmeter.outcomes.kinds import BUILT_IN, Kinds, new_outcome

__all__ = ["Endpoint", "into"]

MAX_BODY_BYTES: Final = 64 * 1024
LEAST_TOKEN_CHARS: Final = 16

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Take = Callable[[Outcome | Revocation], object]

_OUTCOME: Final = {
    "kind", "key", "at", "team", "user", "run", "agents", "weight", "confidence", "fold", "accepted_by", "attributes",
}  # fmt: skip
_REVOCATION: Final = {"kind", "key", "at", "why"}


class _No(Exception):
    """An answer that isn't a success."""

    def __init__(self, status: int, error: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(error)
        self.status = status
        self.headers = headers


class Endpoint:
    """The application.

    Args:
        take: gets each `Outcome` and each `Revocation`, on a thread of its own; see `into`.
        tokens: the token of each poster by the poster's name, at least 16 characters: ``{"ci": os.environ["…"]}``.
        kinds: the kinds that are declared.
        clock: the time of an outcome that says none.
        prefix: what stands before the paths, such as ``/tokenmeter``.

    Raises:
        ConfigError: no token, or one that could be guessed.
    """

    def __init__(
        self,
        take: Take,
        tokens: Mapping[str, str],
        *,
        kinds: Kinds = BUILT_IN,
        clock: Callable[[], float] = time.time,
        prefix: str = "",
    ) -> None:
        if not tokens:
            raise ConfigError("the endpoint has no token; give one for each poster, such as {'ci': TOKEN}")
        for name, token in tokens.items():
            if not name or len(token) < LEAST_TOKEN_CHARS:
                raise ConfigError(f"the token of {name!r} is too short; give at least {LEAST_TOKEN_CHARS} characters")
        self._take = take
        self._tokens = {name: _digest(token.encode()) for name, token in tokens.items()}
        self._kinds = kinds
        self._clock = clock
        self._paths: dict[str, Callable[[dict[str, Any], str], Outcome | Revocation]] = {
            f"{prefix}/outcomes": self._outcome,
            f"{prefix}/revocations": self._revocation,
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one connection, as ASGI wants it."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            return
        headers: tuple[tuple[bytes, bytes], ...] = ()
        try:
            status, answer = await self._answer(scope, receive)
        except _No as no:
            status, answer, headers = no.status, {"error": str(no)}, no.headers
        body = json.dumps(answer).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Message, receive: Receive) -> tuple[int, dict[str, Any]]:
        make = self._paths.get(scope["path"])
        if make is None:
            raise _No(404, f"there is no {scope['path'][:80]!r}; post to {' or '.join(self._paths)}")
        poster = self._poster(scope["headers"])
        if scope["method"] != "POST":
            raise _No(405, f"method {scope['method']} is not known here; POST", ((b"allow", b"POST"),))
        given = _parsed(await _body(scope["headers"], receive))
        try:
            found = make(given, poster)
        except ConfigError as error:
            raise _No(422, str(error)) from None
        try:
            await asyncio.to_thread(self._take, found)
        except StoreUnavailable as error:
            raise _No(503, f"the ledger can't be reached, post it again later: {error}") from None
        return 200, {"kind": found.kind, "key": found.key, "state": "kept" if isinstance(found, Outcome) else "revoked"}

    def _poster(self, headers: list[tuple[bytes, bytes]]) -> str:
        """Whose token it is. All are compared, each in constant time."""
        given = next((value for name, value in headers if name.lower() == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        digest = _digest(token.strip())
        found = None
        for name, known in self._tokens.items():
            if hmac.compare_digest(known, digest):
                found = name
        if found is None or scheme.lower() != b"bearer":
            what = "is not known" if given else "is missing"
            raise _No(
                401, f"the bearer token {what}; send Authorization: Bearer TOKEN", ((b"www-authenticate", b"Bearer"),)
            )
        return found

    def _outcome(self, given: dict[str, Any], poster: str) -> Outcome:
        _check_names(given, _OUTCOME)
        attributes = given.get("attributes") or {}
        if not isinstance(attributes, dict):
            raise ConfigError(f"attributes is {str(attributes)[:40]!r}; give an object of texts")
        agents = given.get("agents") or ()
        if not isinstance(agents, list | tuple):
            raise ConfigError(f"agents is {str(agents)[:40]!r}; give a list of names")
        texts = {name: given.get(name) for name in ("team", "user", "run", "fold")}
        return new_outcome(
            given.get("kind", ""), given.get("key", ""), self._at_s(given),
            **texts,
            agents=agents,
            weight=given.get("weight"),
            confidence=given.get("confidence", 1.0),
            accepted_by=given.get("accepted_by") or poster,
            source=f"http:{poster}"[:256],
            attributes=tuple(attributes.items()),
            kinds=self._kinds,
        )  # fmt: skip

    def _revocation(self, given: dict[str, Any], poster: str) -> Revocation:
        _check_names(given, _REVOCATION)
        why = given.get("why") or "revoked"
        found = Revocation(given.get("kind", ""), given.get("key", ""), self._at_s(given), why)
        return replace(found, why=f"{' '.join(found.why.split())[:400]} (told by {poster})")

    def _at_s(self, given: Mapping[str, Any]) -> float:
        at_s = given.get("at")
        if at_s is None:
            return self._clock()
        if isinstance(at_s, bool) or not isinstance(at_s, int | float):
            raise ConfigError(f"at is {str(at_s)[:40]!r}; give seconds since 1970, or leave it out for now")
        return at_s


def into(sink: Any) -> Take:
    """A function for `Endpoint` that writes to a `Sink`."""

    def take(found: Outcome | Revocation) -> object:
        if isinstance(found, Outcome):
            return sink.put_outcome(found)
        return sink.revoke(found.kind, found.key, found.at_s, found.why)

    return take


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _check_names(given: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ConfigError(f"{unknown[0][:40]!r} is not known; the names are {', '.join(sorted(known))}")


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise _No(400, 'the body is no JSON; send an object such as {"kind": "deployment", "key": "api#412"}') from None
    if not isinstance(found, dict):
        raise _No(400, "the body is no object; send one outcome a request")
    return found


async def _body(headers: list[tuple[bytes, bytes]], receive: Receive) -> bytes:
    said = next((value for name, value in headers if name.lower() == b"content-length"), b"0")
    large = _No(413, f"the body is too large; at most {MAX_BODY_BYTES:,} bytes are read")
    if said.isdigit() and int(said) > MAX_BODY_BYTES:
        raise large
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _No(400, "the connection ended before the body did")
        body += bytes(message.get("body", b""))
        if len(body) > MAX_BODY_BYTES:
            raise large
        if not message.get("more_body", False):
            return body


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
