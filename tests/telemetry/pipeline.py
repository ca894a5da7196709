"""What the tests of the telemetry look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes


class Spying(Sampler):
    """Samples all, or none, and remembers what it was given to decide by."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, SpanKind | None, dict[str, Any]]] = []
        self.decision = Decision.RECORD_AND_SAMPLE

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        self.asked.append((name, kind, dict(attributes or {})))
        return SamplingResult(self.decision, attributes)

    def get_description(self) -> str:
        return "Spying"


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    """The one span that was exported."""
    [span] = exporter.get_finished_spans()
    return span


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    """A span's attributes, with sequences as tuples."""
    return dict(span.attributes or {})


def typed(attributes: dict[str, Any]) -> dict[str, tuple[type, Any]]:
    """Values together with their types: 1, 1.0 and True are different."""
    return {
        name: (type(value), tuple((type(item), item) for item in value) if isinstance(value, tuple) else value)
        for name, value in attributes.items()
    }


def metrics_of(reader: InMemoryMetricReader) -> dict[str, Any]:
    """The metrics of our scope, by name."""
    data = reader.get_metrics_data()
    found: dict[str, Any] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            if scope.scope.name == "tokenmeter":
                for metric in scope.metrics:
                    assert metric.name not in found, f"{metric.name} is there twice"
                    found[metric.name] = metric
    return found


def points_of(metric: Any) -> dict[frozenset[tuple[str, Any]], Any]:
    """The data points of a metric, by their attributes."""
    return {frozenset(point.attributes.items()): point for point in metric.data.data_points}
