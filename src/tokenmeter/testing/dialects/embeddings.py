"""OpenAI embeddings."""

from __future__ import annotations

import base64
import struct
from typing import Any

from tokenmeter.testing.dialects.base import Ask, Dialect, data, openai_error
from tokenmeter.testing.script import Answer


def _body(answer: Answer, ask: Ask) -> Any:
    inputs = ask.get("input")
    many = isinstance(inputs, list) and not (inputs and isinstance(inputs[0], int))
    n = len(inputs) if many and isinstance(inputs, list) else 1
    vector = [1 / (1 + i) for i in range(ask.get("dimensions") or 8)]
    coded: Any = vector
    if ask.get("encoding_format") == "base64":
        coded = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    usage = {"prompt_tokens": answer.input_tokens, "total_tokens": answer.input_tokens}
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": coded} for i in range(n)],
        "model": answer.model,
    } | ({"usage": usage} if answer.report_usage else {})


EMBEDDINGS = Dialect(_body, None, openai_error, lambda message, events: data(openai_error(500, message)))
