"""A report of ten million rows at a gigabyte of memory, and how long it takes. ``TOKENMETER_FULL=1`` for all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("jinja2")
pytest.importorskip("resource")

import sqlalchemy as sa

from tests.ledger.test_large import DAYS, FILL, GROUPS, LIMIT_BYTES, ROWS, START_S
from tokenmeter.ledger import open_ledger

ROOT = Path(__file__).resolve().parents[2]
READ = """
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
begun = time.perf_counter()
from tokenmeter.ledger import open_ledger
from tokenmeter.report import read, to_csv, to_focus, to_json
from tokenmeter.report.html import to_html
took = {}
def tell(what, done, total):
    took[what or "made"] = round(time.perf_counter() - begun, 2)
since, until = float(sys.argv[3]), float(sys.argv[4])
with open_ledger(sys.argv[1]) as ledger:
    data = read(ledger, since_s=since, until_s=until, now_s=until, progress=tell)
    page = to_html(data)
    took["page"] = round(time.perf_counter() - begun, 2)
    total = ledger.totals().nanos
sizes = [len(to(data)) for to in (to_csv, to_focus, to_json)]
took["exports"] = round(time.perf_counter() - begun, 2)
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
told = {"took": took, "page": len(page), "exports": sizes, "mib": most, "cut": data.runs_cut,
        "counted": len(data.spend.counted), "spent": data.total.nanos, "of": total, "calls": data.total.calls}
print(json.dumps(told))
"""


@pytest.mark.bench
def test_a_report_of_a_large_ledger(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    fill(url)
    for days in (30, DAYS):
        until_s = START_S + DAYS * 86_400
        found = told_by(url, until_s - days * 86_400, until_s)
        print(f"\n{days} days: {found}")
        assert found["counted"] > 0
        assert found["page"] < 200_000
        if days == DAYS:
            assert (found["spent"], found["calls"]) == (found["of"], ROWS)


def fill(url: str) -> None:
    """The ledger of a company, without a program that makes its calls."""
    with open_ledger(url) as ledger, ledger._place.writing() as db:
        given = {"rows": ROWS, "groups": GROUPS, "start": START_S, "step": DAYS * 86_400 / ROWS}
        for statement in FILL:
            words = {name: value for name, value in given.items() if f":{name}" in statement}
            names = re.sub(r"\|\| (\w+ % \d+)", r"|| (\1)", statement)  # `||` binds closer than `%` in SQLite
            db.execute(sa.text(names.replace("'pr'", "'merge'")), words)


def told_by(url: str, since_s: float, until_s: float) -> dict[str, Any]:
    """What a process of its own, with little memory, says of its report."""
    source = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    ran = subprocess.run(
        [sys.executable, "-c", READ, url, str(LIMIT_BYTES), str(since_s), str(until_s)],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found
