"""Rows for tests of the ledger, and what they must add up to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from tokenmeter.record import CallRecord
from tokenmeter.usage import Usage

if TYPE_CHECKING:
    from tokenmeter.ledger.ledger import Ledger

NOON_S = 1_780_012_800.0


def printed(call_id: str, fingerprint: str, record: CallRecord | None = None, **more: Any) -> CallRecord:
    """A call, or that record, with a fingerprint."""
    return msgspec.structs.replace(record or call(**more), id=call_id, fingerprint=fingerprint)


def call(
    call_id: str = "c", *, nanos: int | None = 1_000, tokens: tuple[int, int] = (100, 10), **more: Any
) -> CallRecord:
    """A call that went well, but for what is said of it."""
    facts: dict[str, Any] = {
        "at_s": NOON_S,
        "duration_s": 1.5,
        "agent": "triage",
        "user": "alice",
        "team": "support",
        "run": "r1",
        "path": ("root", "triage"),
        "tags": {"env": "prod"},
        "provider": "openai",
        "operation": "chat",
        "model": "gpt-5-mini",
        "response_model": "gpt-5-mini-2026",
        "response_id": "resp_1",
        "stream": True,
        "status": "ok",
        "error_type": None,
        "http_status": 200,
        "finish_reasons": ("stop",),
        "usage": Usage({"input_tokens": tokens[0], "output_tokens": tokens[1], "cache_read_tokens": 3}),
        "price_source": "genai-prices",
        "estimated": False,
        "output_cap": None,
        "warned": (),
        "host": "api.openai.com",
        "port": 443,
    }
    return CallRecord(id=call_id, cost_nanos=nanos, **{**facts, **more})


def estimate(call_id: str = "c", *, nanos: int = 5_000, died: bool = True, **more: Any) -> CallRecord:
    """What stands in for a call whose process died; or else an estimate of a stream that was cut."""
    usage = Usage({"input_tokens": 200, "output_tokens": 400}, estimated=True)
    told = {"usage": usage, "estimated": True, "status": "incomplete", "http_status": None, **more}
    return call(call_id, nanos=nanos, error_type="ProcessDied" if died else "ReadError", **told)


def refusal(call_id: str = "c", **more: Any) -> CallRecord:
    """A call that was refused."""
    told = {"status": "refused", "usage": None, "error_type": "BudgetExceeded", "http_status": None, **more}
    return call(call_id, nanos=None, **told)


def add(ledger: Ledger, *records: CallRecord) -> int:
    """Write records under their ids."""
    return ledger.add([(record.id, record) for record in records])


def kept(ledger: Ledger) -> list[CallRecord]:
    """The rows of calls."""
    return [record for _, record in ledger.calls()]


def spent(records: Iterable[CallRecord]) -> int:
    """What calls cost."""
    return sum(record.cost_nanos or 0 for record in records)


def in_hours(ledger: Ledger) -> int:
    """What the sums of hours say."""
    found = sum(hour.nanos for hour in ledger.hours())
    assert found == ledger.totals().nanos
    return found


def in_runs(ledger: Ledger) -> int:
    """What the sums of runs say."""
    return sum(run.nanos for run in ledger.runs())
