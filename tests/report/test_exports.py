"""Every export adds up to the ledger, to the nanodollar; names of strangers do no harm in it."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings

pytest.importorskip("sqlalchemy")

from tests.report.ledgers import HOSTILE, NOW_S, fill, fresh, records
from tokenmeter.outcomes import Rules
from tokenmeter.record import CallRecord
from tokenmeter.report import ReportData, read, to_csv, to_focus, to_json
from tokenmeter.report.exports import CSV_COLUMNS, cell
from tokenmeter.report.focus import COLUMNS
from tokenmeter.report.html import to_html
from tokenmeter.report.words import exact


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def nanos(text: str) -> int:
    found = Decimal(text).scaleb(9)
    assert found == found.to_integral_value(), f"{text} is finer than a nanodollar"
    return int(found)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    with fresh(tmp_path_factory.mktemp("ledger")) as ledger:
        fill(ledger)
        return read(ledger, until_s=NOW_S, now_s=NOW_S)


@settings(max_examples=60, deadline=None)
@given(records())
def test_every_export_adds_up_to_the_ledger(some: list[CallRecord]) -> None:
    with tempfile.TemporaryDirectory() as folder, fresh(Path(folder)) as ledger:
        ledger.add([(record.id, record) for record in some])
        total = ledger.totals()
        data = read(ledger, until_s=NOW_S + 3_600, now_s=NOW_S, rules=Rules(min_group=2))

        lines, focus, told = rows_of(to_csv(data)), rows_of(to_focus(data)), json.loads(to_json(data))

        assert data.total.nanos == total.nanos == data.spend.total_nanos
        assert sum(nanos(row["usd"]) for row in lines) == total.nanos
        for name in ("calls", "input_tokens", "output_tokens", "cache_read_tokens", "refused", "failed", "unpriced"):
            assert sum(int(row[name]) for row in lines) == getattr(total, name) == told["total"][name]
        for cost in ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"):
            assert sum(nanos(row[cost]) for row in focus) == total.nanos
        assert sum(nanos(row["x_EstimatedCost"]) for row in focus) == total.estimated_nanos
        assert sum(int(row["x_CallCount"]) for row in focus) == total.calls
        assert nanos(told["total"]["usd"]) == total.nanos
        for part in ("lines", "teams", "agents"):
            assert sum(nanos(row["usd"]) for row in told[part]) == total.nanos
        for part in ("by_team", "by_agent", "by_model", "by_kind"):
            assert sum(nanos(row["usd"]) for row in told["outcomes"][part]) == total.nanos
        for part in ("by_team", "by_agent"):
            assert sum(nanos(usd) for row in told["over_time"][part] for usd in row["usd"]) == total.nanos
        assert sum(nanos(row["usd"]) for row in told["usd_per_unit_over_time"]) == total.nanos
        parts = (told["unattributed"]["usd"], told["led_to_outcomes_usd"], told["led_to_none_usd"])
        assert sum(map(nanos, parts)) == total.nanos
        for text in (to_csv(data), to_focus(data), to_json(data), to_html(data)):
            assert not re.search("wilhelmina|bartholomew|cassiopeia", text)


def test_a_part_of_the_time_adds_up_to_that_part(tmp_path: Path) -> None:
    with fresh(tmp_path) as ledger:
        fill(ledger, days=12)
        cut_s = NOW_S - 5.3 * 86_400
        early = read(ledger, until_s=cut_s, now_s=NOW_S)
        # Hours are not divided: what begins before the end of the first window is in it.
        late = read(ledger, since_s=early.until_s, until_s=NOW_S + 1, now_s=NOW_S)

        assert early.total.nanos + late.total.nanos == ledger.totals().nanos
        assert early.total.nanos > 0 < late.total.nanos
        assert sum(nanos(row["usd"]) for row in rows_of(to_csv(late))) == late.total.nanos


def test_the_columns_are_those_that_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "report-columns.md").read_text(encoding="utf-8")

    for name in (*CSV_COLUMNS, *COLUMNS):
        assert f"`{name}`" in page, name


def test_every_key_of_the_json_is_documented(data: ReportData) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "report-columns.md").read_text(encoding="utf-8")

    for name in json.loads(to_json(data)):
        assert f"`{name}`" in page, name


@pytest.mark.parametrize("name", [*HOSTILE, "-2+3", "\t=1", "\r=1", "  =1", "\uff1d1"])
def test_no_cell_is_a_formula(name: str) -> None:
    found = cell(name)

    assert not found.lstrip().startswith(("=", "+", "-", "@", "\uff1d"))


def test_what_nobody_answers_for_stands_first(data: ReportData) -> None:
    lines, told = rows_of(to_csv(data)), json.loads(to_json(data))

    assert lines[0]["team"] == ""
    assert told["teams"][0]["team"] is None
    assert told["outcomes"]["by_team"][0]["team"] is None
    keys = list(told)
    assert keys.index("unattributed") < keys.index("total")


def test_dollars_are_exact() -> None:
    assert [exact(n) for n in (0, 1, 10**9, 10**9 + 1, 123_456_789_012_345_678, -5)] == [
        "0", "0.000000001", "1", "1.000000001", "123456789.012345678", "-0.000000005",
    ]  # fmt: skip


# -- FOCUS 1.2: what the specification asks of the columns that are there

MANDATORY = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd",
    "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity",
    "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
)  # fmt: skip
NEVER_NULL = set(MANDATORY) - {"ChargeClass", "BillingAccountName"}
COSTS = ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost")
TIMES = ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd")
NUMBER = re.compile(r"-?\d+(\.\d+)?")


def test_focus_has_the_columns_that_must_be_there() -> None:
    assert set(MANDATORY) <= set(COLUMNS)
    assert len(COLUMNS) == len(set(COLUMNS))
    standard = [name for name in COLUMNS if not name.startswith("x_")]
    assert all(re.fullmatch(r"[A-Z][A-Za-z]{1,49}", name) for name in standard)
    assert all(re.fullmatch(r"x_[A-Z][A-Za-z]{1,47}", name) for name in set(COLUMNS) - set(standard))


@settings(max_examples=40, deadline=None)
@given(records())
def test_focus_keeps_the_rules_of_its_columns(some: list[CallRecord]) -> None:
    with tempfile.TemporaryDirectory() as folder, fresh(Path(folder)) as ledger:
        ledger.add([(record.id, record) for record in some])
        text = to_focus(read(ledger, until_s=NOW_S + 3_600, now_s=NOW_S))

    assert text.splitlines()[0].split(",") == list(COLUMNS)
    for row in rows_of(text):
        assert all(row[name] for name in NEVER_NULL), row
        assert all(NUMBER.fullmatch(row[name]) for name in (*COSTS, "ConsumedQuantity", "PricingQuantity"))
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row[name]) for name in TIMES)
        begun, ended, month, following = (
            datetime.fromisoformat(row[name])
            for name in ("ChargePeriodStart", "ChargePeriodEnd", "BillingPeriodStart", "BillingPeriodEnd")
        )
        assert month <= begun < ended <= following
        assert (month.day, month.hour, following.day) == (1, 0, 1)
        assert 28 <= (following - month).days <= 31
        assert row["BillingCurrency"] == "USD"
        assert row["ChargeCategory"] == "Usage"
        assert row["ChargeClass"] == ""
        assert row["ChargeFrequency"] == "Usage-Based"
        assert row["PricingCategory"] == "Standard"
        assert row["ServiceCategory"] == "AI and Machine Learning"
        assert row["ServiceSubcategory"] == "Generative AI"
        # Usage has a quantity above zero, and its unit; a null is never a text.
        assert Decimal(row["ConsumedQuantity"]) > 0 < Decimal(row["PricingQuantity"])
        assert row["ConsumedUnit"] == row["PricingUnit"]
        assert row["ConsumedUnit"] in ("Tokens", "Requests")
        assert row["SkuId"]
        assert row["SkuPriceId"]
        assert not {"null", "None", "N/A"} & set(row.values())
        tags = json.loads(row["Tags"])
        assert isinstance(tags, dict)
        assert all(isinstance(value, str) for value in tags.values())
        assert len({row[name] for name in COSTS}) == 1
