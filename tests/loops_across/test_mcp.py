"""A run goes on in the tools of an MCP server, by the `_meta` of a call; with the official SDK, in two processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("mcp")

from mcp import Client, StdioServerParameters
from mcp.types import RequestParamsMeta, TextContent
from opentelemetry import baggage
from opentelemetry import context as otel_context

import tokenmeter
from tests.clients.faces import on_a_loop
from tests.loops_across.ring import ROOT
from tokenmeter import Meter
from tokenmeter.testing import ScriptedProvider

KEY = b"k" * 32


def server(provider: ScriptedProvider, folder: Path, **more: str) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "tests.loops_across.mcp_server"],
        env={
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
            "XDG_STATE_HOME": str(folder),
            "STORE": f"sqlite:///{folder / 'books.db'}?timeout_s=20&lease_s=100",
            "PROVIDER": provider.openai_url,
            "MOST_CALLS": "3",
            **more,
        },
    )


async def ask(client: Client, meta: dict[str, Any], question: str = "Is there any mail?") -> str:
    answer = await client.call_tool("help_me", {"question": question}, meta=cast(RequestParamsMeta, meta))
    [said] = answer.content
    assert isinstance(said, TextContent)
    return said.text


@on_a_loop
async def _goes_on(provider: ScriptedProvider, folder: Path, keys: bytes | None) -> None:
    given = {} if keys is None else {"LINEAGE_KEY": keys.hex()}
    async with Client(server(provider, folder, **given)) as client:
        with Meter() as meter, meter.agent("asker", run="the-run"), meter.agent("second"):
            meta: dict[str, Any] = {"com.example/mark": 7, "baggage": "a=b"}
            tokenmeter.inject(meta, keys=keys)
            assert set(meta) == {"com.example/mark", "baggage"}
            assert await ask(client, meta, "one") == "the-run the-run 3 asker second helper"
            assert await ask(client, meta, "two") == "the-run the-run 3 asker second helper"
        root, run, depth, *path = (await ask(client, {}, "alone")).split()
        assert root == run != "the-run"
        assert (depth, path) == ("1", ["helper"])


@pytest.mark.parametrize("keys", [None, KEY], ids=["unsigned", "signed"])
def test_root_and_depth_arrive(provider: ScriptedProvider, tmp_path: Path, keys: bytes | None) -> None:
    _goes_on(provider, tmp_path, keys)


@on_a_loop
async def _is_stopped(provider: ScriptedProvider, folder: Path) -> None:
    async with Client(server(provider, folder)) as client:
        with Meter() as meter, meter.agent("asker"):
            meta: dict[str, Any] = {}
            tokenmeter.inject(meta)
            said = [await ask(client, meta, question) for question in ("one", "two", "three", "four")]
    assert [each.startswith("refused") for each in said] == [False, False, False, True]
    assert said[3] == "refused loop_detected"


def test_the_run_is_counted_in_the_server(provider: ScriptedProvider, tmp_path: Path) -> None:
    _is_stopped(provider, tmp_path)
    assert provider.received == 3
    assert not [name for request in provider.requests for name in request.headers if name == "baggage"]


@on_a_loop
async def _forged(provider: ScriptedProvider, folder: Path) -> None:
    async with Client(server(provider, folder, LINEAGE_KEY=KEY.hex())) as client:
        with Meter() as meter, meter.agent("asker", run="the-run"):
            meta: dict[str, Any] = {}
            tokenmeter.inject(meta, keys=b"x" * 32)
            root, _, depth, *_ = (await ask(client, meta)).split()
    assert root != "the-run"
    assert depth == "1"


def test_a_forged_one_is_a_run_of_its_own(provider: ScriptedProvider, tmp_path: Path) -> None:
    _forged(provider, tmp_path)


@on_a_loop
async def _beside_baggage(provider: ScriptedProvider, folder: Path) -> None:
    """The SDK writes the context's baggage into `_meta`, over what is there: as documented, it is cleared first."""
    async with Client(server(provider, folder)) as client:
        with Meter() as meter, meter.agent("asker", run="the-run"):
            token = otel_context.attach(baggage.set_baggage("user", "alice"))
            meta: dict[str, Any] = {}
            tokenmeter.inject(meta)
            cleared = otel_context.attach(baggage.clear())
            assert (await ask(client, meta)).startswith("the-run the-run 2 ")
            otel_context.detach(cleared)
            otel_context.detach(token)


def test_where_the_context_has_baggage(provider: ScriptedProvider, tmp_path: Path) -> None:
    _beside_baggage(provider, tmp_path)
