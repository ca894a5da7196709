"""Books that a program and the command share, a configuration that names them, and the command itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tokenmeter.budgets import Budget, Claim, Held, Need, Policy, Store, account_of, open_store

ROOT = Path(__file__).resolve().parents[2]

BUDGETS = (
    Budget("$5", per="day", scope="agent", name="daily"),
    Budget("200k tokens", per="month", scope=("team", "model"), match={"model": ["gpt-[45]*", "claude-*"]}),
    Budget("10 calls", name="calls"),
    Budget("3 calls", per="run", name="run"),
    Budget("$1", per="call", name="one call"),
)
CONFIG = """
[[budgets]]
name = "daily"
limit = "$5"
per = "day"
scope = "agent"

[[budgets]]
limit = "200k tokens"
per = "month"
scope = ["team", "model"]
match = {model = ["gpt-[45]*", "claude-*"]}

[[budgets]]
name = "calls"
limit = "10 calls"

[[budgets]]
name = "run"
limit = "3 calls"
per = "run"

[[budgets]]
name = "one call"
limit = "$1"
per = "call"
"""


class SharedBooks:
    """One store, as the program has it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.store: Store = open_store(url)
        self.policy = Policy(BUDGETS)
        self._number = 0

    def claims(self, facts: Mapping[str, str | None], need: Need, *, ago_s: float = 0.0) -> tuple[Claim, ...]:
        """What a call asks of the budgets that have books."""
        found = self.policy.claims(facts, need, self.store.time_s() - ago_s)
        return tuple(claim for claim in found if claim.budget.per != "call")

    def call(self, agent: str, need: Need, *, settle: bool = True, **facts: str) -> tuple[Claim, ...]:
        """One call that is charged, or that stays under way."""
        self._number += 1
        hold_id = f"call-{self._number}"
        claims = self.claims({"agent": agent, "run": f"r{self._number}", **facts}, need)
        assert isinstance(self.store.hold(hold_id, claims, self.store.time_s()), Held)
        if settle:
            self.store.settle(hold_id, Policy.amounts(claims, need))
        return claims

    def account(self, budget: str, **facts: str) -> str:
        """The key that calls of these facts are charged under."""
        [found] = [claim for claim in self.claims(facts, Need(0, 0, 0)) if claim.budget.name == budget]
        return account_of(found.key)

    def configure(self, text: str = CONFIG) -> Path:
        """Write a configuration where the command finds it."""
        path = self.folder / "tokenmeter.toml"
        path.write_text(f'[store]\nurl = "{self.url}"\n{text}', encoding="utf-8")
        return path

    def __enter__(self) -> SharedBooks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    source = os.pathsep.join(filter(None, [str(ROOT / "src"), environment.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "tokenmeter.cli", *arguments],
        env={**environment, "PYTHONPATH": source, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
