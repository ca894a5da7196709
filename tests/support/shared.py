"""Recorded traffic and real runs, where they are: beside the checkout, or where ``TOKENMETER_SHARED`` says."""

from __future__ import annotations

import os
from pathlib import Path

SHARED = Path(os.environ.get("TOKENMETER_SHARED") or Path(__file__).resolve().parents[3] / "shared")
CORPUS = SHARED / "corpus" / "exchanges.jsonl.gz"
TRACES = SHARED / "traces"
