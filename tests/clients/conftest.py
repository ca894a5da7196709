"""Fixtures of the tests of the clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.faces import FACES, Face, Origin, face_id
from tokenmeter import Meter
from tokenmeter.testing import CapturedCalls


@pytest.fixture(params=FACES, ids=face_id)
def face(request: pytest.FixtureRequest) -> Face:
    found: Face = request.param
    return found


@pytest.fixture
def origin(face: Face) -> Origin:
    return Origin(face)


@pytest.fixture
def meter(calls: CapturedCalls) -> Iterator[Meter]:
    with Meter(recorders=[calls]) as meter:
        yield meter
