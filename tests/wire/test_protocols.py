"""Every protocol has a file that reads it, imported with the first request that speaks it where few programs do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tokenmeter.wire.calls import _KEYS
from tokenmeter.wire.fields import Fields
from tokenmeter.wire.openai import ResultTally
from tokenmeter.wire.protocols import PLACES, ask_of, tally_of
from tokenmeter.wire.tally import Tally
from tokenmeter.wire.types import Route


@pytest.mark.parametrize("protocol", PLACES)
def test_every_place_is_there(protocol: str) -> None:
    assert issubclass(tally_of(protocol), Tally)
    assert tally_of(protocol).__name__ == PLACES[protocol].tally
    route = Route(protocol, "p", "p", "chat", "example.com")
    fields = Fields(route, b'{"model": "m", "prompt": "p", "messages": [], "inputs": []}')
    assert isinstance(ask_of(protocol)(fields), dict)


def test_what_reports_no_more_than_a_result() -> None:
    assert {protocol for protocol in _KEYS if tally_of(protocol) is ResultTally} == {
        "openai.decisions",
        "openai.embeddings",
        "openai.images",
        "openai.speech",
    }


def test_they_are_imported_before_the_request_goes_out() -> None:
    """A finalizer may read the answer, at the end of the interpreter too, when nothing can be imported any more."""
    program = """
import sys
from tokenmeter import Meter, wire
late = ("gemini", "interactions", "bedrock", "eventstream", "cohere", "ollama", "mistral", "tgi", "watsonx", "llamacpp")
loaded = lambda: {name for name in late if f"tokenmeter.wire.{name}" in sys.modules}
assert not loaded(), loaded()
wire.recognise("GET", "generativelanguage.googleapis.com", "/v1beta/models/gemini-2.5-pro:generateContent")
assert not loaded(), loaded()
wire.recognise("POST", "generativelanguage.googleapis.com", "/v1beta/models/gemini-2.5-pro:generateContent")
assert loaded() == {"gemini"}, loaded()
wire.recognise("POST", "bedrock-runtime.us-east-1.amazonaws.com", "/model/amazon.nova-lite-v1%3A0/converse-stream")
assert loaded() == {"gemini", "bedrock", "eventstream"}, loaded()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
