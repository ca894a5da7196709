"""The lines as a dataset of FOCUS 1.2, the FinOps Open Cost and Usage Specification.

Each line that was charged is a row of usage: tokens consumed, priced at what the ledger says. What the specification
asks of who issues the bill and a meter can't know is null, or left out where the column is conditional: unit prices,
because a row has tokens of several prices; regions, contracts and invoices. Costs are those of the price list, so that
all four are the same. Columns of our own begin with ``x_``.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final

from tokenmeter.report.data import Line, ReportData
from tokenmeter.report.exports import cell, written
from tokenmeter.report.words import exact, iso
from tokenmeter.texts import clean

BILLING_ACCOUNT: Final = "tokenmeter"
UNKNOWN: Final = "(unknown)"
COLUMNS: Final = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency",
    "ChargePeriodEnd", "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "EffectiveCost",
    "InvoiceIssuerName", "ListCost", "PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName",
    "PublisherName", "ServiceCategory", "ServiceName", "ServiceSubcategory", "SkuId", "SkuPriceId", "Tags",
    "x_AgentName", "x_CallCount", "x_EstimatedCost", "x_InputTokens", "x_OutputTokens", "x_CacheReadTokens",
    "x_CacheWriteTokens", "x_ReasoningTokens", "x_TeamName", "x_UnpricedCallCount",
)  # fmt: skip


def to_focus(data: ReportData, *, billing_account: str = BILLING_ACCOUNT) -> str:
    """The lines as CSV with the columns of FOCUS, each row within one month."""
    return written(COLUMNS, (_row(line, billing_account) for line in data.lines if line.calls or line.nanos))


def _row(line: Line, account: str) -> list[str]:
    cost = exact(line.nanos)
    provider, model = clean(line.provider) or UNKNOWN, clean(line.model or "") or UNKNOWN
    tokens = line.input_tokens + line.output_tokens
    # Calls without a known usage are counted as such: a quantity of usage is above zero.
    quantity, unit = (tokens, "Tokens") if tokens > 0 else (max(1, line.calls), "Requests")
    month = datetime.fromtimestamp(line.start_s, UTC).replace(day=1, hour=0, minute=0, second=0)
    following = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
    sku = f"{provider}/{model}"
    tags = {"agent": line.agent, "team": line.team}
    values = {
        "BilledCost": cost,
        "BillingAccountId": account,
        "BillingAccountName": account,
        "BillingCurrency": "USD",
        "BillingPeriodEnd": iso(following.timestamp()),
        "BillingPeriodStart": iso(month.timestamp()),
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeDescription": f"{model} of {provider}: {line.calls} calls",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": iso(line.end_s),
        "ChargePeriodStart": iso(line.start_s),
        "ConsumedQuantity": str(quantity),
        "ConsumedUnit": unit,
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "InvoiceIssuerName": provider,
        "ListCost": cost,
        "PricingCategory": "Standard",
        "PricingQuantity": str(quantity),
        "PricingUnit": unit,
        "ProviderName": provider,
        "PublisherName": provider,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": f"{provider} API",
        "ServiceSubcategory": "Generative AI",
        "SkuId": sku,
        "SkuPriceId": sku,
        "Tags": json.dumps({name: clean(value) for name, value in tags.items() if value is not None}),
        "x_AgentName": line.agent,
        "x_CallCount": str(line.calls),
        "x_EstimatedCost": exact(line.estimated_nanos),
        "x_InputTokens": str(line.input_tokens),
        "x_OutputTokens": str(line.output_tokens),
        "x_CacheReadTokens": str(line.cache_read_tokens),
        "x_CacheWriteTokens": str(line.cache_write_tokens),
        "x_ReasoningTokens": str(line.reasoning_tokens),
        "x_TeamName": line.team,
        "x_UnpricedCallCount": str(line.unpriced),
    }
    return [cell(values[name]) for name in COLUMNS]
