"""Fixtures of the tests of the telemetry: pipelines that end in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.telemetry.pipeline import Spying
from tokenmeter import Meter
from tokenmeter.testing import CapturedCalls


@pytest.fixture
def sampler() -> Spying:
    return Spying()


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter, sampler: Spying) -> Iterator[TracerProvider]:
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def metering(reader: InMemoryMetricReader) -> Iterator[MeterProvider]:
    provider = MeterProvider([reader], shutdown_on_exit=False)
    yield provider
    provider.shutdown()


@pytest.fixture
def meter(tracing: TracerProvider, metering: MeterProvider, calls: CapturedCalls) -> Iterator[Meter]:
    with Meter(tracer_provider=tracing, meter_provider=metering, recorders=[calls]) as meter:
        yield meter
