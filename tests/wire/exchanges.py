"""Recorded exchanges with providers, where there are any beside the checkout."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from tests.support.shared import CORPUS
from tokenmeter import wire


@dataclass(frozen=True)
class Exchange:
    """One recorded request with its response."""

    id: str
    method: str
    host: str
    path: str
    request: bytes
    status: int
    content_type: str | None
    response: bytes
    truth: dict[str, int | None] | None

    @property
    def route(self) -> wire.Route | None:
        return wire.recognise(self.method, self.host, self.path)


@cache
def recorded() -> list[Exchange]:
    """All exchanges, in the order of the file."""
    with gzip.open(CORPUS) as lines:
        return [_exchange(json.loads(line)) for line in lines]


def _exchange(row: dict[str, Any]) -> Exchange:
    url = urlsplit(row["url"])
    headers = {key.lower(): value for key, value in row["response_headers"].items()}
    return Exchange(
        id=row["id"],
        method=row["method"],
        host=url.hostname or "",
        path=url.path,
        request=base64.b64decode(row["request"] or ""),
        status=row["status"],
        content_type=headers.get("content-type"),
        response=base64.b64decode(row["response"] or ""),
        truth=row["truth"],
    )
