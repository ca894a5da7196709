"""No SDK: a bare HTTP client, a model with a negotiated price, and a model that nobody has a price for."""

import httpx

import tokenmeter
from tokenmeter import Budget, Price
from tokenmeter.testing import Reply, ScriptedProvider

prices = {"house-model-*": Price(input="0.10", output="0.40", max_output_tokens=4_096)}  # dollars per million tokens

with (
    ScriptedProvider(Reply("Good morning.", input_tokens=1_000, output_tokens=500)) as provider,
    tokenmeter.Meter([Budget("$1", per="day")], prices=prices) as meter,
    meter.wrap(httpx.Client(base_url=provider.openai_url)) as client,  # put the base_url of your provider here
):
    with meter.agent("greeter"):
        for model in ("house-model-1", "nobody-knows-this-one"):
            body = {"model": model, "messages": [{"role": "user", "content": "Good morning."}]}
            try:
                answer = client.post("/chat/completions", json=body)
                print(model, "said:", answer.json()["choices"][0]["message"]["content"])
            except tokenmeter.UnpricedModel as refusal:
                print(f"refused: {refusal}")
        client.get("/models")  # no model call: passes untouched

    spend = meter.spend()
    print(f"{spend.calls} call, ${spend.usd:f}, {spend.refused} refused; the provider saw {provider.received} requests")
