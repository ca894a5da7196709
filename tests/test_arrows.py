"""The rooms only know those to their right, and the pure ones stay pure."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tokenmeter

SOURCE = Path(tokenmeter.__file__).parent

# From left to right; an import may only point to a later group. Modules of one group may know each other.
GROUPS: list[list[str]] = [
    ["tokenmeter.cli"],
    ["tokenmeter.testing"],
    ["tokenmeter.report"],
    ["tokenmeter.outcomes"],
    ["tokenmeter"],
    ["tokenmeter.meter"],
    ["tokenmeter.meter_options"],
    ["tokenmeter.config"],
    ["tokenmeter.clients", "tokenmeter.propagation"],
    [
        "tokenmeter.budgets.memory",
        "tokenmeter.budgets.assembly",
        "tokenmeter.budgets.guarded",
        "tokenmeter.budgets.leases",
        "tokenmeter.telemetry",
        "tokenmeter.ledger",
        "tokenmeter.outcomes.kinds",
        "tokenmeter.outcomes.people",
        "tokenmeter.outcomes.rules",
        "tokenmeter.outcomes.sink",
    ],
    ["tokenmeter.call", "tokenmeter.charging", "tokenmeter.holding", "tokenmeter.effects", "tokenmeter.notes"],
    ["tokenmeter.record"],
    [
        "tokenmeter.wire",
        "tokenmeter.pricing",
        "tokenmeter.budgets",
        "tokenmeter.loops",
        "tokenmeter.attribution",
    ],
    [
        "tokenmeter.usage",
        "tokenmeter.errors",
        "tokenmeter.money",
        "tokenmeter.texts",
        "tokenmeter.faults",
        "tokenmeter.version",
        "tokenmeter.ending",
        "tokenmeter.forks",
        "tokenmeter.rounds",
        "tokenmeter.turn",
    ],
]
PURE = [
    "call",
    "charging",
    "effects",
    "holding",
    "meter_options",
    "notes",
    "record",
    "wire",
    "pricing",
    "budgets/policy",
    "budgets/budget",
    "budgets/checks",
    "budgets/clamp",
    "budgets/downgrade",
    "budgets/extension",
    "budgets/limit",
    "budgets/thresholds",
    "loops",
    "usage",
    "errors",
]
IMPURE_MODULES = {
    "asyncio", "httpx", "httpx2", "aiohttp", "requests", "socket", "sqlite3", "redis", "subprocess", "time",
    "wrapt", "openai", "anthropic", "concurrent",
}  # fmt: skip


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ["tokenmeter", *path.relative_to(SOURCE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def group_of(module: str) -> int:
    best = max(
        (name for group in GROUPS for name in group if module == name or module.startswith(name + ".")),
        key=len,
        default=None,
    )
    assert best is not None, f"{module} stands in no room; name its place in GROUPS"
    return next(i for i, group in enumerate(GROUPS) if best in group)


def imports(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.append((node.lineno, inner if inner in modules() else node.module))
    return found


@pytest.mark.parametrize("module", sorted(modules()))
def test_an_arrow_only_points_to_the_right(module: str) -> None:
    known = modules()
    for line, target in imports(known[module]):
        if target in known and target != module and not target.startswith(module + "."):
            ours, theirs = group_of(module), group_of(target)
            assert theirs >= ours, f"{known[module]}:{line} imports {target}, which stands to its left"


@pytest.mark.parametrize("room", PURE)
def test_the_pure_rooms_do_no_io(room: str) -> None:
    paths = sorted((SOURCE / room).rglob("*.py")) or [SOURCE / f"{room}.py"]
    for path in paths:
        tree = ast.parse(path.read_text())
        for line, target in imports(path):
            assert target.split(".")[0] not in IMPURE_MODULES, f"{path}:{line} imports {target}"
            assert not target.startswith("opentelemetry.sdk"), f"{path}:{line} imports {target}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith):
                pytest.fail(f"{path}:{node.lineno} knows async")
            if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today", "monotonic"}:
                pytest.fail(f"{path}:{node.lineno} reads a clock")


def test_the_scan_sees_something() -> None:
    assert len(modules()) > 40
    assert any(name == "tokenmeter.call" for name in modules())
    assert "tokenmeter.budgets.policy" in modules()
