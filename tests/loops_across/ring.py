"""Three agents in three processes, each of which calls the next: A → B → C → A → …"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from tokenmeter.testing import ScriptedProvider

ROOT = Path(__file__).parents[2]
LONG_S = 120.0  # a deadline that only a hang reaches
KINDS = ("asgi", "wsgi", "wsgi-by-hand")
NAMES = ("asker", "finder", "writer")


class Process:
    """One agent's process."""

    def __init__(self, kind: str, state: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.loops_across.agent", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
                "XDG_STATE_HOME": str(state),
            },
            text=True,
        )
        self.url = f"http://127.0.0.1:{self._read()['port']}"

    def tell(self, **order: Any) -> Any:
        """Send an order; what it answers."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(LONG_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the agent's process ended"
        return json.loads(line)


class Ring:
    """The three, and the provider that they ask."""

    def __init__(self, state: Path) -> None:
        self.provider = ScriptedProvider()
        self.processes = [Process(kind, state) for kind in KINDS]

    def become(
        self,
        store: str,
        policy: dict[str, Any] | None,
        *,
        keys: list[dict[str, str] | None] | dict[str, str] | None = None,
        mode: str = "new",
        drops: int | None = None,
    ) -> None:
        """Have all three be other agents from now on. ``drops`` is the one that hands no headers on."""
        for number, process in enumerate(self.processes):
            process.tell(
                do="become",
                agent={
                    "name": NAMES[number],
                    "store": store,
                    "provider": self.provider.openai_url,
                    "policy": policy,
                    "keys": keys[number] if isinstance(keys, list) else keys,
                    "mode": mode,
                    "drops": number == drops,
                    "next_url": self.processes[(number + 1) % 3].url + "/step",
                },
            )

    def run(self, at: int = 0, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Start the loop; how many calls came to the provider, and what ended it."""
        before = self.provider.received
        with httpx.Client(timeout=LONG_S) as client:
            found = client.post(self.processes[at].url + "/step", json=["Is there any mail?"], headers=headers)
        return self.provider.received - before, found.raise_for_status().json()

    def where(self, at: int, headers: dict[str, str] | None = None) -> Any:
        """What is in force in a process for a request with these headers."""
        with httpx.Client(timeout=LONG_S) as client:
            return client.get(self.processes[at].url + "/where", headers=headers).raise_for_status().json()

    def logged(self, at: int) -> list[str]:
        """What a process logged since it became what it is."""
        found: list[str] = self.processes[at].tell(do="tell")["logged"]
        return found

    def close(self) -> None:
        """End all."""
        for process in self.processes:
            process.close()
        self.provider.close()

    def __enter__(self) -> Ring:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
