"""Each example runs as a user would run it, and prints what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.collector import Collector

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

SAYS = {
    "agent_chatter.py": ["stopped by max_repeats after 5 calls"],
    "anthropic_messages.py": ["2000 tokens in, 1800 of them from the cache, $0.00", "'billing': $0.00"],
    "async_agents.py": [
        "refused at depth 3: planner → helper → worker",
        "planner: 2 calls",
        "worker: 3 calls",
        "unattributed: 0 calls",
    ],
    "budgets.py": ["refused by 'agent-day' (agent=mail-triage)", "requests that reached the provider: ", "calls left"],
    "openai_chat.py": ["1 call, 420 tokens in, 60 out, $0.000225", "unattributed: 1 call, $0.000225"],
    "otlp_export.py": ["3 calls, $0.000195"],
    "plain_httpx.py": [
        "house-model-1 said: Good morning.",
        "1 call, $0.0003",
        "1 refused; the provider saw 2 requests",
    ],
    "streaming.py": ["30 tokens in, 9 out, 0 estimated", "abandoned: 1 call charged, 1 estimated: $0.0"],
    "triage_cycle.py": ["stopped by max_repeats after 3 calls"],
}


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(path: Path, **environment: str) -> str:
    """Run a file with warnings as errors; return what it printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "OPENAI_"))}
    source = os.pathsep.join(filter(None, [str(ROOT / "src"), inherited.get("PYTHONPATH")]))
    found = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        env={**inherited, "PYTHONPATH": source, "PYTHONIOENCODING": "utf-8", **environment},
        cwd=path.parent,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    return found.stdout


def _need(path: Path) -> None:
    """Skip an example of a package that isn't installed."""
    for module in re.findall(r"^(?:from|import) ([\w.]+)", path.read_text(encoding="utf-8"), re.MULTILINE):
        pytest.importorskip(module)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_and_says_what_it_shows(path: Path, collector: Collector) -> None:
    _need(path)

    said = run(path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)

    for promise in SAYS[path.name]:
        assert promise in said
    if path.name != "otlp_export.py":
        assert not collector.posts


def test_spans_and_metrics_arrive_at_a_collector(collector: Collector) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

    run(ROOT / "examples" / "otlp_export.py", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)

    assert collector.posts["/v1/traces"] >= 1
    assert collector.posts["/v1/metrics"] >= 1
    assert set(collector.posts) == {"/v1/traces", "/v1/metrics"}
    for name in (b"chat gpt-5-mini", b"gen_ai.usage.cost.amount", b"tokenmeter.team", b"gen_ai.client.token.usage"):
        assert name in collector.sent


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60


def test_there_is_an_example_of_each_kind() -> None:
    assert {path.name for path in EXAMPLES} == set(SAYS)
