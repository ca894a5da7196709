"""Spans and metrics to an OpenTelemetry Collector, where OTEL_EXPORTER_OTLP_ENDPOINT says (default localhost:4318)."""

from openai import OpenAI
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import tokenmeter
from tokenmeter.testing import Reply, ScriptedProvider

resource = Resource.create({"service.name": "otlp-example"})
tracer_provider = TracerProvider(resource=resource)
tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=5)))
meter_provider = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(timeout=5))], resource=resource)

# A program that has set the global providers already can leave both arguments out.
with (
    ScriptedProvider(Reply("Noted.", input_tokens=100, output_tokens=20)) as provider,
    tokenmeter.Meter(
        tracer_provider=tracer_provider, meter_provider=meter_provider, metric_labels=["agent", "team"]
    ) as meter,
):
    # For the real thing leave base_url and api_key out.
    client = meter.wrap(OpenAI(base_url=provider.openai_url, api_key="none"))
    with meter.agent("mail-triage", user="alice", team="support"):
        for _ in range(3):
            client.chat.completions.create(model="gpt-5-mini", messages=[{"role": "user", "content": "Triage."}])

    print(f"{meter.spend().calls} calls, ${meter.spend().usd:f}")

tracer_provider.shutdown()  # exports what is left
meter_provider.shutdown()
