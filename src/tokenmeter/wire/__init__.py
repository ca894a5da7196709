"""Bytes to meaning: which request is a model call, what it asks for, what its response reports. Pure."""

from __future__ import annotations

from tokenmeter.wire.asks import read_request
from tokenmeter.wire.calls import is_call
from tokenmeter.wire.headers import read_headers
from tokenmeter.wire.readers import read_body, reader
from tokenmeter.wire.rewrite import rejects_usage_asked, with_model, with_output_cap, with_usage_asked
from tokenmeter.wire.routes import recognise
from tokenmeter.wire.types import Ask, Beside, Reader, Reading, Route

__all__ = [
    "Ask",
    "Beside",
    "Reader",
    "Reading",
    "Route",
    "is_call",
    "read_body",
    "read_headers",
    "read_request",
    "reader",
    "recognise",
    "rejects_usage_asked",
    "with_model",
    "with_output_cap",
    "with_usage_asked",
]
