"""Spans and metrics under the names of the OpenTelemetry GenAI conventions."""

from tokenmeter.telemetry.metrics import Metrics as Metrics
from tokenmeter.telemetry.spans import Spans as Spans
