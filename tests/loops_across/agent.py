"""An agent in a process of its own: it asks the model, then hands on to the next one. Told over stdin what to be.

    python -m tests.loops_across.agent KIND        KIND: asgi (uvicorn), wsgi or wsgi-by-hand (wsgiref, in threads)

Each line on stdin is an order in JSON, each on stdout its answer. It ends with its stdin.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import httpx
import httpx2
import uvicorn
from openai import AsyncOpenAI, OpenAI, OpenAIError

import tokenmeter
from tokenmeter import LoopPolicy, Meter, Refused, attribution

MODEL = "gpt-5-mini"
SYLLABLES = ("ba", "ku", "ti", "ro", "me", "la", "so", "ne", "vi", "du", "fa", "go")


class Told(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def something_new() -> str:
    """A question that nobody has asked before, in plain words."""
    words = ["".join(random.choices(SYLLABLES, k=4)) for _ in range(12)]
    return "What do you know about " + " ".join(words) + "?"


def where() -> dict[str, Any]:
    """What is in force here."""
    scope = attribution.current()
    return {"root": scope.root, "run": scope.run, "depth": scope.depth, "path": list(scope.path)}


class Agent:
    """What an agent is at present. ``mode`` says what it asks the model; ``drops``: it hands no headers on."""

    def __init__(
        self,
        name: str,
        store: str,
        provider: str,
        policy: dict[str, Any] | None,
        keys: dict[str, str] | None,
        mode: str,
        drops: bool,
        next_url: str,
    ) -> None:
        self.name, self.mode, self.drops, self.next_url = name, mode, drops, next_url
        self.keys = None if keys is None else {key_id: bytes.fromhex(key) for key_id, key in keys.items()}
        self.meter = Meter(store=store, loops=None if policy is None else LoopPolicy(**policy))
        self._provider = provider

    def asked(self, turns: list[str]) -> list[Any]:
        """The messages for the model."""
        if self.mode == "new":
            return [{"role": "user", "content": something_new()}]
        if self.mode == "conversation":
            return [{"role": "user", "content": turn} for turn in turns]
        return [{"role": "user", "content": "Is there any mail?"}]

    def client(self, kind: type[Any]) -> Any:
        """A metered client of the SDK."""
        return self.meter.wrap(kind(base_url=self._provider, api_key="none", max_retries=0, timeout=120))

    def refused(self, refusal: Refused) -> dict[str, Any]:
        """The end of a loop."""
        guard = getattr(refusal, "guard", None) or refusal.reason
        return {"by": self.name, "guard": guard, "message": str(refusal), **where()}


class InAsync:
    """An ASGI application."""

    def __init__(self) -> None:
        self.agent: Agent | None = None
        self._app: Any = None

    def become(self, agent: Agent) -> None:
        """Be another agent from the next request on."""
        self.agent = agent
        limits = httpx2.Limits(max_connections=None)
        self._model = agent.client(AsyncOpenAI)
        self._next = httpx2.AsyncClient(timeout=120, limits=limits)
        if not agent.drops:
            tokenmeter.injecting(self._next, keys=agent.keys)
        self._app = tokenmeter.AsgiMiddleware(self.answer, keys=agent.keys)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body", False)
        found = where() if scope["path"] == "/where" else await self.step(json.loads(body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(found).encode()})

    async def step(self, turns: list[str]) -> Any:
        """Ask, and hand on."""
        agent = self.agent
        assert agent is not None
        async with agent.meter.agent(agent.name):
            try:
                answer = await self._model.chat.completions.create(model=MODEL, messages=agent.asked(turns))
            except Refused as refusal:
                return agent.refused(refusal)
            except OpenAIError as error:
                return {"by": agent.name, "guard": None, "message": repr(error), **where()}
            turns = [*turns, answer.choices[0].message.content or ""]
            return (await self._next.post(agent.next_url, json=turns)).json()


class InThreads:
    """A WSGI application. ``by_hand``: without middleware and hooks."""

    def __init__(self, by_hand: bool) -> None:
        self.agent: Agent | None = None
        self._by_hand = by_hand
        self._app: Callable[..., Iterable[bytes]] = self.answer

    def become(self, agent: Agent) -> None:
        """Be another agent from the next request on."""
        self.agent = agent
        self._model = agent.client(OpenAI)
        self._next = httpx.Client(timeout=120, limits=httpx.Limits(max_connections=None))
        if self._by_hand:
            return
        if not agent.drops:
            tokenmeter.injecting(self._next, keys=agent.keys)
        self._app = tokenmeter.WsgiMiddleware(self.answer, keys=agent.keys)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if not self._by_hand or self.agent is None:
            return self._app(environ, start_response)
        with tokenmeter.extract(environ, keys=self.agent.keys):
            return [b"".join(self.answer(environ, start_response))]

    def answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """One request; a generator, so that all is done while the server iterates."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("200 OK", [("content-type", "application/json")])
        yield json.dumps(where() if environ["PATH_INFO"] == "/where" else self.step(json.loads(body))).encode()

    def step(self, turns: list[str]) -> Any:
        """Ask, and hand on."""
        agent = self.agent
        assert agent is not None
        with agent.meter.agent(agent.name):
            try:
                answer = self._model.chat.completions.create(model=MODEL, messages=agent.asked(turns))
            except Refused as refusal:
                return agent.refused(refusal)
            except OpenAIError as error:
                return {"by": agent.name, "guard": None, "message": repr(error), **where()}
            headers: dict[str, str] = {}
            if self._by_hand and not agent.drops:
                tokenmeter.inject(headers, keys=agent.keys)
            turns = [*turns, answer.choices[0].message.content or ""]
            return self._next.post(agent.next_url, json=turns, headers=headers).json()


class Quiet(WSGIRequestHandler):
    """Writes no log."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as its base has it
        pass


class Threads(ThreadingMixIn, WSGIServer):
    """A thread for each request."""

    daemon_threads = True
    request_queue_size = 256


def serve_async(app: Any) -> int:
    """Serve in a thread; the port."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_level="warning"))
    socket = server.config.bind_socket()
    threading.Thread(target=lambda: asyncio.run(server.serve([socket])), daemon=True).start()
    return int(socket.getsockname()[1])


def serve_threads(app: Any) -> int:
    """Serve in threads; the port."""
    server = make_server("127.0.0.1", 0, app, server_class=Threads, handler_class=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_port)


def main() -> None:
    """Do what stdin says."""
    told = Told()
    logging.getLogger("tokenmeter").addHandler(told)
    app: Any = InAsync() if sys.argv[1] == "asgi" else InThreads(by_hand=sys.argv[1] == "wsgi-by-hand")
    port = (serve_async if sys.argv[1] == "asgi" else serve_threads)(app)
    print(json.dumps({"port": port, "pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "become":
            if app.agent is not None:
                app.agent.meter.close()
            told.said.clear()
            app.become(Agent(**order["agent"]))
        print(json.dumps({"logged": told.said}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
