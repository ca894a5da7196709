"""Type checkers read the public API as users write it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(__file__).with_name("public_api.py")
NEEDED = ("openai", "anthropic", "httpx", "httpx2")

pytestmark = pytest.mark.skipif(
    bool(missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]),
    reason=f"the types of these packages are needed: {', '.join(missing)}",
)


def _environment() -> dict[str, str]:
    beside = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "MYPYPATH": str(ROOT / "src"),
        "PATH": os.pathsep.join([beside, os.environ.get("PATH", "")]),
        "NO_COLOR": "1",
    }


def _run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=_environment(), capture_output=True, text=True, timeout=600, check=False
    )


def _mypy(page: Path) -> subprocess.CompletedProcess[str]:
    """With the project's own settings, strict: then what a run over the whole project left is used again."""
    return _run(sys.executable, "-m", "mypy", str(page), cwd=ROOT)


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_strict() -> None:
    ran = _mypy(PAGE)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_reads_the_types_of_the_package(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import tokenmeter\nx: int = tokenmeter.Meter().spend()\n", encoding="utf-8")

    ran = _mypy(wrong)

    assert ran.returncode == 1
    assert 'has type "Spend"' in ran.stdout


@pytest.mark.skipif(shutil.which("pyright", path=_environment()["PATH"]) is None, reason="pyright is not installed")
def test_pyright(tmp_path: Path) -> None:
    settings = {
        "include": [str(PAGE)],
        "extraPaths": [str(ROOT / "src")],
        "pythonVersion": "3.11",
        "typeCheckingMode": "standard",
        "reportUnnecessaryTypeIgnoreComment": "error",
        "enableTypeIgnoreComments": False,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")

    if _run("pyright", "--version", cwd=tmp_path).returncode != 0:
        pytest.skip("pyright does not start: it could not fetch its own parts")

    ran = _run("pyright", "--project", str(tmp_path), "--pythonpath", sys.executable, cwd=tmp_path)

    assert ran.returncode == 0, ran.stdout + ran.stderr
