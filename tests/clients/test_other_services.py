"""Services that are no models and have the paths of one: their requests pass unmetered on hosts that nobody knows."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.faces import ASK, Face, come, on_a_loop
from tokenmeter import Budget, Meter
from tokenmeter.testing import CapturedCalls

SENT = "https://api.nexmo.com/v1/messages"
TEXT = {"from": "1", "to": "2", "text": "hi"}


@pytest.mark.parametrize("how", [{"json": TEXT}, {"data": TEXT}], ids=["json", "form"])
@on_a_loop
async def test_another_service_is_not_metered(face: Face, calls: CapturedCalls, how: dict[str, Any]) -> None:
    arrived: list[Any] = []

    def answer(request: Any) -> Any:
        arrived.append(request)
        return face.library.Response(202, json={"message_uuid": "x"})

    with Meter([Budget("$0.01", per="day")], recorders=[calls]) as meter:  # it has no price: it would be refused
        client = meter.wrap(face.client(answer))
        response = await come(client.post(SENT, **how))
        await face.close(client)
    assert (response.status_code, response.json()) == (202, {"message_uuid": "x"})
    assert arrived[0].content == face.library.Request("POST", SENT, **how).content
    assert list(calls) == []


@on_a_loop
async def test_what_the_protocol_asks_for_makes_it_a_call(face: Face, meter: Meter, calls: CapturedCalls) -> None:
    usage = {"input_tokens": 3, "output_tokens": 4}
    client = meter.wrap(face.client(lambda _: face.library.Response(200, json={"type": "message", "usage": usage})))
    await come(client.post("https://llm.example.org/v1/messages", json=ASK))
    await face.close(client)
    [row] = calls
    assert row.usage is not None
    assert row.usage.counts == usage
